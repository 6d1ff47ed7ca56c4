"""ThingsBoard's dialect: JSON or msgpack bytes <-> `ProvisionRequest` and `Outcome` (thingsboard.md sections 4 and 5).

Only the form is judged here (security.md SD-12); what is right is decided in `mqttprov.core`, and certificates are
looked into by `mqttprov.pki`. A text of `Malformed` names our own fields and never quotes what the client sent (P6).
"""

import json
from collections.abc import Callable
from enum import Enum
from math import isfinite
from typing import Any, Final, NamedTuple, NoReturn

import msgpack
import msgspec

from mqttprov.core.limits import (
    MAX_PEM_CHARS,
    MAX_REQUEST_BYTES,
    MAX_REQUEST_DEPTH,
    MAX_REQUEST_FIELDS,
    MAX_SECRET_CHARS,
)
from mqttprov.core.model import CredentialsType
from mqttprov.core.requests import (
    Granted,
    Malformed,
    Outcome,
    ProvisionRequest,
    Status,
    SuppliedCertificate,
    SuppliedCsr,
)
from mqttprov.core.secrets import split_claim_code


class Encoding(Enum):
    """How a request is written; the reply is written the same way."""

    JSON = "json"
    MSGPACK = "msgpack"


class _Unclear(Exception):  # noqa: N818 - control flow within this module, not an error
    """The request is malformed; the text says what, why and what to do."""


_JSON_STARTS: Final = frozenset(b"{ \t\r\n\xef")  # an object, blanks before one, or the first byte of a BOM
_MSGPACK_STARTS: Final = frozenset((*range(0x80, 0x90), 0xDE, 0xDF))  # fixmap, map 16, map 32

_TYPES: Final = {str(known): known for known in CredentialsType}


def _credentials_type(text: str) -> CredentialsType:
    try:
        return _TYPES[text]
    except KeyError:
        pass
    why = "LWM2M_CREDENTIALS is not supported" if text == "LWM2M_CREDENTIALS" else "credentialsType is not a known type"
    raise _Unclear(f"{why}; send {', '.join(_TYPES)} or leave it out")


class _TextField(NamedTuple):
    """A field that holds text: its name in `ProvisionRequest`, its bound, whether "" is a value, what it stands for."""

    attribute: str
    max_chars: int = MAX_SECRET_CHARS
    empty_counts: bool = False
    convert: Callable[[str], object] | None = None


_TEXT_FIELDS: Final = {
    # An empty key or secret is wrong, not absent, and so is an empty name (thingsboard.md section 6, steps 1 and 2).
    "provisionDeviceKey": _TextField("key", empty_counts=True),
    "provisionDeviceSecret": _TextField("secret", empty_counts=True),
    # Its length is left to the rules, which tell better what is wrong with a name.
    "deviceName": _TextField("device_name", MAX_REQUEST_BYTES, empty_counts=True),
    "credentialsType": _TextField("credentials_type", convert=_credentials_type),
    "token": _TextField("token"),
    "username": _TextField("username"),
    "password": _TextField("password"),
    "clientId": _TextField("client_id"),
    "hash": _TextField("certificate", MAX_PEM_CHARS, convert=SuppliedCertificate),
    "csr": _TextField("csr", MAX_PEM_CHARS, convert=SuppliedCsr),
    "requestId": _TextField("request_id"),
    "claimCode": _TextField("claim_code"),
}


def encoding_of(payload: bytes) -> Encoding:
    """Tell by its first byte how a request is written; what is neither counts as JSON and is answered so."""
    return Encoding.MSGPACK if payload and payload[0] in _MSGPACK_STARTS else Encoding.JSON


def decode(payload: bytes, *, keyless: bool = False) -> tuple[ProvisionRequest | Malformed, Encoding]:
    """Read a request; give it, or why it cannot be understood, with the encoding that the reply must use.

    `null` and, for optional fields but the name, the empty string mean absent (thingsboard.md rule 12). Unknown fields
    are ignored. `keyless` requests may leave out key and secret together. Never raises. The fingerprints of
    certificates and CSRs are left empty: filling them in takes X.509.
    """
    encoding = encoding_of(payload)
    if len(payload) > MAX_REQUEST_BYTES:
        return Malformed(f"the request is larger than {MAX_REQUEST_BYTES} bytes; send only what is needed"), encoding
    try:
        fields = _read_msgpack(payload) if encoding is Encoding.MSGPACK else _read_json(payload)
        return _request(fields, keyless=keyless), encoding
    except _Unclear as unclear:
        return Malformed(str(unclear)), encoding


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise _Unclear("a field is given twice; send each field once")
    return fields


