"""Two sides of results against each other: ratios with 95 % intervals, and whether a difference was shown. Pure.

With three results or more on each side the intervals say how runs differ (bootstrap over runs, of medians). With fewer
they say how the seconds within the runs differ (bootstrap over blocks of seconds), which is less than runs do.
"""

import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from statistics import median
from typing import Final, Literal, TypeVar

import msgspec

from mqttprov_simulator.histogram import Buckets, highest_of
from mqttprov_simulator.report import figures, words
from mqttprov_simulator.report.result import RunResult
from mqttprov_simulator.running.values import Second

_RUNS: Final = 3  # from so many on each side, runs are what is drawn
_MIN_BLOCKS: Final = 5
_MAX_BLOCKS: Final = 40
_RESAMPLES: Final = 500
_RESOLUTION: Final = 0.01  # what histograms cannot tell apart is no difference

Unit = Literal["/s", "ms", "us", "MiB"]
_T = TypeVar("_T")
_Pair = tuple[float, float]
Estimate = Callable[[Sequence[int]], float | None]  # the figure, if each unit were there so many times


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """One figure of both sides. `ratio` is b to a, `low` and `high` its 95 % interval; None where there is none."""

    name: str
    unit: Unit
    a: float | None
    b: float | None
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    says: str


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """Both sides. `over`: what the intervals were drawn over. `warnings`: why the sides may not be comparable."""

    over: Literal["runs", "seconds"]
    results_a: int
    results_b: int
    figures: tuple[Figure, ...]
    warnings: tuple[str, ...]


class _Side(msgspec.Struct, frozen=True):
    """One figure of one side: its value, how many units there are to draw (0: too few), and the value of a draw.

    `same_draw`: units of both sides belong together and are drawn together.
    """

    value: float | None
    units: int
    estimate: Estimate
    same_draw: bool = False


def compare(a: Sequence[RunResult], b: Sequence[RunResult]) -> Comparison:
    """Compare the results of `b` with those of `a`; each side needs one at least. The same files, the same answer."""
    over: Literal["runs", "seconds"] = "runs" if min(len(a), len(b)) >= _RUNS else "seconds"
    made = [_rate(a, b, over), _percentile(a, b, over, 50), _percentile(a, b, over, 99)]
    parts = dict.fromkeys(part for result in (*a, *b) for part in figures.by_part(result.cpu_s))
    made += [_cpu(a, b, over, part) for part in parts]
    made += [_memory(a, b, part) for part in parts]
    return Comparison(
        over=over,
        results_a=len(a),
        results_b=len(b),
        figures=tuple(figure for figure in made if figure.a is not None or figure.b is not None),
        warnings=tuple(_warnings(a, b)),
    )


# --- the figures ---


def _rate(a: Sequence[RunResult], b: Sequence[RunResult], over: str) -> Figure:
    def of_run(result: RunResult) -> float | None:
        load = figures.load(result)
        return None if load is None else load.registrations_per_s

    def of_seconds(result: RunResult) -> list[tuple[int, _Pair]]:
        load = figures.load(result)
        return [] if load is None else [(second.at_s, (second.registered, 1)) for second in load.seconds]

    sides = _of_runs(a, b, of_run) if over == "runs" else _of_seconds(a, b, of_seconds, _quotient)
    return _figure("registrations", "/s", ("faster", "slower"), *sides)


def _percentile(a: Sequence[RunResult], b: Sequence[RunResult], over: str, percent: int) -> Figure:
    def of_seconds(result: RunResult) -> list[tuple[int, Buckets]]:
        return [(second.at_s, second.latency) for second in _measured(result) if second.latency]

    def side(results: Sequence[RunResult], blocks: list[list[Buckets]]) -> _Side:
        late = figures.merged(_never_registered(result) for result in results)
        return _percentile_side([figures.merged(block) for block in blocks], late, percent)

    if over == "runs":
        sides = _of_runs(a, b, lambda result: figures.latency_ms(result, percent))
    else:
        sides = _of_seconds(a, b, of_seconds, side)
    return _figure(f"p{percent}", "ms", ("slower", "faster"), *sides)


