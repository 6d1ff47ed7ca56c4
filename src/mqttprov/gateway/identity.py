"""What a gateway makes up about itself once and keeps: name, login, key pair. On disk before the first request.

A name drawn anew at every start would make another device at every start, a new key another identity (P4). Credentials
that the server gave are not here but in `credentials_file`.
"""

import datetime as dt
import logging
import secrets
import string
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from mqttprov.gateway.atomic_file import (
    OPERATING_SYSTEM,
    FileLayer,
    remove_leftovers,
    set_aside,
    write_file,
)
from mqttprov.gateway.requests import ProvisionRequest, encode_request
from mqttprov.gateway.settings import GatewaySettings, SecretText

_log = logging.getLogger(__name__)

_NAME_LETTERS: Final = 12  # the vendor draws five, and half of all fleets of 4,060 then have a pair of twins (P8)
_LOGIN_LETTERS: Final = 20
_MAX_FILE_BYTES: Final = 65_536
_MAX_COMMON_NAME: Final = 64  # X.520 ub-common-name; the server knows the device by its key, not by this text
# The certificate is trusted because it was registered, and a new one is a stranger: it must not run out, nor depend on
# the clock of a device that may believe it is 1970. RFC 5280 section 4.1.2.5 has this date for exactly that.
_NOT_BEFORE: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_NOT_AFTER: Final = dt.datetime(9999, 12, 31, 23, 59, 59, tzinfo=dt.UTC)

DeviceKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
Draw = Callable[[str], str]
"""Picks one character of a text at random."""


class IdentityError(RuntimeError):
    """The identity cannot be kept in the gateway's directory; the text says why and what to do."""


class ClientCertificate(msgspec.Struct, frozen=True):
    """The gateway's own certificate: the files that TLS needs and the PEM text that the request carries."""

    certificate_file: Path
    key_file: Path
    pem: str


class Identity(msgspec.Struct, frozen=True):
    """Who a gateway is. `username` and `password` are complete if MQTT_BASIC is asked for, else None."""

    device_name: str
    username: str | None = None
    password: SecretText | None = None
    certificate: ClientCertificate | None = None


class _Kept(msgspec.Struct, rename="camel", omit_defaults=True):
    """identity.json: what was drawn, nothing that was set from outside."""

    device_name: str | None = None
    username: str | None = None
    password: str | None = None


def load_identity(
    settings: GatewaySettings, *, draw: Draw = secrets.choice, files: FileLayer = OPERATING_SYSTEM
) -> Identity:
    """Complete the settings by what was made up before, or is made up and written now.

    Key pairs come from OpenSSL's own randomness, everything else from `draw`. Raises IdentityError.
    """
    try:
        return _load(settings, draw, files)
    except OSError as error:
        raise IdentityError(
            f"cannot keep the gateway's identity in {settings.directory}: {error}; "
            "let this user read and write the directory and see that it has space"
        ) from error


def request_payload(settings: GatewaySettings, identity: Identity, csr: str | None = None) -> bytes:
    """The provision request of this gateway, the same bytes at every start (P4; of a signing request the same key)."""
    kind = settings.credentials_type
    basic, token, certificate = kind == "MQTT_BASIC", settings.access_token, identity.certificate
    return encode_request(
        ProvisionRequest(
            provision_device_key=settings.provision_key,
            provision_device_secret=settings.provision_secret.reveal(),
            device_name=identity.device_name,
            credentials_type=kind,
            token=None if token is None else token.reveal(),
            username=identity.username,
            password=None if identity.password is None else identity.password.reveal(),
            client_id=settings.client_id if basic else None,
            certificate_pem=None if certificate is None else certificate.pem,
            csr=csr,
            gateway=True,
        )
    )


