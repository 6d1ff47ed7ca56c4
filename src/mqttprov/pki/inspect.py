"""What a device's certificate or signing request (CSR) is worth: its form, its key, its hashes (security.md SD-16).

Everything that parses X.509 sent by a device is here; issuing is in `mqttprov.pki.authority`.
"""

import re
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key
from cryptography.utils import CryptographyDeprecationWarning
from cryptography.x509.oid import NameOID

from mqttprov.core.factory import PresentedCertificate
from mqttprov.core.limits import MAX_PEM_CHARS
from mqttprov.core.requests import SuppliedCertificate, SuppliedCsr
from mqttprov.core.secrets import fingerprint

AllowedKey = ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey | rsa.RSAPublicKey

_CURVES: Final = (ec.SECP256R1, ec.SECP384R1)
_RSA_BITS: Final = range(2048, 4096 + 1)
_RSA_EXPONENT: Final = 65537
_ALLOWED: Final = "use EC P-256 or P-384, Ed25519, or RSA of 2048 to 4096 bits"
_BLOCK: Final = re.compile(r"-----BEGIN ([A-Z0-9 ]+)-----")


class BadCertificate(ValueError):  # noqa: N818 - it names what is wrong, like the rest of the rules
    """A certificate or CSR that cannot be used; the text says why and what to do, and may be told to the device."""


def inspect_certificate(pem: str, now_ms: int) -> SuppliedCertificate:
    """Give a device's certificate in normal form with the SHA-256 (hex) of its DER and of its public key.

    Any issuer will do, itself included (thingsboard.md section 7): what identifies the device is the fingerprint, and
    that it has the key is shown by the TLS handshake. Raises `BadCertificate`, also when it has expired at `now_ms`.
    """
    _only_block(pem, "certificate", ("CERTIFICATE",))
    try:
        certificate = x509.load_pem_x509_certificate(pem.encode())
        public_key = certificate.public_key()
        expires_ms = certificate.not_valid_after_utc.timestamp() * 1000
        normal = certificate.public_bytes(Encoding.PEM).decode("ascii")
        der = certificate.public_bytes(Encoding.DER)
        positive = certificate.serial_number > 0
    except (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion, CryptographyDeprecationWarning):
        raise BadCertificate("the certificate cannot be read; send one X.509 certificate as PEM text") from None
    if not positive:  # until cryptography refuses it by itself; where warnings are errors it does already
        raise BadCertificate("the certificate has no positive serial number; make a new one")
    if now_ms > expires_ms:
        raise BadCertificate("the certificate has expired; make a new one")
    return SuppliedCertificate(normal, fingerprint(der), key_hash(check_key(public_key, "certificate")))


def inspect_presented(der: bytes) -> PresentedCertificate:
    """Give the client certificate of a TLS connection with its hashes, common name and validity.

    Raises `BadCertificate` for what cannot be an identity here: a weak key, or more than anybody needs.
    """
    try:
        certificate = x509.load_der_x509_certificate(der)
        pem = certificate.public_bytes(Encoding.PEM).decode("ascii")
        public_key = check_key(certificate.public_key(), "certificate")
        common_names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        validity = (certificate.not_valid_before_utc, certificate.not_valid_after_utc)
    except BadCertificate:
        raise
    except (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion, CryptographyDeprecationWarning):
        raise BadCertificate("the certificate cannot be read") from None
    if len(pem) > MAX_PEM_CHARS:
        raise BadCertificate(f"the certificate has more than {MAX_PEM_CHARS} characters as PEM text")
    common_name = common_names[0].value if len(common_names) == 1 else None
    return PresentedCertificate(
        pem,
        fingerprint(der),
        key_hash(public_key),
        common_name if isinstance(common_name, str) else None,
        *(int(at.timestamp() * 1000) for at in validity),
    )


def inspect_csr(pem: str) -> SuppliedCsr:
    """Give a CSR with the SHA-256 (hex) of its public key, once its own signature has proved possession of the key.

    Raises `BadCertificate`.
    """
    request, public_key = load_csr(pem)
    return SuppliedCsr(request.public_bytes(Encoding.PEM).decode("ascii"), key_hash(public_key))


def load_csr(pem: str) -> tuple[x509.CertificateSigningRequest, AllowedKey]:
    """Read a CSR, check its key and signature; give it with its public key. Raises `BadCertificate`."""
    _only_block(pem, "signing request", ("CERTIFICATE REQUEST", "NEW CERTIFICATE REQUEST"))
    unreadable = "the signing request cannot be read; send one PKCS#10 request as PEM text"
    try:
        request = x509.load_pem_x509_csr(pem.encode())
        public_key = check_key(request.public_key(), "signing request")
        proven = request.is_signature_valid
    except BadCertificate:
        raise
    except (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion):
        raise BadCertificate(unreadable) from None
    if not proven:
        raise BadCertificate("the signing request is not signed with its own key; sign it with the device's key")
    return request, public_key


def inspect_public_key(pem: str) -> str:
    """Give the SHA-256 (hex) of a device's public key. Raises `BadCertificate`."""
    _only_block(pem, "public key", ("PUBLIC KEY",))
    try:
        key = load_pem_public_key(pem.encode())
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise BadCertificate("the public key cannot be read; give one SubjectPublicKeyInfo as PEM text") from None
    if not isinstance(key, AllowedKey):
        raise BadCertificate(f"this kind of key is not allowed; {_ALLOWED}")
    return key_hash(check_key(key, "device"))


def key_hash(key: AllowedKey) -> str:
    """Give the SHA-256 (hex) of a public key (DER of its SubjectPublicKeyInfo, RFC 5280 section 4.1)."""
    return fingerprint(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))


def check_key(key: CertificatePublicKeyTypes, what: str) -> AllowedKey:
    """Give the key back if it is strong enough and of a kind that MQTT clients use. Raises `BadCertificate`."""
    if isinstance(key, ec.EllipticCurvePublicKey):
        if isinstance(key.curve, _CURVES):
            return key
    elif isinstance(key, rsa.RSAPublicKey):
        if key.key_size in _RSA_BITS and key.public_numbers().e == _RSA_EXPONENT:
            return key
    elif isinstance(key, ed25519.Ed25519PublicKey):
        return key
    raise BadCertificate(f"the key of the {what} is not allowed; {_ALLOWED}")


def _only_block(pem: str, what: str, labels: tuple[str, ...]) -> None:
    """Make sure that the text holds one PEM block and of the right kind: a chain or a private key is a mistake."""
    if len(pem) > MAX_PEM_CHARS:
        raise BadCertificate(f"the {what} has more than {MAX_PEM_CHARS} characters; send one without additions")
    found = _BLOCK.findall(pem)
    if any("PRIVATE KEY" in label for label in found):
        raise BadCertificate(f"the {what} comes with a private key; never send that, and make a new key now")
    if len(found) != 1 or found[0] not in labels:
        raise BadCertificate(f"the text must hold exactly one {what}; send one block 'BEGIN {labels[0]}'")
