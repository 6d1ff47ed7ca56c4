"""How the parts of a scenario fit together: what types alone cannot say. Pure.

Each finding is the path of the key that is wrong and what to write instead.
"""

from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from mqttprov.core.names import InvalidName, fold, normalise_device_name
from mqttprov_simulator.scenario import wording
from mqttprov_simulator.scenario.drawing import device_prefix, last_arrival_s, planned_end_s
from mqttprov_simulator.scenario.model import (
    USES,
    Action,
    GatewayFault,
    Group,
    Scenario,
    Schedule,
    TargetFault,
    Token,
)
from mqttprov_simulator.scenario.positions import Path

Finding = tuple[Path, str]
_Rule = GatewayFault | TargetFault | Action
_FROM_THE_ORIGINAL = ("profile", "token", "names", "credentials")


def misfits(scenario: Scenario, data: dict[str, Any]) -> Iterator[Finding]:
    """Give what does not fit, in the order of the file's parts. `data`: the file as `tomllib` read it."""
    yield from _doubles(scenario)
    yield from _tokens(scenario)
    for place, group in enumerate(scenario.groups):
        path: Path = ("group", place)
        yield from ((path + rest, problem) for rest, problem in _group(scenario, group, data["group"][place]))
    yield from _same_devices(scenario)
    yield from _caps(scenario)
    rules_by_table: dict[str, tuple[_Rule, ...]] = {
        "fault": scenario.faults,
        "target-fault": scenario.target_faults,
        "action": scenario.actions,
    }
    for table, rules in rules_by_table.items():
        for place, rule in enumerate(rules):
            path = (table, place)
            found = _rule(scenario, rule, data[table][place])
            yield from ((path + rest, problem) for rest, problem in found)
    yield from _gateway(scenario)
    yield from _times(scenario)


def _doubles(scenario: Scenario) -> Iterator[Finding]:
    named: tuple[tuple[str, list[str]], ...] = (
        ("profile", [profile.name for profile in scenario.profiles]),
        ("token", [f"{token.profile}/{token.name}" for token in scenario.tokens]),
        ("group", [group.name for group in scenario.groups]),
    )
    for table, names in named:
        seen: dict[str, int] = {}
        for place, name in enumerate(names):
            # Names are the same after folding (P8), also those of profiles and tokens.
            first = seen.setdefault(fold(name), place)
            if first != place:
                yield (table, place, "name"), f"is that of {table} {first + 1} too; write another one"


def _tokens(scenario: Scenario) -> Iterator[Finding]:
    for place, token in enumerate(scenario.tokens):
        if token.profile not in _profiles(scenario):
            yield ("token", place, "profile"), _unknown(token.profile, "profile", _profiles(scenario))


def _profiles(scenario: Scenario) -> set[str]:
    return {"default", *(profile.name for profile in scenario.profiles)}


def _tokens_of(scenario: Scenario, profile: str) -> set[str]:
    return {"default", *(token.name for token in scenario.tokens if token.profile == profile)}


def _unknown(name: str, what: str, known: set[str]) -> str:
    return f"names no {what} of this scenario: there is no {wording.shown(name)}{wording.did_you_mean(name, known)}"


def _group(scenario: Scenario, group: Group, written: dict[str, Any]) -> Iterator[Finding]:
    if group.profile not in _profiles(scenario):
        yield ("profile",), _unknown(group.profile, "profile", _profiles(scenario))
    elif group.token not in _tokens_of(scenario, group.profile):
        tokens = _tokens_of(scenario, group.profile)
        yield ("token",), _unknown(group.token, f'token of the profile "{group.profile}"', tokens)
    if isinstance(group.arrivals, Schedule):
        yield from _schedule(group.arrivals)
    prefix = device_prefix(group)
    if prefix.startswith(" "):  # a server cuts it off
        yield ("names",), "begins with a blank, and no device name does; remove it"
    try:
        normalise_device_name(f"{prefix}000001")
    except InvalidName as error:
        yield ("names",), f"cannot begin device names: {error}"
    if group.credentials == "X509_CERTIFICATE" and not group.tls:
        yield ("credentials",), "needs TLS to log in; write tls = true, too"
    yield from _life(group, written)
    if group.clones_of is not None:
        yield from _clones(scenario, group, written)


def _schedule(schedule: Schedule) -> Iterator[Finding]:
    for place, (before, after) in enumerate(pairwise(schedule.steps), 1):
        if after.at_s <= before.at_s:
            problem = f"is {after.at_s}, not later than the step before ({before.at_s}); write ascending times"
            yield ("arrivals", "steps", place, "at_s"), problem
    if schedule.steps[-1].rate_per_s == 0:
        place = len(schedule.steps) - 1
        problem = "is 0 in the last step, so the others never arrive; write a number above 0"
        yield ("arrivals", "steps", place, "rate_per_s"), problem


def _life(group: Group, written: dict[str, Any]) -> Iterator[Finding]:
    for key in written.get("life", {}):
        if not group.stay:
            yield ("life", key), "is for gateways that are online; remove stay = false or this"
        elif group.expect == "refused":
            yield ("life", key), "is for gateways that are online, and none of these is to be; remove this"