def _load(settings: GatewaySettings, draw: Draw, files: FileLayer) -> Identity:
    path = settings.directory / "identity.json"
    remove_leftovers(path, files)
    kept = _read_kept(path, files)
    wanted = _Kept(kept.device_name, kept.username, kept.password)
    basic = settings.credentials_type == "MQTT_BASIC"
    if settings.device_name is None and wanted.device_name is None:
        wanted.device_name = "Gateway " + _letters(draw, _NAME_LETTERS)
    if basic and settings.username is None and wanted.username is None:
        wanted.username = _letters(draw, _LOGIN_LETTERS)
    # A login without a password would be as good as public, so one is made up, as the vendor's gateway does.
    if basic and settings.password is None and wanted.password is None:
        wanted.password = _letters(draw, _LOGIN_LETTERS)
    if wanted != kept:
        write_file(path, msgspec.json.encode(wanted), files)
    name = settings.device_name or wanted.device_name or ""
    certificate = None
    if settings.credentials_type == "X509_CERTIFICATE" and not settings.signing_request:
        certificate = _load_certificate(settings.directory, name, files)
    if not basic:
        return Identity(name, certificate=certificate)
    return Identity(name, settings.username or wanted.username, settings.password or SecretText(wanted.password or ""))


def _letters(draw: Draw, count: int) -> str:
    return "".join(draw(string.ascii_lowercase) for _ in range(count))


def _read_kept(path: Path, files: FileLayer) -> _Kept:
    try:
        return msgspec.json.decode(files.read(path, _MAX_FILE_BYTES), type=_Kept)
    except FileNotFoundError:
        return _Kept()
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        bad = set_aside(path, files)
        _log.warning("%s is not usable (%s): set aside as %s, drawing a new identity", path, error, bad.name)
        return _Kept()


def _load_certificate(directory: Path, device_name: str, files: FileLayer) -> ClientCertificate:
    certificate_file, key_file = directory / "cert.pem", directory / "key.pem"
    remove_leftovers(certificate_file, files)
    # The key first: a certificate can be made again from it, the other way round it cannot.
    key = kept_key(key_file, files)
    certificate = _read_certificate(certificate_file, key, files)
    if certificate is None:
        certificate = _self_signed(key, device_name)
        write_file(certificate_file, certificate.public_bytes(serialization.Encoding.PEM), files)
    return ClientCertificate(
        certificate_file, key_file, certificate.public_bytes(serialization.Encoding.PEM).decode("ascii")
    )


def kept_key(path: Path, files: FileLayer) -> DeviceKey:
    """Read a private key, or make and write it. Raises OSError."""
    remove_leftovers(path, files)
    key = read_key(path, files)
    if key is None:
        key = ec.generate_private_key(ec.SECP256R1())
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        write_file(path, pem, files)
    return key


def read_key(path: Path, files: FileLayer) -> DeviceKey | None:
    """Read a private key; one that cannot be used is set aside and counts as absent. Raises OSError."""
    try:
        key = serialization.load_pem_private_key(files.read(path, _MAX_FILE_BYTES), password=None)
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:  # TypeError: the key is encrypted
        why = str(error)
    else:
        if isinstance(key, DeviceKey):
            return key
        why = "neither an EC nor an RSA key"
    bad = set_aside(path, files)
    _log.warning("%s is not usable (%s): set aside as %s, making a new key", path, why, bad.name)
    return None


def _read_certificate(path: Path, key: DeviceKey, files: FileLayer) -> x509.Certificate | None:
    try:
        certificate = x509.load_pem_x509_certificate(files.read(path, _MAX_FILE_BYTES))
    except FileNotFoundError:
        return None
    except ValueError as error:
        why = str(error)
    else:
        if certificate.public_key() == key.public_key():
            return certificate
        why = "it belongs to another key"
    bad = set_aside(path, files)
    _log.warning("%s is not usable (%s): set aside as %s, making a new certificate", path, why, bad.name)
    return None


def _self_signed(key: DeviceKey, device_name: str) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, device_name[:_MAX_COMMON_NAME])])
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_NOT_BEFORE)
        .not_valid_after(_NOT_AFTER)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
