"""Keys, certificates and signing requests as a device makes them, and TLS contexts for them. No test lives here."""

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID


class DeviceKey:
    """A device's key pair with a self-signed certificate of its own."""

    def __init__(self, name: str, *, life: timedelta = timedelta(days=30)) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self._subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        now = datetime.now(UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(self._subject)
            .issuer_name(self._subject)
            .public_key(self.key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(minutes=5))
            .not_valid_after(now + life)
            .sign(self.key, hashes.SHA256())
        )
        self.certificate_pem = certificate.public_bytes(Encoding.PEM).decode()

    def csr_pem(self) -> str:
        """Make a signing request for the key."""
        request = x509.CertificateSigningRequestBuilder().subject_name(self._subject).sign(self.key, hashes.SHA256())
        return request.public_bytes(Encoding.PEM).decode()

    def private_key_pem(self) -> str:
        """Give the private key, not encrypted."""
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()

    def context(self, authority: Path, folder: Path, certificate_pem: str | None = None) -> ssl.SSLContext:
        """Make a client's context that shows this certificate (its own, or another one for its key)."""
        chain, key = folder / "chain.pem", folder / "key.pem"
        chain.write_text(certificate_pem or self.certificate_pem)
        key.write_text(self.private_key_pem())
        context = ssl.create_default_context(cafile=authority)
        context.load_cert_chain(chain, key)
        return context


def pem_of(credentials_value: str) -> str:
    """Put the armour back that ThingsBoard's form of a certificate leaves out."""
    return f"-----BEGIN CERTIFICATE-----\n{credentials_value}\n-----END CERTIFICATE-----\n"


class FactoryAuthority:
    """A factory's authority: self-signed, or issued by another one."""

    def __init__(
        self,
        name: str,
        issuer: "FactoryAuthority | None" = None,
        *,
        path_length: int | None = None,
        days: int = 30,
        is_authority: bool = True,
        signs: bool = True,
    ) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        usage = dict.fromkeys(
            ["digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
             "encipher_only", "decipher_only"], False
        )  # fmt: skip
        certificate = (
            _builder(self.subject, issuer.subject if issuer else self.subject, self.key, days)
            .add_extension(x509.BasicConstraints(is_authority, path_length if is_authority else None), critical=True)
            .add_extension(x509.KeyUsage(**usage, key_cert_sign=signs, crl_sign=signs), critical=True)
            .sign(issuer.key if issuer else self.key, hashes.SHA256())
        )
        self.pem = certificate.public_bytes(Encoding.PEM).decode()

    def issue(self, device: DeviceKey, common_name: str | None, days: int = 30) -> str:
        """Issue a certificate for a device's key; without a name its subject is empty."""
        names = [] if common_name is None else [x509.NameAttribute(NameOID.COMMON_NAME, common_name)]
        certificate = _builder(x509.Name(names), self.subject, device.key, days).sign(self.key, hashes.SHA256())
        return certificate.public_bytes(Encoding.PEM).decode()


def der_of(pem: str) -> bytes:
    """Give a certificate as it comes out of a TLS handshake."""
    return x509.load_pem_x509_certificate(pem.encode()).public_bytes(Encoding.DER)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, days: int
) -> x509.CertificateBuilder:
    """Begin a certificate that is valid for so many days, or ended some days ago."""
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=30))
        .not_valid_after(now + timedelta(days=days))
    )
