"""Credentials of a device: which type it gets, how one generation is made, and what is told of it.

The hashes by which a login finds a credential are made here and nowhere else.
"""

from collections.abc import Callable

import msgspec

from mqttprov.core.limits import MAX_SECRET_CHARS
from mqttprov.core.model import Credential, CredentialsType, Device, Profile
from mqttprov.core.requests import Granted, ProvisionRequest, Reason
from mqttprov.core.secrets import Keys, equal

RESPONDER_LOGIN = "_responder"  # the user name of the responder, where it is a client of a broker
PROVISION_LOGIN = "provision"  # the user name or client id of a provisioning session (thingsboard.md rule 2)


class CredentialsRefused(ValueError):  # noqa: N818 - it names what is wrong, like the rest of the rules
    """The request's credentials cannot be used; the text may be told to the device."""

    def __init__(self, text: str, reason: Reason = Reason.BAD_CREDENTIALS) -> None:
        super().__init__(text)
        self.reason = reason


class SignedCertificate(msgspec.Struct, frozen=True, gc=False):
    """A certificate that our authority issued: PEM, SHA-256 of the DER and of its public key."""

    pem: str
    fingerprint: str
    public_key: str


# (csr_pem, device_id, device_name, serial_entropy of 16 bytes, now_ms) -> certificate
Sign = Callable[[str, str, str, bytes, int], SignedCertificate]


def token_login_key(keys: Keys, token: str) -> str:
    """Give the key by which a login with an access token finds its credential."""
    return keys.mac("login-token", token)


def basic_login_key(keys: Keys, username: str, client_id: str | None) -> str:
    """Give the key for MQTT_BASIC: user name alone, or user name together with the client id it is bound to."""
    return keys.mac("login-basic", username) if client_id is None else keys.mac("login-basic-id", username, client_id)


def certificate_login_key(keys: Keys, fingerprint: str) -> str:
    """Give the key by which a TLS login with a client certificate (SHA-256 of its DER) finds its credential."""
    return keys.mac("login-certificate", fingerprint)


def password_verifier(keys: Keys, login_key: str, password: str) -> str:
    """Give what is kept of an MQTT password; bound to its login, so that equal passwords do not look equal."""
    return keys.mac("login-password", login_key, password)


def proof_of(keys: Keys, request: ProvisionRequest, folded_name: str | None, *, base: str) -> str:
    """Give what two requests of one device have in common: key, secret, name, supplied credentials (words.md).

    `base` stands for the secret (`mqttprov.core.proving`), so that a planned rotation changes no proof. For a
    CSR its public key stands in, since every CSR is signed anew. Without a name the `requestId` counts as well.
    """
    return keys.mac(
        "proof",
        request.key,
        base,
        folded_name or "",
        (request.request_id or "") if folded_name is None else "",
        str(request.credentials_type or ""),
        request.token or "",
        request.username or "",
        request.password or "",
        request.client_id or "",
        request.certificate.fingerprint if request.certificate else "",
        request.csr.public_key if request.csr else "",
        # Only where there is one: a claim code asks for more than what the same request without it was given.
        *((request.claim_code,) if request.claim_code else ()),
    )


def claimed_login_keys(request: ProvisionRequest, keys: Keys) -> list[str]:
    """Give the login keys that supplied credentials would take, for loading facts; what we make cannot collide."""
    claimed = []
    if request.token:
        claimed.append(token_login_key(keys, request.token))
    if request.username:
        claimed.append(basic_login_key(keys, request.username, request.client_id))
    if request.certificate:
        claimed.append(certificate_login_key(keys, request.certificate.fingerprint))
    return claimed


def is_recognisable(request: ProvisionRequest) -> bool:
    """Tell whether a nameless request brings something by which its repetition can be told from another device's."""
    return bool(
        request.token
        or request.username
        or request.client_id
        or request.certificate
        or request.csr
        or request.request_id
    )


def wanted_type(request: ProvisionRequest, profile: Profile) -> CredentialsType:
    """Give the type of credentials for this request: what it supplies, else what it names, else the profile's default.

    Precedence as in the vendor's client: token, MQTT basic, certificate (thingsboard.md section 13).
    Raises `CredentialsRefused` when it names a type and supplies only others.
    """
    supplied: list[CredentialsType] = []
    if request.token:
        supplied.append(CredentialsType.ACCESS_TOKEN)
    if request.username or request.password or request.client_id:
        supplied.append(CredentialsType.MQTT_BASIC)
    if request.certificate or request.csr:
        supplied.append(CredentialsType.X509_CERTIFICATE)
    named = request.credentials_type
    if not supplied:
        return named or profile.credentials_type
    if named is None:
        return supplied[0]
    if named not in supplied:
        raise CredentialsRefused(f"credentialsType is {named} but the request supplies {' and '.join(supplied)}")
    return named


