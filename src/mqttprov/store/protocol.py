"""What a store has to offer, whatever is behind it. The responder and the command line know only this.

One writer transaction at a time; a reader sees what was committed before its question. Everything that changes goes
through `WriteTransaction`, whose effects and audit events become durable together (P2, P5).
"""

from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager
from enum import StrEnum
from typing import Generic, Protocol, TypeVar

import msgspec

from mqttprov.core.audit import ChainedEvent, ChainHead, Event
from mqttprov.core.factory import ChainFacts, FactoryFacts
from mqttprov.core.facts import Effect, Facts
from mqttprov.core.login import LoginFacts, OperatorFacts, SupersededLogin
from mqttprov.core.model import Chain, LifecycleState, OperatorRole, Profile
from mqttprov.core.selectors import Selector


class StoreUnavailable(Exception):  # noqa: N818 - it names what is wrong
    """The store cannot be used: missing, locked for too long, damaged, too new, or its disk is full."""


class Conflict(Exception):  # noqa: N818 - it names what is wrong
    """Something of this name exists already."""


class ProfileRow(msgspec.Struct, frozen=True):
    """A profile as it is listed."""

    profile: Profile
    created_ms: int
    tokens: int
    devices: int
    chain: Chain | None = None


class TokenRow(msgspec.Struct, frozen=True):
    """A registration token as it is listed; never its secret, nor the hash of it."""

    id: int
    name: str
    key: str
    profile: str
    labels: dict[str, str]
    max_registrations: int | None
    used: int
    expires_ms: int | None
    device_name_pattern: str | None
    revoked_ms: int | None
    created_ms: int
    last_used_ms: int | None
    old_secret_until_ms: int | None = None
    owner: str | None = None


class RegisteredRow(msgspec.Struct, frozen=True, gc=False):
    """A device that a token registered, and when."""

    id: str
    name: str
    state: str
    registered_ms: int


class DeviceRow(msgspec.Struct, frozen=True):
    """A device as it is listed, with its newest generation of credentials."""

    id: str
    name: str
    state: str
    profile: str
    owner: str | None
    labels: dict[str, str]
    token: str | None
    gateway: bool
    created_ms: int
    credentials_type: str | None
    credential_status: str | None
    generation: int | None
    first_login_ms: int | None
    rotation_due: bool
    transfer_to: str | None = None
    transfer_expires_ms: int | None = None
    last_seen_ms: int | None = None


class DeviceQuery(msgspec.Struct, frozen=True):
    """Which devices to list: all conditions hold. `after` is the id of the last device of the page before.

    `unseen_since_ms` means devices that were not seen since then, or, never seen, were made before; decommissioned ones
    only when `state` asks for them.
    """

    name: str | None = None
    profile: str | None = None
    owner: str | None = None
    state: LifecycleState | None = None
    selectors: tuple[Selector, ...] = ()
    after: str | None = None
    limit: int | None = None
    unseen_since_ms: int | None = None


class CredentialRow(msgspec.Struct, frozen=True):
    """One generation in a device's history."""

    generation: int
    type: str
    status: str
    supplied: bool
    issued_ms: int
    first_login_ms: int | None


_R = TypeVar("_R")


class Listed(msgspec.Struct, Generic[_R], frozen=True):
    """The first rows of an answer, and how many it has in all."""

    count: int
    rows: list[_R]


class SharedKeyRow(msgspec.Struct, frozen=True):
    """A public key (SHA-256, hex) that credentials of several devices hold or held."""

    public_key: str
    devices: list[str]


class ProvisioningSourceRow(msgspec.Struct, frozen=True):
    """From where a device was provisioned, once."""

    device_id: str
    device: str
    source: str | None


class FailedAttemptsRow(msgspec.Struct, frozen=True):
    """What a source was refused."""

    source: str | None
    attempts: int
    reasons: list[str]
    last_ms: int


class SupersededInUseRow(msgspec.Struct, frozen=True):
    """A superseded generation with which somebody tried to log in: from where, how often, between when and when."""

    device: str
    generation: int
    sources: list[str]
    attempts: int
    first_ms: int
    last_ms: int


class ClientIdFightRow(msgspec.Struct, frozen=True):
    """A device whose connections took its session over from each other: from where, how often, and when."""

    device: str
    sources: list[str]
    takeovers: int
    first_ms: int
    last_ms: int


