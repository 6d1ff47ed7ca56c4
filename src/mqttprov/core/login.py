"""Logins with operational credentials: who is it, may it, and is it the first time."""

from collections.abc import Mapping, Sequence
from enum import StrEnum

import msgspec

from mqttprov.core.audit import ChainedEvent, Event, EventKind, parse_body
from mqttprov.core.credentials import (
    basic_login_key,
    certificate_login_key,
    password_verifier,
    token_login_key,
)
from mqttprov.core.facts import ActivateCredential, DeviceFacts, Effect, Facts, SupersedeCredentials
from mqttprov.core.lifecycle import may_log_in
from mqttprov.core.model import Credential, CredentialStatus, Device, OperatorRole, Profile
from mqttprov.core.requests import FactoryIdentity
from mqttprov.core.secrets import Keys, equal


class Role(StrEnum):
    """What a principal is: a device, somebody in an operator's role, or a guest, whom another's plugin lets in."""

    DEVICE = "device"
    OPERATOR = "operator"
    OBSERVER = "observer"
    GUEST = "guest"


class Principal(msgspec.Struct, frozen=True):
    """Who is behind a session. `name` is the device's or operator's; patterns are the profile's, `%d` filled in.

    `labels` are the device's.
    """

    role: Role
    name: str
    device_id: str = ""
    generation: int = 0
    publish_topics: tuple[str, ...] = ()
    subscribe_topics: tuple[str, ...] = ()
    rotation_due: bool = False  # an operator wants it to fetch a newer generation than the one it came with
    labels: dict[str, str] = {}

    @property
    def identity(self) -> str:
        """What two sessions of the same principal share. Device ids are hex, so no operator can look like one."""
        return self.device_id or f"{self.role}:{self.name}"


def identities_in(event: ChainedEvent) -> tuple[str, ...]:
    """Give whose sessions an audit event is about: a device's, or an operator's in either role."""
    if event.device_id:
        return (event.device_id,)
    try:
        operator = parse_body(event.body)[1].operator
    except ValueError:  # it was damaged in the store, and names nobody
        return ()
    return () if operator is None else (f"{Role.OPERATOR}:{operator}", f"{Role.OBSERVER}:{operator}")


class LoginAttempt(msgspec.Struct, frozen=True, gc=False):
    """What a CONNECT presents. `certificate` is the SHA-256 (hex) of the TLS client certificate's DER.

    `provisioning` tells that a provisioning session is asked for, for which nothing else is needed.
    """

    client_id: str
    username: str | None = None
    password: str | None = None
    certificate: str | None = None
    certificate_der: bytes | None = None
    provisioning: bool = False

    def __repr__(self) -> str:
        return f"LoginAttempt(client_id={self.client_id!r}, ***)"


class LoginFacts(msgspec.Struct, frozen=True):
    """A credential that one of the attempt's login keys names, with its device and profile."""

    credential: Credential
    device: Device
    profile: Profile


class Holder(msgspec.Struct, frozen=True, gc=False):
    """A device, by name and id, and the generation with which it came."""

    device: str
    device_id: str
    generation: int


