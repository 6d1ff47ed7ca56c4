"""Operator actions on registration tokens: make one or thousands, change, rotate, revoke.

Each is one transaction with one audit event (P5), except where the docstring says that it goes by batches.
"""

import itertools
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from mqttprov.core import names
from mqttprov.core.audit import Event, EventKind
from mqttprov.core.facts import ChangeState, Effect
from mqttprov.core.lifecycle import TRANSITIONS, LifecycleEvent, transition
from mqttprov.core.limits import MAX_REGISTRATIONS, MAX_TOKENS_AT_ONCE
from mqttprov.core.model import LifecycleState, Profile
from mqttprov.core.names import fold
from mqttprov.core.secrets import (
    KEY_ENTROPY_BYTES,
    SECRET_ENTROPY_BYTES,
    new_registration_key,
    new_registration_secret,
)
from mqttprov.responder.acting import Acting, NotFound, PartlyMade, find_profile
from mqttprov.store.protocol import Conflict, NewToken, TokenRow, WriteTransaction

_TOKENS_PER_TRANSACTION: Final = 1000
_DEVICES_PER_TRANSACTION: Final = 500  # a serving broker waits no longer for the write lock than for one of its batches


class IssuedToken(msgspec.Struct, frozen=True):
    """A registration token at the one moment when its secret can be told (SD-7)."""

    profile: str
    name: str
    key: str
    secret: str

    def __repr__(self) -> str:
        return f"IssuedToken(profile={self.profile!r}, name={self.name!r}, key={self.key!r}, secret=***)"


class TokenChange(msgspec.Struct, frozen=True):
    """What to change of a token; UNSET leaves it, None lifts a limit."""

    max_registrations: int | msgspec.UnsetType | None = msgspec.UNSET
    expires_ms: int | msgspec.UnsetType | None = msgspec.UNSET
    labels: dict[str, str] | msgspec.UnsetType = msgspec.UNSET
    device_name_pattern: str | msgspec.UnsetType | None = msgspec.UNSET


