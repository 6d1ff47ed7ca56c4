"""What a provision reply tells, as far as promises need it: who it is for, and a fingerprint of the credentials."""

from hashlib import sha256
from typing import Any, Final

import msgspec

_FINGERPRINT_DIGITS: Final = 16


class _Reply(msgspec.Struct, rename="camel", gc=False):
    device_name: Any = None
    credentials_type: Any = None
    credentials_value: Any = None
    status: Any = None


_DECODER: Final = msgspec.json.Decoder(_Reply)


class ToldReply(msgspec.Struct, frozen=True, gc=False):
    """`device`: whom it names, None if nobody. `fingerprint`: of its credentials, None if it holds none (P6)."""

    device: str | None
    fingerprint: str | None


_NOTHING: Final = ToldReply(None, None)


def look_into(payload: bytes) -> ToldReply:
    """Read a reply or the content of a credentials file; what makes no sense tells nothing."""
    try:
        reply = _DECODER.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _NOTHING
    device = reply.device_name if isinstance(reply.device_name, str) else None
    kind, value = reply.credentials_type, reply.credentials_value
    if reply.status not in {None, "SUCCESS"} or not isinstance(kind, str) or not value:
        return ToldReply(device, None)
    if not isinstance(value, str):
        value = msgspec.json.encode(value, order="sorted").decode()
    return ToldReply(device, sha256(f"{kind}\0{value}".encode()).hexdigest()[:_FINGERPRINT_DIGITS])


def fingerprint_of(stored: bytes | None) -> str | None:
    """Give the fingerprint of stored credentials."""
    return None if stored is None else look_into(stored).fingerprint
