"""What a run says in the end: passed, failed with reasons, refused when the figures are not the server's."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from tests.simulator import believable

from mqttprov_simulator.histogram import Histogram
from mqttprov_simulator.report import figures
from mqttprov_simulator.report.result import RunResult, Sample, Verdict
from mqttprov_simulator.report.verdict import kernel_remarks, verdict
from mqttprov_simulator.running.values import Second

_PLAN = believable.scenario(600, 30)
_GOOD = believable.result(_PLAN)


def _changed(**changes: Any) -> RunResult:
    return msgspec.structs.replace(_GOOD, **changes)


def _judged(result: RunResult, **thresholds: float) -> Verdict:
    return verdict(result, believable.scenario(600, 30, **thresholds))


def _all_at(value_ms: float) -> dict[int, int]:
    histogram = Histogram()
    for _ in range(1000):
        histogram.record(round(value_ms * 1000))
    return histogram.buckets


def test_a_good_run_passes_without_reasons() -> None:
    """Nothing is said where nothing is to be said."""
    assert _judged(_GOOD, p99_ms=60_000, all_online_within_s=300) == Verdict(state="passed")


@pytest.mark.parametrize(
    ("threshold", "limit", "said"),
    [
        ("p50_ms", 0.1, "Half of the registrations were to be done in 0.10 ms, but it was"),
        ("p99_ms", 0.1, "99 of 100 registrations were to be done in 0.10 ms"),
        ("login_p99_ms", 0.1, "99 of 100 logins were to be done in"),
        ("telemetry_p99_ms", 5.0, "to be acknowledged in 5 ms, but that never came about"),
        ("min_registrations_per_s", 500.0, "There were to be at least 500/s, but it was"),
        ("all_online_within_s", 1.0, "All were to be online within 1.00 s, but it was"),
    ],
)
def test_a_threshold_that_is_missed_fails_the_run(threshold: str, limit: float, said: str) -> None:
    """Each of them, with what was wanted and what came out."""
    judged = _judged(_GOOD, **{threshold: limit})
    assert judged.state == "failed"
    assert [(miss.threshold, miss.wanted) for miss in judged.misses] == [(threshold, limit)]
    assert said in judged.reasons[0]


def test_gateways_that_were_never_registered_count_against_the_share() -> None:
    """60 of 600 are 10 %, and none is 0."""
    few = _changed(registered=540, all_online_at_s=None)
    assert _judged(few, max_failed_share=0.05).misses[0].got == pytest.approx(0.1)
    assert _judged(few, max_failed_share=0.1001).state == "passed"
    assert _judged(few, all_online_within_s=100).misses[0].got is None
    assert _judged(_GOOD, max_failed_share=0).state == "passed"


def test_a_broken_promise_fails_the_run_and_is_named_with_gateways_and_time() -> None:
    """P3: the sentence says which, how many, when and what was seen."""
    broken = believable.result(_PLAN, broke=(believable.broken("shared-credential"),))
    assert broken.verdict.state == "failed"
    assert "No two gateways were told one credential" in broken.verdict.reasons[0]
    assert "2 gateways; first at 24.2 s: both were told credential 6c1f" in broken.verdict.reasons[0]


def test_an_error_fails_the_run() -> None:
    """A run that is not whole shows nothing."""
    assert _judged(_changed(errors=("worker 1 ended",))) == Verdict(state="failed", reasons=("worker 1 ended",))


@pytest.mark.parametrize(
    ("latency_ms", "lag_ms", "refused"), [(50, 4.9, False), (50, 5.2, True), (3, 1.9, False), (3, 2.1, True)]
)
def test_a_generator_that_lags_more_than_a_tenth_of_the_latency_is_refused(
    latency_ms: float, lag_ms: float, refused: bool
) -> None:
    """The latencies would be partly the swarm's own; less than 2 ms is what timers are late anywhere."""
    histograms = _GOOD.histograms | {"latency": _all_at(latency_ms), "lag": _all_at(lag_ms)}
    judged = _judged(_changed(histograms=histograms))
    assert judged.state == ("refused" if refused else "passed")
    assert all("started gateways late" in reason for reason in judged.reasons)


def _behind(cores: Callable[[int], dict[str, float]], *, registered: int = 20, workers: int = 1) -> RunResult:
    """Give a run in which 30 a second arrive for ten seconds."""
    seconds = tuple(Second(at_s=n, due=30 if n < 13 else 0, registered=registered) for n in range(3, 18))
    samples = tuple(Sample(second.at_s + 1.02, cores(second.at_s)) for second in seconds)
    return _changed(seconds=seconds, samples=samples, workers=workers)