def _clones(scenario: Scenario, group: Group, written: dict[str, Any]) -> Iterator[Finding]:
    others = {other.name: other for other in scenario.groups if other.clones_of is None}
    original = others.get(group.clones_of or "")
    if original is None:
        yield ("clones_of",), _unknown(group.clones_of or "", "group of originals", set(others))
        return
    if group.gateways > original.gateways:
        most = original.gateways
        problem = f'is {group.gateways}, but the original "{original.name}" has {most}; write {most} or less'
        yield ("gateways",), problem
    for key in _FROM_THE_ORIGINAL:
        if key in written:
            yield (key,), f'is that of the original "{original.name}"; remove it here'
    if original.credentials == "X509_CERTIFICATE" and not group.tls:
        yield ("clones_of",), f'"{original.name}" logs in with certificates; write tls = true here, too'
    if group.expect == "capped":
        yield ("expect",), 'counts registrations, and a clone makes none; write "online" or "refused"'


def _same_devices(scenario: Scenario) -> Iterator[Finding]:
    seen: dict[str, Group] = {}
    for place, group in enumerate(scenario.groups):
        if group.clones_of is not None:
            continue
        other = seen.setdefault(fold(device_prefix(group)), group)
        if other is not group:
            key = "names" if group.names is not None else "name"
            problem = f'gives the same device names as the group "{other.name}"; write other names, or clones_of'
            yield ("group", place, key), problem


def _caps(scenario: Scenario) -> Iterator[Finding]:
    """Groups behind a token with a maximum say that it caps them, if it does."""
    most = {(token.profile, token.name): token for token in scenario.tokens}
    online: Counter[tuple[str, str]] = Counter()
    capped: set[tuple[str, str]] = set()
    for place, group in enumerate(scenario.groups):
        if group.clones_of is not None or group.expect == "refused":
            continue
        key = (group.profile, group.token)
        token: Token | None = most.get(key)
        limit = None if token is None else token.max_registrations
        path: Path = ("group", place, "expect")
        if group.expect == "capped":
            capped.add(key)
            if limit is None:
                yield path, f'needs a maximum: write max_registrations in [[token]] "{group.token}"'
        else:
            online[key] += group.gateways
            if limit is not None and online[key] > limit:
                problem = f'is "online" for {online[key]} gateways, but the token allows {limit}; write "capped"'
                yield path, problem
        if key in capped and online[key]:
            yield path, 'is "capped" in one group and "online" in another with the same token; write "capped" in both'


def _rule(scenario: Scenario, rule: _Rule, written: dict[str, Any]) -> Iterator[Finding]:
    uses, needs = USES[rule.kind]
    if isinstance(rule, GatewayFault):
        both = "probability" in written and "at_s" in written
        if both or ("probability" not in written and "at_s" not in written):
            amount = "both `probability` and `at_s`" if both else "neither `probability` nor `at_s`"
            yield (), f"has {amount}; write one of them: by chance at each occasion, or by time"
        for key, way in (("share", "at_s"), ("spread_s", "at_s"), ("times", "probability")):
            if key in written and way not in written:
                yield (key,), f"goes with `{way}`, which is not given; remove it"
    for key in written:
        if key in {"for_s", "skew_s", "groups", "share", "token", "profile", "cascade"} - uses:
            yield (key,), f'has no meaning for "{rule.kind}"; remove it'
    for key in needs:
        if not getattr(rule, key):
            yield (key,) if key in written else (), f'`{key}` is what "{rule.kind}" needs; write {_AN[key]}'
    yield from _rule_names(scenario, rule)


_AN = {"for_s": "a number above 0", "skew_s": "a number, negative if it is behind", "token": "the name of a token"}


def _rule_names(scenario: Scenario, rule: _Rule) -> Iterator[Finding]:
    if isinstance(rule, TargetFault):
        return
    # Operators act on devices, and a clone's device is its original's.
    groups = {group.name for group in scenario.groups if isinstance(rule, GatewayFault) or group.clones_of is None}
    for place, name in enumerate(rule.groups):
        if name not in groups:
            yield ("groups", place), _unknown(name, "group", groups)
    if isinstance(rule, Action) and rule.token is not None:
        if rule.profile not in _profiles(scenario):
            yield ("profile",), _unknown(rule.profile, "profile", _profiles(scenario))
        elif rule.token not in (tokens := _tokens_of(scenario, rule.profile)):
            yield ("token",), _unknown(rule.token, f'token of the profile "{rule.profile}"', tokens)


def _gateway(scenario: Scenario) -> Iterator[Finding]:
    try:
        scenario.gateway.machine_settings()
    except ValueError as error:
        yield ("gateway",), f"has times that do not go together: {error}"


def _times(scenario: Scenario) -> Iterator[Finding]:
    stop, thresholds = scenario.stop, scenario.thresholds
    end_s = planned_end_s(scenario)
    if stop.after_s is not None:
        if stop.after_s > stop.timeout_s:
            yield ("stop", "after_s"), f"is {stop.after_s}, later than timeout_s ({stop.timeout_s}); write less"
    elif stop.timeout_s <= end_s:
        problem = f"is {stop.timeout_s}, but the plan goes on until {end_s:.1f} s; write more, or after_s to end before"
        yield ("stop", "timeout_s"), problem
    last_s = max(last_arrival_s(scenario.seed, group) for group in scenario.groups)
    if scenario.warm_up_s > 0 and scenario.warm_up_s >= last_s:
        problem = f"is {scenario.warm_up_s}, but the last gateway arrives at {last_s:.1f} s; nothing would be measured"
        yield ("warm_up_s",), f"{problem}; write less"
    if thresholds.telemetry_p99_ms is not None and not any(group.life.telemetry_every_s for group in scenario.groups):
        yield ("thresholds", "telemetry_p99_ms"), "asks for telemetry, but no group's life has telemetry_every_s"
