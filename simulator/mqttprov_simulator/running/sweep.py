"""Running one scenario at several rates to find the highest that keeps a p99. It decides nothing: `knee` does.

A rate is reached by a fleet of other size that arrives within the same time, so every step lasts as long.
"""

from collections.abc import Callable
from typing import Final

import msgspec

from mqttprov_simulator.report.knee import Knee, Step, knee, next_rate, step_of
from mqttprov_simulator.report.result import RunResult
from mqttprov_simulator.report.verdict import refused_because
from mqttprov_simulator.scenario.model import Arrivals, Constant, Poisson, Ramp, Scenario, Schedule, Storm

_LEAST_WITHIN_S: Final = 1.0  # a storm at once: rates are looked at by seconds


def sweep(
    scenario: Scenario,
    p99_ms: float,
    run: Callable[[Scenario], RunResult],
    *,
    least_per_s: float,
    most_per_s: float,
    told: Callable[[Step], None],
) -> Knee:
    """Run the scenario at rates between the two until the answer is known; `told` gets each step when it is over.

    It begins with the scenario's own rate.
    """
    steps: list[Step] = []
    own_per_s = peak_rate_per_s(scenario)
    while True:
        rate = next_rate(steps, first_per_s=own_per_s, least_per_s=least_per_s, most_per_s=most_per_s)
        if rate is None:
            return knee(steps, p99_ms)
        result = run(scaled(scenario, rate / own_per_s))
        steps.append(step_of(result, rate, p99_ms, list(refused_because(result))))
        told(steps[-1])


def peak_rate_per_s(scenario: Scenario) -> float:
    """Give the highest rate at which the groups together may arrive."""
    return sum(_rate_per_s(group.arrivals, group.gateways) for group in scenario.groups)


def _rate_per_s(arrivals: Arrivals, gateways: int) -> float:
    match arrivals:
        case Constant() | Poisson():
            return arrivals.rate_per_s
        case Ramp():
            return max(arrivals.from_per_s, arrivals.to_per_s)
        case Schedule():
            return max(step.rate_per_s for step in arrivals.steps)
        case Storm():
            return gateways / max(arrivals.within_s, _LEAST_WITHIN_S)


def scaled(scenario: Scenario, factor: float) -> Scenario:
    """Give the scenario with so many times the gateways, in the same time; maxima of tokens grow with them."""
    groups = tuple(
        msgspec.structs.replace(
            group, gateways=max(1, round(group.gateways * factor)), arrivals=_faster(group.arrivals, factor)
        )
        for group in scenario.groups
    )
    tokens = tuple(
        msgspec.structs.replace(token, max_registrations=max(1, round(token.max_registrations * factor)))
        if token.max_registrations is not None
        else token
        for token in scenario.tokens
    )
    return msgspec.structs.replace(scenario, groups=groups, tokens=tokens)


def _faster(arrivals: Arrivals, factor: float) -> Arrivals:
    match arrivals:
        case Constant() | Poisson():
            return msgspec.structs.replace(arrivals, rate_per_s=arrivals.rate_per_s * factor)
        case Ramp():
            return msgspec.structs.replace(
                arrivals, from_per_s=arrivals.from_per_s * factor, to_per_s=arrivals.to_per_s * factor
            )
        case Schedule():
            steps = (msgspec.structs.replace(step, rate_per_s=step.rate_per_s * factor) for step in arrivals.steps)
            return msgspec.structs.replace(arrivals, steps=tuple(steps))
        case Storm():
            return arrivals