def test_a_saturated_generator_is_refused_when_the_run_fell_behind() -> None:
    """More than 90 % of a core for most of the seconds under load: the limit may be the swarm's."""
    judged = _judged(_behind(lambda _: {"swarm-0": 0.97, "broker": 0.5}))
    assert judged.state == "refused"
    assert "swarm-0 used more than 90 % of a core in 14 of 14 seconds" in judged.reasons[0]
    assert "only 20/s of 30/s were reached" in judged.reasons[0]


def test_a_busy_generator_is_not_refused_while_it_keeps_up_or_for_a_moment() -> None:
    """A core that is used is no fault as long as what was offered was achieved; nor are a few busy seconds."""
    assert _judged(_behind(lambda _: {"swarm-0": 0.97}, registered=30)).state == "passed"
    assert _judged(_behind(lambda second: {"swarm-0": 0.97 if second < 8 else 0.6})).state == "passed"
    assert _judged(_behind(lambda _: {"broker": 1.0, "swarm-0": 0.5})).state == "passed"
    assert _judged(_behind(lambda _: {"swarm": 1.6}, workers=2)).state == "passed"
    assert _judged(_behind(lambda _: {"swarm": 1.9}, workers=2)).state == "refused"


@pytest.mark.parametrize(("moved", "told"), [(0, 0), (1, 1), (391, 1)])
def test_kernel_counters_that_moved_are_told_with_what_they_cost(moved: int, told: int) -> None:
    """A connection attempt that was dropped costs a second; the broker that accepted too late keeps its verdict."""
    result = _changed(tcp_counters={"ListenOverflows": moved, "TCPTimeouts": 0})
    remarks = list(kernel_remarks(result))
    assert [("ListenOverflows" in remark, "a second or so" in remark) for remark in remarks] == [(True, True)] * told
    assert _judged(result) == Verdict(state="passed")


def test_what_the_kernel_counts_twice_is_told_once() -> None:
    """Whatever finds a queue full is thrown away, too; what is thrown away beside it is another remark."""
    for drops, told in ((50, 1), (51, 2)):
        counters = {"ListenOverflows": 50, "ListenDrops": drops}
        assert len(list(kernel_remarks(_changed(tcp_counters=counters)))) == told


def test_a_few_dropped_attempts_in_a_large_fleet_are_not_told() -> None:
    """Below one in a thousand they do not reach p99.9; packets sent again may be any process' of the host."""
    for name, few in (("ListenDrops", 9), ("TCPTimeouts", 99)):
        for moved, told in ((few, 0), (few + 1, 1)):
            result = _changed(tcp_counters={name: moved}, registered=10_000)
            assert len(list(kernel_remarks(result))) == told
    assert not list(kernel_remarks(_changed(tcp_counters={"TCPTimeouts": 4}, registered=20, expected=20)))


def test_a_run_that_failed_says_also_why_its_figures_are_not_the_servers() -> None:
    """Failures come first; what was refused is not hidden by them."""
    late = _GOOD.histograms | {"latency": _all_at(50), "lag": _all_at(20)}
    judged = _judged(_changed(histograms=late), p50_ms=0.1)
    assert judged.state == "failed"
    assert ["Half of" in judged.reasons[0], "started gateways late" in judged.reasons[1]] == [True, True]


def test_rates_are_those_of_the_seconds_with_arrivals_while_the_fleet_keeps_up() -> None:
    """The last gateway, a moment after the last arrival, must not thin them out."""
    load = figures.load(_behind(lambda _: {}, registered=30))
    assert load is not None
    assert load.kept_up
    assert (load.offered_per_s, load.registrations_per_s) == (30, 30)


def test_rates_are_those_until_the_end_when_the_fleet_fell_behind() -> None:
    """A storm of 10,000 in one second that takes twenty is 500/s, not 10,000/s."""
    storm = [Second(at_s=3, due=10_000, registered=500), *(Second(at_s=n, registered=500) for n in range(4, 23))]
    load = figures.load(_changed(seconds=tuple(storm)))
    assert load is not None
    assert not load.kept_up
    assert (load.offered_per_s, load.achieved_per_s, load.registrations_per_s) == (10_000, 500, 500)


def test_nothing_is_said_of_a_run_whose_arrivals_were_all_warm_up() -> None:
    """No rate is no rate of zero."""
    idle = _changed(seconds=tuple(Second(at_s=n, due=5) for n in range(3)), histograms={})
    assert figures.load(idle) is None
    assert _judged(idle, min_registrations_per_s=1).misses[0].got is None
