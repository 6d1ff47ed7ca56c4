"""What was told to which gateway, over all workers, and the promises that can be checked with that alone.

It takes moments while the run goes on, a few dictionary steps for each registration; the rest is done at the end.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Final, get_args

import msgspec

from mqttprov.core.names import fold
from mqttprov.gateway.transitions import State
from mqttprov_simulator.report.result import Check
from mqttprov_simulator.running.values import Broken, Moment, Promise, Recording, Told
from mqttprov_simulator.scenario.drawing import gateways
from mqttprov_simulator.scenario.model import Group, Scenario

# A server that breaks a promise to one gateway breaks it to all: the first ones are named, the others counted.
NAMED: Final = 100
PROMISES: Final[tuple[Promise, ...]] = get_args(Promise)


class ToldDevice(msgspec.Struct):
    """What was told to gateways under one device name: different credentials in their order, and to which gateways."""

    gateways: list[str]
    fingerprints: list[str]


class _Findings:
    """Broken promises: the first of each kind, and how many there were."""

    def __init__(self) -> None:
        self.first: defaultdict[Promise, list[Broken]] = defaultdict(list)
        self.counts: Counter[Promise] = Counter()

    def add(self, broken: Broken) -> None:
        self.counts[broken.promise] += 1
        if len(self.first[broken.promise]) < NAMED:
            self.first[broken.promise].append(broken)


class Ledger:
    """Keeps account of a run. For one thread. `excused` says which findings of workers are none after all."""

    def __init__(self, scenario: Scenario, excused: Callable[[Broken], bool]) -> None:
        self._scenario: Final = scenario
        self._excused: Final = excused
        self._found: Final = _Findings()
        self._told_to: Final[dict[str, Told]] = {}  # by fingerprint: who was told it first
        self._devices: Final[dict[str, ToldDevice]] = {}  # by folded device name
        self._replies = 0  # with credentials that were new to their gateway
        self._repeated = 0
        self._probed = 0
        self._unjudged = 0
        self._came: Final[Counter[str]] = Counter()  # by group: gateways that were switched on
        most = {(t.profile, t.name): t.max_registrations for t in scenario.tokens if t.max_registrations is not None}
        self._most: Final = most
        self._token_of: Final[dict[str, tuple[str, str]]] = {}  # of gateways behind a token with a maximum
        if most:
            for drawn in gateways(scenario):
                token = (drawn.identity.profile, drawn.identity.token)
                if token in most:
                    self._token_of[drawn.gateway] = token
        self._registered: Final[dict[tuple[str, str], set[str]]] = {token: set() for token in most}

    @property
    def devices(self) -> dict[str, ToldDevice]:
        """What was told, by folded device name."""
        return self._devices

    def take(self, moment: Moment) -> list[Broken]:
        """Enter what a worker says; give the promises that show broken by it, those that it found itself too."""
        found = []
        for broken in moment.broken:
            if not self._excused(broken):
                found.append(broken)
            elif broken.promise == "old-still-works":
                self._probed -= 1
        self._replies += len(moment.told)
        for told in moment.told:
            found += self._enter(told)
        self.note(found)
        return found

    def _enter(self, told: Told) -> list[Broken]:
        name = fold(told.device)
        device = self._devices.get(name)
        if device is None:
            device = self._devices[name] = ToldDevice([], [])
        if told.gateway not in device.gateways:
            device.gateways.append(told.gateway)
        if told.fingerprint not in device.fingerprints:
            device.fingerprints.append(told.fingerprint)
        return self._of_another(told, name) + self._over_limit(told, name)

    def note(self, found: Iterable[Broken]) -> None:
        """Enter promises that were seen broken by others: the store's watch, or who waits for the fleet."""
        for broken in found:
            self._found.add(broken)

    def _of_another(self, told: Told, name: str) -> list[Broken]:
        """Find one credential under two device names (P3). Clones have one name, and share what it is given."""
        first = self._told_to.setdefault(told.fingerprint, told)
        if first is told or fold(first.device) == name:
            return []
        seen = (
            f"the credentials {told.fingerprint}, told to {told.gateway} for {told.device}, were told to "
            f"{first.gateway} for {first.device} at {first.at_s:.3f} s"
        )
        return [Broken(promise="shared-credential", gateways=(first.gateway, told.gateway), at_s=told.at_s, seen=seen)]

    def _over_limit(self, told: Told, name: str) -> list[Broken]:
        """Count the devices that a token was seen to register (P1), whatever the store says."""
        token = self._token_of.get(told.gateway)
        if token is None:
            return []
        devices, most = self._registered[token], self._most[token]
        if name in devices:
            return []
        devices.add(name)
        if len(devices) <= most:
            return []
        seen = (
            f"the token {'/'.join(token)} registers at most {most}, but credentials were told to {len(devices)} devices"
        )
        return [Broken(promise="limit-exceeded", gateways=(told.gateway,), at_s=told.at_s, seen=seen)]

    def close(self, recordings: Sequence[Recording], store: Sequence[Check] = ()) -> list[Check]:
        """Sum up: one check for each promise, in their order. `store`: what `StoreWatch.close` found.

        What a recording knows and no moment said (a worker that was cut off) is entered first.
        """
        for recording in recordings:
            self._repeated += recording.repeated
            self._probed += recording.probed
            self._unjudged += recording.unjudged
            for one in recording.standings:
                self._came[one.group] += one.state != State.NEW
                known = self._devices.get(fold(one.device))
                for fingerprint in one.fingerprints:
                    if known is None or fingerprint not in known.fingerprints:
                        self.note(self._enter(Told(one.gateway, one.device, fingerprint, recording.ended_at_s)))
        looked_at = self._looked_at()
        for check in store:
            self.note(check.broken)
            there, why_not = looked_at[check.promise]
            looked_at[check.promise] = max(there, check.looked_at), check.why_not or why_not
        return [self._check(promise, *looked_at[promise]) for promise in PROMISES]

    def _check(self, promise: Promise, looked_at: int, why_not: str) -> Check:
        if in_all := self._found.counts[promise]:
            first = tuple(sorted(self._found.first[promise], key=lambda broken: broken.at_s))
            return Check(promise=promise, state="broken", looked_at=looked_at, broken=first, in_all=in_all)
        if looked_at <= 0:
            return Check(promise=promise, state="not checked", why_not=why_not)
        return Check(promise=promise, state="held", looked_at=looked_at)

    def _looked_at(self) -> dict[Promise, tuple[int, str]]:
        """Give how many of what each promise is about there were, and why it was not checked if there were none."""
        groups = self._scenario.groups
        publishing = [g for g in groups if g.life.telemetry_every_s or g.life.attributes_every_s]
        barred = [g for g in groups if g.expect != "online"]
        nobody, nobody_came = "no gateway was told credentials", "the run ended before any of its gateways arrived"

        def came(which: Sequence[Group]) -> int:
            return sum(self._came[group.name] for group in which)

        expected, early = self._scenario.expected, f"the run ended before {self._unjudged} of them had to be"
        return {
            "limit-exceeded": (sum(map(len, self._registered.values())), "no token of the scenario has a maximum"),
            "told-not-durable": (len(self._told_to), nobody),
            "reply-to-another": (self._replies + self._repeated, nobody),
            "shared-credential": (len(self._told_to), nobody),
            "answer-changed": (self._repeated, "no gateway was given one answer twice"),
            "no-event": (0, "the target's state directory is not ours to see (--state-dir)"),
            "old-still-works": (self._probed, "no credentials ended before the run did, or it was ended early"),
            "echoed": (came(publishing), nobody_came if publishing else "no group publishes telemetry or attributes"),
            "let-in": (came(barred), nobody_came if barred else "no group is to be refused"),
            "not-online": (0, early) if self._unjudged else (expected, "no group is to be online"),
        }
