"""A worker's gateways at our own broker: all credentials types, plain and TLS, both versions, clones, capped tokens."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.simulator.running.harness import Told, plan, run

from mqttprov_simulator.running.values import Failure
from mqttprov_simulator.scenario.model import Action, Constant, Group, Life, Profile, Stop, Token
from mqttprov_simulator.targets.embedded import embedded
from mqttprov_simulator.targets.own_target import OwnTarget

_SOON = Constant(rate_per_s=200)
_LATER = Constant(rate_per_s=200, begins_s=1.0)
_LIFE = Life(telemetry_every_s=0.2, attributes_every_s=0.3, rpc_every_s=0.2)
GROUPS = (
    Group(name="token", gateways=3, arrivals=_SOON, credentials="ACCESS_TOKEN", mqtt="3.1.1", life=_LIFE),
    Group(name="basic", gateways=3, arrivals=_SOON, credentials="MQTT_BASIC"),
    Group(name="certificate", gateways=3, arrivals=_SOON, credentials="X509_CERTIFICATE", tls=True, storage="disk"),
    Group(name="tls", gateways=3, arrivals=_SOON, tls=True, mqtt="3.1.1"),
    Group(name="passing", gateways=3, arrivals=_SOON, stay=False),
    Group(name="original", gateways=3, arrivals=_SOON, profile="strict", credentials="MQTT_BASIC"),
    Group(name="clones", gateways=3, arrivals=_LATER, clones_of="original", expect="refused"),
    Group(name="twin", gateways=2, arrivals=_SOON, credentials="X509_CERTIFICATE", tls=True, profile="strict"),
    Group(name="twins", gateways=2, arrivals=_LATER, clones_of="twin", expect="refused", tls=True),
    Group(name="capped", gateways=5, arrivals=_SOON, token="few", expect="capped"),
)
SCENARIO = plan(
    *GROUPS,
    profiles=(Profile(name="strict", reprovision="refuse"),),
    tokens=(Token(name="few", max_registrations=2),),
    stop=Stop(hold_s=0.3, timeout_s=20),
)


@pytest.fixture(scope="module")
def target() -> Iterator[OwnTarget]:
    """Our own broker, for all tests here."""
    with embedded(SCENARIO) as target:
        yield target


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the worker of `told` keeps files."""
    return tmp_path_factory.mktemp("worker")


async def test_all_kinds_of_groups_end_as_the_scenario_expects(target: OwnTarget, folder: Path) -> None:
    """P1 and P3 from the outside: everybody expected is in, clones are not, a capped token gives what it has."""
    told = await run(SCENARIO, target.endpoints, tokens=target.tokens, operator=target.operator, directory=str(folder))
    recording = told.recording
    states: dict[str, list[str]] = {}
    for standing in recording.standings:
        states.setdefault(standing.group, []).append(standing.state)
    for group in ("token", "basic", "certificate", "tls", "original", "twin"):
        assert set(states[group]) == {"online"}, group
    assert states["passing"] == ["stopped"] * 3
    assert "online" not in states["clones"] + states["twins"]
    assert states["capped"].count("online") == 2
    assert not told.promises
    registered = [standing for standing in recording.standings if standing.registered]
    assert len(registered) == len(told.told) == told.moments[-1].registered == 22
    assert sum(recording.latency.values()) == 22
    assert sum(second.due for second in told.seconds) == sum(second.started for second in told.seconds) == 30
    assert sum(second.registered for second in told.seconds) == 22
    assert recording.refusals["NOT_FOUND"] >= 3
    assert recording.refusals["FAILURE"] >= 5
    _look_at_lives(told)
    _look_at_files(folder)


def _look_at_files(folder: Path) -> None:
    """P6: keys and credentials are their owner's alone."""
    files = [*folder.glob("worker-0/*/*")]
    assert {path.stat().st_mode & 0o77 for path in files} == {0}
    assert {path.name for path in files} == {".credentials", "identity.pem"}


def _look_at_lives(told: Told) -> None:
    """Telemetry, attributes and calls have been acknowledged and answered."""
    assert sum(told.recording.telemetry.values()) >= 3
    assert sum(told.recording.rpc.values()) >= 3
    assert not [reason for reason in told.recording.lost_connections if "RPC" in reason or "operator" in reason]


async def test_an_operators_acts_excuse_what_they_lead_to(target: OwnTarget, tmp_path: Path) -> None:
    """Suspended devices are not missed; that theirs still work although nobody suspended them is seen (P7)."""
    group = Group(name="suspended", gateways=2, arrivals=_SOON)
    suspend = Action(kind="suspend-devices", at_s=0.1, groups=("suspended",))
    told = await run(plan(group, actions=(suspend,)), target.endpoints, tokens=target.tokens, directory=str(tmp_path))
    assert told.promises == {"old-still-works"}
    assert told.recording.probed == 2
    assert {broken.gateways for broken in told.broken} == {("suspended/000001",), ("suspended/000002",)}


@pytest.mark.parametrize(
    ("group", "says"),
    [
        (Group(name="line", gateways=1, arrivals=_SOON, token="unknown"), "no token default/unknown"),
        (Group(name="line", gateways=1, arrivals=_SOON, life=Life(rpc_every_s=1)), "no operator"),
    ],
)
async def test_what_the_target_lacks_is_one_clear_failure(target: OwnTarget, group: Group, says: str) -> None:
    """Before any gateway begins."""
    told = await run(plan(group), target.endpoints, tokens=target.tokens)
    assert isinstance(told.end, Failure)
    assert says in told.end.text
    assert not told.moments
