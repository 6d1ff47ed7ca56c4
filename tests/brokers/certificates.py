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

    def __init__(self, name: str) -> None:
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
            .not_valid_after(now + timedelta(days=30))
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