def _cpu(a: Sequence[RunResult], b: Sequence[RunResult], over: str, part: str) -> Figure:
    def of_seconds(result: RunResult) -> list[tuple[int, _Pair]]:
        load = figures.load(result)
        registered = {} if load is None else {second.at_s: second.registered for second in load.seconds}
        return [
            (second, (1e6 * figures.by_part(sample.cores).get(part, 0.0), registered[second]))
            for sample in figures.samples_under_load(result)
            if (second := figures.second_of(sample)) in registered
        ]

    if over == "runs":
        sides = _of_runs(a, b, lambda result: figures.cpu_us_per_registration(result).get(part))
    else:
        sides = _of_seconds(a, b, of_seconds, _quotient)
    return _figure(f"CPU of {part}", "us", ("more", "less"), *sides)


def _memory(a: Sequence[RunResult], b: Sequence[RunResult], part: str) -> Figure:
    def of_run(result: RunResult) -> float | None:
        used = figures.by_part(result.rss_bytes).get(part)
        return None if used is None else used / 2**20

    return _figure(f"memory of {part}", "MiB", ("more", "less"), *_of_runs(a, b, of_run))


def _measured(result: RunResult) -> list[Second]:
    return [second for second in result.seconds if second.at_s >= figures.warm_up_s(result)]


def _never_registered(result: RunResult) -> Buckets:
    """Give what the latencies have beyond those of the seconds: registrations that did not happen (errors stay in)."""
    left = Counter(result.histograms.get("latency", {}))
    left.subtract(figures.merged(second.latency for second in _measured(result)))
    return {bucket: count for bucket, count in left.items() if count > 0}


# --- drawing ---


def _of_runs(
    a: Sequence[RunResult], b: Sequence[RunResult], of_run: Callable[[RunResult], float | None]
) -> tuple[_Side, _Side]:
    first, second = (
        _median_side([value for result in results if (value := of_run(result)) is not None]) for results in (a, b)
    )
    return first, second