def _unique_text_keys(pairs: list[tuple[Any, Any]]) -> dict[str, Any]:
    if not all(type(key) is str for key, _ in pairs):
        raise _Unclear("a field name is not a string; send the names as msgpack strings")
    return _unique(pairs)


_JSON_BLANKS: Final = " \t\r\n"
_decode_json: Final = json.JSONDecoder(
    object_pairs_hook=_unique
).raw_decode  # `decode` looks for blanks by regex: +1 us


def _read_json(payload: bytes) -> dict[str, Any]:
    if not payload or payload[0] not in _JSON_STARTS:
        raise _Unclear("the request is neither a JSON object nor a msgpack map; send one of them")
    try:
        text = payload.decode("utf-8").strip(_JSON_BLANKS)
    except UnicodeDecodeError:
        raise _Unclear("the request is not UTF-8; send JSON text in UTF-8") from None
    if text.startswith("\ufeff"):
        raise _Unclear("the request begins with a byte order mark; send JSON text without one")
    try:
        fields, end = _decode_json(text)
    except json.JSONDecodeError:
        raise _Unclear("the request is not valid JSON; check its quotes, commas and brackets") from None
    except RecursionError:
        _too_deep()
    except ValueError:  # an integer of more digits than CPython converts
        _too_large()
    if type(fields) is not dict or end != len(text):
        raise _Unclear("the request is not one JSON object; send {...} with its fields and nothing else")
    return fields


def _read_msgpack(payload: bytes) -> dict[str, Any]:
    try:
        fields: dict[str, Any] = msgpack.unpackb(payload, object_pairs_hook=_unique_text_keys)
    except RecursionError:
        _too_deep()
    except ValueError:  # every error of msgpack is one, invalid UTF-8 included
        raise _Unclear("the request is not valid msgpack; send exactly one complete map") from None
    return fields


def _too_deep() -> NoReturn:
    raise _Unclear(f"the request is nested deeper than {MAX_REQUEST_DEPTH} levels; send flat fields") from None


def _too_large() -> NoReturn:
    raise _Unclear("the request holds an integer of more than 64 bits; send it as a string") from None


def _request(fields: dict[str, Any], *, keyless: bool) -> ProvisionRequest:
    if len(fields) > MAX_REQUEST_FIELDS:
        raise _Unclear(f"the request has more than {MAX_REQUEST_FIELDS} fields; send only those that are needed")
    found: dict[str, Any] = {}
    for name, value in fields.items():
        if value is None:
            continue
        known = _TEXT_FIELDS.get(name)
        if known is None:
            _take_other(found, name, value)
            continue
        if type(value) is not str:
            raise _Unclear(f"{name} is not a string; send it as a string or leave it out")
        attribute, max_chars, empty_counts, convert = known
        # What is printable holds neither U+0000 nor half of a surrogate pair: one quick look for the usual text.
        if len(value) > max_chars or not value.isprintable():
            _check_text(name, value, max_chars)
        if value or empty_counts:
            found[attribute] = value if convert is None else convert(value)
    if keyless and not found.get("key") and not found.get("secret"):
        found["key"] = found["secret"] = ""
    if "key" not in found:
        raise _Unclear("provisionDeviceKey is missing; send the key that was given for provisioning")
    if "secret" not in found:
        raise _Unclear("provisionDeviceSecret is missing; send the secret that was given for provisioning")
    if "claim_code" not in found:
        _take_code(found)
    return ProvisionRequest(**found)


def _take_code(found: dict[str, Any]) -> None:
    """Part a claim code from the secret that it follows; the vendor's gateway has no other place for it."""
    secret, code = split_claim_code(found["secret"])
    if code is not None:
        found.update(secret=secret, claim_code=code, code_with_secret=True)


