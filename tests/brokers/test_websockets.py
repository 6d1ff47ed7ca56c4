"""MQTT in WebSockets, plain and over TLS: the same broker behind them, and what only a WebSocket can get wrong."""

import asyncio
import json
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from paho.mqtt.enums import MQTTProtocolVersion
from tests.brokers.certificates import DeviceKey
from tests.brokers.harness import Running
from tests.brokers.paho_client import V5 as PAHO_V5
from tests.brokers.paho_client import V311, Paho
from tests.brokers.ws_client import WsClient
from websockets.frames import Opcode

from mqttprov.brokers.connection import CLOSING_TIMEOUT_S, CONNECT_TIMEOUT_S
from mqttprov.brokers.websocket import MAX_FRAME_BYTES_BEFORE_LOGIN, MAX_HANDSHAKE_BYTES
from mqttprov.core.model import OperatorRole
from mqttprov.core.permissions import REQUEST_TOPIC, RESPONSE_TOPIC
from mqttprov.mqtt import Connect, Disconnect, ProtocolVersion, Publish, ReasonCode, Subscribe, Subscription
from mqttprov.mqtt.encoder import encode

V5 = ProtocolVersion.V5
CONNACK_V311 = b"\x20\x02\x00\x00"
BLOCK = bytes(100_000)


def trusting(broker: Running) -> ssl.SSLContext:
    """Make the context of a client that trusts our authority."""
    return ssl.create_default_context(cafile=broker.path / "authority.pem")


async def opened(broker: Running, **options: Any) -> WsClient:
    """Open a WebSocket that is cut off by the end of the broker."""
    client, response = await WsClient.open(broker.wss_port if options.get("tls") else broker.ws_port, **options)
    broker.others.append(client)
    assert response.status_code == 101
    assert response.headers["Sec-WebSocket-Protocol"] == "mqtt"
    return client


async def logged_in(broker: Running, name: str, role: OperatorRole = OperatorRole.OPERATOR) -> WsClient:
    """Log an operator in by MQTT 3.1.1."""
    client = await opened(broker)
    password = broker.admin.create_operator(name, role).encode()
    client.send(encode(Connect("", username=name, password=password, keep_alive_s=60), ProtocolVersion.V311))
    assert await client.get(4) == CONNACK_V311
    return client


def talk(client: Paho, subscribe: str, publish: str, payload: bytes) -> tuple[str, bytes]:
    """Connect, subscribe, publish with QoS 1 and give the first message that comes."""
    with client:
        client.subscribe(subscribe, 1)
        client.publish(publish, payload)
        got = client.message()
        return got.topic, got.payload


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("version", [V311, PAHO_V5])
async def test_an_unmodified_client_provisions_and_logs_in(
    ws_broker: Running, version: MQTTProtocolVersion, tls: bool
) -> None:
    """paho with transport="websockets" works as on TCP, in both versions of MQTT, with and without TLS."""
    port, context = (ws_broker.wss_port, trusting(ws_broker)) if tls else (ws_broker.ws_port, None)

    def client(username: str) -> Paho:
        return Paho(port, version, (username, None), transport="websockets", tls=context)

    ask = (RESPONSE_TOPIC, REQUEST_TOPIC, ws_broker.payload("gw-1"))
    topic, payload = await asyncio.to_thread(talk, client("provision"), *ask)
    reply = json.loads(payload)
    assert (topic, reply["status"]) == (RESPONSE_TOPIC, "SUCCESS")
    operator = await ws_broker.operator()
    await operator.subscribe("v1/devices/gw-1/telemetry")
    ask = ("v1/devices/me/attributes/response/+", "v1/devices/me/attributes/request/1", b'{"sharedKeys":"labels"}')
    _, payload = await asyncio.to_thread(talk, client(reply["credentialsValue"]), *ask)
    assert json.loads(payload) == {"shared": {"labels": {}}}


