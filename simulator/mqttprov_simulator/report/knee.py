"""The highest rate that keeps a p99: what a step says, which rate to try next, and when the answer is known. Pure."""

from collections.abc import Sequence
from typing import Final, Literal

import msgspec

from mqttprov_simulator.report import figures, words
from mqttprov_simulator.report.result import RunResult

# Two neighbouring rates this close are one, given how much runs differ.
PRECISION: Final = 0.05
_MAX_STEPS: Final = 24


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One rate that was tried. `why_not`: why it does not keep the p99, None if it does.

    `limit`: whether the server or the generator was at its limit.
    """

    asked_per_s: float
    offered_per_s: float | None
    achieved_per_s: float | None
    p50_ms: float | None
    p99_ms: float | None
    lag_p99_ms: float | None
    why_not: str | None = None
    limit: Literal["server", "generator"] | None = None

    @property
    def keeps(self) -> bool:
        """Whether the rate was achieved and its p99 kept."""
        return self.why_not is None


class Knee(msgspec.Struct, frozen=True, kw_only=True):
    """The answer: the highest rate that keeps the p99, None if none did, and the lowest that did not."""

    p99_ms: float
    highest_per_s: float | None
    lowest_missed_per_s: float | None
    limit: Literal["server", "generator", "range"]
    says: str
    steps: tuple[Step, ...]


def step_of(result: RunResult, asked_per_s: float, p99_ms: float, refusals: Sequence[str]) -> Step:
    """Judge a run at a rate; `refusals` say why its figures are not the server's (`verdict.refused_because`).

    A swarm that is late makes latencies longer, never shorter: a p99 that is kept all the same is kept, and one that is
    missed may be the swarm's own.
    """
    load, got_ms = figures.load(result), figures.latency_ms(result, 99)
    why_not: str | None = None
    generators = False
    if any(check.state == "broken" for check in result.checks) or result.errors:
        why_not = "a promise was broken or the run had errors"
    elif load is None or got_ms is None:
        why_not = "nothing was registered after the warm-up"
    elif not load.kept_up and load.behind_s * 1000 > p99_ms:  # less than that is on its way at any time
        why_not = f"only {words.rate(load.achieved_per_s)} of {words.rate(load.offered_per_s)} were reached"
        generators = bool(refusals)
    elif got_ms > p99_ms:
        why_not = f"p99 was {words.milliseconds(got_ms)}"
        generators = bool(refusals)
    if generators:
        why_not = f"{why_not}. {refusals[0]}"
    limit: Literal["server", "generator"] = "generator" if generators else "server"
    return Step(
        asked_per_s=asked_per_s,
        offered_per_s=None if load is None else load.offered_per_s,
        achieved_per_s=None if load is None else load.achieved_per_s,
        p50_ms=figures.latency_ms(result, 50),
        p99_ms=got_ms,
        lag_p99_ms=figures.latency_ms(result, 99, "lag"),
        why_not=why_not,
        limit=limit if why_not else None,
    )


def next_rate(steps: Sequence[Step], *, first_per_s: float, least_per_s: float, most_per_s: float) -> float | None:
    """Give the rate to try next; None when the answer is known to within `PRECISION`, or cannot be had in the range.

    It doubles (or halves) until one rate keeps the p99 and another does not, then it halves the distance, by ratio.
    """
    if not steps:
        return min(max(first_per_s, least_per_s), most_per_s)
    if len(steps) >= _MAX_STEPS:
        return None
    highest, missed = _bounds(steps)
    if missed is None:
        assert highest is not None  # noqa: S101 - for the type checker: a step keeps it or does not
        return None if highest >= most_per_s else min(2 * highest, most_per_s)
    if highest is None:
        return None if missed <= least_per_s else max(missed / 2, least_per_s)
    return None if missed <= highest * (1 + PRECISION) else (highest * missed) ** 0.5


def knee(steps: Sequence[Step], p99_ms: float) -> Knee:
    """Give the answer of all steps."""
    highest, missed = _bounds(steps)
    first_miss = next((step for step in steps if step.asked_per_s == missed and not step.keeps), None)
    limit: Literal["server", "generator", "range"] = "range"
    if first_miss is not None and first_miss.limit is not None:
        limit = first_miss.limit
    kept = f"a p99 of {words.milliseconds(p99_ms)}"
    says = f"No rate that was tried keeps {kept}." if highest is None else f"{words.rate(highest)} keep {kept}."
    if first_miss is not None:
        says += f" {words.rate(first_miss.asked_per_s)} do not: {first_miss.why_not}"
        says += "" if says.endswith(".") else "."
    else:
        says += " That was the highest rate to try: the limit lies above it."
    if limit == "generator":
        says += " The limit is the swarm's or this host's, not the server's."
    return Knee(
        p99_ms=p99_ms,
        highest_per_s=highest,
        lowest_missed_per_s=missed,
        limit=limit,
        says=says,
        steps=tuple(sorted(steps, key=lambda step: step.asked_per_s)),
    )


def _bounds(steps: Sequence[Step]) -> tuple[float | None, float | None]:
    """Give the highest rate below which nothing missed, and the lowest that missed."""
    missed = min((step.asked_per_s for step in steps if not step.keeps), default=None)
    kept = [step.asked_per_s for step in steps if step.keeps and (missed is None or step.asked_per_s < missed)]
    return max(kept, default=None), missed
