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


class ProvisionDevice(msgspec.Struct, frozen=True):
    """A device was given credentials: its state moves on and it takes over labels and the token that did it."""

    device_id: str
    fold: str
    state: LifecycleState
    labels: dict[str, str]
    token_id: int
    gateway: bool


class CountRegistration(msgspec.Struct, frozen=True, gc=False):
    """A token is used for a device for the first time; this never comes back (words.md)."""

    token_id: int
    token_key: str
    device_id: str
    fold: str
    at_ms: int


class IssueCredential(msgspec.Struct, frozen=True):
    """The next generation of a device's credential."""

    fold: str
    credential: Credential


class SupersedeCredentials(msgspec.Struct, frozen=True):
    """These generations can no longer log in."""

    device_id: str
    fold: str
    generations: tuple[int, ...]


class ActivateCredential(msgspec.Struct, frozen=True, gc=False):
    """The first login with a generation; the device becomes active."""

    device_id: str
    fold: str
    generation: int
    at_ms: int


class ChangeState(msgspec.Struct, frozen=True, gc=False):
    """An operator moved the device to another lifecycle state."""

    device_id: str
    fold: str
    state: LifecycleState


class SetLabels(msgspec.Struct, frozen=True):
    """An operator gave the device these labels, in place of those that it had."""

    device_id: str
    fold: str
    labels: dict[str, str]


class ReleaseName(msgspec.Struct, frozen=True, gc=False):
    """A tombstone gives up its name: from now on it is known by `name`, which no device can ask for."""

    device_id: str
    fold: str
    name: str


class RequestRotation(msgspec.Struct, frozen=True, gc=False):
    """An operator wants a newer generation than this one, which is the newest; None: the wish is over."""

    device_id: str
    fold: str
    generation: int | None


class SetTransfer(msgspec.Struct, frozen=True, gc=False):
    """The device is offered to another owner; None: it no longer is."""

    device_id: str
    fold: str
    transfer: Transfer | None


class ChangeOwner(msgspec.Struct, frozen=True, gc=False):
    """The device has an owner, whatever it was offered for; `transferred_ms` is None when it had none before."""

    device_id: str
    fold: str
    owner: str
    transferred_ms: int | None


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

    def apply(self, effect: Effect) -> None:
        """Make the effect visible to the next decision in the same transaction."""
        match effect:
            case CreateDevice(device):
                self.devices[device.fold] = DeviceFacts(device, [], set(), 0)
            case IssueCredential(fold, credential):
                facts = self.devices[fold]
                facts.credentials.append(credential)
                facts.last_generation = credential.generation
                self.logins[credential.login_key] = credential.device_id
            case CountRegistration(_, token_key, _, fold, _):
                token = self.tokens[token_key]
                token.used += 1
                self.devices[fold].registered_by.add(token.id)
            case ProvisionDevice():
                device = self.devices[effect.fold].device
                device.state, device.labels = effect.state, effect.labels
                device.token_id, device.gateway = effect.token_id, effect.gateway
            case SupersedeCredentials(_, fold, generations):
                self._supersede(self.devices[fold], generations)
            case ActivateCredential(_, fold, generation, at_ms):
                facts = self.devices[fold]
                facts.device.state = transition(facts.device.state, LifecycleEvent.FIRST_LOGIN)
                facts.device.last_seen_ms = at_ms
                for credential in facts.credentials:
                    if credential.generation == generation:
                        credential.status = CredentialStatus.ACTIVE
                        credential.first_login_ms = at_ms
            case ChangeState(_, fold, state):
                self.devices[fold].device.state = state
            case ReleaseName(_, fold, name):
                facts = self.devices.pop(fold)
                facts.device.name = facts.device.fold = name
                self.devices[name] = facts
            case SetLabels() | RequestRotation() | SetTransfer() | ChangeOwner():
                _note(self.devices[effect.fold].device, effect)

    def _supersede(self, facts: DeviceFacts, generations: tuple[int, ...]) -> None:
        for credential in facts.credentials:
            if credential.generation in generations:
                credential.status = CredentialStatus.SUPERSEDED
                self.logins.pop(credential.login_key, None)
                self.ended.add(credential.login_key)
                if facts.device.transfer is not None:
                    facts.ended.append(credential)
        facts.credentials = [c for c in facts.credentials if c.generation not in generations]
        # Generations of one device may share a login with different passwords.
        self.logins.update((c.login_key, facts.device.id) for c in facts.credentials)


def _note(device: Device, effect: SetLabels | RequestRotation | SetTransfer | ChangeOwner) -> None:
    match effect:
        case SetLabels():
            device.labels = effect.labels
        case RequestRotation():
            device.rotate_from = effect.generation
        case SetTransfer():
            device.transfer = effect.transfer
        case ChangeOwner():
            device.owner, device.transfer = effect.owner, None
            device.transferred_ms = effect.transferred_ms or device.transferred_ms
