"""Proof of P9: whatever comes in, a clear refusal or a closed connection goes out, nothing is logged as an exception,
and the next client is served.
"""

import json
from collections.abc import Callable
from itertools import count
from typing import Any

import msgpack
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.brokers.harness import Client, Running, ask

from mqttprov.core.limits import MAX_REQUEST_BYTES, MAX_REQUEST_DEPTH
from mqttprov.core.permissions import REQUEST_TOPIC, RESPONSE_TOPIC
from mqttprov.mqtt import (
    Connect,
    Disconnect,
    Pingreq,
    ProtocolVersion,
    Puback,
    Publish,
    ReasonCode,
    Subscribe,
    Subscription,
    Unsubscribe,
    Will,
    encode,
)
from mqttprov.responder.administration import IssuedToken

V311, V5 = ProtocolVersion.V311, ProtocolVersion.V5


@pytest.fixture(scope="module")
def sources() -> Callable[[], str]:
    """Give addresses of which none comes twice, so that the limiter never answers in a test's place."""
    numbers = count(1)
    return lambda: f"127.{1 + (n := next(numbers)) // 62_500}.{n // 250 % 250}.{1 + n % 250}"


def _deep(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def _changed(**fields: Any) -> Callable[[dict[str, Any]], bytes]:
    return lambda good: json.dumps({**good, **fields}).encode()


def _raw(payload: bytes) -> Callable[[dict[str, Any]], bytes]:
    return lambda _: payload


def _spliced(text: str) -> Callable[[dict[str, Any]], bytes]:
    """Write a good request with something more before its end."""
    return lambda good: json.dumps(good)[:-1].encode() + text.encode("utf-8", "surrogatepass") + b"}"


BAD_REQUESTS: dict[str, Callable[[dict[str, Any]], bytes]] = {
    "empty": _raw(b""),
    "not-json": _raw(b"hello"),
    "half-json": lambda good: json.dumps(good).encode()[:-7],
    "list": _raw(b"[]"),
    "string": _raw(b'"x"'),
    "null": _raw(b"null"),
    "number": _raw(b"7"),
    "two-objects": lambda good: json.dumps(good).encode() * 2,
    "bom": lambda good: b"\xef\xbb\xbf" + json.dumps(good).encode(),
    "utf-16": lambda good: json.dumps(good).encode("utf-16"),
    "not-utf-8": _raw(b'{"provisionDeviceKey":"\xff"}'),
    "nul-bytes": _raw(b"\0" * 50),
    "no-key": _raw(b'{"provisionDeviceSecret":"x"}'),
    "no-secret": lambda good: json.dumps({"provisionDeviceKey": good["provisionDeviceKey"]}).encode(),
    "null-key": _changed(provisionDeviceKey=None),
    "number-key": _changed(provisionDeviceKey=7),
    "list-secret": _changed(provisionDeviceSecret=["x"]),
    "object-name": _changed(deviceName={}),
    "true-name": _changed(deviceName=True),
    "number-token": _changed(token=1.5),
    "text-gateway": _changed(gateway="yes"),
    "text-labels": _changed(labels="x"),
    "number-label": _changed(labels={"a": 1}),
    "foreign-label": _changed(labels={"a": "b"}),
    "duplicate-key": _spliced(',"deviceName":"gw-2"'),
    "duplicate-inner-key": _spliced(',"x":{"a":1,"a":2}'),
    "too-deep": _changed(x=_deep(MAX_REQUEST_DEPTH + 1)),
    "far-too-deep": _spliced(',"x":' + "[" * 4000 + "]" * 4000),
    "too-large": _changed(x="x" * MAX_REQUEST_BYTES),
    "too-many-fields": _changed(**{f"x{n}": n for n in range(50)}),
    "huge-number": _spliced(',"x":' + "9" * 5000),
    "infinity": _spliced(',"x":1e999'),
    "nan": _spliced(',"x":NaN'),
    "lone-surrogate-name": _spliced(',"deviceName":"gw\\ud800"'),
    "lone-surrogate-token": _changed(token="token\udfff-token"),
    "encoded-surrogate": _raw(b'{"provisionDeviceKey":"\xed\xa0\x80"}'),
    "plus-name": _changed(deviceName="gw+1"),
    "hash-name": _changed(deviceName="#"),
    "slash-name": _changed(deviceName="gw/1"),
    "nul-name": _changed(deviceName="gw\0"),
    "dollar-name": _changed(deviceName="$SYS"),
    "control-name": _changed(deviceName="gw\x1b[31m"),
    "invisible-name": _changed(deviceName="gw\u200b"),
    "empty-name": _changed(deviceName=""),
    "blank-name": _changed(deviceName="   "),
    "long-name": _changed(deviceName="x" * 256),
    "unknown-type": _changed(credentialsType="PIGEON"),
    "lwm2m": _changed(credentialsType="LWM2M_CREDENTIALS"),
    "x509-without-certificate": _changed(credentialsType="X509_CERTIFICATE"),
    "type-and-field-differ": _changed(credentialsType="MQTT_BASIC", token="some-token"),
    "not-a-certificate": _changed(hash="not a certificate"),
    "broken-certificate": _changed(hash="-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----"),
    "not-a-csr": _changed(csr="not a request"),
    "short-token": _changed(token="short"),
    "control-token": _changed(token="token\x07token"),
    "provision-token": _changed(token="provision"),
    "password-alone": _changed(password="some-password"),
    "msgpack-cut": lambda good: msgpack.packb(good)[:-3],
    "msgpack-deep": _raw(b"\x81\xa1x" + b"\x91" * 3000 + b"\xc0"),
    "msgpack-binary-key": lambda good: msgpack.packb(good | {b"x": 1}),
    "msgpack-extension": lambda good: msgpack.packb({**good, "x": msgpack.ExtType(5, b"x")}),
    "msgpack-huge-claim": _raw(b"\xdf\xff\xff\xff\xff"),
    "random": _raw(bytes(range(256))),
}


@pytest.mark.parametrize("kind", BAD_REQUESTS)
async def test_a_malformed_request_is_refused_in_words(broker: Running, sources: Callable[[], str], kind: str) -> None:
    """The refusal has a status, a text that quotes nothing, and changes nothing; the session goes on (P9, P6)."""
    session = await refused_in_words(broker, kind, sources())
    assert list(broker.state.store.reader().devices()) == []
    assert (await ask(session, broker.payload("next")))["status"] == "SUCCESS"


async def refused_in_words(broker: Running, kind: str, source: str) -> Client:
    """Send one of them and see it refused; give the session."""
    issued: IssuedToken = broker.issued
    good: dict[str, Any] = {"provisionDeviceKey": issued.key, "provisionDeviceSecret": issued.secret}
    if "name" not in kind:
        good["deviceName"] = "gw-1"
    payload = BAD_REQUESTS[kind](good)
    session = await broker.session(source=source)
    await session.subscribe(RESPONSE_TOPIC)
    session.publish_nowait(REQUEST_TOPIC, payload, 1)
    message = await session.message()
    packed = payload[:1] in {b"\x81", b"\x82", b"\x83", b"\x84", b"\xdf"}
    reply = msgpack.unpackb(message.payload) if packed else json.loads(message.payload)
    assert reply["status"] == "FAILURE"
    assert reply["errorMsg"].startswith("Failed to provision device: ")
    assert issued.secret not in reply["errorMsg"]
    return session


async def test_unknown_fields_and_nulls_are_no_errors(broker: Running) -> None:
    """`null` means absent and unknown fields are ignored (thingsboard.md rule 12), so these are good requests."""
    session = await broker.session()
    nothing = dict.fromkeys(("token", "username", "password", "clientId", "hash", "csr", "credentialsType", "labels"))
    for fields in (nothing, {"unknown": _deep(MAX_REQUEST_DEPTH - 2)}, {"deviceName": " gw-3 "}, {"deviceName": None}):
        assert (await ask(session, broker.payload("gw-1", **fields)))["status"] == "SUCCESS"


CONNECT = encode(Connect("x", username="provision"), V311)
PUBLISH = encode(Publish(REQUEST_TOPIC, b"{}", 1, packet_id=1), V311)
BAD_PACKETS: dict[str, bytes] = {
    "random": bytes(range(256)) * 4,
    "http": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "tls-hello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64),
    "half-a-connect": CONNECT[:9],
    "half-a-publish": CONNECT + PUBLISH[:-4],
    "publish-before-connect": PUBLISH + CONNECT,
    "ping-before-connect": encode(Pingreq(), V311),
    "two-connects": CONNECT + CONNECT,
    "connack-from-a-client": CONNECT + b"\x20\x02\x00\x00",
    "puback-for-nothing": CONNECT + encode(Puback(77), V311) + encode(Disconnect(), V311),
    "reserved-type": CONNECT + b"\x00\x00",
    "auth-in-3": CONNECT + b"\xf0\x00",
    "qos-3": CONNECT + b"\x36\x05\x00\x01a\x00\x01",
    "qos-2": CONNECT + b"\x34\x05\x00\x01a\x00\x01",
    "packet-id-0": CONNECT + b"\x32\x05\x00\x01a\x00\x00",
    "wildcard-topic": CONNECT + b"\x30\x03\x00\x01#",
    "empty-topic": CONNECT + b"\x30\x02\x00\x00",
    "nul-topic": CONNECT + b"\x30\x03\x00\x01\x00",
    "not-utf-8-topic": CONNECT + b"\x30\x03\x00\x01\xff",
    "surrogate-topic": CONNECT + b"\x30\x05\x00\x03\xed\xa0\x80",
    "length-beyond-end": CONNECT + b"\x30\x03\x00\x09a",
    "five-byte-length": CONNECT + b"\x30\xff\xff\xff\xff\x01",
    "subscribe-to-nothing": CONNECT + b"\x82\x02\x00\x01",
    "subscribe-wrong-flags": CONNECT + b"\x80\x06\x00\x01\x00\x01a\x00",
    "unknown-version": b"\x10\x0f\x00\x04MQTT\x09\x02\x00\x3c\x00\x03abc",
    "unknown-protocol": b"\x10\x0f\x00\x04MQXX\x04\x02\x00\x3c\x00\x03abc",
    "reserved-connect-flag": b"\x10\x0f\x00\x04MQTT\x04\x03\x00\x3c\x00\x03abc",
    "password-without-user": b"\x10\x0f\x00\x04MQTT\x04\x42\x00\x3c\x00\x03abc",
    "empty-id-not-clean": b"\x10\x0c\x00\x04MQTT\x04\x00\x00\x3c\x00\x00",
    "will-to-a-wildcard": encode(Connect("x", username="x", will=Will("a", b"")), V311).replace(b"\0\1a", b"\0\1#"),
    "2-mb-payload": CONNECT + b"\x30" + b"\x93\x80\x80\x01" + b"\x00\x12" + REQUEST_TOPIC.encode() + bytes(2 << 20),
    "2-mb-connect": b"\x10\x80\x80\x80\x01" + bytes(2 << 20),
    "two-mb-of-length-bytes": b"\x30" + b"\xff" * (2 << 20),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD_PACKETS)
async def test_bad_packets_close_their_own_connection_only(broker: Running, kind: str) -> None:
    """The connection that breaks the protocol is closed; another one beside it and the next one are served (P9)."""
    witness = await broker.session()
    bad = await broker.open(None)
    bad.send(BAD_PACKETS[kind])
    if kind.startswith("half") or kind == "length-beyond-end":
        await witness.ping()  # the rest may still come
        bad.end_of_input()
    await bad.wait_closed()
    await witness.ping()
    assert (await broker.provision("next"))["status"] == "SUCCESS"
    assert [d.name for d in broker.state.store.reader().devices()] == ["next"]


async def test_a_connection_may_end_anywhere(broker: Running) -> None:
    """Cut off behind each byte of CONNECT and a request: the connection ends, and nothing stays behind (P9)."""
    whole = CONNECT + PUBLISH
    for end in range(1, len(whole)):
        bad = await broker.open(None)
        bad.send(whole[:end])
        bad.end_of_input()
        await bad.wait_closed()
    await broker.broker.empty.wait()


PACKETS = st.one_of(
    st.builds(
        Connect,
        st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8),
        version=st.sampled_from(ProtocolVersion),
        clean_start=st.booleans(),
        keep_alive_s=st.integers(0, 65_535),
        username=st.sampled_from([None, "provision", "x", "operator"]),
        password=st.sampled_from([None, b"", b"x", b"\xff"]),
    ).filter(lambda c: c.version is V5 or c.password is None or c.username is not None),
    st.builds(
        Publish,
        st.sampled_from([REQUEST_TOPIC, RESPONSE_TOPIC, "v1/devices/me/telemetry", "x"]),
        st.one_of(st.binary(max_size=40), st.sampled_from([b"{}", b'{"method":"getSessionLimits"}'])),
        st.just(1),
        packet_id=st.integers(1, 4),
    ),
    st.builds(
        Subscribe,
        st.integers(1, 4),
        st.lists(st.builds(Subscription, st.sampled_from(["#", RESPONSE_TOPIC, "a/+"])), min_size=1, max_size=3).map(
            tuple
        ),
    ),
    st.builds(Unsubscribe, st.integers(1, 4), st.just(("#",))),
    st.builds(Puback, st.integers(1, 4)),
    st.just(Pingreq()),
    st.just(Disconnect()),
)