class ReusedNameRow(msgspec.Struct, frozen=True):
    """How often a device was given the next generation, and how often the same answer again."""

    device: str
    reprovisioned: int
    repeated: int
    last_ms: int


class WaitingDeviceRow(msgspec.Struct, frozen=True):
    """A device in a state, and since when."""

    device: str
    profile: str
    since_ms: int


class UnownedDeviceRow(msgspec.Struct, frozen=True):
    """A device without owner."""

    device: str
    profile: str
    state: str


class AuthorityState(StrEnum):
    """What a certificate authority is for: it signs, is older and still trusted, or is history."""

    ACTIVE = "active"
    TRUSTED = "trusted"
    RETIRED = "retired"


class AuthorityRow(msgspec.Struct, frozen=True):
    """A certificate authority: its certificate (PEM) with those above it."""

    certificate: str
    state: AuthorityState


class IssuedCertificateRow(msgspec.Struct, frozen=True, gc=False):
    """A certificate that one of our authorities issued (PEM), and where credential and device are in their lives."""

    certificate: str
    status: str
    state: str


class NewToken(msgspec.Struct, frozen=True):
    """A registration token to be stored."""

    profile_id: int
    name: str
    key: str
    verifier: str
    created_ms: int
    labels: dict[str, str] = {}
    max_registrations: int | None = None
    expires_ms: int | None = None
    device_name_pattern: str | None = None
    owner: str | None = None


class Reader(Protocol):
    """Questions to the store. Each is answered from one consistent state; none waits for the writer."""

    def find_logins(self, login_keys: Sequence[str]) -> list[LoginFacts]:
        """Give the live credentials that these login keys name, with device and profile."""

    def find_superseded(self, login_keys: Sequence[str]) -> dict[str, list[SupersededLogin]]:
        """Give, for each of these login keys, the newest superseded credentials that it named; at most 8 of them."""

    def find_operator(self, name: str) -> OperatorFacts | None:
        """Give an operator's login."""

    def knows_certificate(self, login_key: str) -> bool:
        """Tell whether the certificate with this login key was registered by itself, even if that has ended."""

    def factory_devices(self, public_key: str | None = None, fold: str | None = None) -> list[FactoryFacts]:
        """Give the devices, two at most, that were imported with this key (SHA-256, hex) or that have this name."""

    def chains(self) -> list[ChainFacts]:
        """Give the profiles whose devices come in by certificates, oldest first."""

    def ended_certificates(self, login_keys: Sequence[str]) -> list[str]:
        """Give those of the login keys that are of superseded certificates."""

    def issued_certificates(self, since_ms: int, *, ended: bool) -> Iterator[IssuedCertificateRow]:
        """Give what our authorities issued since then and counts, or has `ended`: superseded, device not let in."""

    def authorities(self) -> list[AuthorityRow]:
        """List certificate authorities, oldest first; none as long as there is only the first one."""

    def profiles(self, name: str | None = None) -> list[ProfileRow]:
        """List profiles, or the one of this name."""

    def tokens(self, profile: str | None = None, name_or_key: str | None = None) -> list[TokenRow]:
        """List registration tokens, by profile and by name or key if given."""

    def devices(self, name: str | None = None) -> Iterator[DeviceRow]:
        """List devices in the order of their making, or the one of this name."""

    def find_devices(self, query: DeviceQuery) -> Iterator[DeviceRow]:
        """List the devices that the query means, in the order of their making."""

    def registered(self, token_id: int) -> Iterator[RegisteredRow]:
        """List the devices that a token registered, in the order of their making."""

    def credentials_of(self, device_id: str) -> list[CredentialRow]:
        """List all generations of a device's credential, oldest first."""

    def operators(self) -> list[tuple[str, OperatorRole, int]]:
        """List operators: name, role, time of making in ms."""

    def states(self) -> dict[str, int]:
        """Count devices by lifecycle state."""

    def events(self, after_seq: int = 0, limit: int = -1) -> Iterator[ChainedEvent]:
        """Give audit events behind `after_seq` in order, at most `limit` of them (-1: all)."""

    def events_of_device(self, device_id: str) -> Iterator[ChainedEvent]:
        """Give the audit events about a device, oldest first."""

    def events_with(self, field: str, value: str, limit: int) -> list[ChainedEvent]:
        """Look through all audit events for those whose field has this value, newest first."""

    def shared_keys(self, limit: int) -> Listed[SharedKeyRow]:
        """List public keys under several devices, ended generations included."""

    def provisioning_sources(self) -> Iterator[ProvisioningSourceRow]:
        """Give the sources of devices that were provisioned three times or more, by device and in order."""

    def failed_attempts(self, since_ms: int, limit: int) -> Listed[FailedAttemptsRow]:
        """List sources with what they were refused since then, the busiest first."""

    def superseded_in_use(self, since_ms: int, limit: int) -> Listed[SupersededInUseRow]:
        """List superseded credentials with which logins were tried since then, the busiest first."""

    def client_id_fights(self, since_ms: int, limit: int) -> Listed[ClientIdFightRow]:
        """List devices whose connections took over from each other since then, the busiest first."""

    def reused_names(self, limit: int) -> Listed[ReusedNameRow]:
        """List devices that were provisioned more than once, the busiest first."""

    def devices_without_owner(self, limit: int) -> Listed[UnownedDeviceRow]:
        """List devices without owner that are not decommissioned."""

    def devices_waiting(self, state: str, until_ms: int, limit: int) -> Listed[WaitingDeviceRow]:
        """List devices that have been in this state since before `until_ms`, the longest first."""

    def head(self) -> ChainHead:
        """Give the end of the audit chain."""

    def published_seq(self) -> int:
        """Give the place up to which audit events are known to be published."""

    def close(self) -> None:
        """Let go of what the reader holds."""


