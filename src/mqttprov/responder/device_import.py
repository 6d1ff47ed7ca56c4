"""What a factory prepares: thousands of `manufactured` devices from lines of a list, by batches.

Each batch is one transaction with one audit event for each device (P5). Lines come one by one and only one batch of
them is held, so that a list may be as long as it likes (P9).
"""

import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Final

import msgspec

from mqttprov.core import names
from mqttprov.core.audit import Event, EventKind
from mqttprov.core.facts import CreateDevice, DeviceFacts, Effect, Facts
from mqttprov.core.model import Device, LifecycleState, Profile
from mqttprov.core.proving import check_claim_secret, claim_verifier
from mqttprov.core.secrets import ID_ENTROPY_BYTES, SECRET_ENTROPY_BYTES, equal, new_claim_secret, new_id
from mqttprov.responder.acting import Acting, NotFound, PartlyMade, find_profile
from mqttprov.store.protocol import WriteTransaction

_LINES_PER_TRANSACTION: Final = 500  # a serving broker waits no longer for the write lock than for one of its batches


class ImportLine(msgspec.Struct, frozen=True):
    """One device of a list. `number` is its line; `factory_key` the SHA-256 (hex) of its factory's public key."""

    number: int
    name: str
    profile: str
    owner: str | None = None
    labels: dict[str, str] = {}
    claim_secret: str | None = None
    factory_key: str | None = None

    def __repr__(self) -> str:
        return f"ImportLine(number={self.number}, name={self.name!r}, profile={self.profile!r})"


class LineFault(msgspec.Struct, frozen=True):
    """What is wrong with one line, and what to do about it."""

    number: int
    text: str


class ImportCount(msgspec.Struct, frozen=True):
    """How far an import is: lines that made a device, that were there already, that were refused."""

    made: int = 0
    skipped: int = 0
    failed: int = 0


class _Batch:
    """What one transaction makes of its lines."""

    def __init__(self, facts: Facts) -> None:
        self.facts = facts
        self.effects: list[Effect] = []
        self.events: list[Event] = []
        self.claims: list[tuple[str, str]] = []
        self.faults: list[LineFault] = []
        self.skipped = 0


class DeviceImport(Acting):
    """Makes devices from lists."""

    def import_devices(
        self,
        lines: Iterable[ImportLine | LineFault],
        *,
        tell_fault: Callable[[LineFault], None],
        tell_claims: Callable[[Sequence[tuple[str, str]]], None] | None = None,
        tell_progress: Callable[[ImportCount], None] = lambda _: None,
        dry_run: bool = False,
    ) -> ImportCount:
        """Make a `manufactured` device for each line; a bad line is told and the rest goes on.

        A line whose device is there already, as the line says, is skipped: an interrupted import is completed by doing
        it again. With `tell_claims` every device without a claim secret of its own gets one; it is told, as (name,
        secret), before the commit that makes it good. A `dry_run` checks everything and changes nothing; a name that
        comes twice, far apart, is found only by the real run. Raises `PartlyMade` when an error or interruption came
        after a commit.
        """
        count, told = ImportCount(), 0
        remaining = iter(lines)
        try:
            while some := list(itertools.islice(remaining, _LINES_PER_TRANSACTION)):
                with self._store.write() as transaction:
                    batch = self._batch(transaction, some, claims=tell_claims is not None)
                    if not dry_run:
                        if tell_claims is not None and batch.claims:
                            tell_claims(batch.claims)
                        transaction.write(batch.facts, batch.effects)
                        transaction.append(batch.events)
                told += len(batch.claims)
                count = ImportCount(
                    count.made + len(batch.effects), count.skipped + batch.skipped, count.failed + len(batch.faults)
                )
                for fault in batch.faults:
                    tell_fault(fault)
                tell_progress(count)
        except BaseException as error:
            if count.made and not dry_run:
                raise PartlyMade(f"{count.made} devices were made; do the same again for the others", told) from error
            raise
        return count

    def _batch(self, transaction: WriteTransaction, lines: Sequence[ImportLine | LineFault], *, claims: bool) -> _Batch:
        profiles: dict[str, Profile | NotFound] = {}
        for line in lines:
            if isinstance(line, ImportLine) and line.profile not in profiles:
                try:
                    profiles[line.profile] = find_profile(transaction, line.profile)
                except NotFound as error:
                    profiles[line.profile] = error
        folds = {_fold(line.name) for line in lines if isinstance(line, ImportLine)}
        batch = _Batch(transaction.load((), folds - {""}, ()))
        for line in lines:
            if isinstance(line, LineFault):
                batch.faults.append(line)
                continue
            try:
                self._line(batch, line, profiles[line.profile], claims=claims)
            except (names.InvalidName, NotFound) as error:
                batch.faults.append(LineFault(line.number, str(error)))
        return batch

    def _line(self, batch: _Batch, line: ImportLine, profile: Profile | NotFound, *, claims: bool) -> None:
        if isinstance(profile, NotFound):
            raise profile
        name = names.normalise_device_name(line.name, unicode_names=profile.unicode_names)
        names.check_labels(line.labels)
        if line.owner is not None:
            names.check_object_name("owner", line.owner)
        if line.claim_secret is not None:
            check_claim_secret(line.claim_secret)
        fold = names.fold(name)
        known = batch.facts.devices.get(fold)
        if known is not None:
            difference = self._difference(known, line, name, profile, claims=claims)
            if difference:
                raise names.InvalidName(
                    f"a device named {known.device.name!r} exists already with another {difference}"
                )
            batch.skipped += 1
            return
        secret = line.claim_secret
        if secret is None and claims:
            secret = new_claim_secret(self._entropy(SECRET_ENTROPY_BYTES))
            batch.claims.append((name, secret))
        now_ms = self._now_ms()
        device = Device(
            new_id(now_ms, self._entropy(ID_ENTROPY_BYTES)),
            name,
            fold,
            profile.id,
            LifecycleState.MANUFACTURED,
            now_ms,
            owner=line.owner,
            labels=line.labels,
            claim=None if secret is None else claim_verifier(self._keys, fold, secret),
            factory_key=line.factory_key,
        )
        batch.effects.append(CreateDevice(device))
        batch.effects[-1].apply(batch.facts)
        batch.events.append(
            self._event(EventKind.DEVICE_CREATED, profile=profile.name, device=name, device_id=device.id,
                        state=device.state)
        )  # fmt: skip

    def _difference(
        self, known: DeviceFacts, line: ImportLine, name: str, profile: Profile, *, claims: bool
    ) -> str | None:
        """Tell what of the line is not so with the device of its name; registering may have added labels."""
        device = known.device
        if line.claim_secret is not None:
            same_claim = equal(claim_verifier(self._keys, device.fold, line.claim_secret), device.claim or "")
        else:
            same_claim = claims == (device.claim is not None)
        registered = known.last_generation > 0
        same_labels = line.labels.items() <= device.labels.items() if registered else line.labels == device.labels
        checks = {
            "spelling": device.name == name,
            "profile": device.profile_id == profile.id,
            "owner": device.owner == line.owner,
            "labels": same_labels,
            "certificate or public key": device.factory_key == line.factory_key,
            "claim secret": same_claim,
            "state": device.state is not LifecycleState.DECOMMISSIONED,
        }
        return next((what for what, same in checks.items() if not same), None)


def _fold(name: str) -> str:
    """Give the form of a name to look it up by; empty when it cannot be one."""
    try:
        return names.fold(names.normalise_device_name(name, unicode_names=True))
    except names.InvalidName:
        return ""
