"""The outline of a plan, for people who want to see it before it runs: arrivals over time, what strikes whom. Pure."""

import math
from collections import Counter
from collections.abc import Iterable
from typing import Final

import msgspec

from mqttprov_simulator.scenario.drawing import (
    DrawnGateway,
    acts,
    concerns,
    gateways,
    plan_digest,
    planned_end_s,
    timed_strikes,
)
from mqttprov_simulator.scenario.model import Action, GatewayFault, Scenario, TargetFault

_MAX_ROWS: Final = 30
_ROUND_SECONDS: Final = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600)


class GroupOutline(msgspec.Struct, frozen=True):
    """A group: when its first and last gateway arrives, in seconds."""

    name: str
    gateways: int
    expect: str
    first_s: float
    last_s: float


class Happening(msgspec.Struct, frozen=True):
    """A fault or an action: when it begins and ends (None: by chance), how many gateways it meets or may meet.

    `gateways` None: it is the target's matter.
    """

    at_s: float | None
    until_s: float | None
    name: str
    kind: str
    gateways: int | None


class Outline(msgspec.Struct, frozen=True, kw_only=True):
    """A whole plan. `arrivals`: how many in each row of `seconds_per_row` seconds, from the start."""

    name: str
    summary: str
    seed: int
    gateways: int
    expected: int
    planned_end_s: float
    digest: str
    groups: tuple[GroupOutline, ...]
    seconds_per_row: int
    arrivals: tuple[int, ...]
    happenings: tuple[Happening, ...]


def outline(scenario: Scenario) -> Outline:
    """Draw a scenario and sum it up."""
    drawn = gateways(scenario)
    seconds, rows = _over_time([one.planned_s for one in drawn])
    return Outline(
        name=scenario.name,
        summary=scenario.summary,
        seed=scenario.seed,
        gateways=scenario.gateways,
        expected=scenario.expected,
        planned_end_s=round(planned_end_s(scenario), 3),
        digest=plan_digest(scenario),
        groups=tuple(_groups(scenario, drawn)),
        seconds_per_row=seconds,
        arrivals=rows,
        happenings=tuple(_happenings(scenario, drawn)),
    )


def _over_time(times: list[float]) -> tuple[int, tuple[int, ...]]:
    end_s = max(times)
    seconds = next((step for step in _ROUND_SECONDS if end_s < step * _MAX_ROWS), math.ceil(end_s / _MAX_ROWS) + 1)
    counts = Counter(int(time // seconds) for time in times)
    return seconds, tuple(counts[row] for row in range(max(counts) + 1))


def _groups(scenario: Scenario, drawn: list[DrawnGateway]) -> Iterable[GroupOutline]:
    for group in scenario.groups:
        times = [one.planned_s for one in drawn if one.group is group]
        yield GroupOutline(group.name, group.gateways, group.expect, round(min(times), 3), round(max(times), 3))


def _happenings(scenario: Scenario, drawn: list[DrawnGateway]) -> list[Happening]:
    met: Counter[GatewayFault | Action] = Counter()
    for one in drawn:
        met.update(strike.fault for strike in timed_strikes(scenario, one))
        met.update(act.action for act in acts(scenario, one) if one.identity is one.group)
    # A rule that is written twice is two rules, and here one line.
    found = [_fault(fault, met[fault], drawn) for fault in dict.fromkeys(scenario.faults)]
    found += [_planned(fault, None) for fault in scenario.target_faults]
    found += [_planned(action, met[action]) for action in dict.fromkeys(scenario.actions)]
    return sorted(found, key=lambda one: (one.at_s is None, one.at_s or 0.0))


def _fault(fault: GatewayFault, met: int, drawn: list[DrawnGateway]) -> Happening:
    if fault.at_s is None:
        may = sum(1 for one in drawn if concerns(fault.groups, one.group))
        return Happening(None, None, fault.name or fault.kind, fault.kind, may)
    return Happening(fault.at_s, fault.at_s + fault.spread_s + fault.for_s, fault.name or fault.kind, fault.kind, met)


def _planned(one: TargetFault | Action, met: int | None) -> Happening:
    return Happening(one.at_s, one.at_s + one.for_s, one.name or one.kind, one.kind, met)