@pytest.mark.parametrize("cut", [1, 2, 7])
async def test_packets_span_frames_and_share_them(ws_broker: Running, cut: int) -> None:
    """Frames mean nothing: a packet comes in pieces, several come in one frame (MQTT-6.0.0-2)."""
    client = await opened(ws_broker)
    password = ws_broker.admin.create_operator("ops", OperatorRole.OPERATOR).encode()
    connect = encode(Connect("", username="ops", password=password, keep_alive_s=60), ProtocolVersion.V311)
    client.send(*(connect[i : i + cut] for i in range(0, len(connect), cut)))
    assert await client.get(4) == CONNACK_V311
    subscribe = encode(Subscribe(1, (Subscription("t", 0),)), ProtocolVersion.V311)
    publish = encode(Publish("t", b"hello", 0), ProtocolVersion.V311)
    client.send(subscribe + publish + publish[:3], publish[3:])
    assert await client.get(25) == b"\x90\x03\x00\x01\x00" + 2 * publish
    client.send(b"\xc0", b"\x00")
    assert await client.get(2) == b"\xd0\x00"


async def test_fragments_of_a_message_are_one_stream(ws_broker: Running) -> None:
    """RFC 6455 section 5.4: a message may come in fragments, with a ping between them, which is answered."""
    client = await opened(ws_broker)
    connect = encode(Connect("", username="provision"), ProtocolVersion.V311)
    client.frames.send_binary(connect[:5], fin=False)
    client.frames.send_ping(b"are you there?")
    client.frames.send_continuation(connect[5:], fin=True)
    client.push()
    assert (await client.until(Opcode.PONG)).data == b"are you there?"
    assert await client.get(4) == CONNACK_V311


async def test_a_first_packet_behind_the_handshake_in_one_segment_counts(ws_broker: Running) -> None:
    """Who does not wait for the answer to its handshake is served all the same."""
    reader, writer = await asyncio.open_connection("127.0.0.1", ws_broker.ws_port)
    connect = encode(Connect("", username="provision"), ProtocolVersion.V311)
    writer.write(handshake() + bytes([0x82, 0x80 | len(connect)]) + bytes(4) + connect)
    async with asyncio.timeout(30):
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
        assert await reader.readexactly(6) == b"\x82\x04" + CONNACK_V311
    writer.close()


def handshake(**headers: str) -> bytes:
    """Write an HTTP request that opens a WebSocket, with headers changed or, if empty, left out."""
    fields = {
        "Host": "x",
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
        "Sec-WebSocket-Protocol": "mqtt",
    }
    fields.update({name.replace("_", "-"): value for name, value in headers.items()})
    lines = [f"{name}: {value}" for name, value in fields.items() if value]
    return "\r\n".join(["GET /mqtt HTTP/1.1", *lines, "", ""]).encode()


@pytest.mark.parametrize(
    ("request_bytes", "status", "text"),
    [
        (handshake().replace(b"/mqtt", b"/"), 404, "/mqtt"),
        (handshake().replace(b"/mqtt", b"/mqtt/x"), 404, "/mqtt"),
        (handshake(Sec_WebSocket_Protocol=""), 400, "subprotocol"),
        (handshake(Sec_WebSocket_Protocol="mqttv3.1, chat"), 400, "subprotocol"),
        (handshake(Sec_WebSocket_Key="short"), 400, "Sec-WebSocket-Key"),
        (handshake(Upgrade="", Connection=""), 426, "WebSocket client"),
        (b"GET /mqtt HTTP/1.0\r\n\r\n", 400, "HTTP/1.1"),
        (b"GET \xff\r\n\r\n", 400, "HTTP/1.1"),
        (b"POST /mqtt HTTP/1.1\r\n\r\n", 400, "GET /mqtt"),
        (b"\x10\x10\x00\x04MQTT", 400, "GET /mqtt"),
        (handshake(X=MAX_HANDSHAKE_BYTES * "x"), 431, "8192"),
        (b"GET /mqtt HTTP/1.1\r\nX: " + MAX_HANDSHAKE_BYTES * b"x", 431, "8192"),
    ],
)
async def test_a_wrong_handshake_is_told_why(ws_broker: Running, request_bytes: bytes, status: int, text: str) -> None:
    """An HTTP error in words, and the end; nothing of it reaches MQTT (P9)."""
    reader, writer = await asyncio.open_connection("127.0.0.1", ws_broker.ws_port)
    writer.write(request_bytes)
    async with asyncio.timeout(30):
        answer = (await reader.read()).decode()
    assert answer.startswith(f"HTTP/1.1 {status} ")
    assert text in answer.partition("\r\n\r\n")[2]
    writer.close()