@st.composite
def conversations(draw: st.DrawFn) -> bytes:
    """Draw good packets in any order, damaged here and there."""
    version = draw(st.sampled_from(ProtocolVersion))
    data = bytearray()
    if draw(st.booleans()):
        data += encode(Connect("x", version=version, username="provision"), version)
    for packet in draw(st.lists(PACKETS, max_size=6)):
        data += encode(packet, packet.version if isinstance(packet, Connect) else version)
    for _ in range(draw(st.integers(0, 3))):
        if data:
            place = draw(st.integers(0, len(data) - 1))
            how = draw(st.sampled_from(["change", "cut", "insert"]))
            if how == "change":
                data[place] = draw(st.integers(0, 255))
            elif how == "cut":
                del data[place : place + draw(st.integers(1, 4))]
            else:
                data[place:place] = draw(st.binary(min_size=1, max_size=4))
    return bytes(data)


def fuzz(examples: int) -> settings:
    """Give Hypothesis' settings for examples that share one broker, on purpose."""
    return settings(max_examples=examples, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


async def throw(broker: Running, data: bytes, source: str) -> None:
    """Throw bytes at the broker and see the connection through to its end; a client beside it is still served."""
    if not broker.clients:
        await broker.session()
    bad = await broker.open(None, source=source)
    bad.send(data)
    bad.end_of_input()
    await bad.wait_closed()
    await broker.clients[0].ping()


@given(data=st.binary(max_size=300))
@fuzz(150)
async def test_random_bytes_do_no_harm(broker: Running, sources: Callable[[], str], data: bytes) -> None:
    """Any bytes as a connection (P9)."""
    await throw(broker, data, sources())


@given(data=conversations())
@fuzz(400)
async def test_random_conversations_do_no_harm(broker: Running, sources: Callable[[], str], data: bytes) -> None:
    """Any packets in any order, also damaged ones (P9)."""
    await throw(broker, data, sources())


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
FIELDS = ("deviceName", "credentialsType", "token", "username", "password", "clientId", "hash", "csr", "gateway",
          "labels", "requestId", "other")  # fmt: skip


@given(fields=st.dictionaries(st.sampled_from(FIELDS), JSON), packed=st.booleans(), cut=st.none() | st.integers(0, 200))
@fuzz(200)
async def test_any_request_is_answered(
    broker: Running, sources: Callable[[], str], fields: dict[str, Any], packed: bool, cut: int | None
) -> None:
    """Whatever a request holds, exactly one reply comes, of one of the three statuses, with what it must have (P9)."""
    good = {"provisionDeviceKey": broker.issued.key, "provisionDeviceSecret": broker.issued.secret, **fields}
    try:
        payload = msgpack.packb(good) if packed else json.dumps(good).encode()
    except (UnicodeEncodeError, OverflowError):
        payload = json.dumps(good).encode()
    session = await broker.session(source=sources())
    session.publish_nowait(REQUEST_TOPIC, payload[:cut], 1)
    answer = (await session.message()).payload
    reply = json.loads(answer) if answer[:1] == b"{" else msgpack.unpackb(answer)
    assert reply["status"] in {"SUCCESS", "FAILURE"}
    wanted = {"credentialsType", "credentialsValue"} if reply["status"] == "SUCCESS" else {"errorMsg"}
    assert wanted <= reply.keys()
    await session.ping()
    assert session.messages() == []
    session.disconnect()


@given(topic=st.sampled_from(["v1/devices/me/rpc/request/1", "v1/devices/me/attributes/request/1"]), value=JSON)
@fuzz(100)
async def test_any_message_of_a_device_does_no_harm(broker: Running, topic: str, value: Any) -> None:
    """Questions to the broker may hold anything (P9)."""
    if not broker.clients:
        device = await broker.device("gw-1")
        await device.subscribe("v1/devices/me/#")
    device = broker.clients[-1]
    payload = json.dumps({"method": "getSessionLimits", "params": value}).encode()
    assert await device.publish(topic, payload) == ReasonCode.SUCCESS
    assert (await device.message()).topic == topic.replace("request", "response")
