"""What the rules know within one transaction, and the effects that change it.

A store loads `Facts` for a batch of requests; deciding one request applies its effects here at once, so that the next
request of the same batch sees them, and the store writes all effects together (one transaction, P1 and P5).
"""

import msgspec

from mqttprov.core.lifecycle import LifecycleEvent, transition
from mqttprov.core.model import Credential, CredentialStatus, Device, LifecycleState, Profile, Token, Transfer


class DeviceFacts(msgspec.Struct):
    """A device, its live credentials (oldest first), the tokens that registered it, its newest generation's number.

    `ended` are its superseded credentials, known for a device that is offered to another owner.
    """

    device: Device
    credentials: list[Credential] = []
    registered_by: set[int] = set()
    last_generation: int = 0
    ended: list[Credential] = []

    @property
    def rotation_due(self) -> bool:
        """Tell whether an operator asked for a newer generation and the device has not been given one since."""
        return self.device.rotate_from is not None and self.last_generation <= self.device.rotate_from


class CreateDevice(msgspec.Struct, frozen=True):
    """A device comes into being, without credentials yet."""

    device: Device

    def apply(self, facts: "Facts") -> None:
        """Make it visible to the next decision."""
        facts.devices[self.device.fold] = DeviceFacts(self.device, [], set(), 0)


class ProvisionDevice(msgspec.Struct, frozen=True):
    """A device was given credentials: its state moves on and it takes over labels and the token that did it."""

    device_id: str
    fold: str
    state: LifecycleState
    labels: dict[str, str]
    token_id: int
    gateway: bool

    def apply(self, facts: "Facts") -> None:
        """Make it visible to the next decision."""
        device = facts.devices[self.fold].device
        device.state, device.labels = self.state, self.labels
        device.token_id, device.gateway = self.token_id, self.gateway


class CountRegistration(msgspec.Struct, frozen=True, gc=False):
    """A token is used for a device for the first time; this never comes back (words.md)."""

    token_id: int
    token_key: str
    device_id: str
    fold: str
    at_ms: int

    def apply(self, facts: "Facts") -> None:
        """Make it visible to the next decision."""
        token = facts.tokens[self.token_key]
        token.used += 1
        facts.devices[self.fold].registered_by.add(token.id)


class IssueCredential(msgspec.Struct, frozen=True):
    """The next generation of a device's credential."""

    fold: str
    credential: Credential

    def apply(self, facts: "Facts") -> None:
        """Make it visible to the next decision."""
        known, credential = facts.devices[self.fold], self.credential
        known.credentials.append(credential)
        known.last_generation = credential.generation
        facts.logins[credential.login_key] = credential.device_id


class SupersedeCredentials(msgspec.Struct, frozen=True):
    """These generations can no longer log in."""

    device_id: str
    fold: str
    generations: tuple[int, ...]

    def apply(self, facts: "Facts") -> None:
        """Make it visible to the next decision."""
        known = facts.devices[self.fold]
        for credential in known.credentials:
            if credential.generation in self.generations:
                credential.status = CredentialStatus.SUPERSEDED
                facts.logins.pop(credential.login_key, None)
                facts.ended.add(credential.login_key)
                if known.device.transfer is not None:
                    known.ended.append(credential)
        known.credentials = [c for c in known.credentials if c.generation not in self.generations]
        # Generations of one device may share a login with different passwords.
        facts.logins.update((c.login_key, known.device.id) for c in known.credentials)


class ActivateCredential(msgspec.Struct, frozen=True, gc=False):
    """The first login with a generation; the device becomes active."""

    device_id: str
    fold: str
    generation: int
    at_ms: int

    def apply(self, facts: "Facts") -> None:
        """Make it visible to the next decision."""
        known = facts.devices[self.fold]
        known.device.state = transition(known.device.state, LifecycleEvent.FIRST_LOGIN)
        known.device.last_seen_ms = self.at_ms
        for credential in known.credentials:
            if credential.generation == self.generation:
                credential.status = CredentialStatus.ACTIVE
                credential.first_login_ms = self.at_ms


class ChangeState(msgspec.Struct, frozen=True, gc=False):
    """An operator moved the device to another lifecycle state."""

    device_id: str
    fold: str
    state: LifecycleState

    def apply(self, facts: "Facts") -> None:
        """Make it visible to the next decision."""
        facts.devices[self.fold].device.state = self.state


class SetLabels(msgspec.Struct, frozen=True):
    """An operator gave the device these labels, in place of those that it had."""

    device_id: str
    fold: str
    labels: dict[str, str]

    def apply(self, facts: "Facts") -> None:
        """Make it visible to the next decision."""
        facts.devices[self.fold].device.labels = self.labels


class ReleaseName(msgspec.Struct, frozen=True, gc=False):
    """A tombstone gives up its name: from now on it is known by `name`, which no device can ask for."""

    device_id: str
    fold: str
    name: str

    def apply(self, facts: "Facts") -> None:
        """Make it visible to the next decision."""
        known = facts.devices.pop(self.fold)
        known.device.name = known.device.fold = self.name
        facts.devices[self.name] = known


class RequestRotation(msgspec.Struct, frozen=True, gc=False):
    """An operator wants a newer generation than this one, which is the newest; None: the wish is over."""

    device_id: str
    fold: str
    generation: int | None

    def apply(self, facts: "Facts") -> None:
        """Make it visible to the next decision."""
        facts.devices[self.fold].device.rotate_from = self.generation


class SetTransfer(msgspec.Struct, frozen=True, gc=False):
    """The device is offered to another owner; None: it no longer is."""

    device_id: str
    fold: str
    transfer: Transfer | None

    def apply(self, facts: "Facts") -> None:
        """Make it visible to the next decision."""
        facts.devices[self.fold].device.transfer = self.transfer


class ChangeOwner(msgspec.Struct, frozen=True, gc=False):
    """The device has an owner, whatever it was offered for; `transferred_ms` is None when it had none before."""

    device_id: str
    fold: str
    owner: str
    transferred_ms: int | None

    def apply(self, facts: "Facts") -> None:
        """Make it visible to the next decision."""
        device = facts.devices[self.fold].device
        device.owner, device.transfer = self.owner, None
        device.transferred_ms = self.transferred_ms or device.transferred_ms


Effect = (
    CreateDevice
    | ProvisionDevice
    | CountRegistration
    | IssueCredential
    | SupersedeCredentials
    | ActivateCredential
    | ChangeState
    | SetLabels
    | ReleaseName
    | RequestRotation
    | SetTransfer
    | ChangeOwner
)


class Facts(msgspec.Struct):
    """Tokens by key, devices by folded name, owners of login keys (device id by login key of a live credential).

    `ended` are login keys of certificates that were superseded, of those that a decision asks for.
    """

    tokens: dict[str, Token]
    devices: dict[str, DeviceFacts]
    logins: dict[str, str]
    profiles: dict[int, Profile] = {}
    ended: set[str] = set()