class TokenActions(Acting):
    """Changes registration tokens."""

    def create_token(
        self, profile: str, name: str | None, settings: TokenChange, owner: str | None = None
    ) -> IssuedToken:
        """Make a registration token; without a name it gets one. What it registers belongs to `owner`.

        Raises `NotFound`, `Conflict`, `names.InvalidName`.
        """
        if name is not None:
            names.check_object_name("token", name)
        with self._store.write() as transaction:
            return self._add_token(transaction, find_profile(transaction, profile), name, settings, owner)

    def create_tokens(
        self,
        profile: str,
        name: str | None,
        count: int,
        settings: TokenChange,
        tell: Callable[[Sequence[IssuedToken]], None],
        owner: str | None = None,
    ) -> None:
        """Make many registration tokens, `<name>-1` and so on with leading zeros, a thousand per transaction.

        `tell` is called for each thousand before its commit: no token exists whose secret nobody knows. Raises as
        `create_token` when none was made, and `PartlyMade` when an error or interruption came later.
        """
        if not 1 <= count <= MAX_TOKENS_AT_ONCE:
            raise names.InvalidName(f"{count} tokens cannot be made at once; give 1 to {MAX_TOKENS_AT_ONCE}")
        numbered = [None if name is None else f"{name}-{i:0{len(str(count))}}" for i in range(1, count + 1)]
        if name is not None:
            names.check_object_name("token", str(numbered[-1]))
        made = 0
        try:
            while made < count:
                with self._store.write() as transaction:
                    found = find_profile(transaction, profile)
                    some = numbered[made : made + _TOKENS_PER_TRANSACTION]
                    tell([self._add_token(transaction, found, one, settings, owner) for one in some])
                made += len(some)
        except BaseException as error:
            if made:
                raise PartlyMade(f"{made} of {count} tokens were made", made) from error
            raise

    def _add_token(
        self,
        transaction: WriteTransaction,
        profile: Profile,
        name: str | None,
        settings: TokenChange,
        owner: str | None = None,
    ) -> IssuedToken:
        if owner is not None:
            names.check_object_name("owner", owner)
        key = new_registration_key(self._entropy(KEY_ENTROPY_BYTES))
        secret = new_registration_secret(self._entropy(SECRET_ENTROPY_BYTES))
        token = NewToken(
            profile.id,
            name or f"token-{key[:8]}",
            key,
            self._keys.registration_verifier(key, secret),
            self._now_ms(),
            **self._checked(settings),
            owner=owner,
        )
        transaction.add_token(token)
        event = self._event(
            EventKind.TOKEN_CREATED,
            profile=profile.name,
            token=token.name,
            key=key,
            text=_described(settings, new=True),
            owner=owner,
        )
        transaction.append([event])
        return IssuedToken(profile.name, token.name, key, secret)

    def update_token(self, name_or_key: str, profile: str | None, change: TokenChange) -> TokenRow:
        """Change a token's limit (up or down), expiry, labels for future devices or name pattern.

        Raises `NotFound`, `Conflict` (a name that several profiles use) and `names.InvalidName`.
        """
        return self._change_token(
            name_or_key, profile, self._checked(change), EventKind.TOKEN_UPDATED, _described(change)
        )

    def revoke_token(self, name_or_key: str, profile: str | None) -> TokenRow:
        """End a token: it registers nothing any more. Devices that it registered stay. Raises as `update_token`."""
        return self._change_token(name_or_key, profile, {"revoked_ms": self._now_ms()}, EventKind.TOKEN_REVOKED, None)

    def _change_token(
        self, name_or_key: str, profile: str | None, values: dict[str, Any], kind: EventKind, text: str | None
    ) -> TokenRow:
        with self._store.write() as transaction:
            row = find_token(transaction.reader().tokens(profile, name_or_key), name_or_key)
            if kind is EventKind.TOKEN_REVOKED and row.revoked_ms is not None:
                raise Conflict(f"token {row.name!r} is revoked already")
            changed = msgspec.structs.replace(row, **values)
            transaction.update_token(changed)
            transaction.append([self._event(kind, profile=row.profile, token=row.name, key=row.key, text=text)])
            return changed

    def rotate_token(self, name_or_key: str, profile: str | None, overlap_ms: int = 0) -> IssuedToken:
        """Give a token a new secret; the old one works for `overlap_ms` more, by default not at all.

        With an overlap a device keeps its place: old and new secret get the same answer (P4). Without one, which is for
        a secret that leaked, who was told credentials before the rotation shares none with who knows the new secret.
        Only two secrets are ever good: rotating within an overlap ends the oldest. Raises as `update_token`, and
        `Conflict` for a revoked token.
        """
        secret = new_registration_secret(self._entropy(SECRET_ENTROPY_BYTES))
        with self._store.write() as transaction:
            row = find_token(transaction.reader().tokens(profile, name_or_key), name_or_key)
            if row.revoked_ms is not None:
                raise Conflict(f"token {row.name!r} is revoked; make a new one: mqttprov token create")
            until_ms = self._now_ms() + overlap_ms if overlap_ms > 0 else None
            transaction.rotate_token(row.id, self._keys.registration_verifier(row.key, secret), until_ms)
            text = f"overlap_ms={max(overlap_ms, 0)}"
            transaction.append(
                [self._event(EventKind.TOKEN_ROTATED, profile=row.profile, token=row.name, key=row.key, text=text)]
            )
        return IssuedToken(row.profile, row.name, row.key, secret)

    def revoke_token_with_devices(
        self, name_or_key: str, profile: str | None, tell_progress: Callable[[int], None] = lambda _: None
    ) -> tuple[TokenRow, int]:
        """End a token and suspend all devices that it ever registered; give the token and how many were suspended.

        The token ends first, so that no device is added meanwhile; the devices follow, 500 per transaction with one
        event each; `tell_progress` gets how many were. What was interrupted is completed by doing it again. Raises as
        `update_token`.
        """
        reader = self._store.reader()
        try:
            row = find_token(reader.tokens(profile, name_or_key), name_or_key)
            if row.revoked_ms is None:
                row = self.revoke_token(row.key, None)
            registered = (fold(device.name) for device in reader.registered(row.id) if _may_suspend(device.state))
            suspended = 0
            while folds := list(itertools.islice(registered, _DEVICES_PER_TRANSACTION)):
                suspended += self._suspend(row, folds)
                tell_progress(suspended)
        finally:
            reader.close()
        return row, suspended

    def _suspend(self, token: TokenRow, folds: Sequence[str]) -> int:
        with self._store.write() as transaction:
            facts = transaction.load((), folds, ())
            effects: list[Effect] = []
            events: list[Event] = []
            for device in (known.device for known in facts.devices.values() if _may_suspend(known.device.state)):
                effects.append(ChangeState(device.id, device.fold, transition(device.state, LifecycleEvent.SUSPEND)))
                effects[-1].apply(facts)
                events.append(
                    self._event(EventKind.SUSPENDED, device=device.name, device_id=device.id, profile=token.profile,
                                token=token.name, key=token.key, state=device.state, reason="token-revoked")
                )  # fmt: skip
            transaction.write(facts, effects)
            transaction.append(events)
        return len(events)

    @staticmethod
    def _checked(change: TokenChange) -> dict[str, Any]:
        """Check the values that are set and give them by field name."""
        values = {k: v for k, v in msgspec.structs.asdict(change).items() if v is not msgspec.UNSET}
        limit = values.get("max_registrations")
        if limit is not None and not 1 <= limit <= MAX_REGISTRATIONS:
            raise names.InvalidName(
                f"a maximum of {limit} registrations makes no sense; give 1 to {MAX_REGISTRATIONS}, or none at all"
            )
        if "labels" in values:
            names.check_labels(values["labels"])
        if values.get("device_name_pattern") is not None:
            names.check_name_pattern(values["device_name_pattern"])
        return values


def _may_suspend(state: str) -> bool:
    return (LifecycleState(state), LifecycleEvent.SUSPEND) in TRANSITIONS


def find_token(rows: list[TokenRow], name_or_key: str) -> TokenRow:
    """Give the one token that a name or key means. Raises `NotFound`, or `Conflict` when several profiles have it."""
    if not rows:
        raise NotFound(f"there is no registration token {name_or_key!r}; see: mqttprov token list")
    if len(rows) > 1:
        profiles = ", ".join(row.profile for row in rows)
        raise Conflict(f"the profiles {profiles} each have a token {name_or_key!r}; name the profile or give the key")
    return rows[0]


def _described(change: TokenChange, *, new: bool = False) -> str | None:
    """Say what is set, for the event; a new token is told only by its limits, not by those that it does not have."""
    words = {
        "max_registrations": ("no maximum", "at most {} registrations"),
        "expires_ms": ("no expiry", "expires {}"),
        "labels": ("no labels", "labels {}"),
        "device_name_pattern": ("any device name", "device names {}"),
    }
    told = []
    for field, (without, with_) in words.items():
        value = getattr(change, field)
        if value is msgspec.UNSET or (new and not value):
            continue
        if field == "labels" and value:
            value = ", ".join(f"{key}={text}" for key, text in sorted(value.items()))
        elif field == "expires_ms" and value:
            value = datetime.fromtimestamp(value / 1000, UTC).isoformat(timespec="seconds")
        told.append(with_.format(value) if value else without)
    return "; ".join(told) or None
