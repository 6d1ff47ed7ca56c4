"""The authority: profiles of what it issues, and that other implementations accept them (SD-17 to SD-19)."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from mqttprov.core.credentials import CredentialsRefused, Sign
from mqttprov.core.requests import Reason
from mqttprov.pki.authority import Authority
from mqttprov.pki.inspect import inspect_certificate, inspect_csr

if TYPE_CHECKING:
    from tests.pki.conftest import Maker

DAY_MS = 86_400_000
SERIAL = bytes(range(0xF0, 0x100))


def load(pem: str) -> x509.Certificate:
    """Read a certificate."""
    return x509.load_pem_x509_certificate(pem.encode())


def common_name(certificate: x509.Certificate) -> str | bytes:
    """Give the one common name; there must be nothing else in the subject."""
    (attribute,) = certificate.subject
    assert attribute.oid == NameOID.COMMON_NAME
    return attribute.value


def usages(certificate: x509.Certificate) -> set[str]:
    """Give the key usages that are set; the extension must be critical."""
    extension = certificate.extensions.get_extension_for_class(x509.KeyUsage)
    assert extension.critical
    names = ["digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
             "key_cert_sign", "crl_sign"]  # fmt: skip
    return {name for name in names if getattr(extension.value, name)}


def test_the_authoritys_own_profile(authority: Authority, maker: Maker) -> None:
    """Self-signed, P-256, path length 0, ten years, may sign certificates and lists and nothing else (SD-19)."""
    made = load(authority.certificate_pem)
    constraints = made.extensions.get_extension_for_class(x509.BasicConstraints)
    assert (constraints.critical, constraints.value.ca, constraints.value.path_length) == (True, True, 0)
    assert usages(made) == {"key_cert_sign", "crl_sign"}
    assert made.subject == made.issuer
    assert common_name(made) == "mqttprov test"
    assert made.not_valid_after_utc - made.not_valid_before_utc == timedelta(days=3650, minutes=5)
    assert isinstance(made.public_key(), ec.EllipticCurvePublicKey)
    assert made.signature_algorithm_oid == x509.SignatureAlgorithmOID.ECDSA_WITH_SHA256
    made.verify_directly_issued_by(made)


def test_the_device_profile(authority: Authority, maker: Maker) -> None:
    """X.509 v3 as SD-17 and SD-18 say; what the CSR asked for is ignored (SD-16)."""
    signed = authority.sign_device(maker.csr(common_name="admin", ca=True), "0a1b", "gw 1", SERIAL, maker.now_ms)
    leaf, ca = load(signed.pem), load(authority.certificate_pem)
    extensions = leaf.extensions
    leaf.verify_directly_issued_by(ca)
    assert leaf.version is x509.Version.v3
    assert common_name(leaf) == "gw 1"
    assert usages(leaf) == {"digital_signature"}
    constraints = extensions.get_extension_for_class(x509.BasicConstraints)
    assert (constraints.critical, constraints.value.ca) == (True, False)
    assert list(extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    names = extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert list(names.value) == [x509.UniformResourceIdentifier("https://mqttprov.invalid/device/0a1b")]
    subject_key = x509.SubjectKeyIdentifier.from_public_key(maker.key().public_key())
    assert extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value == subject_key
    issuer_key = extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
    assert issuer_key == ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    assert len(list(extensions)) == 6
    now = datetime.fromtimestamp(maker.now_ms // 1000, UTC)
    assert leaf.not_valid_before_utc == now - timedelta(minutes=5)
    assert leaf.not_valid_after_utc == now + timedelta(days=90)
    assert leaf.serial_number == int.from_bytes(SERIAL, "big") > 0


def test_what_is_told_of_a_signed_certificate_fits_it(authority: Authority, maker: Maker) -> None:
    """Fingerprint and key are those that a login presents and a retry brings (P4)."""
    sign: Sign = authority.sign_device
    signed = sign(maker.csr(), "0a1b", "gw-1", SERIAL, maker.now_ms)
    assert signed.fingerprint == hashlib.sha256(load(signed.pem).public_bytes(Encoding.DER)).hexdigest()
    assert signed.public_key == inspect_csr(maker.csr()).public_key
    inspected = inspect_certificate(signed.pem, maker.now_ms)
    assert (inspected.pem, inspected.fingerprint, inspected.public_key) == (
        signed.pem, signed.fingerprint, signed.public_key
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "expected"), [("x" * 255, "x" * 64), ("東" * 30, "東" * 21), ("ü" * 33, "ü" * 32), ("a", "a")]
)
def test_long_names_are_cut_where_x509_ends(authority: Authority, maker: Maker, name: str, expected: str) -> None:
    """64 bytes, and never half a character; the id in the URI tells the device."""
    signed = authority.sign_device(maker.csr(), "0a", name, SERIAL, maker.now_ms)
    assert common_name(load(signed.pem)) == expected


def test_a_serial_is_positive_whatever_the_entropy(authority: Authority, maker: Maker) -> None:
    """RFC 5280 section 4.1.2.2: positive and at most 20 octets."""
    for entropy in (bytes(16), b"\xff" * 16):
        serial = load(authority.sign_device(maker.csr(), "0a", "gw", entropy, maker.now_ms).pem).serial_number
        assert 0 < serial < 2**159


def test_nothing_lives_longer_than_the_authority(authority: Authority, maker: Maker) -> None:
    """Near its end certificates get shorter, and behind it there are none (SD-17)."""
    end = load(authority.certificate_pem).not_valid_after_utc
    near_end_ms = maker.now_ms + 3640 * DAY_MS
    assert load(authority.sign_device(maker.csr(), "0a", "gw", SERIAL, near_end_ms).pem).not_valid_after_utc == end
    assert load(authority.issue_server(["broker"], near_end_ms)[0]).not_valid_after_utc == end
    for bad_ms in (maker.now_ms + 3651 * DAY_MS, maker.now_ms - DAY_MS):
        with pytest.raises(CredentialsRefused, match="cannot be issued now") as caught:
            authority.sign_device(maker.csr(), "0a", "gw", SERIAL, bad_ms)
        assert caught.value.reason is Reason.INTERNAL


@pytest.mark.parametrize("csr", ["", "-----BEGIN CERTIFICATE REQUEST-----\n", "RSA 1024"])
def test_a_bad_csr_is_a_refusal(authority: Authority, maker: Maker, csr: str) -> None:
    """The rules turn it into an outcome with its event (P5)."""
    text = maker.csr(csr) if csr.startswith("RSA") else csr
    with pytest.raises(CredentialsRefused, match="signing request") as caught:
        authority.sign_device(text, "0a", "gw", SERIAL, maker.now_ms)
    assert caught.value.reason is Reason.BAD_CREDENTIALS


def test_the_server_profile(authority: Authority, maker: Maker) -> None:
    """Names and addresses, serverAuth only, 397 days, with a key of its own."""
    hosts = ["broker.example", "127.0.0.1", "::1", "*.plant.example", "localhost"]
    pem, key_pem = authority.issue_server(hosts, maker.now_ms)
    made, key = load(pem), load_pem_private_key(key_pem.encode(), None)
    names = made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["broker.example", "*.plant.example", "localhost"]
    assert names.get_values_for_type(x509.IPAddress) == [ip_address("127.0.0.1"), ip_address("::1")]
    usage = made.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.SERVER_AUTH]
    assert usages(made) == {"digital_signature"}
    assert made.not_valid_after_utc - made.not_valid_before_utc == timedelta(days=397, minutes=5)
    assert made.public_key() == key.public_key()
    made.verify_directly_issued_by(load(authority.certificate_pem))


def test_a_host_name_longer_than_a_common_name_is_only_an_alternative_name(authority: Authority, maker: Maker) -> None:
    """Then the subject is empty and the alternative names are critical (RFC 5280 section 4.2.1.6)."""
    host = "a" * 60 + ".example"
    made = load(authority.issue_server([host], maker.now_ms)[0])
    names = made.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert (list(made.subject), names.critical) == ([], True)
    assert names.value.get_values_for_type(x509.DNSName) == [host]


@pytest.mark.parametrize(
    "hosts", [[], [""], ["a b"], ["münchen.example"], ["-a.example"], ["a..b"], ["x" * 64 + ".example"], ["https://a"]]
)
def test_what_is_no_host_gets_no_certificate(authority: Authority, maker: Maker, hosts: list[str]) -> None:
    """Neither a DNS name nor an address."""
    with pytest.raises(ValueError, match="DNS name"):
        authority.issue_server(hosts, maker.now_ms)


@pytest.mark.parametrize("name", ["", "x" * 65])
def test_an_authority_needs_a_name_that_x509_takes(name: str) -> None:
    """1 to 64 bytes."""
    with pytest.raises(ValueError, match="1 to 64 bytes"):
        Authority.create(name, 0)


def test_an_authority_comes_back_from_its_files(authority: Authority, maker: Maker) -> None:
    """The same one: what it signs then verifies as before."""
    again = Authority.from_pem(authority.certificate_pem, authority.private_key_pem())
    assert again.certificate_pem == authority.certificate_pem
    signed = again.sign_device(maker.csr(), "0a", "gw", SERIAL, maker.now_ms)
    load(signed.pem).verify_directly_issued_by(load(authority.certificate_pem))


def test_two_files_that_do_not_make_an_authority_are_refused(authority: Authority, maker: Maker) -> None:
    """Each with what is wrong, and without a byte of the key (P6)."""
    other = Authority.create("other", maker.now_ms)
    server, server_key = authority.issue_server(["broker"], maker.now_ms)
    ed25519_key = maker.key("Ed25519").private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    public = maker.key().public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    own, key = authority.certificate_pem, authority.private_key_pem()
    for pair, why in {
        ("", key): "certificate cannot be used",
        (maker.certificate(), key): "certificate cannot be used",
        (own, ""): "private key cannot be read",
        (own, public): "private key cannot be read",
        (own, key[:100]): "private key cannot be read",
        (own, other.private_key_pem()): "not that of an authority with this EC key",
        (own, ed25519_key): "not that of an authority with this EC key",
        (server, server_key): "not that of an authority that may sign certificates",
    }.items():
        with pytest.raises(ValueError, match=why) as caught:
            Authority.from_pem(*pair)
        assert key.splitlines()[1] not in str(caught.value)


def test_an_authority_does_not_show_its_key(authority: Authority) -> None:
    """Nor anything that could hold it (P6)."""
    assert repr(authority) == "Authority('CN=mqttprov test', key=***)"
    assert not hasattr(authority, "__dict__")


@pytest.mark.parametrize("kind", ["P-256", "P-384", "Ed25519", "RSA 2048"])
def test_openssl_accepts_what_we_issue(
    authority: Authority, maker: Maker, tmp_path: Path, kind: str, need: Callable[[str], None]
) -> None:
    """Strict checks of another implementation, for both purposes and every allowed key."""
    need("openssl")
    server, _ = authority.issue_server(["broker.example", "127.0.0.1"], maker.now_ms)
    device = authority.sign_device(maker.csr(kind), "0a1b", "gw-1", SERIAL, maker.now_ms).pem
    for name, text in {"ca": authority.certificate_pem, "server": server, "device": device}.items():
        (tmp_path / f"{name}.pem").write_text(text)
    base = [
        "openssl",
        "verify",
        "-x509_strict",
        "-check_ss_sig",
        "-attime",
        str(maker.now_ms // 1000),
        "-CAfile",
        "ca.pem",
    ]
    for purpose, name in (("sslclient", "device"), ("sslserver", "server")):
        done = subprocess.run(
            [*base, "-purpose", purpose, f"{name}.pem"],
            cwd=tmp_path, check=False, capture_output=True, text=True, timeout=20,
        )  # fmt: skip
        assert (done.returncode, done.stdout) == (0, f"{name}.pem: OK\n"), done.stderr