def _take_other(found: dict[str, Any], name: str, value: object) -> None:
    if name == "gateway":
        if type(value) is not bool:
            raise _Unclear("gateway is not a boolean; send true or false or leave it out")
        found["gateway"] = value
    elif name == "labels":
        found["labels"] = _labels(value)
    else:
        _check_ignored(value, 2)


def _check_text(name: str, text: str, max_chars: int) -> None:
    if len(text) > max_chars:
        raise _Unclear(f"{name} has more than {max_chars} characters; send a shorter one")
    if "\0" in text:
        raise _Unclear(f"{name} holds the character U+0000; send it without")
    if any("\ud800" <= c <= "\udfff" for c in text):
        raise _Unclear(f"{name} holds half of a surrogate pair; send whole characters")


def _labels(value: object) -> dict[str, str]:
    if type(value) is not dict:
        raise _Unclear("labels is not an object; send an object of strings or leave it out")
    for key, text in value.items():
        if type(text) is not str:
            raise _Unclear("labels holds a value that is not a string; send an object of strings")
        _check_text("labels", key, MAX_REQUEST_BYTES)
        _check_text("labels", text, MAX_REQUEST_BYTES)
    return value


def _check_ignored(value: object, depth: int) -> None:
    """Hold a field that nobody reads to what every parser understands alike (SD-12); `depth` counts from 1."""
    kind = type(value)
    if kind is dict or kind is list:
        if depth > MAX_REQUEST_DEPTH:
            _too_deep()
        for inner in value.values() if isinstance(value, dict) else value:  # type: ignore[attr-defined] # a list
            _check_ignored(inner, depth + 1)
    elif isinstance(value, int):
        if not -(2**63) <= value < 2**64:
            _too_large()
    elif isinstance(value, float):
        if not isfinite(value):
            raise _Unclear("the request holds NaN, Infinity or a number that is as large; send a finite number")
    elif value is not None and kind is not str:
        raise _Unclear("the request holds a msgpack type that JSON does not have; send strings, numbers and booleans")


class _Basic(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    client_id: str
    user_name: str  # so in the reply; the request says `username` (thingsboard.md rule 10)
    password: str


class _Success(msgspec.Struct, frozen=True, rename="camel"):
    """In ThingsBoard's order of keys; what comes after `status` is ours."""

    credentials_value: str | _Basic
    credentials_type: CredentialsType
    status: Status
    device_name: str
    device_id: str
    ref: str
    server_time: int


class _Refusal(msgspec.Struct, frozen=True, gc=False, rename="camel", kw_only=True):
    """In ThingsBoard's order of keys; what comes after `status` is ours. `retry_after` is in seconds."""

    error_msg: str
    status: Status
    ref: str
    retry_after: int | msgspec.UnsetType = msgspec.UNSET
    server_time: int


_ENCODE: Final[dict[Encoding, Callable[[object], bytes]]] = {
    Encoding.JSON: msgspec.json.Encoder().encode,
    Encoding.MSGPACK: msgspec.msgpack.Encoder().encode,
}


def encode(outcome: Outcome, encoding: Encoding, *, server_time_ms: int) -> bytes:
    """Write an outcome. The bytes of NOT_FOUND differ only in `ref` and `serverTime`, whatever the reason was."""
    if isinstance(outcome, Granted):
        return _ENCODE[encoding](
            _Success(
                _credentials_value(outcome),
                outcome.type,
                outcome.status,
                outcome.device_name,
                outcome.device_id,
                outcome.ref,
                server_time_ms,
            )
        )
    return _ENCODE[encoding](
        _Refusal(
            error_msg=outcome.text,
            status=outcome.status,
            ref=outcome.ref,
            retry_after=msgspec.UNSET if outcome.retry_after_s is None else outcome.retry_after_s,
            server_time=server_time_ms,
        )
    )


def _credentials_value(granted: Granted) -> str | _Basic:
    match granted.type:
        case CredentialsType.ACCESS_TOKEN:
            return granted.value
        case CredentialsType.MQTT_BASIC:
            return _Basic(granted.client_id, granted.username, granted.value)
        case CredentialsType.X509_CERTIFICATE:
            return "".join(line for line in granted.value.splitlines() if not line.startswith("-----"))
