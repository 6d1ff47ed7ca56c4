"""Whether an operator's list of authorities vouches for a certificate (RFC 5280 section 6, in what we need of it).

The TLS handshake checks the chain that a client sends, against all that is trusted there; here it is told which
profile's authorities issued the certificate, by those in its list alone.
"""

from datetime import UTC, datetime
from functools import lru_cache
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding

from mqttprov.core.limits import MAX_AUTHORITIES, MAX_PEM_CHARS
from mqttprov.pki.inspect import BadCertificate, check_key

_BEGIN: Final = "-----BEGIN "


def check_authorities(pem: str, now_ms: int) -> str:
    """Check a list of authorities' certificates; give it in normal form. Raises `BadCertificate`."""
    if len(pem) > MAX_AUTHORITIES * MAX_PEM_CHARS:
        raise BadCertificate("the list of authorities is too large; give only those that issue certificates")
    if "PRIVATE KEY" in pem:
        raise BadCertificate("the list of authorities holds a private key; give certificates only")
    if not 1 <= pem.count(_BEGIN) <= MAX_AUTHORITIES:
        raise BadCertificate(f"a list of authorities holds 1 to {MAX_AUTHORITIES} certificates as PEM text")
    try:
        certificates = _load(pem)
        for certificate in certificates:
            check_key(certificate.public_key(), "authority")
    except (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion) as error:
        why = str(error) if isinstance(error, BadCertificate) else "give X.509 certificates as PEM text"
        raise BadCertificate(f"the list of authorities cannot be used: {why}") from None
    now = datetime.fromtimestamp(now_ms / 1000, UTC)
    for certificate in certificates:
        name = certificate.subject.rfc4514_string()[:80]
        if not _is_authority(certificate, 0):
            raise BadCertificate(f"{name!r} is not the certificate of an authority; give those that issue the devices'")
        if not _is_valid(certificate, now):
            raise BadCertificate(f"the authority {name!r} is not valid now; give its newer certificate")
    return "".join(certificate.public_bytes(Encoding.PEM).decode("ascii") for certificate in certificates)


def vouches_for(authorities_pem: str, certificate_pem: str, now_ms: int) -> bool:
    """Tell whether one of the authorities issued the certificate, and those above it in the list issued that one."""
    certificate = x509.load_pem_x509_certificate(certificate_pem.encode())
    return _is_issued(certificate, _load(authorities_pem), datetime.fromtimestamp(now_ms / 1000, UTC), 0)


@lru_cache(maxsize=64)
def _load(pem: str) -> tuple[x509.Certificate, ...]:
    return tuple(x509.load_pem_x509_certificates(pem.encode()))


def _is_issued(
    certificate: x509.Certificate, authorities: tuple[x509.Certificate, ...], now: datetime, below: int
) -> bool:
    """Go up from authority to authority, as far as the list knows; `below` is how many stand between it and the end."""
    for authority in authorities:
        if (
            authority.subject == certificate.issuer
            and _is_valid(authority, now)
            and _is_authority(authority, below)
            and _has_signed(authority, certificate)
        ):
            is_top = not any(other.subject == authority.issuer for other in authorities)
            if is_top or authority.subject == authority.issuer:
                return True
            if below < MAX_AUTHORITIES and _is_issued(authority, authorities, now, below + 1):
                return True
    return False


def _has_signed(authority: x509.Certificate, certificate: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def _is_valid(certificate: x509.Certificate, now: datetime) -> bool:
    return certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc


def _is_authority(certificate: x509.Certificate, below: int) -> bool:
    """Tell whether it may sign certificates, with so many authorities below it."""
    try:
        extensions = certificate.extensions
        constraints = extensions.get_extension_for_class(x509.BasicConstraints).value
    except (ValueError, x509.ExtensionNotFound, x509.DuplicateExtension):
        return False
    try:
        signs = extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign
    except x509.ExtensionNotFound:
        signs = True
    return constraints.ca and signs and (constraints.path_length is None or constraints.path_length >= below)