async def test_a_query_in_the_path_is_no_matter(ws_broker: Running) -> None:
    """Some clients put one there."""
    await opened(ws_broker, path="/mqtt?x=1")


async def test_a_handshake_that_never_ends_is_ended(ws_broker: Running) -> None:
    """It is part of the time to CONNECT, and so is the time after it (P9)."""
    reader, writer = await asyncio.open_connection("127.0.0.1", ws_broker.ws_port)
    writer.write(b"GET /mqtt HTTP/1.1\r\n")
    silent = await opened(ws_broker)
    ws_broker.advance(CONNECT_TIMEOUT_S + 1.5)
    async with asyncio.timeout(CONNECT_TIMEOUT_S - 2):
        assert await reader.read() == b""
    assert await silent.close_code() == 1000
    await silent.closed()
    writer.close()


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (lambda frames: frames.send_text(b"hello"), 1003),
        (lambda frames: frames.send_text(b"hello", fin=False), 1003),
        (lambda frames: frames.writes.append(b"\x83\x80\x00\x00\x00\x00"), 1002),
        (lambda frames: frames.writes.append(b"\x82\x01\x00"), 1002),
        (lambda frames: frames.writes.append(b"\x82\xff" + b"\x00\x00\xff" + 9 * b"\x00" + bytes(600_000)), 1009),
    ],
)
async def test_what_is_no_binary_frame_ends_the_connection(
    ws_broker: Running, spoil: Callable[[Any], None], code: int
) -> None:
    """Text (MQTT-6.0.0-1), unknown and unmasked frames and frames without end are told by their close code (P9)."""
    client = await logged_in(ws_broker, "ops")
    operator = await ws_broker.operator()
    spoil(client.frames)
    client.push()
    assert await client.close_code() == code
    await operator.ping()


async def test_a_stranger_may_send_less_in_a_frame(ws_broker: Running) -> None:
    """What waits for its end before login is bounded more tightly (P9)."""
    client = await opened(ws_broker)
    size = MAX_FRAME_BYTES_BEFORE_LOGIN + 70_000
    client.writer.write(b"\x82\xff" + size.to_bytes(8) + bytes(4) + bytes(size - 1))
    assert await client.close_code() == 1009


async def test_both_sides_close_in_order(ws_broker: Running) -> None:
    """A client's Close is answered; after MQTT's DISCONNECT ours comes first and the client's answer ends it."""
    client = await logged_in(ws_broker, "one")
    client.frames.send_close(1001)
    client.push()
    assert await client.close_code() == 1001
    await client.closed()
    client = await logged_in(ws_broker, "two")
    client.send(encode(Disconnect(ReasonCode.NORMAL_DISCONNECTION), ProtocolVersion.V311))
    assert await client.close_code() == 1000
    await client.closed()
    client = await logged_in(ws_broker, "three")
    client.frames.send_binary(b"\xe0\x00")
    client.frames.send_close(1000)
    client.push()
    await client.closed()


async def test_a_client_that_does_not_answer_our_close_is_cut_off(ws_broker: Running) -> None:
    """Its place is given back after the time for closing, also when it goes on sending (P9)."""
    inside: Any = ws_broker.broker
    client = await logged_in(ws_broker, "ops")
    (connection,) = inside._connections
    client.send(b"\xe0\x00")
    while not connection.session.closed:  # noqa: ASYNC110 - it happens in a turn of this loop
        await asyncio.sleep(0)
    client.send(*(5 * [b"\xc0\x00"]))
    assert connection in inside._connections
    ws_broker.advance(CLOSING_TIMEOUT_S + 2)
    async with asyncio.timeout(CLOSING_TIMEOUT_S - 2):
        while connection in inside._connections:  # noqa: ASYNC110 - it happens in a turn of this loop
            await asyncio.sleep(0)


