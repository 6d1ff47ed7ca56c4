"""What the rules talk about: profiles, registration tokens, devices, credentials. Values only, no rules.

Times are whole milliseconds since the epoch (`_ms`). Ids of profiles and tokens are the store's integers; a device's id
is public (it goes into replies) and made from time and entropy by `mqttprov.core.secrets.new_id`.
"""

from enum import StrEnum

import msgspec

from mqttprov.core.limits import MIN_SECRET_CHARS


class Strategy(StrEnum):
    """Who may become a device of a profile (ThingsBoard's provision types, thingsboard.md section 6)."""

    ALLOW_CREATE = "allow-create"
    PRE_PROVISIONED = "pre-provisioned"
    DISABLED = "disabled"
    CERTIFICATE_CHAIN = "certificate-chain"


class CredentialsType(StrEnum):
    """What a device logs in with; the values are ThingsBoard's words on the wire."""

    ACCESS_TOKEN = "ACCESS_TOKEN"  # noqa: S105 - the name of a type, not a secret
    MQTT_BASIC = "MQTT_BASIC"
    X509_CERTIFICATE = "X509_CERTIFICATE"


class ReprovisionPolicy(StrEnum):
    """What a device gets that asks again after its credential was used (DESIGN 5.6)."""

    REUSE = "reuse"
    REFUSE = "refuse"
    SAME_KEY = "same-key"


class LifecycleState(StrEnum):
    """Where a device is in its life; state is permission (P7)."""

    MANUFACTURED = "manufactured"
    PROVISIONED = "provisioned"
    ACTIVE = "active"
    SUSPENDED = "suspended"
    DECOMMISSIONED = "decommissioned"


class CredentialStatus(StrEnum):
    """*issued* until its first login, then *active*; *superseded* once a newer generation has logged in."""

    ISSUED = "issued"
    ACTIVE = "active"
    SUPERSEDED = "superseded"


class OperatorRole(StrEnum):
    """What a person or program behind the fleet may do over MQTT: everything, or only listen."""

    OPERATOR = "operator"
    OBSERVER = "observer"


class Profile(msgspec.Struct, frozen=True):
    """What a class of devices has in common. Topic patterns may hold `%d`, which stands for the device's name.

    With `rotate_on_first_use` a factory identity provisions a device in the place of key and secret, and ends there.
    """

    id: int
    name: str
    strategy: Strategy = Strategy.ALLOW_CREATE
    credentials_type: CredentialsType = CredentialsType.ACCESS_TOKEN
    reprovision: ReprovisionPolicy = ReprovisionPolicy.REUSE
    min_secret_chars: int = MIN_SECRET_CHARS
    unicode_names: bool = False
    label_keys: tuple[str, ...] = ()  # labels that a device may set for itself in its request
    publish_topics: tuple[str, ...] = ()  # beside the `me` topics, which every device has
    subscribe_topics: tuple[str, ...] = ()
    rotate_on_first_use: bool = False


class Chain(msgspec.Struct, frozen=True, gc=False):
    """Whose certificates make devices of a profile: authorities (PEM, several), and how the subject names the device.

    The first group of the regular expression, on the whole common name, is the name.
    """

    authorities: str
    subject_pattern: str


class Token(msgspec.Struct):
    """A registration token: `key` names it, the secret behind `verifier` proves it (ThingsBoard's key and secret).

    `used` is the number of registrations, counted once per device; it never goes down. Mutable because `Facts` keeps
    it up to date within one transaction. After a rotation the secret behind `previous_verifier` proves it too, until
    `previous_until_ms`; `proof_base` stands for the secret in proofs, None: `verifier` does (P4). What it registers
    belongs to `owner`.
    """

    id: int
    profile: Profile
    name: str
    key: str
    verifier: str
    labels: dict[str, str] = {}
    max_registrations: int | None = None
    used: int = 0
    expires_ms: int | None = None
    device_name_pattern: str | None = None
    revoked_ms: int | None = None
    previous_verifier: str | None = None
    previous_until_ms: int | None = None
    proof_base: str | None = None
    owner: str | None = None


class Credential(msgspec.Struct):
    """One generation of what a device logs in with. No secret is in it (P6).

    `login_key` finds it at login and `verifier` checks the password of MQTT_BASIC; both are keyed hashes.
    `proof` recognises a repeated request (P4). `certificate` is the X.509 certificate (PEM text) and `public_key` the
    hash of its key, when there is one. `username` and `client_id` are public names. `supplied` tells that the device
    brought the secret itself, so that we cannot derive it again.
    """

    device_id: str
    generation: int
    type: CredentialsType
    login_key: str
    proof: str
    status: CredentialStatus = CredentialStatus.ISSUED
    verifier: str | None = None
    username: str | None = None
    client_id: str | None = None
    certificate: str | None = None
    public_key: str | None = None
    supplied: bool = False
    issued_ms: int = 0
    first_login_ms: int | None = None

    @property
    def ended(self) -> bool:
        """Whether it is superseded."""
        return self.status is CredentialStatus.SUPERSEDED


class Transfer(msgspec.Struct, frozen=True, gc=False):
    """A device is offered to another owner; `code` is the keyed hash of the one-time claim code that completes it."""

    to_owner: str
    code: str
    expires_ms: int


class Device(msgspec.Struct):
    """A device. `fold` is the form of the name in which it is unique (P8); `token_id` last provisioned it.

    `rotate_from` is its newest generation at the time when an operator last asked for a newer one.
    What a factory gave it to come in for the first time: `claim` is the keyed hash of a secret of its own,
    `factory_key` the hash of the public key of its factory certificate.
    `transfer` is what it is offered for, `transferred_ms` when its owner last changed that way.
    `last_seen_ms` is when it was last known to be in use, which may be an hour ago although it is connected.
    """

    id: str
    name: str
    fold: str
    profile_id: int
    state: LifecycleState
    created_ms: int
    token_id: int | None = None
    owner: str | None = None
    labels: dict[str, str] = {}
    gateway: bool = False
    rotate_from: int | None = None
    claim: str | None = None
    factory_key: str | None = None
    transfer: Transfer | None = None
    transferred_ms: int | None = None
    last_seen_ms: int | None = None
