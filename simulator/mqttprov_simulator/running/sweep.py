"""Running one scenario at several rates to find the highest that keeps a p99. It decides nothing: `knee` does.

A rate is reached by a fleet of other size that arrives within the same time, so every step lasts as long.
"""

from collections.abc import Callable
from typing import Final

from mqttprov_simulator.report.knee import Knee, Step, knee, next_rate, step_of
from mqttprov_simulator.report.result import RunResult
from mqttprov_simulator.report.verdict import refused_because
from mqttprov_simulator.scenario.model import Arrivals, Constant, Poisson, Ramp, Scenario, Schedule, Storm
from mqttprov_simulator.scenario.scaling import scaled

# A swarm that was late once may have been disturbed; what the server did is never tried again, that would be luck.
_TRIES: Final = 2
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
    """Run the scenario at rates between the two until the answer is known; `told` gets each run when it is over.

    It begins with the scenario's own rate.
    """
    steps: list[Step] = []
    own_per_s, least = peak_rate_per_s(scenario), len(scenario.groups)
    while True:
        rate = next_rate(steps, first_per_s=own_per_s, least_per_s=least_per_s, most_per_s=most_per_s)
        if rate is None:
            return knee(steps, p99_ms)
        fleet = scaled(scenario, max(least, round(scenario.gateways * rate / own_per_s)))
        for _ in range(_TRIES):
            result = run(fleet)
            step = step_of(result, rate, p99_ms, list(refused_because(result)))
            told(step)
            if step.limit != "generator":
                break
        steps.append(step)


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
