"""Operator actions: each is one transaction that changes something and records who did it (P5).

The command line and programs that embed us call these; the rules about names and values are in `mqttprov.core.names`.
Those on registration tokens and on thousands of devices are in `token_actions`, `device_import` and `device_labels`,
on which this builds.
"""

from typing import Final

from mqttprov.core import names
from mqttprov.core.audit import EventKind
from mqttprov.core.facts import CreateDevice
from mqttprov.core.limits import MAX_SECRET_CHARS
from mqttprov.core.login import operator_verifier
from mqttprov.core.model import Device, LifecycleState, OperatorRole, Profile
from mqttprov.core.secrets import ID_ENTROPY_BYTES, SECRET_ENTROPY_BYTES, new_id, new_password
from mqttprov.responder.acting import NotFound, find_profile
from mqttprov.responder.device_import import DeviceImport
from mqttprov.responder.device_labels import DeviceLabels
from mqttprov.responder.token_actions import IssuedToken, TokenActions, TokenChange, find_token
from mqttprov.store.protocol import Conflict, WriteTransaction

__all__ = ["DEFAULT", "Administration", "IssuedToken", "NotFound", "TokenChange", "find_token"]

DEFAULT: Final = "default"  # the name of the first profile, and of the token that every profile is born with


class Administration(TokenActions, DeviceImport, DeviceLabels):
    """Changes profiles, registration tokens, devices and operators on behalf of `actor` (for example "cli:anna")."""

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

    def create_device(self, profile: str, name: str, owner: str | None, labels: dict[str, str]) -> Device:
        """Make a `manufactured` device that may provision itself once.

        Raises `NotFound`, `Conflict` and `names.InvalidName`.
        """
        names.check_labels(labels)
        if owner is not None:
            names.check_object_name("owner", owner)
        with self._store.write() as transaction:
            found = find_profile(transaction, profile)
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
