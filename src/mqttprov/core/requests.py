"""Provisioning requests and their outcomes, as values between `wire`, `responder` and the rules. No decisions here."""

from enum import StrEnum

import msgspec

from mqttprov.core.model import CredentialsType


class SuppliedCertificate(msgspec.Struct, frozen=True, gc=False):
    """A certificate that the device brought (ThingsBoard's `hash`): PEM, SHA-256 of the DER and of its public key.

    The hashes are empty until somebody looked into it; `fault` says why it cannot be used, when that is so.
    """

    pem: str
    fingerprint: str = ""
    public_key: str = ""
    fault: str = ""


class SuppliedCsr(msgspec.Struct, frozen=True, gc=False):
    """A certificate signing request; `public_key` is the SHA-256 of its key once the signature has been checked.

    `fault` says why it cannot be used, when that is so.
    """

    pem: str
    public_key: str = ""
    fault: str = ""


class FactoryIdentity(msgspec.Struct, frozen=True, gc=False):
    """Which device a session has shown to be by the key of its factory certificate, in the TLS handshake.

    `public_key` is the SHA-256 (hex) of that key; `token_key` names the `default` registration token of its profile.
    `chain` tells that a chain vouches for the name, so that the device need not exist yet; `suffices`, that the
    identity stands for key and secret of a request.
    """

    name: str
    fold: str
    token_key: str
    public_key: str
    chain: bool
    suffices: bool


class ProvisionRequest(msgspec.Struct, frozen=True, repr_omit_defaults=True):
    """What a device asks for. `None` means absent, as `null` does on the wire (thingsboard.md rule 12).

    An empty secret stands for none; only a session with a `factory` identity may leave it out.
    `code_with_secret` tells that the claim code came behind the secret and not in a field of its own.
    """

    key: str
    secret: str
    device_name: str | None = None
    credentials_type: CredentialsType | None = None
    token: str | None = None
    username: str | None = None
    password: str | None = None
    client_id: str | None = None
    certificate: SuppliedCertificate | None = None
    csr: SuppliedCsr | None = None
    gateway: bool = False
    labels: dict[str, str] = {}
    request_id: str | None = None
    claim_code: str | None = None
    factory: FactoryIdentity | None = None
    code_with_secret: bool = False

    def __repr__(self) -> str:
        return f"ProvisionRequest(key={self.key!r}, secret=***, device_name={self.device_name!r})"


class Malformed(msgspec.Struct, frozen=True, gc=False):
    """A request that could not be understood; `text` says why, without quoting from it."""

    text: str


class Status(StrEnum):
    """ThingsBoard's status words (thingsboard.md section 5)."""

    SUCCESS = "SUCCESS"
    NOT_FOUND = "NOT_FOUND"
    FAILURE = "FAILURE"


class Reason(StrEnum):
    """Why a request was refused: for the audit event and the operator; the wire gets only what may be told."""

    UNKNOWN_KEY = "unknown-key"
    WRONG_SECRET = "wrong-secret"  # noqa: S105 - a reason
    DISABLED = "disabled"
    REVOKED = "revoked"
    EXPIRED = "expired"
    EXHAUSTED = "exhausted"
    BAD_NAME = "bad-name"
    NAME_NOT_ALLOWED = "name-not-allowed"
    BAD_LABELS = "bad-labels"
    BAD_CREDENTIALS = "bad-credentials"
    CREDENTIALS_TAKEN = "credentials-taken"
    NOT_PRE_PROVISIONED = "not-pre-provisioned"
    OTHER_PROFILE = "other-profile"
    STATE = "state"
    ALREADY_PROVISIONED = "already-provisioned"
    OTHER_KEY = "other-key"
    CLAIM_NEEDED = "claim-needed"
    CLAIM_SPENT = "claim-spent"
    OTHER_OWNER = "other-owner"
    CHAIN_NEEDED = "chain-needed"
    CERTIFICATE_ENDED = "certificate-ended"
    FACTORY_NAME = "factory-name"
    FACTORY_SPENT = "factory-spent"
    TRANSFER_CODE = "transfer-code"
    TRANSFER_EXPIRED = "transfer-expired"
    TRANSFER_OWNER = "transfer-owner"
    MALFORMED = "malformed"
    LIMITED = "limited"
    OVERLOADED = "overloaded"
    INTERNAL = "internal"


# Refusals that prove nothing about the requester: these are what a guesser collects (DESIGN 5.12).
UNPROVEN = frozenset({Reason.UNKNOWN_KEY, Reason.WRONG_SECRET, Reason.MALFORMED})

NOT_FOUND_TEXT = "Provision data was not found!"
FAILURE_TEXT = "Failed to provision device!"


class Granted(msgspec.Struct, frozen=True, gc=False):
    """Credentials for a device. `value` is the access token, the PEM certificate or the password of MQTT_BASIC.

    `ended_before` is not told: generations before this one ended at once, and so must their sessions (0: none did).
    """

    device_id: str
    device_name: str
    type: CredentialsType
    value: str
    ref: str
    username: str = ""
    client_id: str = ""
    ended_before: int = 0

    status = Status.SUCCESS

    def __repr__(self) -> str:
        return f"Granted(device_name={self.device_name!r}, type={self.type!s}, value=***)"


class Refused(msgspec.Struct, frozen=True, gc=False):
    """A refusal: `text` is what the device is told, `reason` what the operator learns."""

    status: Status
    reason: Reason
    text: str
    ref: str = ""
    retry_after_s: int | None = None


Outcome = Granted | Refused


def refused(reason: Reason, why: str = "", *, ref: str = "", retry_after_s: int | None = None) -> Refused:
    """Make a refusal with ThingsBoard's status and a text that tells no more than it may (security.md SD-8)."""
    if reason in _NOT_FOUND:
        return Refused(Status.NOT_FOUND, reason, NOT_FOUND_TEXT, ref, retry_after_s)
    return Refused(Status.FAILURE, reason, f"{FAILURE_TEXT[:-1]}: {why}" if why else FAILURE_TEXT, ref, retry_after_s)


_NOT_FOUND: frozenset[Reason] = frozenset(
    {
        Reason.UNKNOWN_KEY,
        Reason.WRONG_SECRET,
        Reason.DISABLED,
        Reason.REVOKED,
        Reason.EXPIRED,
        Reason.EXHAUSTED,
        Reason.CLAIM_SPENT,
    }
)


def is_not_found(reason: Reason) -> bool:
    """Tell whether this reason looks to the device as if its token did not exist."""
    return reason in _NOT_FOUND
