"""Finding the highest rate that keeps a p99: which rates are tried, and what the answer says."""

import math
from collections.abc import Callable

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.simulator import believable

from mqttprov_simulator.histogram import Histogram
from mqttprov_simulator.report.knee import PRECISION, Step, knee, next_rate, step_of
from mqttprov_simulator.report.result import RunResult
from mqttprov_simulator.running.sweep import peak_rate_per_s, sweep
from mqttprov_simulator.running.values import Second
from mqttprov_simulator.scenario.model import Group, Poisson, Ramp, Scenario, Schedule, Storm
from mqttprov_simulator.scenario.model import Step as Change

_BASE = believable.result(believable.scenario(300, 30))


def _step(rate: float, why_not: str | None = None) -> Step:
    return Step(
        asked_per_s=rate, offered_per_s=rate, achieved_per_s=rate, p50_ms=1, p99_ms=5, lag_p99_ms=0.1,
        why_not=why_not, limit="server" if why_not else None,
    )  # fmt: skip


def _search(limit: float, first: float, least: float, most: float) -> list[Step]:
    steps: list[Step] = []
    while (rate := next_rate(steps, first_per_s=first, least_per_s=least, most_per_s=most)) is not None:
        steps.append(_step(rate, None if rate <= limit else "p99 was 80 ms"))
    return steps


@given(limit=st.floats(20, 20_000), first=st.floats(1, 50_000), least=st.floats(1, 20), most=st.floats(20_000, 50_000))
def test_the_limit_is_found_from_wherever_the_search_begins(
    limit: float, first: float, least: float, most: float
) -> None:
    """The answer is within 5 % below the limit, after few steps, none outside of the range."""
    steps = _search(limit, first, least, most)
    found = knee(steps, 50).highest_per_s
    assert found is not None
    assert limit / (1 + PRECISION) <= found <= limit
    assert len(steps) <= 2 * math.log2(most / least)
    assert all(least <= step.asked_per_s <= most for step in steps)


def test_a_limit_above_the_range_is_said_to_be_there() -> None:
    """The highest rate that was tried is no limit of the server."""
    answer = knee(_search(1e9, 100, 10, 1000), 50)
    assert (answer.highest_per_s, answer.lowest_missed_per_s, answer.limit) == (1000, None, "range")
    assert "the limit lies above it" in answer.says


def test_a_range_in_which_nothing_keeps_it_has_no_answer() -> None:
    """It ends at the lowest rate."""
    steps = _search(1, 100, 10, 1000)
    assert steps[-1].asked_per_s == 10
    assert knee(steps, 50).highest_per_s is None
    assert knee(steps, 50).says.startswith("No rate that was tried keeps a p99 of 50 ms. 10/s do not: p99 was 80 ms.")


def test_a_rate_above_one_that_missed_does_not_count() -> None:
    """A lucky run at a higher rate is no proof."""
    answer = knee([_step(100), _step(200, "p99 was 80 ms"), _step(400)], 50)
    assert (answer.highest_per_s, answer.lowest_missed_per_s) == (100, 200)
    assert [step.asked_per_s for step in answer.steps] == [100, 200, 400]


def _run_at(rate: float, p99_ms: float, achieved: float | None = None) -> RunResult:
    histogram = Histogram()
    histogram.record(round(p99_ms * 1000))
    seconds = tuple(Second(at_s=n, due=round(rate), registered=round(achieved or rate)) for n in range(3, 13))
    return msgspec.structs.replace(_BASE, seconds=seconds, histograms={"latency": histogram.buckets})


