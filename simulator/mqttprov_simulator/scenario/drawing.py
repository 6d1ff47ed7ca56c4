"""Draws a scenario into single gateways, the strikes that hit them and the operator's acts on them. Pure.

Everything that chance decides has a sub-stream of its own, by purpose, rule, group and place: removing a rule, a group
or the last gateways of a group changes nothing for the others (reference/simulation.md rule 7).
"""

import struct
from collections import Counter
from functools import lru_cache
from hashlib import sha256
from typing import Final, TypeVar

import msgspec

from mqttprov_simulator.chance import ChanceStream, sub_seed
from mqttprov_simulator.scenario.arrivals import arrival_times
from mqttprov_simulator.scenario.model import Action, GatewayFault, Group, Poisson, Scenario, Storm

_DIGITS: Final = 6
# Planned times are whole microseconds: logarithms of different machines differ in the last bits.
_DECIMALS: Final = 6

Rule = TypeVar("Rule", GatewayFault, Action)


class DrawnGateway(msgspec.Struct, frozen=True, gc=False):
    """A gateway of the plan. `number`: in the whole run, from 0, in the order of groups; `place`: in its group, from 0.

    `gateway` names it in the run ("group/000001"), `device` is its device name. `identity` is the group whose profile,
    token and credentials type it uses: its own, of a clone the original's (there, the gateway of the same place).
    """

    number: int
    group: Group
    identity: Group
    place: int
    gateway: str
    device: str
    planned_s: float


def gateways(scenario: Scenario, worker: int = 0, workers: int = 1) -> list[DrawnGateway]:
    """Give the gateways with number % workers == worker, in the order in which they arrive."""
    drawn: list[DrawnGateway] = []
    groups = {group.name: group for group in scenario.groups}
    number = 0
    for group in scenario.groups:
        identity = group if group.clones_of is None else groups[group.clones_of]
        device = device_prefix(identity)
        times = _arrival_times(scenario.seed, group)
        for place in range((worker - number) % workers, group.gateways, workers):
            label = f"{place + 1:0{_DIGITS}}"
            planned_s = round(times[place], _DECIMALS)
            drawn.append(
                DrawnGateway(number + place, group, identity, place, f"{group.name}/{label}", device + label, planned_s)
            )
        number += group.gateways
    drawn.sort(key=lambda one: (one.planned_s, one.number))
    return drawn


def device_prefix(group: Group) -> str:
    """Give what the device names of a group begin with; six digits or more follow."""
    return group.names if group.names is not None else f"{group.name}-"


def _arrival_times(seed: int, group: Group) -> list[float]:
    stream_seed = sub_seed(seed, "arrival", group.name)
    return arrival_times(group.arrivals, group.gateways, lambda place: ChanceStream(stream_seed, place)())


class Strike(msgspec.Struct, frozen=True):
    """A fault that hits a gateway at its time, or at its next occasion after it (`model.GatewayFault`)."""

    fault: GatewayFault
    at_s: float


class Act(msgspec.Struct, frozen=True):
    """An operator's action on a gateway's device."""

    action: Action
    at_s: float


def timed_strikes(scenario: Scenario, drawn: DrawnGateway) -> list[Strike]:
    """Give the faults by time that hit this gateway, in their order."""
    strikes = []
    for rule, fault in _rules(scenario.faults):
        if fault.at_s is not None and concerns(fault.groups, drawn.group):
            chance = _stream(scenario, drawn, "timed", rule)
            if chance() < fault.share:
                strikes.append(Strike(fault, round(fault.at_s + fault.spread_s * chance(), _DECIMALS)))
    strikes.sort(key=lambda strike: strike.at_s)
    return strikes


def acts(scenario: Scenario, drawn: DrawnGateway) -> list[Act]:
    """Give what operators do to the device of this gateway, in order. A clone's device is its original's.

    Revoking a token is an act on a device only with `cascade`.
    """
    met = []
    for rule, action in _rules(scenario.actions):
        if action.kind == "revoke-token":
            if action.cascade and (action.profile, action.token) == (drawn.identity.profile, drawn.identity.token):
                met.append(Act(action, action.at_s))
        elif concerns(action.groups, drawn.identity):
            # Keyed by the identity, so that a clone's act is its original's.
            chance = ChanceStream(sub_seed(scenario.seed, "action", rule, drawn.identity.name), drawn.place)
            if chance() < action.share:
                met.append(Act(action, round(action.at_s + action.for_s * chance(), _DECIMALS)))
    met.sort(key=lambda act: act.at_s)
    return met


