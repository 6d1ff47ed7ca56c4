"""The names of files in a folder of trusted certificates: those that OpenSSL looks for."""

import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.name import _ASN1Type
from cryptography.x509.oid import NameOID

from mqttprov.pki.name_hash import name_hash

KEY = ec.generate_private_key(ec.SECP256R1())


def openssl_hash(name: x509.Name) -> str:
    """Ask OpenSSL."""
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(KEY.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + timedelta(days=1))
        .sign(KEY, hashes.SHA256())
    )
    pem = certificate.public_bytes(Encoding.PEM)
    done = subprocess.run(["openssl", "x509", "-noout", "-subject_hash"], input=pem, capture_output=True, check=True)
    return done.stdout.decode().strip()


def common_name(text: str, kind: _ASN1Type = _ASN1Type.UTF8String) -> x509.NameAttribute[str]:
    """Make one attribute."""
    return x509.NameAttribute(NameOID.COMMON_NAME, text, kind)


NAMES = [
    x509.Name([]),
    x509.Name([common_name("mqttprov")]),
    x509.Name([common_name("  Two\t words\n ")]),
    x509.Name([common_name("GATEWAY-1", _ASN1Type.PrintableString)]),
    x509.Name([common_name("Größe ÄÖ", _ASN1Type.BMPString)]),
    x509.Name([common_name("Größe ÄÖ", _ASN1Type.UniversalString)]),
    x509.Name([common_name("x" * 64), x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Y" * 64)]),
    x509.Name([x509.NameAttribute(NameOID.EMAIL_ADDRESS, "A@Example.ORG", _ASN1Type.IA5String)]),
    x509.Name(
        [
            x509.NameAttribute(NameOID.COUNTRY_NAME, "DE"),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Plant North"),
            common_name("gw-1"),
        ]
    ),
    x509.Name([x509.RelativeDistinguishedName([common_name("b"), x509.NameAttribute(NameOID.SERIAL_NUMBER, "A  1")])]),
]


@pytest.mark.parametrize("name", NAMES, ids=lambda name: name.rfc4514_string()[:20])
def test_it_is_the_hash_that_openssl_makes(name: x509.Name, need: Callable[[str], None]) -> None:
    """What `openssl rehash` would call the file: case, blanks and encodings folded as there."""
    need("openssl")
    assert name_hash(name) == openssl_hash(name)


def test_names_that_openssl_takes_for_equal_have_one_hash() -> None:
    """Small letters and single blanks are enough."""
    assert name_hash(x509.Name([common_name("Gateway  One")])) == name_hash(x509.Name([common_name("gateway one ")]))
