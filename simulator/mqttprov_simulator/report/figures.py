"""What a result says in figures: rates under load, percentiles, cost per registration, time in steps. Pure.

Under load means: the seconds, without the warm-up, in which gateways arrived or were registered. A fleet that keeps up
is judged by the seconds with arrivals, one that falls behind by all seconds until the last registration.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from mqttprov_simulator.histogram import Buckets, Histogram
from mqttprov_simulator.report.result import RunResult, Sample
from mqttprov_simulator.running.values import Second

# Less than this share of what arrived, and the run fell behind (reference/simulation.md section 5).
KEEPS_UP: Final = 0.99


class Load(msgspec.Struct, frozen=True):
    """The run under load. `seconds`: those that are judged, whole ones where there are enough.

    `offered_per_s` and `achieved_per_s`: in the seconds with arrivals, of which `arriving` are counted.
    `registrations_per_s`: in those judged.
    """

    seconds: tuple[Second, ...]
    arriving: int
    offered_per_s: float
    achieved_per_s: float
    registrations_per_s: float

    @property
    def kept_up(self) -> bool:
        """Whether as many were registered as arrived, while they arrived."""
        return self.achieved_per_s >= KEEPS_UP * self.offered_per_s

    @property
    def behind_s(self) -> float:
        """How far the run fell behind while gateways arrived, in seconds of arrivals."""
        return max(0.0, self.offered_per_s - self.achieved_per_s) * self.arriving / (self.offered_per_s or 1.0)


def warm_up_s(result: RunResult) -> float:
    """Give what the scenario leaves out at its beginning."""
    return float(result.scenario.get("warm_up_s", 0.0))


def load(result: RunResult) -> Load | None:
    """Give the run under load; None if nothing was due after the warm-up."""
    busy = [s for s in result.seconds if s.at_s >= warm_up_s(result) and (s.due or s.registered)]
    last_due_s = max((s.at_s for s in busy if s.due), default=None)
    if last_due_s is None:
        return None
    arriving = [s for s in busy if s.at_s <= last_due_s]
    # In the first second the first gateways are still on their way, the last one is rarely a whole one.
    arriving = arriving[1:-1] if len(arriving) >= 3 else arriving
    offered, achieved = _per_second(s.due for s in arriving), _per_second(s.registered for s in arriving)
    if achieved >= KEEPS_UP * offered:
        return Load(tuple(arriving), len(arriving), offered, achieved, achieved)
    until_done = busy[:-1] if len(busy) >= 3 else busy
    return Load(tuple(until_done), len(arriving), offered, achieved, _per_second(s.registered for s in until_done))


def _per_second(values: Iterable[int]) -> float:
    numbers = list(values)
    return sum(numbers) / len(numbers)


def percentile_ms(buckets: Buckets, percent: float) -> float | None:
    """Give a percentile in milliseconds; None without values."""
    return Histogram.of(buckets).percentile_ms(percent)


def latency_ms(result: RunResult, percent: float, of: str = "latency") -> float | None:
    """Give a percentile of one of the run's histograms; None where it has no values."""
    return percentile_ms(result.histograms.get(of, {}), percent)


def merged(parts: Iterable[Buckets]) -> Buckets:
    """Add histograms up."""
    whole: Counter[int] = Counter()
    for part in parts:
        whole.update(part)
    return dict(whole)


def samples_under_load(result: RunResult) -> tuple[Sample, ...]:
    """Give the samples of CPU in the seconds under load; each is of the second before its time."""
    under_load = load(result)
    if under_load is None:
        return ()
    whole_seconds = {second.at_s for second in under_load.seconds}
    return tuple(sample for sample in result.samples if second_of(sample) in whole_seconds)


def second_of(sample: Sample) -> int:
    """Give the second that a sample is about, which ended about at its time."""
    return round(sample.at_s - 1)


def swarm_cores(result: RunResult, sample: Sample) -> dict[str, float]:
    """Give the cores that each process of the swarm used; if only their sum is known, its even share."""
    return {
        name: used / (result.workers if name == "swarm" else 1)
        for name, used in sample.cores.items()
        if name.startswith("swarm")
    }


def by_part(values: dict[str, float] | dict[str, int]) -> dict[str, float]:
    """Add up what several processes of the swarm used: `swarm-0` and `swarm-1` become `swarm`."""
    parts: dict[str, float] = {}
    for name, value in values.items():
        part = "swarm" if name.startswith("swarm") else name
        parts[part] = parts.get(part, 0.0) + value
    return parts


def cpu_us_per_registration(result: RunResult) -> dict[str, float]:
    """Give the CPU that a registration cost, by part; {} if there was none."""
    if not result.registered:
        return {}
    return {part: used_s * 1e6 / result.registered for part, used_s in by_part(result.cpu_s).items()}


def failed_share(result: RunResult) -> float:
    """Give the share of the expected gateways that were never registered."""
    return max(0.0, 1 - result.registered / result.expected) if result.expected else 0.0


def in_steps(seconds: Sequence[Second], at_most: int) -> tuple[int, list[Second]]:
    """Give the run in steps of whole seconds, so many that no more than `at_most` remain; and a step's length."""
    if not seconds:
        return 1, []
    length = -(-(seconds[-1].at_s + 1 - seconds[0].at_s) // at_most)
    steps: dict[int, list[Second]] = {}
    for second in seconds:
        steps.setdefault((second.at_s - seconds[0].at_s) // length, []).append(second)
    return length, [_together(group) for group in steps.values()]


def _together(group: list[Second]) -> Second:
    first, last = group[0], group[-1]
    if len(group) == 1:
        return first
    strikes: Counter[str] = Counter()
    for second in group:
        strikes.update(second.strikes)
    return Second(
        at_s=first.at_s,
        due=sum(s.due for s in group),
        started=sum(s.started for s in group),
        registered=sum(s.registered for s in group),
        came_online=sum(s.came_online for s in group),
        refused=sum(s.refused for s in group),
        lost=sum(s.lost for s in group),
        latency=merged(s.latency for s in group),
        login=merged(s.login for s in group),
        strikes=dict(strikes),
        states=last.states,
    )
