"""Operator actions: each is one transaction that changes something and records who did it (P5).

The command line and programs that embed us call these; the rules about names and values are in `mqttprov.core.names`.
Those on profiles, registration tokens and thousands of devices are in `profile_actions`, `token_actions`,
`device_import` and `device_labels`, on which this builds.
"""

from mqttprov.core import names
from mqttprov.core.audit import EventKind
from mqttprov.core.credentials import PROVISION_LOGIN, RESPONDER_LOGIN
from mqttprov.core.facts import CreateDevice
from mqttprov.core.login import operator_verifier
from mqttprov.core.model import Device, LifecycleState, OperatorRole, Profile
from mqttprov.core.secrets import ID_ENTROPY_BYTES, SECRET_ENTROPY_BYTES, new_id, new_password
from mqttprov.responder.acting import NotFound, find_profile
from mqttprov.responder.device_import import DeviceImport
from mqttprov.responder.device_labels import DeviceLabels
from mqttprov.responder.profile_actions import DEFAULT, ProfileActions
from mqttprov.responder.token_actions import IssuedToken, TokenChange, find_token
from mqttprov.store.protocol import Conflict

__all__ = ["DEFAULT", "Administration", "IssuedToken", "NotFound", "TokenChange", "find_token"]


class Administration(ProfileActions, DeviceImport, DeviceLabels):
    """Changes profiles, registration tokens, devices and operators on behalf of `actor` (for example "cli:anna")."""

    def initialise(self) -> IssuedToken | None:
        """Make the profile `default` with its token; None (and no change) when there are profiles already."""
        with self._store.write() as transaction:
            if transaction.reader().profiles():
                return None
            transaction.append([self._event(EventKind.INITIALISED)])
            return self._add_profile(transaction, Profile(0, DEFAULT), None)

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
            effect.apply(facts)
            transaction.write(facts, [effect])
            transaction.append(
                [self._event(EventKind.DEVICE_CREATED, profile=found.name, device=name, device_id=device.id,
                             state=device.state)]
            )  # fmt: skip
            return device

    def create_operator(self, name: str, role: OperatorRole) -> str:
        """Make an operator's MQTT login; gives its password this once. Raises `Conflict` and `names.InvalidName`."""
        names.check_object_name("operator", name)
        _check_not_built_in(name)
        password = new_password(self._entropy(SECRET_ENTROPY_BYTES))
        with self._store.write() as transaction:
            transaction.add_operator(name, role, operator_verifier(self._keys, name, password), self._now_ms())
            transaction.append([self._event(EventKind.OPERATOR_CREATED, text=f"{role} {name}")])
        return password

    def rotate_operator(self, name: str) -> str:
        """Give an operator's login a new password, told this once. The old one ends with the commit, sessions after it.

        Raises `NotFound`, and `names.InvalidName` for a login that is mqttprov's own.
        """
        password = new_password(self._entropy(SECRET_ENTROPY_BYTES))
        self._put_operator(name, operator_verifier(self._keys, name, password), EventKind.OPERATOR_ROTATED)
        return password

    def remove_operator(self, name: str) -> None:
        """End an operator's login for good; another one may be made with the name. Raises as `rotate_operator`."""
        self._put_operator(name, None, EventKind.OPERATOR_REMOVED)

    def _put_operator(self, name: str, verifier: str | None, kind: EventKind) -> None:
        with self._store.write() as transaction:
            if transaction.reader().find_operator(name) is None:
                _check_not_built_in(name)
                raise NotFound(f"there is no operator named {name!r}; see: mqttprov operator list")
            transaction.put_operator(name, verifier)
            transaction.append([self._event(kind, operator=name)])


def _check_not_built_in(name: str) -> None:
    if name in {PROVISION_LOGIN, RESPONDER_LOGIN}:
        raise names.InvalidName(f"{name!r} is a login of mqttprov itself, no operator's; take another name")
