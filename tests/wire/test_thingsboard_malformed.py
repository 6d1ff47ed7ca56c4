"""Malformed requests: each gets a text that says what and why and quotes nothing; none an exception (P9)."""

import json
from typing import Any

import msgpack
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mqttprov.core.limits import MAX_PEM_CHARS, MAX_REQUEST_BYTES
from mqttprov.core.requests import Malformed, ProvisionRequest
from mqttprov.wire.thingsboard import Encoding, decode

BASE = {"provisionDeviceKey": "KEY", "provisionDeviceSecret": "SECRET"}
HEAD = b'{"provisionDeviceKey":"KEY","provisionDeviceSecret":"SECRET"'


def nested(depth: int) -> Any:
    """Make a value of so many levels."""
    value: Any = "leaf"
    for i in range(depth):
        value = [value] if i % 2 else {"a": value}
    return value


ZOO: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "neither a JSON object nor a msgpack map"),
    "text": (b"hello", "neither a JSON object nor a msgpack map"),
    "array": (b"[]", "neither a JSON object nor a msgpack map"),
    "msgpack array": (b"\x90", "neither a JSON object nor a msgpack map"),
    "blanks": (b"  \n", "not valid JSON"),
    "blanks and an array": (b" []", "not one JSON object"),
    "null after a blank": (b" null", "not one JSON object"),
    "two objects": (HEAD + b"}{}", "nothing else"),
    "cut": (HEAD, "not valid JSON"),
    "single quotes": (b"{'a':1}", "not valid JSON"),
    "trailing comma": (HEAD + b",}", "not valid JSON"),
    "comment": (HEAD + b"/**/}", "not valid JSON"),
    "raw control character": (HEAD + b',"token":"a\nb"}', "not valid JSON"),
    "bad escape": (HEAD + b',"token":"\\x"}', "not valid JSON"),
    "byte order mark": (b"\xef\xbb\xbf" + HEAD + b"}", "byte order mark"),
    "latin-1": (HEAD + b',"token":"\xe9"}', "not UTF-8"),
    "encoded surrogate": (HEAD + b',"token":"\xed\xa0\x80"}', "not UTF-8"),
    "overlong NUL": (HEAD + b',"token":"\xc0\x80"}', "not UTF-8"),
    "utf-16": ("{}".encode("utf-16-le"), "not valid JSON"),
    "NaN": (HEAD + b',"x":NaN}', "NaN"),
    "Infinity": (HEAD + b',"x":[-Infinity]}', "NaN, Infinity"),
    "a number like infinity": (HEAD + b',"x":1e999}', "as large"),
    "65 bits": (HEAD + b',"x":18446744073709551616}', "64 bits"),
    "minus 65 bits": (HEAD + b',"x":-9223372036854775809}', "64 bits"),
    "5000 digits": (HEAD + b',"x":' + b"9" * 5000 + b"}", "64 bits"),
    "same field twice": (HEAD + b',"token":"a-token-1","token":"a-token-2"}', "given twice"),
    "same key twice": (HEAD + b',"provisionDeviceKey":"KEY"}', "given twice"),
    "same escaped field twice": (HEAD + b',"token":"1","tok\\u0065n":"2"}', "given twice"),
    "same field twice below": (HEAD + b',"x":[{"a":1,"a":1}]}', "given twice"),
    "too deep": (json.dumps({**BASE, "x": nested(8)}).encode(), "nested deeper than 8"),
    "far too deep": (HEAD + b',"x":' + b"[" * 8000 + b"]" * 8000 + b"}", "nested deeper than 8"),
    "too large": (HEAD + b" " * MAX_REQUEST_BYTES + b"}", f"larger than {MAX_REQUEST_BYTES} bytes"),
    "too many fields": (json.dumps({**BASE, **{str(i): None for i in range(31)}}).encode(), "more than 32 fields"),
    "no key": (b'{"provisionDeviceSecret":"SECRET"}', "provisionDeviceKey is missing"),
    "no secret": (b'{"provisionDeviceKey":"KEY"}', "provisionDeviceSecret is missing"),
    "no fields": (b"{}", "provisionDeviceKey is missing"),
    "null key": (b'{"provisionDeviceKey":null,"provisionDeviceSecret":"SECRET"}', "provisionDeviceKey is missing"),
    "null secret": (b'{"provisionDeviceKey":"KEY","provisionDeviceSecret":null}', "provisionDeviceSecret is missing"),
    "unknown type": (HEAD + b',"credentialsType":"access_token"}', "not a known type; send ACCESS_TOKEN, MQTT_BASIC"),
    "LwM2M": (HEAD + b',"credentialsType":"LWM2M_CREDENTIALS"}', "LWM2M_CREDENTIALS is not supported"),
    "gateway as text": (HEAD + b',"gateway":"true"}', "gateway is not a boolean"),
    "gateway as number": (HEAD + b',"gateway":1}', "gateway is not a boolean"),
    "labels as text": (HEAD + b',"labels":"a"}', "labels is not an object"),
    "labels as array": (HEAD + b',"labels":[]}', "labels is not an object"),
    "label as number": (HEAD + b',"labels":{"a":1}}', "labels holds a value that is not a string"),
    "label as null": (HEAD + b',"labels":{"a":null}}', "labels holds a value that is not a string"),
    "NUL in a label key": (HEAD + b',"labels":{"\\u0000":""}}', "labels holds the character U+0000"),
    "half a pair in a label": (HEAD + b',"labels":{"a":"\\udfff"}}', "labels holds half of a surrogate pair"),
    "msgpack cut": (b"\x81\xa5token", "not valid msgpack"),
    "msgpack with more behind": (msgpack.packb(BASE) + b"\x00", "not valid msgpack"),
    "msgpack with a never-used byte": (b"\x81\xa1a\xc1", "not valid msgpack"),
    "msgpack not UTF-8": (b"\x81\xa1a\xa1\xff", "not valid msgpack"),
    "msgpack integer key": (b"\x81\x01\x01", "not valid msgpack"),
    "msgpack bytes as key": (b"\x81\xc4\x05token\xa1x", "a field name is not a string"),
    "msgpack same field twice": (b"\x82\xa1a\x01\xa1a\x01", "given twice"),
    "msgpack huge length": (b"\xdf\xff\xff\xff\xff", "not valid msgpack"),
    "msgpack extension": (msgpack.packb({**BASE, "x": msgpack.ExtType(5, b"x")}), "type that JSON does not have"),
    "msgpack time": (msgpack.packb({**BASE, "x": msgpack.Timestamp(1)}), "type that JSON does not have"),
    "msgpack bytes": (msgpack.packb({**BASE, "x": b"raw"}), "type that JSON does not have"),
    "msgpack bytes as token": (msgpack.packb({**BASE, "token": b"raw"}), "token is not a string"),
    "msgpack NaN": (msgpack.packb({**BASE, "x": float("nan")}), "NaN"),
    "msgpack too deep": (msgpack.packb({**BASE, "x": nested(8)}), "nested deeper than 8"),
    "msgpack far too deep": (b"\x81\xa1a" + b"\x91" * 8000 + b"\x01", "not valid msgpack"),
}


