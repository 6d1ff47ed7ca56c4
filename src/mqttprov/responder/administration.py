"""Operator actions: each is one transaction that changes something and records who did it (P5).

The command line and programs that embed us call these; the rules about names and values are in `mqttprov.core.names`.
"""

from collections.abc import Callable
from typing import Any, Final

import msgspec

from mqttprov.core import names
from mqttprov.core.audit import Event, EventKind
from mqttprov.core.facts import CreateDevice
from mqttprov.core.limits import MAX_REGISTRATIONS, MAX_SECRET_CHARS
from mqttprov.core.login import operator_verifier
from mqttprov.core.model import Device, LifecycleState, OperatorRole, Profile
from mqttprov.core.secrets import (
    ID_ENTROPY_BYTES,
    KEY_ENTROPY_BYTES,
    SECRET_ENTROPY_BYTES,
    Keys,
    new_id,
    new_password,
    new_registration_key,
    new_registration_secret,
)
from mqttprov.store.protocol import Conflict, NewToken, Store, TokenRow, WriteTransaction

DEFAULT: Final = "default"  # the name of the first profile, and of the token that every profile is born with


class NotFound(Exception):  # noqa: N818 - it names what is wrong
    """There is no profile, token or device of this name."""


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


class Administration:
    """Changes profiles, registration tokens, devices and operators on behalf of `actor` (for example "cli:anna")."""

    def __init__(
        self,
        store: Store,
        keys: Keys,
        *,
        actor: str,
        now_ms: Callable[[], int],
        entropy: Callable[[int], bytes],
    ) -> None:
        self._store = store
        self._keys = keys
        self._actor = actor
        self._now_ms = now_ms
        self._entropy = entropy

    def initialise(self) -> IssuedToken | None:
        """Make the profile `default` with its token; None (and no change) when there are profiles already."""
        with self._store.write() as transaction:
            if transaction.reader().profiles():
                return None
            transaction.append([self._event(EventKind.INITIALISED)])
            return self._add_profile(transaction, Profile(0, DEFAULT))

    def create_profile(self, profile: Profile) -> IssuedToken:
        """Make a profile (its id is given by the store) with its `default` token, which has no limit.

        Raises `Conflict` and `names.InvalidName`.
        """
        names.check_object_name("profile", profile.name)
        names.check_topic_patterns("publish topics", profile.publish_topics)
        names.check_topic_patterns("subscribe topics", profile.subscribe_topics)
        names.check_labels(dict.fromkeys(profile.label_keys, ""))
        if not 1 <= profile.min_secret_chars <= MAX_SECRET_CHARS:
            raise names.InvalidName(
                f"secrets of at least {profile.min_secret_chars} characters make no sense; give 1 to {MAX_SECRET_CHARS}"
            )
        with self._store.write() as transaction:
            return self._add_profile(transaction, profile)

    def _add_profile(self, transaction: WriteTransaction, profile: Profile) -> IssuedToken:
        stored = transaction.add_profile(profile, self._now_ms())
        text = f"strategy {profile.strategy}, credentials {profile.credentials_type}, reprovision {profile.reprovision}"
        transaction.append([self._event(EventKind.PROFILE_CREATED, profile=profile.name, text=text)])
        return self._add_token(transaction, stored, DEFAULT, TokenChange())

    def create_token(self, profile: str, name: str | None, settings: TokenChange) -> IssuedToken:
        """Make a registration token; without a name it gets one. Raises `NotFound`, `Conflict`, `names.InvalidName`."""
        if name is not None:
            names.check_object_name("token", name)
        with self._store.write() as transaction:
            rows = transaction.reader().profiles(profile)
            if not rows:
                raise NotFound(f"there is no profile named {profile!r}")
            return self._add_token(transaction, rows[0].profile, name, settings)

    def _add_token(
        self, transaction: WriteTransaction, profile: Profile, name: str | None, settings: TokenChange
    ) -> IssuedToken:
        key = new_registration_key(self._entropy(KEY_ENTROPY_BYTES))
        secret = new_registration_secret(self._entropy(SECRET_ENTROPY_BYTES))
        token = NewToken(
            profile.id,
            name or f"token-{key[:8]}",
            key,
            self._keys.registration_verifier(key, secret),
            self._now_ms(),
            **self._checked(settings),
        )
        transaction.add_token(token)
        event = self._event(
            EventKind.TOKEN_CREATED, profile=profile.name, token=token.name, key=key, text=_described(settings)
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

    def create_device(self, profile: str, name: str, owner: str | None, labels: dict[str, str]) -> Device:
        """Make a `manufactured` device that may provision itself once.

        Raises `NotFound`, `Conflict` and `names.InvalidName`.
        """
        names.check_labels(labels)
        if owner is not None:
            names.check_object_name("owner", owner)
        with self._store.write() as transaction:
            rows = transaction.reader().profiles(profile)
            if not rows:
                raise NotFound(f"there is no profile named {profile!r}")
            found = rows[0].profile
            name = names.normalise_device_name(name, unicode_names=found.unicode_names)
            fold = names.fold(name)
            facts = transaction.load((), (fold,), ())
            if fold in facts.devices:
                raise Conflict(f"a device named {facts.devices[fold].device.name!r} exists already")
            now_ms = self._now_ms()
            device = Device(
                new_id(now_ms, self._entropy(ID_ENTROPY_BYTES)),
                name,
                fold,
                found.id,
                LifecycleState.MANUFACTURED,
                now_ms,
                owner=owner,
                labels=labels,
            )
            effect = CreateDevice(device)
            facts.apply(effect)
            transaction.write(facts, [effect])
            transaction.append(
                [self._event(EventKind.DEVICE_CREATED, profile=found.name, device=name, device_id=device.id,
                             state=device.state)]
            )  # fmt: skip
            return device

    def create_operator(self, name: str, role: OperatorRole) -> str:
        """Make an operator's MQTT login; gives its password this once. Raises `Conflict` and `names.InvalidName`."""
        names.check_object_name("operator", name)
        password = new_password(self._entropy(SECRET_ENTROPY_BYTES))
        with self._store.write() as transaction:
            transaction.add_operator(name, role, operator_verifier(self._keys, name, password), self._now_ms())
            transaction.append([self._event(EventKind.OPERATOR_CREATED, text=f"{role} {name}")])
        return password

    def _event(self, kind: EventKind, **fields: str | None) -> Event:
        return msgspec.structs.replace(Event(kind, self._now_ms(), self._actor), **fields)

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


def find_token(rows: list[TokenRow], name_or_key: str) -> TokenRow:
    """Give the one token that a name or key means. Raises `NotFound`, or `Conflict` when several profiles have it."""
    if not rows:
        raise NotFound(f"there is no registration token {name_or_key!r}")
    if len(rows) > 1:
        profiles = ", ".join(row.profile for row in rows)
        raise Conflict(f"the profiles {profiles} each have a token {name_or_key!r}; name the profile or give the key")
    return rows[0]


def _described(change: TokenChange) -> str | None:
    set_ = {k: v for k, v in msgspec.structs.asdict(change).items() if v is not msgspec.UNSET}
    return ", ".join(f"{k}={'none' if v is None else v}" for k, v in sorted(set_.items())) or None
