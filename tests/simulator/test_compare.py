"""Comparing results: a difference that is there is shown, one that is not is not claimed, unlike runs are named."""

import random

import msgspec
import pytest
from tests.simulator import believable

from mqttprov_simulator.report.compare import Comparison, Figure, compare
from mqttprov_simulator.report.result import RunResult

_PLAN = believable.scenario(1_500, 30)
_ONE = believable.result(_PLAN)


def _figure(comparison: Comparison, name: str) -> Figure:
    return next(figure for figure in comparison.figures if figure.name == name)


def test_a_result_does_not_differ_from_itself() -> None:
    """All ratios and intervals are exactly 1."""
    comparison = compare([_ONE], [_ONE])
    assert comparison.warnings == ()
    assert {figure.ratio for figure in comparison.figures} == {1.0}
    assert {figure.low for figure in comparison.figures} == {1.0, None}
    assert {figure.says for figure in comparison.figures} == {"no difference shown", "too little to tell"}


def test_a_server_that_is_twice_as_fast_is_shown_to_be_within_one_run_of_each() -> None:
    """Also though a fault strikes in the middle of both: the same seconds are drawn on both sides."""
    comparison = compare([_ONE], [believable.result(_PLAN, seed=8, speed=2.0)])
    p50, cpu = _figure(comparison, "p50"), _figure(comparison, "CPU of broker")
    assert (comparison.over, p50.says, cpu.says) == ("seconds", "faster", "less")
    assert p50.ratio == pytest.approx(0.5, abs=0.05)
    assert p50.low is not None
    assert p50.high is not None
    assert p50.low < 0.5 < p50.high < 0.75
    slower = compare([believable.result(_PLAN, seed=8, speed=2.0)], [_ONE])
    assert _figure(slower, "p50").says == "slower"


@pytest.mark.parametrize("seed", range(8, 12))
def test_runs_of_the_same_server_show_no_difference(seed: int) -> None:
    """Chance alone is not called faster or slower."""
    comparison = compare([_ONE], [believable.result(_PLAN, seed=seed)])
    says = {figure.name: figure.says for figure in comparison.figures if figure.low is not None}
    assert {says["registrations"], says["p50"], says["p99"]} == {"no difference shown"}


def test_three_results_of_each_side_are_compared_as_runs() -> None:
    """Medians and intervals over runs, memory among them."""
    a = [believable.result(_PLAN, seed=seed) for seed in (1, 2, 3)]
    b = [believable.result(_PLAN, seed=seed, speed=1.5) for seed in (1, 2, 3)]
    comparison = compare(a, b)
    assert (comparison.over, _figure(comparison, "p50").says) == ("runs", "faster")
    assert _figure(comparison, "memory of broker").says == "no difference shown"
    assert _figure(comparison, "memory of broker").low == 1.0


def test_registrations_that_never_happened_stay_in_the_percentiles() -> None:
    """Errors do not vanish: 5 % that were never registered are the p99."""
    latency = dict(_ONE.histograms["latency"])
    latency[4_000] = 75  # about 5 s
    bad = msgspec.structs.replace(_ONE, histograms=_ONE.histograms | {"latency": latency})
    p99 = _figure(compare([_ONE], [bad]), "p99")
    assert p99.says == "slower"
    assert p99.b is not None
    assert p99.b > 5_000


def test_too_few_seconds_are_too_little_to_tell() -> None:
    """No interval is made of four seconds."""
    short = msgspec.structs.replace(_ONE, seconds=_ONE.seconds[:7], samples=_ONE.samples[:7])
    assert {figure.says for figure in compare([short], [short]).figures} == {"too little to tell"}


def test_what_only_one_side_has_is_said() -> None:
    """A part that the other target does not have has no ratio."""
    alone = msgspec.structs.replace(_ONE, cpu_s={"broker": 1.0}, rss_bytes={"broker": 2**20})
    assert _figure(compare([_ONE], [alone]), "memory of responder").says == "only one side has it"


def test_unlike_runs_are_named() -> None:
    """Scenario, seed, target, machine, settings and verdicts."""
    environment = msgspec.structs.replace(_ONE.environment, cores=8, settings={"net.core.somaxconn": "128"})
    other = msgspec.structs.replace(
        believable.result(believable.scenario(1_000, 30), seed=8, broke=(believable.broken("no-event"),)),
        target="mosquitto",
        environment=environment,
    )
    text = "; ".join(compare([_ONE], [other]).warnings)
    for part in (
        "they differ in seed: 7 and 8",
        "they differ in target: embedded and mosquitto",
        "they differ in the number of gateways: 1500 and 1000",
        "they differ in machine: 4 cores",
        "the scenarios were not the same",
        "they differ in settings: net.core.somaxconn",
        "a run of B failed: Broken promise",
    ):
        assert part in text


def test_intervals_hold_what_they_promise() -> None:
    """Of ten comparisons of a 30 % difference in the rate, each sees it; the answer is the same each time."""
    rng = random.Random(5)  # noqa: S311 - it draws rates
    for _ in range(10):
        a, b = (_with_rates([rng.gauss(mean, 12) for _ in range(40)]) for mean in (100, 130))
        first, again = compare([a], [b]), compare([a], [b])
        assert first == again
        assert _figure(first, "registrations").says == "faster"


def _with_rates(rates: list[float]) -> RunResult:
    seconds = tuple(
        msgspec.structs.replace(_ONE.seconds[10], at_s=n + 3, due=400, registered=round(rate), latency={})
        for n, rate in enumerate(rates)
    )
    return msgspec.structs.replace(_ONE, seconds=seconds, samples=())
