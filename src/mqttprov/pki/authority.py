"""The certificate authority: makes itself, server certificates, and device certificates from signing requests.

Its lists of ended certificates are in `mqttprov.pki.crl`.

Profiles are those of security.md SD-17 to SD-19. Where keys are kept is the caller's business: nothing here is a file.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from itertools import pairwise
from typing import Final, Self

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
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
from mqttprov.pki.inspect import AllowedKey, BadCertificate, check_key, key_hash, load_csr

AUTHORITY_DAYS: Final = 3650
MAX_AUTHORITY_DAYS: Final = 36_500
_SERVER_LIFE: Final = timedelta(days=397)  # what clients accept at most (CA/Browser Forum ballot SC-31)
DEVICE_LIFE: Final = timedelta(days=90)
_CLOCK_SKEW: Final = timedelta(minutes=5)
_MAX_COMMON_NAME_BYTES: Final = 64  # ub-common-name, RFC 5280 appendix A.1

# The form of SD-18: linters reject `urn:` and `spiffe:` for a device's URI and accept `https`. The host is one that
# nobody can ever own (`.invalid`, RFC 2606 section 2), so the URI names the device and can lead nowhere.
DEVICE_URI_PREFIX: Final = "https://mqttprov.invalid/device/"


class Authority:
    """A certificate authority with its private key (EC P-256 or P-384).

    `issuers` are the certificates above its own, up to the root, when it was issued by another authority.
    `device_life` is how long the certificates of devices last.
    """

    __slots__ = ("_certificate", "_device_life", "_issuer_key_id", "_issuers", "_key")

    def __init__(
        self,
        certificate: x509.Certificate,
        key: ec.EllipticCurvePrivateKey,
        issuers: Sequence[x509.Certificate] = (),
        device_life: timedelta = DEVICE_LIFE,
    ) -> None:
        self._certificate = certificate
        self._key = key
        self._issuers = tuple(issuers)
        self._device_life = device_life
        subject_key_id = certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        self._issuer_key_id = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(subject_key_id)

    def __repr__(self) -> str:
        return f"Authority({self._certificate.subject.rfc4514_string()!r}, key=***)"

    @classmethod
    def create(cls, common_name: str, now_ms: int, *, days: int = AUTHORITY_DAYS) -> Self:
        """Make a new authority: self-signed, ten years, may issue end certificates only (path length 0).

        It has no name constraints (SD-19): they must be critical, and TLS libraries of small devices refuse a chain
        with a critical extension that they do not know. Raises `ValueError` for a name that X.509 does not take.
        """
        if not common_name.isprintable() or not 1 <= len(common_name.encode()) <= _MAX_COMMON_NAME_BYTES:
            raise ValueError(f"the authority's name must have 1 to {_MAX_COMMON_NAME_BYTES} bytes; choose another")
        if not 1 <= days <= MAX_AUTHORITY_DAYS:
            raise ValueError(f"an authority lasts 1 to {MAX_AUTHORITY_DAYS} days; choose another validity")
        key = ec.generate_private_key(ec.SECP256R1())
        now = _time(now_ms)
        subject = _common_name(common_name)
        certificate = (
            _builder(subject, subject, key.public_key(), x509.random_serial_number())
            .not_valid_before(now - _CLOCK_SKEW)
            .not_valid_after(now + timedelta(days=days))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_key_usage(digital_signature=False, signs_certificates=True), critical=True)
            .sign(key, hashes.SHA256())
        )
        return cls(certificate, key)

    @classmethod
    def from_pem(cls, certificate_pem: str, private_key_pem: str, device_life: timedelta = DEVICE_LIFE) -> Self:
        """Take up an authority that was made before, here or elsewhere; certificates above its own may follow it.

        Raises `ValueError` when the two do not make one.
        """
        certificate, issuers = load_chain(certificate_pem)
        try:
            key = load_pem_private_key(private_key_pem.encode(), password=None)
        except (
            ValueError,
            TypeError,
            UnsupportedAlgorithm,
        ):  # without its cause: nothing about a private key belongs into a traceback
            raise ValueError("the authority's private key cannot be read; give it as unencrypted PEM text") from None
        if isinstance(key, ec.EllipticCurvePrivateKey) and certificate.public_key() == key.public_key():
            return cls(certificate, key, issuers, device_life)
        raise ValueError("the certificate is not that of an authority with this EC key; give the two that fit")

    @property
    def certificate(self) -> x509.Certificate:
        """Its own certificate."""
        return self._certificate

    @property
    def certificate_pem(self) -> str:
        """The authority's certificate and those above it: what clients trust."""
        return "".join(map(_pem, (self._certificate, *self._issuers)))

    def private_key_pem(self) -> str:
        """Give the private key (PKCS#8, not encrypted): for a file of mode 0600 and nothing else (P6)."""
        return _private_key_pem(self._key)

    def is_valid(self, now_ms: int) -> bool:
        """Tell whether it may sign now."""
        return self._certificate.not_valid_before_utc <= _time(now_ms) < self._certificate.not_valid_after_utc

    @property
    def key_id(self) -> bytes:
        """The identifier of its key, by which what it signed names it (RFC 5280 section 4.2.1.1)."""
        return self._issuer_key_id.key_identifier or b""

    def is_from(self, made: x509.CertificateRevocationList) -> bool:
        """Tell whether it has signed a list."""
        return made.is_signature_valid(self._key.public_key())

    def sign_list(self, builder: x509.CertificateRevocationListBuilder) -> x509.CertificateRevocationList:
        """Sign a list of ended certificates as its issuer (RFC 5280 section 5)."""
        named = builder.issuer_name(self._certificate.subject).add_extension(self._issuer_key_id, critical=False)
        return named.sign(self._key, hashes.SHA256())

    def issue_server(self, hosts: Sequence[str], now_ms: int) -> tuple[str, str]:
        """Make key and certificate for a broker that clients reach under these DNS names and IP addresses.

        Gives certificate (with those between it and the root) and private key as PEM. Raises `ValueError` for a host
        that is neither.
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
        between = [issuer for issuer in (self._certificate, *self._issuers) if issuer.subject != issuer.issuer]
        return "".join(map(_pem, (certificate, *between))), _private_key_pem(key)

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
        if not self.is_valid(now_ms):
            raise CredentialsRefused("certificates cannot be issued now; ask the operator", Reason.INTERNAL)
        certificate = self._leaf(
            _common_name(device_name.encode()[:_MAX_COMMON_NAME_BYTES].decode(errors="ignore")),
            public_key,
            int.from_bytes(serial_entropy[:16], "big") or 1,  # RFC 5280 section 4.1.2.2: positive
            (_time(now_ms), self._device_life),
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier(DEVICE_URI_PREFIX + device_id)]),
            ExtendedKeyUsageOID.CLIENT_AUTH,
        )
        return SignedCertificate(
            _pem(certificate),
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


def load_chain(pem: str) -> tuple[x509.Certificate, list[x509.Certificate]]:
    """Read an authority's certificate and those above it. Raises `ValueError` when they are none."""
    try:
        certificate, *issuers = x509.load_pem_x509_certificates(pem.encode())
        extensions = certificate.extensions
        constraints = extensions.get_extension_for_class(x509.BasicConstraints).value
        usage = extensions.get_extension_for_class(x509.KeyUsage).value
        extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
        check_key(certificate.public_key(), "authority")
        for lower, upper in pairwise((certificate, *issuers)):
            lower.verify_directly_issued_by(upper)
    except (
        ValueError,
        TypeError,
        UnsupportedAlgorithm,
        InvalidSignature,
        x509.ExtensionNotFound,
        x509.InvalidVersion,
    ) as error:
        raise ValueError(
            "the authority's certificate cannot be used; give one with basic constraints, key usage, key identifier "
            "and an EC key as PEM text, followed by those above it, if there are any"
        ) from error
    if not (constraints.ca and usage.key_cert_sign and usage.crl_sign):
        raise ValueError("the certificate is not that of an authority that may sign certificates and lists (CRL)")
    return certificate, issuers


def issuer_key_id(certificate: x509.Certificate) -> bytes | None:
    """Give the key identifier of who signed a certificate; None when it does not say."""
    try:
        extensions = certificate.extensions
        return extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
    except (ValueError, x509.ExtensionNotFound, x509.DuplicateExtension):
        return None


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


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(Encoding.PEM).decode("ascii")


def _private_key_pem(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode("ascii")


def _time(at_ms: int) -> datetime:
    return datetime.fromtimestamp(at_ms // 1000, UTC)
