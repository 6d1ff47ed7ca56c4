"""Keys, requests and certificates as devices make them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from mqttprov.pki.authority import Authority

NOW_MS = 1_784_000_000_123
KEYS: dict[str, Callable[[], Any]] = {
    "P-256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "P-384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "Ed25519": ed25519.Ed25519PrivateKey.generate,
    "RSA 2048": lambda: rsa.generate_private_key(65537, 2048),
    "P-521": lambda: ec.generate_private_key(ec.SECP521R1()),
    "secp256k1": lambda: ec.generate_private_key(ec.SECP256K1()),
    "Ed448": ed448.Ed448PrivateKey.generate,
    "RSA 1024": lambda: rsa.generate_private_key(65537, 1024),  # noqa: S505 - weak on purpose
    "RSA e=3": lambda: rsa.generate_private_key(3, 2048),
    "DSA": lambda: dsa.generate_private_key(2048),
}


class Maker:
    """Makes what a device would send; keys are made once."""

    now_ms = NOW_MS

    def __init__(self) -> None:
        self._keys: dict[str, Any] = {}

    def key(self, kind: str = "P-256") -> Any:
        """Give the private key of this kind."""
        if kind not in self._keys:
            self._keys[kind] = KEYS[kind]()
        return self._keys[kind]

    @staticmethod
    def _hash(key: Any) -> hashes.SHA256 | None:
        return None if isinstance(key, ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey) else hashes.SHA256()

    def csr(self, kind: str = "P-256", *, common_name: str = "whatever", ca: bool = False) -> str:
        """Make a CSR, optionally one that asks to become an authority."""
        builder = x509.CertificateSigningRequestBuilder().subject_name(self._name(common_name))
        if ca:
            builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        key = self.key(kind)
        return builder.sign(key, self._hash(key)).public_bytes(Encoding.PEM).decode()

    def certificate(self, kind: str = "P-256", *, days: int = 365) -> str:
        """Make a self-signed certificate as the vendor's gateway does: CN=localhost, no extensions."""
        key, now = self.key(kind), datetime.fromtimestamp(NOW_MS // 1000, UTC)
        name = self._name("localhost")
        builder = x509.CertificateBuilder(name, name, key.public_key(), 4711).not_valid_before(
            now - timedelta(days=400)
        )
        signed = builder.not_valid_after(now + timedelta(days=days)).sign(key, self._hash(key))
        return signed.public_bytes(Encoding.PEM).decode()

    @staticmethod
    def _name(common_name: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


@pytest.fixture(scope="session")
def maker() -> Maker:
    """What devices send."""
    return Maker()


@pytest.fixture(scope="session")
def authority() -> Authority:
    """An authority that was made now."""
    return Authority.create("mqttprov test", NOW_MS)
