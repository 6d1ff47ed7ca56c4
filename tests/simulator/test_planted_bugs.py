"""The swarm finds what is wrong with a server: each planted bug by a shipped scenario, and a frozen responder in p99.

The bugs are scripts in `planted/` that serve with one defect. The same scenario without it breaks no promise.
"""

import sys
from pathlib import Path

import msgspec
import pytest

from mqttprov_simulator.histogram import Histogram
from mqttprov_simulator.report.result import Check, RunResult
from mqttprov_simulator.running.conduct import conduct
from mqttprov_simulator.running.crew import LocalCrew
from mqttprov_simulator.scenario.model import Constant, Gateway, Group, Scenario, Stop, TargetFault
from mqttprov_simulator.scenario.reading import load
from mqttprov_simulator.scenario.scaling import scaled
from mqttprov_simulator.targets.embedded import embedded

PLANTED = Path(__file__).parent / "planted"
IMPATIENT = Gateway(backoff_base_s=0.1, backoff_cap_s=0.5)


def run(scenario: Scenario, bug: str | None = None) -> RunResult:
    """Run a scenario against our own broker, with a bug in it."""
    serve = None if bug is None else (sys.executable, str(PLANTED / f"{bug}.py"), "serve")
    with embedded(scenario, serve=serve) as target:
        return conduct(scenario, target, LocalCrew())


def small(name: str, gateways: int) -> Scenario:
    """Give a shipped scenario in a small size."""
    return scaled(load(name), gateways)


def of(result: RunResult, promise: str) -> Check:
    """Give what was found about a promise."""
    return next(check for check in result.checks if check.promise == promise)


@pytest.mark.parametrize(
    ("bug", "name", "gateways", "promise"),
    [
        ("shared_reply_topic", "cold-start", 40, "reply-to-another"),
        ("echo_of_me", "cold-start", 40, "echoed"),
        ("limit_read_then_write", "leaked-token", 60, "limit-exceeded"),
        ("reply_before_commit", "broker-restart", 60, "told-not-durable"),
        ("no_superseding", "rotation-day", 20, "old-still-works"),
    ],
)
def test_a_planted_bug_is_found_and_named(bug: str, name: str, gateways: int, promise: str) -> None:
    """The right promise is broken, by gateways of the run at times of the run; the run fails (P1, P2, P3, P7)."""
    scenario = small(name, gateways)
    result = run(scenario, bug)
    check = of(result, promise)
    assert check.state == "broken", result.checks
    assert check.in_all >= len(check.broken) > 0
    groups = {group.name for group in scenario.groups}
    assert {name.partition("/")[0] for broken in check.broken for name in broken.gateways} <= groups
    assert any(broken.gateways for broken in check.broken)
    assert all(0 <= broken.at_s <= result.duration_s + 1 for broken in check.broken)
    assert result.verdict.state == "failed"


@pytest.mark.parametrize(
    ("name", "gateways"),
    [("cold-start", 40), ("leaked-token", 60), ("broker-restart", 60), ("rotation-day", 20)],
)
def test_without_the_bug_no_promise_is_broken(name: str, gateways: int) -> None:
    """The same scenario, size and seed; what the bugs break was looked at."""
    result = run(small(name, gateways))
    assert {check.promise: check.broken for check in result.checks if check.state == "broken"} == {}
    assert (result.errors, result.registered) == ((), result.expected)
    for promise in ("told-not-durable", "reply-to-another", "shared-credential", "no-event"):
        assert of(result, promise).state == "held"


def test_a_frozen_responder_shows_in_p99() -> None:
    """Two seconds of standing still are in the latency of all who arrived meanwhile, counted from their planned time."""
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
