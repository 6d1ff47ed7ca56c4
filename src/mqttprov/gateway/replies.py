"""What a gateway makes of a provision reply: bytes -> `Credentials` or `Refusal`, and nothing else.

The credentials file holds the reply as the server sent it, so the same function reads both (reference/thingsboard.md
sections 5 and 11.2). How the server writes replies is `mqttprov.wire`'s business.
"""

from collections.abc import Callable
from typing import Any, Final, Literal, TypeGuard

import msgspec

CredentialsType = Literal["ACCESS_TOKEN", "MQTT_BASIC", "X509_CERTIFICATE"]

# NETTY_MAX_PAYLOAD_SIZE, the platform's limit; a longer reply cannot be one (P9).
MAX_REPLY_BYTES: Final = 65_536
UNUSABLE: Final = "UNUSABLE"
# A login under this name or client id is a provisioning session (reference/thingsboard.md rule 2), so credentials that
# say so would "work" and never be of any use.
_RESERVED: Final = "provision"
_MAX_TEXT_CHARACTERS: Final = 200
# A year: longer makes no difference to anybody, and a giant JSON integer does not fit a float.
_LONGEST_S: Final = 31_536_000.0


class Credentials(msgspec.Struct, frozen=True, gc=False):
    """What to put into CONNECT. For X509_CERTIFICATE all three are empty: the client certificate is the login."""

    type: CredentialsType
    client_id: str = ""
    username: str | None = None
    password: str | None = None

    def __repr__(self) -> str:
        return f"Credentials(type={self.type!r})"


class Refusal(msgspec.Struct, frozen=True, gc=False):
    """No credentials: NOT_FOUND or FAILURE from the server, or UNUSABLE when the reply makes no sense.

    `message` is one printable line; `retry_after_s` is 0 when the server did not say.
    """

    status: str
    message: str
    retry_after_s: float = 0.0


class _Reply(msgspec.Struct, rename="camel", gc=False):
    status: Any = None
    credentials_type: Any = None
    credentials_value: Any = None
    error_msg: Any = None
    retry_after: Any = None


_DECODER: Final = msgspec.json.Decoder(_Reply)


def parse_reply(payload: bytes) -> Credentials | Refusal:
    """Read a provision reply or the content of a credentials file. Never raises: what is unusable is a Refusal (P10).

    `null` means absent; unknown members are ignored. MQTT_BASIC needs `userName`; it may be "" when there is a
    `clientId` (the platform writes "" for what was not given) and then no user name is sent.
    """
    if len(payload) > MAX_REPLY_BYTES:
        return _unusable(f"the reply is {len(payload)} bytes long, at most {MAX_REPLY_BYTES} are accepted")
    try:
        reply = _DECODER.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _unusable("the reply is not a JSON object")
    if reply.status != "SUCCESS":
        return _refusal(reply)
    kind = reply.credentials_type
    if kind is None:
        return _unusable("SUCCESS without credentialsType")
    read_value = _BY_TYPE.get(kind) if isinstance(kind, str) else None
    if read_value is None:
        return _unusable("credentialsType is none of " + ", ".join(_BY_TYPE))
    return read_value(reply.credentials_value)


def printable(text: str) -> str:
    """Somebody else's text as one bounded line without control characters, fit for a log."""
    text = text[:_MAX_TEXT_CHARACTERS]
    return text if text.isprintable() else "".join(c if c.isprintable() else "?" for c in text)


def _token(value: object) -> Credentials | Refusal:
    if _is_mqtt_text(value) and value != _RESERVED:
        return Credentials("ACCESS_TOKEN", username=value)
    return _unusable("ACCESS_TOKEN without a usable credentialsValue")


def _basic(value: object) -> Credentials | Refusal:
    if not isinstance(value, dict):
        return _unusable("MQTT_BASIC without a credentialsValue object")
    client_id, username, password = value.get("clientId") or "", value.get("userName"), value.get("password") or ""
    if username is None:
        return _unusable("MQTT_BASIC without userName")
    if not all(part == "" or _is_mqtt_text(part) for part in (client_id, username, password)):
        return _unusable("MQTT_BASIC with members that are not text for MQTT")
    if _RESERVED in {client_id, username} or not (username or (client_id and not password)):
        return _unusable("MQTT_BASIC with nothing to log in with")
    return Credentials("MQTT_BASIC", client_id, username or None, password or None)


def _x509(value: object) -> Credentials | Refusal:
    if _is_mqtt_text(value):
        return Credentials("X509_CERTIFICATE")
    return _unusable("X509_CERTIFICATE without a usable credentialsValue")


_BY_TYPE: Final[dict[str, Callable[[object], Credentials | Refusal]]] = {
    "ACCESS_TOKEN": _token,
    "MQTT_BASIC": _basic,
    "X509_CERTIFICATE": _x509,
}


def _is_mqtt_text(value: object) -> TypeGuard[str]:
    """Whether it is a non-empty MQTT UTF-8 string (MQTT 5 section 1.5.4): no U+0000, 65,535 bytes at most."""
    if not isinstance(value, str) or not value or "\0" in value:
        return False
    try:
        return len(value.encode()) <= 65_535
    except UnicodeEncodeError:
        return False


def _refusal(reply: _Reply) -> Refusal:
    status, after = reply.status, reply.retry_after
    if not isinstance(status, str) or status not in {"NOT_FOUND", "FAILURE"}:
        return _unusable("the reply has no known status")
    if isinstance(after, bool) or not isinstance(after, int | float) or after < 0:
        after = 0.0
    message = printable(reply.error_msg) if isinstance(reply.error_msg, str) else "no reason given"
    return Refusal(status, message, float(min(after, _LONGEST_S)))


def _unusable(message: str) -> Refusal:
    return Refusal(UNUSABLE, message)
