"""The certificate authority: makes itself, server certificates, and device certificates from signing requests.

Profiles are those of security.md SD-17 to SD-19. Where keys are kept is the caller's business: nothing here is a file.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from typing import Final, Self

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from mqttprov.core.credentials import CredentialsRefused, SignedCertificate
from mqttprov.core.requests import Reason
from mqttprov.core.secrets import fingerprint
from mqttprov.pki.inspect import AllowedKey, BadCertificate, key_hash, load_csr

_AUTHORITY_LIFE: Final = timedelta(days=3650)
_SERVER_LIFE: Final = timedelta(days=397)  # what clients accept at most (CA/Browser Forum ballot SC-31)
_DEVICE_LIFE: Final = timedelta(days=90)
_CLOCK_SKEW: Final = timedelta(minutes=5)
_MAX_COMMON_NAME_BYTES: Final = 64  # ub-common-name, RFC 5280 appendix A.1

# The form of SD-18: linters reject `urn:` and `spiffe:` for a device's URI and accept `https`. The host is one that
# nobody can ever own (`.invalid`, RFC 2606 section 2), so the URI names the device and can lead nowhere.
DEVICE_URI_PREFIX: Final = "https://mqttprov.invalid/device/"


class Authority:
    """A certificate authority with its private key (P-256)."""

    __slots__ = ("_certificate", "_issuer_key_id", "_key")

    def __init__(self, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
        self._certificate = certificate
        self._key = key
        subject_key_id = certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        self._issuer_key_id = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(subject_key_id)

    def __repr__(self) -> str:
        return f"Authority({self._certificate.subject.rfc4514_string()!r}, key=***)"

    @classmethod
    def create(cls, common_name: str, now_ms: int) -> Self:
        """Make a new authority: self-signed, ten years, may issue end certificates only (path length 0).

        It has no name constraints (SD-19): they must be critical, and TLS libraries of small devices refuse a chain
        with a critical extension that they do not know. Raises `ValueError` for a name that X.509 does not take.
        """
        if not 1 <= len(common_name.encode()) <= _MAX_COMMON_NAME_BYTES:
            raise ValueError(f"the authority's name must have 1 to {_MAX_COMMON_NAME_BYTES} bytes; choose another")
        key = ec.generate_private_key(ec.SECP256R1())
        now = _time(now_ms)
        subject = _common_name(common_name)
        certificate = (
            _builder(subject, subject, key.public_key(), x509.random_serial_number())
            .not_valid_before(now - _CLOCK_SKEW)
            .not_valid_after(now + _AUTHORITY_LIFE)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_key_usage(digital_signature=False, signs_certificates=True), critical=True)
            .sign(key, hashes.SHA256())
        )
        return cls(certificate, key)

    @classmethod
    def from_pem(cls, certificate_pem: str, private_key_pem: str) -> Self:
        """Take up an authority that was made before. Raises `ValueError` when the two do not make one."""
        try:
            certificate = x509.load_pem_x509_certificate(certificate_pem.encode())
            constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
            certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
        except (ValueError, UnsupportedAlgorithm, x509.ExtensionNotFound, x509.InvalidVersion) as error:
            raise ValueError("the authority's certificate cannot be used; give the PEM text that was made") from error
        try:
            key = load_pem_private_key(private_key_pem.encode(), password=None)
        except (
            ValueError,
            TypeError,
            UnsupportedAlgorithm,
        ):  # without its cause: nothing about a private key belongs into a traceback
            raise ValueError("the authority's private key cannot be read; give it as unencrypted PEM text") from None
        if (
            isinstance(key, ec.EllipticCurvePrivateKey)
            and constraints.ca
            and certificate.public_key() == key.public_key()
        ):
            return cls(certificate, key)
        raise ValueError("the certificate is not that of an authority with this EC key; give the two that fit")

    @property
    def certificate_pem(self) -> str:
        """The authority's certificate, which clients trust."""
        return self._certificate.public_bytes(Encoding.PEM).decode("ascii")

    def private_key_pem(self) -> str:
        """Give the private key (PKCS#8, not encrypted): for a file of mode 0600 and nothing else (P6)."""
        return _private_key_pem(self._key)

    def issue_server(self, hosts: Sequence[str], now_ms: int) -> tuple[str, str]:
        """Make key and certificate for a broker that clients reach under these DNS names and IP addresses.

        Gives certificate and private key as PEM. Raises `ValueError` for a host that is neither.
        """
        if not hosts:
            raise ValueError("a server certificate needs at least one host; give a DNS name or an IP address")
        key = ec.generate_private_key(ec.SECP256R1())
        first = hosts[0] if len(hosts[0]) <= _MAX_COMMON_NAME_BYTES else ""
        certificate = self._leaf(
            _common_name(first) if first else x509.Name([]),
            key.public_key(),
            x509.random_serial_number(),
            (_time(now_ms), _SERVER_LIFE),
            x509.SubjectAlternativeName([_host_name(host) for host in hosts]),
            ExtendedKeyUsageOID.SERVER_AUTH,
        )
        return certificate.public_bytes(Encoding.PEM).decode("ascii"), _private_key_pem(key)

    def sign_device(
        self, csr_pem: str, device_id: str, device_name: str, serial_entropy: bytes, now_ms: int
    ) -> SignedCertificate:
        """Issue a device certificate for the key of a CSR; fits `mqttprov.core.credentials.Sign`.

        Only the key is taken from the CSR: subject and extensions come from here (SD-16). The device is named by the
        URI with its id; the common name is its name, cut where X.509 ends, for people to read. The serial is made of
        the 16 bytes. Raises `CredentialsRefused` for a bad CSR and when this authority is not valid at `now_ms`.
        """
        try:
            _, public_key = load_csr(csr_pem)
        except BadCertificate as error:
            raise CredentialsRefused(str(error)) from error
        now = _time(now_ms)
        if not self._certificate.not_valid_before_utc <= now < self._certificate.not_valid_after_utc:
            raise CredentialsRefused("certificates cannot be issued now; ask the operator", Reason.INTERNAL)
        certificate = self._leaf(
            _common_name(device_name.encode()[:_MAX_COMMON_NAME_BYTES].decode(errors="ignore")),
            public_key,
            int.from_bytes(serial_entropy[:16], "big") or 1,  # RFC 5280 section 4.1.2.2: positive
            (now, _DEVICE_LIFE),
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier(DEVICE_URI_PREFIX + device_id)]),
            ExtendedKeyUsageOID.CLIENT_AUTH,
        )
        return SignedCertificate(
            certificate.public_bytes(Encoding.PEM).decode("ascii"),
            fingerprint(certificate.public_bytes(Encoding.DER)),
            key_hash(public_key),
        )

    def _leaf(
        self,
        subject: x509.Name,
        public_key: AllowedKey,
        serial: int,
        life: tuple[datetime, timedelta],
        names: x509.SubjectAlternativeName,
        purpose: x509.ObjectIdentifier,
    ) -> x509.Certificate:
        """Sign an end certificate; its validity never reaches beyond the authority's (SD-17)."""
        now, duration = life
        nameless = not subject.rdns
        return (
            _builder(subject, self._certificate.subject, public_key, serial)
            .not_valid_before(max(now - _CLOCK_SKEW, self._certificate.not_valid_before_utc))
            .not_valid_after(min(now + duration, self._certificate.not_valid_after_utc))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(digital_signature=True, signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
            .add_extension(names, critical=nameless)  # RFC 5280 section 4.2.1.6
            .add_extension(self._issuer_key_id, critical=False)
            .sign(self._key, hashes.SHA256())
        )


def _builder(subject: x509.Name, issuer: x509.Name, public_key: AllowedKey, serial: int) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(serial)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )


def _key_usage(*, digital_signature: bool, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _common_name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _host_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        pass
    labels = host.removeprefix("*.").split(".")
    if not host.isascii() or len(host) > 253 or not all(_is_dns_label(label) for label in labels):
        raise ValueError(f"{host[:80]!r} is neither a DNS name nor an IP address; give internationalised names as xn--")
    return x509.DNSName(host)


def _is_dns_label(label: str) -> bool:
    return 1 <= len(label) <= 63 and label.strip("-") == label and label.replace("-", "").isalnum()


def _private_key_pem(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode("ascii")


def _time(at_ms: int) -> datetime:
    return datetime.fromtimestamp(at_ms // 1000, UTC)