@pytest.mark.parametrize("name", ZOO)
def test_the_malformed_zoo(name: str) -> None:
    """What, why and what to do, in the encoding of the request (P9)."""
    payload, why = ZOO[name]
    request, encoding = decode(payload)
    assert isinstance(request, Malformed)
    assert why in request.text
    assert "; " in request.text, "what to do comes after a semicolon"
    assert encoding is (Encoding.MSGPACK if name.startswith("msgpack ") and payload != b"\x90" else Encoding.JSON)


TEXTS = ["provisionDeviceKey", "provisionDeviceSecret", "deviceName", "credentialsType", "token", "username",
         "password", "clientId", "hash", "csr", "requestId"]  # fmt: skip


@pytest.mark.parametrize("field", TEXTS)
@pytest.mark.parametrize("value", [1, 1.5, True, [], {}, ["a"]])
def test_a_field_of_the_wrong_type_is_named(field: str, value: object) -> None:
    """The field is ours to name, its content is not quoted (P6)."""
    for payload in (json.dumps({**BASE, field: value}).encode(), msgpack.packb({**BASE, field: value})):
        assert decode(payload)[0] == Malformed(f"{field} is not a string; send it as a string or leave it out")


@pytest.mark.parametrize("field", TEXTS)
@pytest.mark.parametrize(("text", "why"), [("a\0b", "U+0000"), ("\ud800", "half of a surrogate pair")])
def test_a_character_that_no_string_may_hold_is_refused(field: str, text: str, why: str) -> None:
    """U+0000 and lone surrogates, which only JSON escapes can bring in."""
    request, _ = decode(json.dumps({**BASE, field: text}).encode())
    assert isinstance(request, Malformed)
    assert request.text.startswith(f"{field} holds")
    assert why in request.text


