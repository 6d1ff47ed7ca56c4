"""Whether the certificate that a broker has is still good, so that it is not made anew for nothing."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key

_LEFT_AT_LEAST: Final = timedelta(days=30)


def is_good(certificate: Path, private_key: Path, issuer: x509.Certificate, names: Sequence[str], now_ms: int) -> bool:
    """Tell whether the two files fit, last for 30 days, name these hosts, and are what this authority signed."""
    try:
        found = x509.load_pem_x509_certificates(certificate.read_bytes())[0]
        key = load_pem_private_key(private_key.read_bytes(), None)
        found.verify_directly_issued_by(issuer)
        alternative = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm, InvalidSignature, x509.ExtensionNotFound):
        return False
    hosts = {str(name.value) for name in alternative}
    lasts = found.not_valid_after_utc - datetime.fromtimestamp(now_ms // 1000, UTC)
    return (
        key.public_key() == found.public_key()
        and lasts >= _LEFT_AT_LEAST
        and all(_normal(name) in hosts for name in names)
    )


def _normal(name: str) -> str:
    try:
        return str(ip_address(name))
    except ValueError:
        return name