def _check_text(what: str, value: str, *, at_least: int = 1) -> str:
    if not at_least <= len(value) <= MAX_SECRET_CHARS:
        raise CredentialsRefused(f"{what} must have {at_least} to {MAX_SECRET_CHARS} characters")
    if not value.isprintable():
        raise CredentialsRefused(f"{what} must not hold control characters")
    if value == PROVISION_LOGIN:
        raise CredentialsRefused(f"{what} must not be '{PROVISION_LOGIN}': that opens a provisioning session")
    return value


class Making(msgspec.Struct, frozen=True):
    """What one generation of a credential is made from; `serial_entropy` is 16 random bytes for a certificate."""

    request: ProvisionRequest
    device: Device
    profile: Profile
    generation: int
    proof: str
    keys: Keys
    now_ms: int
    serial_entropy: bytes
    sign: Sign | None = None


def make_credential(making: Making) -> tuple[Credential, str]:
    """Make a generation of a device's credential and the secret (or certificate) that goes with it.

    It is what the device supplied, else derived by us. Raises `CredentialsRefused`.
    """
    match wanted_type(making.request, making.profile):
        case CredentialsType.ACCESS_TOKEN:
            return _make_token(making)
        case CredentialsType.MQTT_BASIC:
            return _make_basic(making)
        case CredentialsType.X509_CERTIFICATE:
            return _make_certificate(making)


def _make_token(making: Making) -> tuple[Credential, str]:
    device, keys = making.device, making.keys
    supplied = making.request.token
    if supplied is not None:
        token = _check_text("token", supplied, at_least=making.profile.min_secret_chars)
    else:
        token = keys.derived_access_token(device.id, making.generation)
    credential = Credential(
        device.id,
        making.generation,
        CredentialsType.ACCESS_TOKEN,
        token_login_key(keys, token),
        making.proof,
        supplied=supplied is not None,
        issued_ms=making.now_ms,
    )
    return credential, token


def _make_basic(making: Making) -> tuple[Credential, str]:
    """Fill in what the device left out: its id as user name, a derived password; never an identity without a secret."""
    request, device, keys = making.request, making.device, making.keys
    if request.password and not request.username:
        raise CredentialsRefused("a password needs a username (clientId alone gets one made here)")
    username = _check_text("username", request.username) if request.username else device.id
    client_id = _check_text("clientId", request.client_id) if request.client_id else None
    if request.password:
        password = _check_text("password", request.password, at_least=making.profile.min_secret_chars)
    else:
        password = keys.derived_password(device.id, making.generation)
    login_key = basic_login_key(keys, username, client_id)
    credential = Credential(
        device.id,
        making.generation,
        CredentialsType.MQTT_BASIC,
        login_key,
        making.proof,
        verifier=password_verifier(keys, login_key, password),
        username=username,
        client_id=client_id,
        supplied=request.password is not None,
        issued_ms=making.now_ms,
    )
    return credential, password


def _make_certificate(making: Making) -> tuple[Credential, str]:
    request, device = making.request, making.device
    if request.certificate:
        pem, print_, public_key = (
            request.certificate.pem,
            request.certificate.fingerprint,
            request.certificate.public_key,
        )
    elif request.csr and making.sign is not None:
        signed = making.sign(request.csr.pem, device.id, device.name, making.serial_entropy, making.now_ms)
        pem, print_, public_key = signed.pem, signed.fingerprint, signed.public_key
    else:
        raise CredentialsRefused(
            "X509_CERTIFICATE needs a certificate (PEM text) in 'hash' or a signing request in 'csr'"
        )
    credential = Credential(
        device.id,
        making.generation,
        CredentialsType.X509_CERTIFICATE,
        certificate_login_key(making.keys, print_),
        making.proof,
        certificate=pem,
        public_key=public_key,
        supplied=request.certificate is not None,
        issued_ms=making.now_ms,
    )
    return credential, pem


def same_secret(a: Credential, b: Credential) -> bool:
    """Tell whether a device that holds one can log in with the other: same login, same password."""
    return equal(a.login_key, b.login_key) and equal(a.verifier or "", b.verifier or "")


def told_again(credential: Credential, request: ProvisionRequest, keys: Keys) -> str:
    """Give the secret of a credential that this request was told before: supplied, or derived again (P4 with P6)."""
    match credential.type:
        case CredentialsType.ACCESS_TOKEN:
            return request.token or keys.derived_access_token(credential.device_id, credential.generation)
        case CredentialsType.MQTT_BASIC:
            return request.password or keys.derived_password(credential.device_id, credential.generation)
        case CredentialsType.X509_CERTIFICATE:
            return credential.certificate or ""


def grant(credential: Credential, secret: str, device_name: str, ref: str, *, alone: bool = False) -> Granted:
    """Give what the device is told; `alone` says that all older generations ended with it."""
    return Granted(
        credential.device_id,
        device_name,
        credential.type,
        secret,
        ref,
        credential.username or "",
        credential.client_id or "",
        credential.generation if alone else 0,
    )
