"""Secrets: how they are made, derived, kept as keyed hashes and compared. Never stored, printed or logged (P6).

The pepper and the issuing key live outside the database, so that a stolen database verifies nothing and logs in nowhere
(DESIGN 5.4, 5.5). All secrets made here have 160 bits; keyed SHA-256 is enough for those (security.md SD-2).
"""

import base64
import binascii
import hashlib
import hmac
import re
from typing import Final

REGISTRATION_SECRET_PREFIX: Final = "mqp_rs_"  # noqa: S105 - lets scanners and log filters find leaked secrets
ACCESS_TOKEN_PREFIX: Final = "mqp_at_"  # noqa: S105 - the same
PASSWORD_PREFIX: Final = "mqp_pw_"  # noqa: S105 - the same
CLAIM_SECRET_PREFIX: Final = "mqp_cs_"  # noqa: S105 - the same
CLAIM_CODE_PREFIX: Final = "mqp_cc_"
SECRET_ENTROPY_BYTES: Final = 20
KEY_ENTROPY_BYTES: Final = 15
ID_ENTROPY_BYTES: Final = 10
MASTER_KEY_BYTES: Final = 32
REFERENCE_ENTROPY_BYTES: Final = 8
_BLOCK_BYTES: Final = 64  # of SHA-256
_CLAIM_CODE: Final = re.compile(f"{CLAIM_CODE_PREFIX}[a-z2-7]{{{SECRET_ENTROPY_BYTES * 8 // 5}}}")
_URL_SAFE: Final = bytes.maketrans(b"+/", b"-_")


def _words(raw: bytes) -> str:
    """Base32 in lower case, for what people copy: one word to a double click, no look-alikes."""
    return base64.b32encode(raw).rstrip(b"=").lower().decode("ascii")


def _compact(raw: bytes) -> str:
    """URL-safe Base64, for what only machines read: short, and quick to make on the hot path."""
    return binascii.b2a_base64(raw, newline=False).translate(_URL_SAFE, b"=").decode("ascii")


def _join(parts: tuple[str, ...]) -> bytes:
    """Join without ambiguity: ("ab", "c") and ("a", "bc") must not hash alike."""
    joined = "\0".join(parts)
    if joined.count("\0") != len(parts) - 1:
        # Only a password can hold a NUL. No other message begins with one, so the two forms never meet.
        joined = "\0" + "".join([f"{len(part)}:{part}" for part in parts])
    return joined.encode("utf-8", "surrogatepass")


def split_claim_code(text: str) -> tuple[str, str | None]:
    """Part `<secret>:<claim code>`; None when no claim code follows, and then the text is the secret.

    Nothing is ambiguous: a code has one form, no secret that we make ends like one, and no other is taken that does.
    """
    secret, colon, code = text.rpartition(":")
    return (secret, code) if colon and _CLAIM_CODE.fullmatch(code) else (text, None)


class _Hmac:
    """HMAC-SHA256 (RFC 2104) with one key, which is hashed once: `hmac` takes more than twice as long, key or copy."""

    __slots__ = ("_inner", "_outer")

    def __init__(self, key: bytes) -> None:
        block = (hashlib.sha256(key).digest() if len(key) > _BLOCK_BYTES else key).ljust(_BLOCK_BYTES, b"\0")
        self._inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in block))
        self._outer = hashlib.sha256(bytes(byte ^ 0x5C for byte in block))

    def of(self, message: bytes) -> bytes:
        """Give the keyed hash of a message."""
        inner, outer = self._inner.copy(), self._outer.copy()
        inner.update(message)
        outer.update(inner.digest())
        return outer.digest()