class WriteTransaction(Protocol):
    """One transaction of the one writer. Leaving its context commits; an exception rolls everything back."""

    def load(self, token_keys: Collection[str], folds: Collection[str], login_keys: Collection[str]) -> Facts:
        """Load what the rules need to know about these registration tokens, device names and logins."""

    def write(self, facts: Facts, effects: Sequence[Effect]) -> None:
        """Write effects that are already applied to `facts`. Raises `LimitExceeded`, which must never happen."""

    def append(self, events: Sequence[Event]) -> list[ChainedEvent]:
        """Put events at the end of the audit chain."""

    def mark_published(self, seq: int) -> None:
        """Remember that all events up to `seq` were published."""

    def mark_seen(self, device_ids: Sequence[str], at_ms: int) -> None:
        """Remember that these devices are in use."""

    def add_profile(self, profile: Profile, created_ms: int, chain: Chain | None = None) -> Profile:
        """Store a new profile; gives it back with its id. Raises `Conflict`."""

    def update_profile(self, profile: Profile, chain: Chain | None) -> None:
        """Store what of a profile may change: whether factory identities rotate on first use, and its chain."""

    def add_token(self, token: NewToken) -> int:
        """Store a new registration token; gives its id. Raises `Conflict`."""

    def update_token(self, token: TokenRow) -> None:
        """Store a token's labels, limit, expiry, name pattern and revocation as given."""

    def rotate_token(self, token_id: int, verifier: str, old_until_ms: int | None) -> None:
        """Store a token's new secret; the old one stays beside it until then (None: ends at once)."""

    def add_operator(self, name: str, role: OperatorRole, verifier: str, created_ms: int) -> None:
        """Store an operator's login. Raises `Conflict`."""

    def put_operator(self, name: str, verifier: str | None) -> None:
        """Store a login's new verifier, or with None remove the login."""

    def put_authority(self, authority: AuthorityRow) -> None:
        """Store a certificate authority, or the new state of one that is stored."""

    def reader(self) -> Reader:
        """Ask questions within this transaction."""


class LimitExceeded(Exception):  # noqa: N818 - it names what is wrong
    """The second wall of P1: a registration above a token's limit reached the store. The batch is rolled back."""


class Store(Protocol):
    """A place for facts."""

    def write(self) -> AbstractContextManager[WriteTransaction]:
        """Begin the one write transaction. Raises `StoreUnavailable`."""

    def reader(self) -> Reader:
        """Open a reader for the calling thread. Raises `StoreUnavailable`."""

    def close(self) -> None:
        """Close the writer."""
