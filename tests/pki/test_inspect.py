"""Inspection of what a device brings: keys, possession, form (security.md SD-16)."""

from __future__ import annotations

import base64
import hashlib
import subprocess
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from mqttprov.pki.authority import Authority
from mqttprov.pki.inspect import BadCertificate, inspect_certificate, inspect_csr

if TYPE_CHECKING:
    from tests.pki.conftest import Maker

GOOD = ["P-256", "P-384", "Ed25519", "RSA 2048"]
BAD = ["P-521", "secp256k1", "Ed448", "RSA 1024", "RSA e=3", "DSA"]


def der_of(pem: str) -> bytes:
    """Decode the one block of a PEM text."""
    return base64.b64decode("".join(line for line in pem.splitlines() if not line.startswith("---")))


def pem_of(der: bytes, label: str) -> str:
    """Wrap DER as PEM."""
    return f"-----BEGIN {label}-----\n{base64.encodebytes(der).decode()}-----END {label}-----\n"


@pytest.mark.parametrize("kind", GOOD)
def test_a_certificate_is_told_by_its_hashes(maker: Maker, kind: str) -> None:
    """SHA-256 of the DER and of the SubjectPublicKeyInfo, for every allowed kind of key."""
    pem = maker.certificate(kind)
    found = inspect_certificate(pem, maker.now_ms)
    public = maker.key(kind).public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert found.fingerprint == hashlib.sha256(der_of(pem)).hexdigest()
    assert found.public_key == hashlib.sha256(public).hexdigest()
    assert found.pem == pem


@pytest.mark.parametrize("kind", GOOD)
def test_a_csr_is_told_by_its_key(maker: Maker, kind: str) -> None:
    """Two requests of one key, signed anew, are one device's (P4)."""
    first, second = inspect_csr(maker.csr(kind)), inspect_csr(maker.csr(kind, common_name="other"))
    assert first.pem != second.pem
    assert first.public_key == second.public_key
    assert first.public_key == inspect_certificate(maker.certificate(kind), maker.now_ms).public_key


@pytest.mark.parametrize("kind", BAD)
def test_other_keys_are_refused(maker: Maker, kind: str) -> None:
    """Weak, exotic or unusable for TLS clients (SD-16)."""
    with pytest.raises(BadCertificate, match="key of the certificate is not allowed; use EC P-256"):
        inspect_certificate(maker.certificate(kind), maker.now_ms)
    with pytest.raises(BadCertificate, match="key of the signing request is not allowed"):
        inspect_csr(maker.csr(kind))


def test_form_does_not_matter_but_comes_out_normal(maker: Maker) -> None:
    """Line ends, blanks around and text before the block."""
    pem = maker.certificate()
    for loose in (pem.replace("\n", "\r\n"), f"\n\n{pem}\n\n", f"subject=CN = localhost\n{pem}", pem.rstrip()):
        assert inspect_certificate(loose, maker.now_ms).pem == pem
    csr = maker.csr()
    assert inspect_csr(csr.replace(" CERTIFICATE REQUEST", " NEW CERTIFICATE REQUEST")).pem == csr


def test_an_expired_certificate_is_refused(maker: Maker) -> None:
    """It could never log in."""
    inspect_certificate(maker.certificate(days=1), maker.now_ms)
    with pytest.raises(BadCertificate, match="expired; make a new one"):
        inspect_certificate(maker.certificate(days=-1), maker.now_ms)


def test_a_csr_that_another_key_signed_is_refused(maker: Maker) -> None:
    """Proof of possession: somebody else's public key cannot be certified."""

    def point(key: ec.EllipticCurvePrivateKey) -> bytes:
        return key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)

    victim = ec.generate_private_key(ec.SECP256R1())
    stolen = der_of(maker.csr()).replace(point(maker.key()), point(victim))
    with pytest.raises(BadCertificate, match="not signed with its own key"):
        inspect_csr(pem_of(stolen, "CERTIFICATE REQUEST"))


def test_more_or_other_than_one_block_is_refused(maker: Maker) -> None:
    """A chain, the wrong kind, nothing at all, or the private key with it: each a clear error."""
    pem, csr, now = maker.certificate(), maker.csr(), maker.now_ms
    private = maker.key().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    for text, why in {
        pem + pem: "exactly one certificate",
        csr: "exactly one certificate",
        "testHash": "exactly one certificate",
        "": "exactly one certificate",
        pem + private: "never send that",
        private: "never send that",
        pem + "x" * 9000: "more than 8192 characters",
        "-----BEGIN CERTIFICATE-----\n": "cannot be read",
        pem.replace("M", "!", 1): "cannot be read",
        pem_of(b"\x30\x00", "CERTIFICATE"): "cannot be read",
        pem_of(b"", "CERTIFICATE"): "cannot be read",
        pem.replace("-----END CERTIFICATE-----", ""): "cannot be read",
        pem_of(der_of(csr), "CERTIFICATE"): "cannot be read",
        f"\ud800{pem}": "cannot be read",
    }.items():
        with pytest.raises(BadCertificate, match=why) as caught:
            inspect_certificate(text, now)
        assert private.splitlines()[1] not in str(caught.value)
    for text in (pem, csr + csr, "", pem_of(der_of(pem), "CERTIFICATE REQUEST"), csr + private, f"\ud800{csr}"):
        with pytest.raises(BadCertificate, match="signing request"):
            inspect_csr(text)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_damaged_der_never_fails_in_another_way(maker: Maker, authority: Authority, data: st.DataObject) -> None:
    """A certificate, a CSR or `BadCertificate`; nothing else comes out of a parser (P9)."""
    issued = authority.sign_device(maker.csr(), "0a", "gw", b"\x01" * 16, maker.now_ms).pem
    kind = data.draw(st.sampled_from(["CERTIFICATE", "CERTIFICATE REQUEST"]))
    der = bytearray(der_of(issued if kind == "CERTIFICATE" else maker.csr()))
    for place, byte in data.draw(st.lists(st.tuples(st.integers(0, 999), st.integers(0, 255)), min_size=1, max_size=3)):
        der[place % len(der)] = byte  # signatures are random, and so is their length
    text = pem_of(bytes(der), kind)
    with suppress(BadCertificate):
        if kind == "CERTIFICATE":
            inspect_certificate(text, maker.now_ms)
        else:
            inspect_csr(text)


@settings(deadline=None)
@given(
    st.text(max_size=60), st.sampled_from(["", "-----BEGIN CERTIFICATE-----\n", "-----BEGIN CERTIFICATE REQUEST-----"])
)
def test_any_text_is_at_most_a_bad_certificate(text: str, start: str) -> None:
    """For whatever a device puts into `hash` or `csr` (P9)."""
    with pytest.raises(BadCertificate):
        inspect_certificate(start + text, 0)
    with pytest.raises(BadCertificate):
        inspect_csr(start + text)


def test_openssl_makes_what_we_accept(tmp_path_factory: pytest.TempPathFactory, need: Callable[[str], None]) -> None:
    """A CSR of the tool that people use."""
    need("openssl")
    folder = tmp_path_factory.mktemp("openssl")
    command = ["openssl", "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj",
               "/CN=gw-1", "-keyout", "key.pem", "-out", "csr.pem"]  # fmt: skip
    subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=20)
    assert len(inspect_csr((folder / "csr.pem").read_text()).public_key) == 64