class SupersededLogin(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A superseded credential that a login key names; `verifier` is that of its password, if it had one."""

    device: str
    device_id: str
    generation: int
    verifier: str | None


class OperatorFacts(msgspec.Struct, frozen=True):
    """An operator's MQTT login; `verifier` is the keyed hash of the password that we made."""

    name: str
    role: OperatorRole
    verifier: str


class LoginRefusal(StrEnum):
    """Why a login was refused, for the log."""

    ANONYMOUS = "anonymous"
    UNKNOWN = "unknown"
    WRONG_PASSWORD = "wrong-password"  # noqa: S105 - a reason
    STATE = "state"
    UNAVAILABLE = "unavailable"
    SUPERSEDED = "superseded"  # only ever told to the audit: to its holder it is as good as none
    CERTIFICATE = "certificate"
    CHAIN = "chain"
    FACTORY_SPENT = "factory-spent"
    FACTORY_SHARED = "factory-shared"


class Login(msgspec.Struct, frozen=True):
    """The outcome: a principal, a refusal, or a session that may do nothing but provision, perhaps as a known device.

    `first` tells that the credential must be activated before CONNACK, `reason` why a chain did not make it a device.
    `last_seen_ms` is when the device was last known to be in use, before this.
    """

    principal: Principal | None = None
    refusal: LoginRefusal | None = None
    first: bool = False
    fold: str = ""
    last_seen_ms: int | None = None
    reason: str | None = None
    provisioning: bool = False
    factory: FactoryIdentity | None = None


def login_keys(attempt: LoginAttempt, keys: Keys) -> tuple[str, ...]:
    """Give the login keys that the attempt may stand for; empty when it presents nothing (anonymous).

    A user name may be an access token, or MQTT_BASIC with or without a bound client id (thingsboard.md section 7); a
    client certificate counts only when no user name is given.
    """
    if attempt.username:
        token = token_login_key(keys, attempt.username)
        if attempt.password is None:
            return (token,)
        return (
            token,
            basic_login_key(keys, attempt.username, attempt.client_id or None),
            basic_login_key(keys, attempt.username, None),
        )
    if attempt.certificate:
        return (certificate_login_key(keys, attempt.certificate),)
    return ()


def operator_verifier(keys: Keys, name: str, password: str) -> str:
    """Give what is kept of an operator's password."""
    return keys.mac("operator-password", name, password)


def decide_login(
    attempt: LoginAttempt, found: Sequence[LoginFacts], operator: OperatorFacts | None, keys: Keys
) -> Login:
    """Decide whether the attempt opens a session, and as whom.

    The operator comes first: a device may have chosen a token or user name that is an operator's name.
    """
    password = attempt.password or ""
    if operator is not None and equal(operator_verifier(keys, operator.name, password), operator.verifier):
        return Login(Principal(Role(operator.role), operator.name))
    # A login bound to the client id comes before one that is not, as with ThingsBoard (thingsboard.md section 7), and
    # what the password proves before a token: another device may have chosen this user name for one.
    ranked = sorted(found, key=lambda each: (each.credential.client_id is None, each.credential.verifier is None))
    for facts in ranked:
        credential = facts.credential
        if credential.verifier is not None:
            presented = password_verifier(keys, credential.login_key, password)
            if not equal(presented, credential.verifier):
                continue
        return login_with(facts)
    if found or operator is not None:
        return Login(refusal=LoginRefusal.WRONG_PASSWORD)
    return Login(refusal=LoginRefusal.UNKNOWN)


def login_with(facts: LoginFacts) -> Login:
    """Decide a login whose secret or certificate has proved the credential."""
    device, profile, credential = facts.device, facts.profile, facts.credential
    if credential.status is CredentialStatus.SUPERSEDED:
        return Login(refusal=LoginRefusal.UNKNOWN)
    if not may_log_in(device.state):
        return Login(refusal=LoginRefusal.STATE)
    principal = Principal(
        Role.DEVICE,
        device.name,
        device.id,
        credential.generation,
        tuple(p.replace("%d", device.name) for p in profile.publish_topics),
        tuple(p.replace("%d", device.name) for p in profile.subscribe_topics),
        device.rotate_from is not None and credential.generation <= device.rotate_from,
        device.labels,
    )
    first = credential.status is CredentialStatus.ISSUED
    return Login(principal, first=first, fold=device.fold, last_seen_ms=device.last_seen_ms)


def recognise(attempt: LoginAttempt, superseded: Mapping[str, Sequence[SupersededLogin]], keys: Keys) -> Holder | None:
    """Tell whose superseded credential a refused attempt came with; None: nobody's.

    `superseded` has those that the attempt's login keys name. A password is checked as it is at a login: who knows only
    a user name has no credential.
    """
    for key in login_keys(attempt, keys):
        for known in superseded.get(key, ()):
            if known.verifier is None or equal(password_verifier(keys, key, attempt.password or ""), known.verifier):
                return Holder(known.device, known.device_id, known.generation)
    return None


class Activation(msgspec.Struct, frozen=True):
    """What a first login changes: nothing when another login was faster, or the credential died in between (`ok`)."""

    ok: bool
    effects: tuple[Effect, ...] = ()
    event: Event | None = None


def activate(
    fold: str, generation: int, facts: Facts, *, now_ms: int, source: str | None, device_id: str | None = None
) -> Activation:
    """Record the first login with a generation: it becomes active, older generations end (words.md).

    With a `device_id` the name must still be that device's.
    """
    known = facts.devices.get(fold)
    if known is not None and device_id not in {None, known.device.id}:
        return Activation(ok=False)
    credential = _generation(known, generation)
    if known is None or credential is None or not may_log_in(known.device.state):
        return Activation(ok=False)
    if credential.status is CredentialStatus.ACTIVE:
        return Activation(ok=True)
    device = known.device
    effects: list[Effect] = [ActivateCredential(device.id, fold, generation, now_ms)]
    older = tuple(c.generation for c in known.credentials if c.generation < generation)
    if older:
        effects.append(SupersedeCredentials(device.id, fold, older))
    for effect in effects:
        effect.apply(facts)
    event = Event(
        EventKind.ACTIVATED,
        now_ms,
        "device",
        source=source,
        device=device.name,
        device_id=device.id,
        credentials_type=credential.type,
        generation=generation,
        state=device.state,
    )
    return Activation(ok=True, effects=tuple(effects), event=event)


def _generation(known: DeviceFacts | None, generation: int) -> Credential | None:
    if known is None:
        return None
    return next((c for c in known.credentials if c.generation == generation), None)
