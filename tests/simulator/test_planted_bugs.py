"""The swarm finds what is wrong with a server: each planted bug by a shipped scenario, and a frozen responder in p99.

The bugs are scripts in `planted/` that serve with one defect. The same scenario without it breaks no promise.
"""

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest
from tests.simulator.hastened import hastened

from mqttprov_simulator.histogram import Histogram
from mqttprov_simulator.report.result import Check, RunResult
from mqttprov_simulator.running.conduct import conduct
from mqttprov_simulator.running.crew import LocalCrew
from mqttprov_simulator.scenario.model import (
    Action,
    Constant,
    Gateway,
    Group,
    Scenario,
    Stop,
    Storm,
    TargetFault,
)
from mqttprov_simulator.targets.embedded import embedded

PLANTED = Path(__file__).parent / "planted"
IMPATIENT = Gateway(backoff_base_s=0.1, backoff_cap_s=0.5)


def run(scenario: Scenario, bug: str | None = None) -> RunResult:
    """Run a scenario against our own broker, with a bug in it."""
    serve = None if bug is None else (sys.executable, str(PLANTED / f"{bug}.py"), "serve")
    with embedded(scenario, serve=serve) as target:
        return conduct(scenario, target, LocalCrew())


def of(result: RunResult, promise: str) -> Check:
    """Give what was found about a promise."""
    return next(check for check in result.checks if check.promise == promise)


@pytest.mark.parametrize(
    ("bug", "name", "gateways", "factor", "promise"),
    [
        ("shared_reply_topic", "cold-start", 40, 0.2, "reply-to-another"),
        ("echo_of_me", "cold-start", 40, 0.2, "echoed"),
        ("limit_read_then_write", "leaked-token", 60, 0.1, "limit-exceeded"),
        ("reply_before_commit", "broker-restart", 60, 0.15, "told-not-durable"),
        ("no_superseding", "rotation-day", 20, 0.15, "old-still-works"),
    ],
)
def test_a_planted_bug_is_found_and_named(bug: str, name: str, gateways: int, factor: float, promise: str) -> None:
    """The right promise is broken, with gateways and times (P1, P2, P3, P7); without the bug none is."""
    scenario = hastened(name, gateways, factor)
    with ThreadPoolExecutor() as pool:  # both at once: most of the time is the scenario's own
        ill, well = pool.map(lambda serves: run(scenario, serves), (bug, None))
    check = of(ill, promise)
    assert check.state == "broken", ill.checks
    assert check.in_all >= len(check.broken) > 0
    groups = {group.name for group in scenario.groups}
    assert {name.partition("/")[0] for broken in check.broken for name in broken.gateways} <= groups
    assert any(broken.gateways for broken in check.broken)
    assert all(0 <= broken.at_s <= ill.duration_s + 1 for broken in check.broken)
    assert ill.verdict.state == "failed"

    assert {check.promise: check.broken for check in well.checks if check.state == "broken"} == {}
    assert (well.errors, of(well, promise).state) == ((), "held")


def test_a_frozen_responder_shows_in_p99() -> None:
    """Standing still for two seconds is in the latency of all who arrived meanwhile, from their planned time."""
    freeze = TargetFault(kind="responder-freeze", at_s=0.5, for_s=2.0)
    scenario = Scenario(
        name="frozen",
        summary="",
        groups=(Group(name="a", gateways=100, arrivals=Constant(rate_per_s=40.0), stay=False),),
        target_faults=(freeze,),
        gateway=IMPATIENT,
        stop=Stop(hold_s=0.0),
    )
    result = run(scenario)
    latency = Histogram.of(result.histograms["latency"])
    # 80 of 100 arrive while it stands still, the first of them two seconds before its end.
    assert (latency.percentile_ms(99) or 0) > 1_700
    assert (latency.percentile_ms(50) or 0) > 500
    assert [mark.kind for mark in result.marks] == ["responder-freeze"]
    assert [check for check in result.checks if check.state == "broken"] == []
    assert msgspec.json.encode(result)


def test_a_server_is_not_blamed_for_devices_that_nobody_could_suspend() -> None:
    """They came after the operator: that their credentials work breaks no promise, and nothing was looked at (P7)."""
    scenario = Scenario(
        name="late",
        summary="",
        groups=(Group(name="a", gateways=5, arrivals=Storm(begins_s=0.5)),),
        actions=(Action(kind="suspend-devices", at_s=0.0),),
        stop=Stop(hold_s=0.2),
    )
    result = run(scenario)
    assert [mark.note for mark in result.marks] == ["0 devices; not 5: no such device"]
    assert result.online_at_end == 5
    check = of(result, "old-still-works")
    assert (check.state, check.broken) == ("not checked", ())