@pytest.mark.parametrize(
    ("result", "refusals", "why_not", "limit"),
    [
        (_run_at(100, 40), [], None, None),
        (_run_at(100, 60), [], "p99 was 60", "server"),
        (_run_at(100, 40, 90), [], "only 90/s of 100/s", "server"),
        (_run_at(100, 40), ["the swarm lagged"], None, None),
        (_run_at(100, 40, 99.5), [], None, None),
        (_run_at(1000, 40, 980), [], "only 980/s of 1,000/s", "server"),
        (_run_at(1000, 40, 995), [], None, None),
        (_run_at(100, 60), ["the swarm lagged"], "p99 was 60", "generator"),
        (_run_at(100, 40, 90), ["the swarm lagged"], "were reached. the swarm lagged", "generator"),
        (msgspec.structs.replace(_BASE, seconds=()), [], "nothing was registered", "server"),
        (msgspec.structs.replace(_run_at(100, 40), errors=("x",)), [], "had errors", "server"),
    ],
)
def test_a_miss_is_the_generators_when_its_figures_are_refused(
    result: RunResult, refusals: list[str], why_not: str | None, limit: str | None
) -> None:
    """p99, offered against achieved, promises, errors. What is kept although the swarm was late is kept."""
    step = step_of(result, 100, 50, refusals)
    assert (step.keeps, step.limit) == (why_not is None, limit)
    assert (why_not or "") in (step.why_not or "")


def _server(limit: float, tried: list[Scenario]) -> Callable[[Scenario], RunResult]:
    def run(scenario: Scenario) -> RunResult:
        tried.append(scenario)
        rate = peak_rate_per_s(scenario)
        return _run_at(rate, 20 if rate <= limit else 400)

    return run


def test_a_sweep_runs_the_scenario_with_fleets_that_arrive_in_the_same_time() -> None:
    """30/s of 300 gateways last 10 s, and so does every step; each step is told."""
    tried: list[Scenario] = []
    told: list[Step] = []
    plan = believable.scenario(300, 30)
    answer = sweep(plan, 50, _server(500, tried), least_per_s=10, most_per_s=4000, told=told.append)
    assert answer.highest_per_s == pytest.approx(500, rel=0.06)
    assert answer.limit == "server"
    assert len(told) == len(tried) == len(answer.steps)
    for scenario in tried:
        assert scenario.gateways / peak_rate_per_s(scenario) == pytest.approx(10, rel=0.01)


def test_a_run_in_which_the_swarm_was_late_is_done_once_more() -> None:
    """It says nothing about the server; the second time it is the answer."""
    tried: list[Scenario] = []
    server = _server(1e9, tried)

    def run(scenario: Scenario) -> RunResult:
        result = server(scenario)
        late = {name: _run_at(1, 400).histograms["latency"] for name in ("latency", "lag")}
        return msgspec.structs.replace(result, histograms=late) if len(tried) in {1, 3, 4} else result

    told: list[Step] = []
    answer = sweep(believable.scenario(300, 30), 50, run, least_per_s=30, most_per_s=60, told=told.append)
    assert [step.limit for step in told[:4]] == ["generator", None, "generator", "generator"]
    assert answer.highest_per_s == pytest.approx(58, abs=3)
    assert answer.limit == "generator"
    assert "not the server's" in answer.says


@pytest.mark.parametrize(
    ("arrivals", "rate"),
    [
        (Poisson(rate_per_s=20), 20),
        (Ramp(from_per_s=5, to_per_s=40, over_s=10), 40),
        (Schedule(steps=(Change(at_s=0, rate_per_s=30), Change(at_s=5, rate_per_s=3))), 30),
        (Storm(within_s=10), 60),
        (Storm(), 600),
    ],
)
def test_every_plan_of_arrivals_has_a_rate_that_a_sweep_can_change(
    arrivals: Poisson | Ramp | Schedule | Storm, rate: float
) -> None:
    """The highest rate of each is what is asked for."""
    plan = Scenario(name="p", summary="", groups=(Group(name="g", gateways=600, arrivals=arrivals),))
    assert peak_rate_per_s(plan) == rate
    tried: list[Scenario] = []
    sweep(plan, 50, _server(rate, tried), least_per_s=1, most_per_s=4 * rate, told=lambda _: None)
    assert peak_rate_per_s(tried[1]) == pytest.approx(2 * rate, rel=0.01)
    assert tried[1].gateways == 1200
