"""Makes a scenario larger or smaller: the same times, other numbers. Pure."""

import math
from collections import Counter

import msgspec

from mqttprov_simulator.scenario.model import (
    Arrivals,
    Constant,
    Group,
    Poisson,
    Ramp,
    Scenario,
    Schedule,
    Step,
    Storm,
    Token,
)
from mqttprov_simulator.scenario.reading import ScenarioError


def scaled(scenario: Scenario, gateways: int) -> Scenario:
    """Give the scenario with so many gateways, its groups in proportion, at least one in each.

    Rates and what tokens allow grow along; times stay. The sum is exact, unless clones would outnumber their originals
    (a group of clones is then as large as those). Raises `ScenarioError` for fewer gateways than groups.
    """
    if gateways < len(scenario.groups):
        problem = f"{gateways} gateways are too few for {len(scenario.groups)} groups; give one for each or more"
        raise ScenarioError(scenario.name, problem)
    sizes = _shares([group.gateways for group in scenario.groups], gateways)
    by_name = {group.name: size for group, size in zip(scenario.groups, sizes, strict=True)}
    groups = tuple(_resized(group, by_name) for group in scenario.groups)
    thresholds = scenario.thresholds
    if thresholds.min_registrations_per_s is not None:
        rate = thresholds.min_registrations_per_s * gateways / scenario.gateways
        thresholds = msgspec.structs.replace(thresholds, min_registrations_per_s=rate)
    return msgspec.structs.replace(scenario, groups=groups, tokens=_tokens(scenario, groups), thresholds=thresholds)


def _shares(sizes: list[int], total: int) -> list[int]:
    """Divide `total` in proportion to `sizes`, at least 1 each (largest remainders first)."""
    spare = total - len(sizes)
    weights = [size * total / sum(sizes) - 1 for size in sizes]
    positive = sum(weight for weight in weights if weight > 0) or 1.0
    exact = [max(0.0, weight) * spare / positive for weight in weights]
    shares = [math.floor(share) for share in exact]
    by_remainder = sorted(range(len(sizes)), key=lambda place: (shares[place] - exact[place], place))
    for place in by_remainder[: spare - sum(shares)]:
        shares[place] += 1
    return [share + 1 for share in shares]


def _resized(group: Group, sizes: dict[str, int]) -> Group:
    size = min(sizes[group.name], sizes[group.clones_of or group.name])
    return msgspec.structs.replace(group, gateways=size, arrivals=_faster(group.arrivals, size / group.gateways))


def _faster(arrivals: Arrivals, factor: float) -> Arrivals:
    match arrivals:
        case Constant() | Poisson():
            return msgspec.structs.replace(arrivals, rate_per_s=arrivals.rate_per_s * factor)
        case Ramp():
            return msgspec.structs.replace(
                arrivals, from_per_s=arrivals.from_per_s * factor, to_per_s=arrivals.to_per_s * factor
            )
        case Schedule():
            steps = tuple(Step(at_s=step.at_s, rate_per_s=step.rate_per_s * factor) for step in arrivals.steps)
            return Schedule(steps=steps)
        case Storm():
            return arrivals


def _tokens(scenario: Scenario, groups: tuple[Group, ...]) -> tuple[Token, ...]:
    """Let each token allow its part of the gateways that use it, rounded up: who had a place keeps it."""
    before, after = _users(scenario.groups), _users(groups)
    tokens = []
    for token in scenario.tokens:
        users = before[token.profile, token.name]
        if token.max_registrations is not None and users:
            # Whole numbers: a quotient of floats could round one place up.
            most = -(-token.max_registrations * after[token.profile, token.name] // users)
            token = msgspec.structs.replace(token, max_registrations=most)  # noqa: PLW2901 - the same one, larger
        tokens.append(token)
    return tuple(tokens)


def _users(groups: tuple[Group, ...]) -> Counter[tuple[str, str]]:
    users: Counter[tuple[str, str]] = Counter()
    for group in groups:
        if group.clones_of is None:
            users[group.profile, group.token] += group.gateways
    return users
