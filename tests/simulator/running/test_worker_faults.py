"""Gateways of a worker at our own broker: every fault strikes at its site, is counted, and costs nobody the entry."""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import msgspec
import pytest
from tests.simulator.running.harness import Told, plan, run

from mqttprov_simulator.histogram import Buckets, Histogram
from mqttprov_simulator.scenario.drawing import plan_digest
from mqttprov_simulator.scenario.model import Constant, GatewayFault, Group, Life, Scenario, Stop
from mqttprov_simulator.targets.embedded import embedded
from mqttprov_simulator.targets.own_target import OwnTarget

_LASTS_S = {"latency": 0.1, "stalled-reader": 0.4, "power-loss": 0.1, "slow-save": 0.2, "wrong-secret": 0.3}
KINDS = (
    "cut-before-request",
    "cut-after-request",
    "reply-lost",
    "latency",
    "stalled-reader",
    "power-loss",
    "slow-save",
    "failed-save",
    "wrong-secret",
    "clock-skew",
)
_EACH = 2
Storage = Literal["memory", "disk"]
_LIFE = Life(telemetry_every_s=0.1)


def _fault(kind: str, **values: float) -> GatewayFault:
    return GatewayFault(kind=kind, groups=(kind,), for_s=_LASTS_S.get(kind, 0.0), **values)  # type: ignore[arg-type] # of this kind


def _groups(prefix: str, storage: Storage) -> tuple[Group, ...]:
    return tuple(
        Group(
            name=kind, names=f"{prefix}-{kind}-", gateways=_EACH, arrivals=Constant(rate_per_s=100),
            storage=storage, life=_LIFE,
        )
        for kind in KINDS
    )  # fmt: skip


@pytest.fixture(scope="module")
def target() -> Iterator[OwnTarget]:
    """Our own broker, for all tests here."""
    with embedded(plan(*_groups("any", "memory"))) as target:
        yield target


async def _run(target: OwnTarget, scenario: Scenario, directory: Path) -> Told:
    return await run(scenario, target.endpoints, tokens=target.tokens, directory=str(directory))


def _files(folder: Path) -> int:
    return len(list(folder.glob("worker-0/*/.credentials")))


def _longest_ms(buckets: Buckets) -> float:
    return Histogram.of(buckets).percentile_ms(100) or 0.0


@pytest.mark.parametrize("storage", ["memory", "disk"])
async def test_every_fault_by_chance_strikes_and_all_come_online(
    target: OwnTarget, tmp_path: Path, storage: Storage
) -> None:
    """P10: whatever happens once to each gateway of a group, wherever it keeps its credentials, it gets in."""
    faults = tuple(_fault(kind, probability=1.0, times=1) for kind in KINDS)
    told = await _run(target, plan(*_groups(storage, storage), faults=faults), tmp_path)
    assert told.recording.strikes == dict.fromkeys(KINDS, _EACH)
    assert {standing.state for standing in told.recording.standings} == {"online"}
    assert not told.promises
    assert all(standing.stored == standing.fingerprints[-1] for standing in told.recording.standings)
    assert _longest_ms(told.recording.service) >= 200  # over a connection that is 0.1 s late in both directions
    assert told.recording.refusals["NOT_FOUND"] >= _EACH
    assert _files(tmp_path) == (len(told.recording.standings) if storage == "disk" else 0)


async def test_faults_by_time_are_the_same_for_the_same_seed(target: OwnTarget, tmp_path: Path) -> None:
    """P10, and the same plan: half of a fleet that is online loses power, the others something on their way in."""
    kinds = [kind for kind in KINDS if kind != "power-loss"]
    faults = (
        *(_fault(kind, at_s=0.0) for kind in kinds),
        GatewayFault(kind="power-loss", name="blackout", at_s=0.9, spread_s=0.2, share=0.5, for_s=0.2),
        GatewayFault(kind="stalled-reader", name="stall", at_s=0.7, groups=("power-loss",), for_s=0.1),
    )
    scenarios = [plan(*_groups(f"timed{turn}", "memory"), faults=faults, seed=7) for turn in range(2)]
    first, second = [await _run(target, one, tmp_path / str(turn)) for turn, one in enumerate(scenarios)]
    assert first.recording.strikes == second.recording.strikes
    assert {kind: first.recording.strikes[kind] for kind in kinds} == dict.fromkeys(kinds, _EACH)
    assert 0 < first.recording.strikes["blackout"] < _EACH * len(KINDS)
    assert first.recording.strikes["stall"] == _EACH
    assert sum(second.strikes.get("blackout", 0) for second in first.seconds) == first.recording.strikes["blackout"]
    assert {standing.state for standing in first.recording.standings} == {"online"}
    assert not first.promises | second.promises
    assert plan_digest(scenarios[0]) == plan_digest(msgspec.structs.replace(scenarios[0], summary="the same"))
    assert plan_digest(scenarios[0]) != plan_digest(msgspec.structs.replace(scenarios[0], seed=8))


async def test_a_wrong_secret_keeps_a_gateway_out_until_it_is_switched_on_again(
    target: OwnTarget, tmp_path: Path
) -> None:
    """It is not expected online, nor does it lock out its neighbours; after a power cut it knows better."""
    groups = (
        Group(name="misled", names="misled-", gateways=2, arrivals=Constant(rate_per_s=100)),
        Group(name="healed", names="healed-", gateways=2, arrivals=Constant(rate_per_s=100)),
    )
    faults = (
        GatewayFault(kind="wrong-secret", probability=1.0, times=1),
        GatewayFault(kind="power-loss", at_s=0.6, groups=("healed",)),
    )
    scenario = plan(*groups, faults=faults, stop=Stop(hold_s=0.3, timeout_s=20))
    told = await _run(target, scenario, tmp_path)
    online = {standing.group: standing.state == "online" for standing in told.recording.standings}
    assert online == {"misled": False, "healed": True}
    assert sum(told.recording.latency.values()) == 2  # nobody waits for those that are misled
    assert not told.promises


async def test_a_skewed_clock_shows_in_telemetry_alone(target: OwnTarget, tmp_path: Path) -> None:
    """The gateway says the time that it believes; its messages are acknowledged like others."""
    group = Group(name="skewed", gateways=2, arrivals=Constant(rate_per_s=100), life=_LIFE)
    skew = GatewayFault(kind="clock-skew", probability=1.0, skew_s=-1e9)
    told = await _run(target, plan(group, faults=(skew,), stop=Stop(hold_s=0.6, timeout_s=20)), tmp_path)
    assert sum(told.recording.telemetry.values()) >= 4
    assert told.recording.strikes == {"clock-skew": 2}