class Chances:
    """The faults by chance of one gateway: says at each occasion whether one strikes. Falsy where none ever can."""

    __slots__ = ("_drawn", "_left", "_scenario", "_streams")

    def __init__(self, scenario: Scenario, drawn: DrawnGateway) -> None:
        self._scenario: Final = scenario
        self._drawn: Final = drawn
        # By rule, made when first needed: most gateways never come to most occasions.
        self._streams: dict[str, ChanceStream] | None = None
        self._left: dict[str, int] | None = None

    def __bool__(self) -> bool:
        return any(_by_chance(self._scenario.faults, self._drawn.group.name).values())

    def strikes(self, kind: str) -> GatewayFault | None:
        """Take one occasion of this kind; give the first rule that strikes, if any."""
        struck = None
        for rule, fault in _by_chance(self._scenario.faults, self._drawn.group.name).get(kind, ()):
            # Every rule draws, also behind one that struck: its chances do not depend on the others.
            if self._draws(rule, fault) and struck is None:
                struck = fault
        return struck

    def _draws(self, rule: str, fault: GatewayFault) -> bool:
        if self._streams is None:
            self._streams = {}
        stream = self._streams.get(rule)
        if stream is None:
            stream = self._streams[rule] = _stream(self._scenario, self._drawn, "chance", rule)
        if stream() >= (fault.probability or 0.0):
            return False
        if fault.times is None:
            return True
        if self._left is None:
            self._left = {}
        left = self._left.get(rule, fault.times)
        self._left[rule] = max(0, left - 1)
        return left > 0


def machine_chance(scenario: Scenario, drawn: DrawnGateway) -> ChanceStream:
    """Give the randomness of the gateway machine (its back-off)."""
    return _stream(scenario, drawn, "machine")


def life_chance(scenario: Scenario, drawn: DrawnGateway) -> ChanceStream:
    """Give the randomness of what the gateway does when it is online."""
    return _stream(scenario, drawn, "life")


def planned_end_s(scenario: Scenario) -> float:
    """Say when the last arrival, timed fault and action of the plan is over."""
    ends = [last_arrival_s(scenario.seed, group) for group in scenario.groups]
    ends += [fault.at_s + fault.spread_s + fault.for_s for fault in scenario.faults if fault.at_s is not None]
    ends += [fault.at_s + fault.for_s for fault in scenario.target_faults]
    ends += [action.at_s + action.for_s for action in scenario.actions]
    return max(ends)


def last_arrival_s(seed: int, group: Group) -> float:
    """Say when all gateways of a group have arrived."""
    match group.arrivals:
        case Storm(within_s=within_s, begins_s=begins_s):
            return begins_s + within_s
        case Poisson():
            return _arrival_times(seed, group)[-1]
        case _:
            return arrival_times(group.arrivals, group.gateways, lambda _place: 0.0)[-1]


def plan_digest(scenario: Scenario) -> str:
    """Give SHA-256 in hex over everything that is drawn: equal for equal plans."""
    digest = sha256()

    def add(what: str, *numbers: float) -> None:
        digest.update(f"{what}\0".encode() + struct.pack(f"<{len(numbers)}d", *numbers))

    for one in gateways(scenario):
        add(one.gateway)
        add(one.device, one.planned_s)
        for strike in timed_strikes(scenario, one):
            add(strike.fault.kind, strike.at_s)
        for act in acts(scenario, one):
            add(act.action.kind, act.at_s)
        for kind, rules in _by_chance(scenario.faults, one.group.name).items():
            for rule, _fault in rules:
                add(kind, _stream(scenario, one, "chance", rule)())
    for fault in scenario.target_faults:
        add(fault.kind, fault.at_s, fault.for_s)
    for action in scenario.actions:
        add(action.kind, action.at_s, action.for_s)
    return digest.hexdigest()


def concerns(groups: tuple[str, ...], group: Group) -> bool:
    """Tell whether a fault or action for these groups (none: all) is one for this group."""
    return not groups or group.name in groups


def _stream(scenario: Scenario, drawn: DrawnGateway, *purpose: str) -> ChanceStream:
    return ChanceStream(sub_seed(scenario.seed, *purpose, drawn.group.name), drawn.place)


@lru_cache(maxsize=64)
def _rules(rules: tuple[Rule, ...]) -> tuple[tuple[str, Rule], ...]:
    """Give each rule with what names its chance: its name or kind, and which one of these it is."""
    seen: Counter[str] = Counter()
    named = []
    for rule in rules:
        name = rule.name or rule.kind
        named.append((f"{name}#{seen[name]}", rule))
        seen[name] += 1
    return tuple(named)


@lru_cache(maxsize=1024)
def _by_chance(faults: tuple[GatewayFault, ...], group: str) -> dict[str, tuple[tuple[str, GatewayFault], ...]]:
    """Give the rules by chance for a group, by kind."""
    rules: dict[str, tuple[tuple[str, GatewayFault], ...]] = {}
    for rule, fault in _rules(faults):
        if fault.probability is not None and (not fault.groups or group in fault.groups):
            rules[fault.kind] = (*rules.get(fault.kind, ()), (rule, fault))
    return rules