class Keys:
    """The two master keys (32 bytes each) and everything that is computed with them.

    The `pepper` keys all hashes in the database; the `issuing_key` derives the secrets that we make for devices, so
    that a repeated request gets the same answer without any secret being stored (P4 with P6).
    """

    __slots__ = ("_issuing_key", "_pepper")

    def __init__(self, *, pepper: bytes, issuing_key: bytes) -> None:
        if len(pepper) < MASTER_KEY_BYTES or len(issuing_key) < MASTER_KEY_BYTES:
            raise ValueError(f"pepper and issuing key need {MASTER_KEY_BYTES} bytes each")
        self._pepper = _Hmac(pepper)
        self._issuing_key = _Hmac(issuing_key)

    def __repr__(self) -> str:
        return "Keys(***)"

    def mac(self, *parts: str) -> str:
        """Give the keyed hash (hex) of the parts; the first part says what it is for, so that uses never mix."""
        return self._pepper.of(_join(parts)).hex()

    def derive(self, *parts: str) -> bytes:
        """Derive 20 secret bytes from the issuing key; the same parts give the same bytes."""
        return self._issuing_key.of(_join(parts))[:SECRET_ENTROPY_BYTES]

    def derived_access_token(self, device_id: str, generation: int) -> str:
        """Give the access token that we make for this generation of a device (34 characters)."""
        return ACCESS_TOKEN_PREFIX + _compact(self.derive("access-token", device_id, str(generation)))

    def derived_password(self, device_id: str, generation: int) -> str:
        """Give the MQTT password that we make for this generation of a device (34 characters)."""
        return PASSWORD_PREFIX + _compact(self.derive("mqtt-password", device_id, str(generation)))

    def derived_name(self, proof: str) -> str:
        """Give the device name for a nameless request that can be recognised again: same proof, same name (P4)."""
        return "device-" + _words(self.derive("device-name", proof)[:KEY_ENTROPY_BYTES])[:16]

    def registration_verifier(self, key: str, secret: str) -> str:
        """Give what the store keeps of a registration token's secret."""
        return self.mac("registration-secret", key, secret)


def equal(a: str, b: str) -> bool:
    """Compare two keyed hashes in constant time (security.md SD-1)."""
    return hmac.compare_digest(a, b)


def new_registration_key(entropy: bytes) -> str:
    """Make a `provisionDeviceKey` from 15 random bytes: 24 characters, public."""
    return _words(entropy[:KEY_ENTROPY_BYTES])


def new_registration_secret(entropy: bytes) -> str:
    """Make a `provisionDeviceSecret` from 20 random bytes."""
    return REGISTRATION_SECRET_PREFIX + _words(entropy[:SECRET_ENTROPY_BYTES])


def new_claim_secret(entropy: bytes) -> str:
    """Make the secret by which one device comes in for the first time, from 20 random bytes."""
    return CLAIM_SECRET_PREFIX + _words(entropy[:SECRET_ENTROPY_BYTES])


def new_claim_code(entropy: bytes) -> str:
    """Make the one-time code that completes a device's transfer, from 20 random bytes."""
    return CLAIM_CODE_PREFIX + _words(entropy[:SECRET_ENTROPY_BYTES])


def new_password(entropy: bytes) -> str:
    """Make an operator's MQTT password from 20 random bytes. Made by us, so it needs no slow hash (DESIGN 5.5)."""
    return PASSWORD_PREFIX + _words(entropy[:SECRET_ENTROPY_BYTES])


def new_id(now_ms: int, entropy: bytes) -> str:
    """Make a public id (32 hex digits) from the time and 10 random bytes.

    The time comes first (as in UUIDv7, RFC 9562 section 5.7), so that new rows land at the end of an index and a
    database with a million devices inserts as fast as an empty one.
    """
    return now_ms.to_bytes(6, "big").hex() + entropy[:ID_ENTROPY_BYTES].hex()


def new_reference(entropy: bytes) -> str:
    """Make the `ref` of an outcome from 8 random bytes: 16 hex digits, what a person quotes to support."""
    return entropy[:REFERENCE_ENTROPY_BYTES].hex()


def fingerprint(der: bytes) -> str:
    """Give the SHA-256 fingerprint (hex) of a DER certificate or public key."""
    return hashlib.sha256(der).hexdigest()