async def test_a_slow_reader_is_bounded(ws_broker: Running) -> None:
    """Messages of QoS 0 that it does not read are dropped, and what waits for it stays within the bound (P9)."""
    sender = await ws_broker.operator()
    slow = await logged_in(ws_broker, "slow")
    (connection,) = [c for c in ws_broker.broker._connections if c.principal and c.principal.name == "slow"]
    slow.send(encode(Subscribe(1, (Subscription("t", 0),)), ProtocolVersion.V311))
    await slow.get(5)
    slow.writer.transport.pause_reading()  # type: ignore[attr-defined] # streams do not say that theirs can
    for _ in range(150):
        await sender.publish("t", BLOCK)
    assert connection._transport is not None
    waiting = connection.session.pending.output_bytes + connection._transport.get_write_buffer_size()
    assert waiting <= 3 * ws_broker.broker.limits.max_queued_bytes
    slow.writer.transport.resume_reading()  # type: ignore[attr-defined] # as above
    slow.send(b"\xc0\x00")
    async with asyncio.timeout(30):
        while not slow.data.endswith(b"\xd0\x00"):
            assert await slow.read()
            slow.collect()
    assert 0 < len(slow.data) < 150 * len(BLOCK)


async def test_pings_of_a_client_that_does_not_read_fill_no_memory(ws_broker: Running) -> None:
    """Pongs that nobody reads end the connection at a bound (P9)."""
    inside: Any = ws_broker.broker
    client = await logged_in(ws_broker, "ops")
    (connection,) = inside._connections
    client.writer.transport.pause_reading()  # type: ignore[attr-defined] # streams do not say that theirs can
    ping = b"\x89\xfd" + bytes(4) + bytes(125)
    held = 0
    async with asyncio.timeout(20):
        while connection in inside._connections:
            client.writer.write(500 * ping)
            await asyncio.sleep(0)
            if connection._transport is not None:
                held = max(held, connection._transport.get_write_buffer_size())
    assert held < 1_000_000


async def test_a_client_certificate_logs_in_over_wss(ws_broker: Running, tmp_path: Path) -> None:
    """TLS below a WebSocket is TLS: the certificate of the handshake is the login."""
    own = DeviceKey("gw-1")
    await ws_broker.provision("gw-1", hash=own.certificate_pem)
    context = own.context(ws_broker.path / "authority.pem", tmp_path)
    client = await opened(ws_broker, tls=context)
    client.send(encode(Connect("", version=V5, clean_start=True, keep_alive_s=60), V5))
    assert (await client.get(4))[3] == ReasonCode.SUCCESS


async def test_what_frames_hold_is_not_logged(ws_broker: Running, caplog: pytest.LogCaptureFixture) -> None:
    """Not even with everything logged: there are passwords in them (P6)."""
    client = await opened(ws_broker)
    client.send(encode(Connect("", username="somebody", password=b"a password"), ProtocolVersion.V311))
    assert await client.get(4) == b"\x20\x02\x00\x04"
    await client.close_code()
    ours = [record.getMessage() for record in caplog.records if record.name != "websockets.client"]
    written = b"a password".hex(" ")
    assert not [line for line in ours if "a password" in line or written[:20] in line or "BINARY" in line]
    assert any("refused" in line for line in ours)


async def test_the_end_of_the_broker_is_told(ws_broker: Running) -> None:
    """At the end an MQTT 5 client gets DISCONNECT, then the WebSocket's own goodbye."""
    client = await opened(ws_broker)
    client.send(encode(Connect("", version=V5, clean_start=True, username="provision", keep_alive_s=60), V5))
    await client.get(4)
    stopping = asyncio.create_task(ws_broker.server.stop())
    await client.until(Opcode.CLOSE)
    assert client.data[0] == 0xE0
    assert client.data[2] == ReasonCode.SERVER_SHUTTING_DOWN
    await client.closed()
    await stopping
    await ws_broker.start()