@pytest.mark.parametrize("field", [text for text in TEXTS if text != "deviceName"])
def test_every_string_has_its_limit(field: str) -> None:
    """One more character is too many (P9)."""
    limit = MAX_PEM_CHARS if field in {"hash", "csr"} else 255
    request, _ = decode(json.dumps({**BASE, field: "x" * (limit + 1)}).encode())
    assert request == Malformed(f"{field} has more than {limit} characters; send a shorter one")
    if field != "credentialsType":
        assert isinstance(decode(json.dumps({**BASE, field: "x" * limit}).encode())[0], ProvisionRequest)


def test_the_limits_are_exact() -> None:
    """What is just within them passes: bytes, depth, number of fields, integers of 64 bits."""
    room = MAX_REQUEST_BYTES - len(HEAD) - 1
    for payload in (
        HEAD + b" " * room + b"}",
        json.dumps({**BASE, "x": nested(7)}).encode(),
        json.dumps({**BASE, **{str(i): None for i in range(30)}}).encode(),
        json.dumps({**BASE, "x": [2**64 - 1, -(2**63), 1.7e308]}).encode(),
        msgpack.packb({**BASE, "x": nested(7)}),
        msgpack.packb({**BASE, "x": [2**64 - 1, -(2**63)]}),
    ):
        assert isinstance(decode(payload)[0], ProvisionRequest)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=12,
)
objects = st.dictionaries(st.sampled_from([*TEXTS, "gateway", "labels", "x"]) | st.text(max_size=8), json_values)


def hold(payload: bytes) -> None:
    """A request or a printable text, never an exception, and the same again."""
    request, encoding = decode(payload)
    assert isinstance(request, ProvisionRequest | Malformed)
    assert (request, encoding) == decode(payload)
    if isinstance(request, Malformed):
        assert request.text.isprintable()
        assert len(request.text) < 200


@given(st.binary(max_size=200))
@example(b"\xc1")
def test_any_bytes_give_an_answer(payload: bytes) -> None:
    """Never an exception (P9)."""
    hold(payload)


@given(st.binary(max_size=100), st.sampled_from([b"{", b'{"', b" ", b"\x81", b"\x8f", b"\xde\x00", b"\x81\xa1a\xc7"]))
def test_bytes_that_begin_like_a_request_give_an_answer(payload: bytes, start: bytes) -> None:
    """The same for what reaches the parsers (P9)."""
    hold(start + payload)


@given(objects)
def test_any_object_gives_the_same_answer_in_both_encodings(sent: dict[str, Any]) -> None:
    """JSON and msgpack are twins, also in what they refuse."""
    try:
        packed = msgpack.packb(sent)
    except (OverflowError, ValueError):  # integers that msgpack cannot hold
        packed = None
    text = json.dumps(sent).encode()
    hold(text)
    if packed is not None:
        hold(packed)
        assert decode(packed)[0] == decode(text)[0]


@given(st.sampled_from(TEXTS), st.text("QZXJ", min_size=8, max_size=12), st.sampled_from([300, 1]))
def test_no_text_quotes_what_was_sent(field: str, planted: str, times: int) -> None:
    """Whatever is wrong, a secret in the wrong place is not repeated (P6)."""
    for sent in ({**BASE, field: planted * times}, {field: planted}, {**BASE, field: [planted]}, {planted: planted}):
        request, _ = decode(json.dumps(sent).encode()[: -1 if times == 1 else None])
        if isinstance(request, Malformed):
            assert planted not in request.text
