"""Whether a fleet fits on a host is said with what to do, and with the largest one that does."""

from pathlib import Path

import msgspec
import pytest

from mqttprov_simulator.running.environment import Finding, Host, environment, examine, host, most_gateways
from mqttprov_simulator.scenario.connections import Connections, any_plan, connections
from mqttprov_simulator.scenario.model import Constant, GatewayFault, Group, Scenario

_GOOD = Host(
    cores=8, memory_bytes=16 << 30, available_bytes=8 << 30, load=0.1, open_files=1 << 20, ports=(32_768, 60_999),
    somaxconn=4_096, clock="tsc",
)  # fmt: skip


def _found(here: Host, *, target: str = "embedded", at_once: int = 0) -> dict[str, Finding]:
    planned = msgspec.structs.replace(any_plan(1_000), at_once=at_once)
    return {one.check: one for one in examine(here, 1_000, target=target, planned=planned)}


def test_a_good_host_carries_fifty_thousand() -> None:
    """Nothing is to be said about it."""
    findings = examine(_GOOD, 50_000, workers=5)
    assert {one.level for one in findings} == {"ok"}
    assert most_gateways(findings) > 50_000


@pytest.mark.parametrize(
    ("check", "changes", "target", "at_once", "level"),
    [
        ("open files", {"open_files": 1_024}, "embedded", 0, "too small"),
        ("ports", {"ports": (60_000, 60_999)}, "mqtt://broker", 0, "too small"),
        ("memory", {"available_bytes": 302 << 20}, "embedded", 0, "too small"),
        ("cores", {"cores": 2}, "mosquitto", 0, "warning"),
        ("backlog", {"somaxconn": 128}, "embedded", 0, "warning"),
        ("backlog", {}, "mosquitto", 200, "warning"),
        ("nodelay", {}, "mqtt://broker", 0, "warning"),
        ("clock", {"clock": "acpi_pm"}, "embedded", 0, "warning"),
        ("load", {"load": 5.0}, "embedded", 0, "warning"),
    ],
)
def test_what_is_not_well_is_told_with_what_to_do(
    check: str, changes: dict[str, object], target: str, at_once: int, level: str
) -> None:
    """Each in its own line; everything else stays well."""
    found = _found(msgspec.structs.replace(_GOOD, **changes), target=target, at_once=at_once)[check]
    assert found.level == level
    assert found.advice
    assert found.seen


def test_the_largest_fleet_is_what_the_narrowest_allows() -> None:
    """A fleet of that size is never called too large, one more always is."""
    for changes in ({"open_files": 4_096}, {"available_bytes": 400 << 20}, {"ports": (60_000, 60_009)}):
        here = msgspec.structs.replace(_GOOD, **changes)
        most = most_gateways(examine(here, 1))
        assert "too small" not in {one.level for one in examine(here, most)}
        assert "too small" in {one.level for one in examine(here, most + 1)}


def _three(kind: str = "mqtt://127.0.0.1:{}") -> str:
    return ",".join(kind.format(port) for port in (1883, 1884, 1885))


def _open_files(target: str, *, workers: int = 3, planned: Connections | None = None) -> Finding:
    """Give what is said of fifty thousand gateways where a process may have 20,000 open files."""
    here = msgspec.structs.replace(_GOOD, open_files=20_000)
    return examine(here, 50_000, workers=workers, target=target, planned=planned)[0]


def test_the_limits_of_brokers_are_counted_for_each_of_them() -> None:
    """What one cannot hold, several of one service can; how many, and how they are named, is said."""
    one = _open_files("mqtt://127.0.0.1:1883")
    assert (one.level, one.most) == ("too small", 19_936)
    assert "50064 are needed in the broker" in one.seen
    assert "4 brokers of one service" in one.advice
    assert "--target mqtt://HOST:PORT,mqtt://HOST:PORT" in one.advice
    assert _open_files(_three()).level == "warning"  # if they all came at once
    spread = msgspec.structs.replace(any_plan(50_000), lingering=600)
    assert _open_files(_three(), planned=spread).level == "ok"
    swarm = _open_files(_three("mqtt://broker:{}"), workers=2)
    assert "--processes 3" in swarm.advice
    assert "in each process of the swarm" in swarm.seen
    none = examine(msgspec.structs.replace(_GOOD, open_files=500), 10)[0]
    assert (none.level, none.most) == ("too small", 0)
    assert none.advice.startswith("run 'ulimit -Hn 586'")


def test_what_is_open_at_the_same_time_is_what_counts() -> None:
    """Gateways that do not stay need room while they register, not for the whole run."""
    passing = Group(name="a", gateways=50_000, arrivals=Constant(rate_per_s=64), stay=False)
    planned = connections(Scenario(name="line", summary="", groups=(passing,)))
    assert planned == Connections(open=1_920, lingering=160, ports=7_680, at_once=7)
    assert _open_files("embedded", workers=1, planned=planned).level == "ok"
    staying = msgspec.structs.replace(passing, stay=True)
    planned = connections(Scenario(name="line", summary="", groups=(staying,)))
    assert planned == Connections(open=50_000, lingering=160, ports=53_840, at_once=7)
    cut = Scenario(name="cut", summary="", groups=(staying,), faults=(GatewayFault(kind="power-loss", at_s=9.0),))
    assert connections(cut).lingering == 12_500
    assert connections(cut, worker=1, workers=2).open == 25_000


def test_ports_are_those_towards_each_broker() -> None:
    """Elsewhere than on loopback there is one address to connect from."""
    one, three = (examine(_GOOD, 30_000, target=target)[1] for target in ("mqtt://b", _three("mqtt://b:{}")))
    assert (one.level, three.level) == ("too small", "ok")
    assert (one.most, three.most) == (14_116, 42_348)


def test_a_real_host_can_be_read() -> None:
    """This one; and one that shows nothing of itself."""
    here = host()
    assert here.cores >= 1
    assert here.memory_bytes > here.available_bytes > 0
    assert host(Path("/nonexistent")).clock == "unknown"


def test_a_result_tells_where_it_came_about() -> None:
    """Host and target together."""
    told = environment(_GOOD, {"broker": "Mosquitto 2.0.11"})
    assert told.cores == 8
    assert told.settings["broker"] == "Mosquitto 2.0.11"
    assert told.settings["somaxconn"] == "4096"