def _of_seconds(
    a: Sequence[RunResult],
    b: Sequence[RunResult],
    of_seconds: Callable[[RunResult], list[tuple[int, _T]]],
    side: Callable[[Sequence[RunResult], list[list[_T]]], _Side],
) -> tuple[_Side, _Side]:
    """Draw the same seconds on both sides: a plan does the same at the same time, a fault strikes both or none.

    Neighbouring seconds are one block: what follows each other is alike, and would count as more than it is.
    """
    found = [[item for result in results for item in of_seconds(result)] for results in (a, b)]
    seconds = {at_s for items in found for at_s, _ in items}
    length = max(round(len(seconds) ** (1 / 3)), -(-len(seconds) // _MAX_BLOCKS), 1)
    places = sorted({at_s // length for at_s in seconds})
    made = []
    for results, items in zip((a, b), found, strict=True):
        blocks: dict[int, list[_T]] = {place: [] for place in places}
        for at_s, item in items:
            blocks[at_s // length].append(item)
        enough = sum(map(bool, blocks.values())) >= _MIN_BLOCKS
        one = side(results, list(blocks.values()))
        made.append(msgspec.structs.replace(one, units=len(places) if enough else 0, same_draw=True))
    return made[0], made[1]


def _median_side(values: list[float]) -> _Side:
    def estimate(weights: Sequence[int]) -> float | None:
        drawn = [value for value, times in zip(values, weights, strict=True) for _ in range(times)]
        return median(drawn) if drawn else None

    return _Side(median(values) if values else None, len(values) if len(values) >= _RUNS else 0, estimate)


def _quotient(_results: Sequence[RunResult], blocks: list[list[_Pair]]) -> _Side:
    """Give a sum divided by another, as a rate is."""
    sums = [(sum(over for over, _ in block), sum(under for _, under in block)) for block in blocks]

    def estimate(weights: Sequence[int]) -> float | None:
        under = sum(times * below for times, (_, below) in zip(weights, sums, strict=True))
        return sum(times * above for times, (above, _) in zip(weights, sums, strict=True)) / under if under else None

    return _Side(estimate([1] * len(sums)), 0, estimate)


def _percentile_side(blocks: list[Buckets], fixed: Buckets, percent: int) -> _Side:
    """Give a percentile of all blocks together; `fixed` is in every draw."""
    entries = sorted(
        (bucket, place, count) for place, block in enumerate([*blocks, fixed]) for bucket, count in block.items()
    )
    totals = [sum(block.values()) for block in blocks]
    always = sum(fixed.values())

    def estimate(weights: Sequence[int]) -> float | None:
        total = always + sum(times * count for times, count in zip(weights, totals, strict=True))
        above = total - max(1, -(-total * percent // 100))
        with_fixed = [*weights, 1]
        for bucket, place, count in reversed(entries):
            above -= with_fixed[place] * count
            if above < 0:
                return highest_of(bucket) / 1000
        return None

    return _Side(estimate([1] * len(blocks)), 0, estimate)


def _figure(name: str, unit: Unit, words_for: tuple[str, str], a: _Side, b: _Side) -> Figure:
    """Put both sides together. `words_for`: what b is with a larger and with a smaller figure."""
    if not a.value or b.value is None:
        return Figure(name=name, unit=unit, a=a.value, b=b.value, says="only one side has it")
    ratio = b.value / a.value
    interval = _interval(a, b)
    if interval is None:
        return Figure(name=name, unit=unit, a=a.value, b=b.value, ratio=ratio, says="too little to tell")
    low, high = interval
    shown = (low > 1 or high < 1) and abs(ratio - 1) > _RESOLUTION
    says = words_for[ratio < 1] if shown else "no difference shown"
    return Figure(name=name, unit=unit, a=a.value, b=b.value, ratio=ratio, low=low, high=high, says=says)


def _interval(a: _Side, b: _Side) -> tuple[float, float] | None:
    if not (a.units and b.units):
        return None
    rng = random.Random(0)  # noqa: S311 - the same files shall give the same answer
    ratios = []
    for _ in range(_RESAMPLES):
        draw = _draw(rng, a.units)
        below, above = a.estimate(draw), b.estimate(draw if a.same_draw else _draw(rng, b.units))
        if below and above is not None:
            ratios.append(above / below)
    if len(ratios) < _RESAMPLES // 2:
        return None
    ratios.sort()
    return ratios[round(0.025 * (len(ratios) - 1))], ratios[round(0.975 * (len(ratios) - 1))]


def _draw(rng: random.Random, units: int) -> list[int]:
    times = [0] * units
    for _ in range(units):
        times[rng.randrange(units)] += 1
    return times


# --- whether they may be compared ---


def _warnings(a: Sequence[RunResult], b: Sequence[RunResult]) -> Iterator[str]:
    first = a[0]
    for what, of in _ALIKE.items():
        values = list(dict.fromkeys(of(result) for result in (*a, *b)))
        if len(values) > 1:
            yield f"they differ in {what}: {words.listed(values) if len(str(values)) < 200 else 'see the results'}"
    if any(_scenario(result) != _scenario(first) for result in (*a, *b)):
        yield "the scenarios were not the same (by name, groups, faults or thresholds)"
    settings = [result.environment.settings for result in (*a, *b)]
    different = sorted({name for one in settings for name in one if any(s.get(name) != one[name] for s in settings)})
    if different:
        yield f"they differ in settings: {words.listed(different)}"
    for side, results in (("A", a), ("B", b)):
        for result in results:
            if result.verdict.state != "passed":
                why = result.verdict.reasons[0] if result.verdict.reasons else ""
                yield f"a run of {side} {'failed' if result.verdict.state == 'failed' else 'got no verdict'}: {why}"
    if max(len(a), len(b)) > 1 and min(len(a), len(b)) < _RUNS:
        yield f"give {_RUNS} results or more for each side to have intervals over runs"


def _scenario(result: RunResult) -> dict[str, object]:
    return {name: value for name, value in result.scenario.items() if name not in {"seed", "summary"}}


_ALIKE: Final[dict[str, Callable[[RunResult], str]]] = {
    "seed": lambda result: str(result.seed),
    "target": lambda result: result.target,
    "the number of gateways": lambda result: str(result.gateways),
    "the number of the swarm's processes": lambda result: str(result.workers),
    "machine": lambda result: (
        f"{result.environment.cores} cores, {words.memory(result.environment.memory_bytes)}, "
        f"Linux {result.environment.kernel}, Python {result.environment.python}"
    ),
}
