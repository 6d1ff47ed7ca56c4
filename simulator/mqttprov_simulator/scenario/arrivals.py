"""When the gateways of a group are switched on, by its plan of arrivals. Arithmetic only; chance comes as an argument.

An arrival depends on nothing that happens in the run: who waits for the server does not arrive later (open arrivals).
"""

import math
from collections.abc import Callable
from itertools import accumulate

from mqttprov_simulator.scenario.model import Arrivals, Constant, Poisson, Ramp, Schedule, Storm


def arrival_times(arrivals: Arrivals, count: int, chance: Callable[[int], float]) -> list[float]:
    """Give the seconds of `count` arrivals, by place.

    `chance(place)` gives a number in [0, 1), the same for the same place. A place's time does not depend on `count`.
    """
    match arrivals:
        case Constant():
            return [arrivals.begins_s + place / arrivals.rate_per_s for place in range(count)]
        case Ramp():
            return [arrivals.begins_s + _ramp_s(arrivals, place) for place in range(count)]
        case Poisson():
            gaps = (-math.log1p(-chance(place)) / arrivals.rate_per_s for place in range(count))
            return [arrivals.begins_s + after_s for after_s in accumulate(gaps)]
        case Storm():
            return [arrivals.begins_s + arrivals.within_s * chance(place) for place in range(count)]
        case Schedule():
            return _scheduled(arrivals, count)


def _ramp_s(ramp: Ramp, place: int) -> float:
    """Solve for the time by which `place` gateways have come before: the rate's integral."""
    first, last, over_s = ramp.from_per_s, ramp.to_per_s, ramp.over_s
    before_plateau = (first + last) / 2 * over_s
    if place >= before_plateau:
        return over_s + (place - before_plateau) / last
    if place == 0:
        return 0.0
    # This form of the quadratic's root divides by no zero when both rates are equal.
    return 2 * place / (first + math.sqrt(max(0.0, first * first + 2 * (last - first) / over_s * place)))


def _scheduled(schedule: Schedule, count: int) -> list[float]:
    times: list[float] = []
    before = 0.0  # how many have come when the step begins
    ends = [step.at_s for step in schedule.steps[1:]] + [math.inf]
    for step, ends_s in zip(schedule.steps, ends, strict=True):
        after = before + step.rate_per_s * (ends_s - step.at_s) if step.rate_per_s else before
        while len(times) < min(count, after):
            times.append(step.at_s + (len(times) - before) / step.rate_per_s)
        before = after
    return times
