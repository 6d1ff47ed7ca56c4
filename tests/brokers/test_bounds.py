"""Everything is bounded (P9): silence, sizes, queues, connections. Time is moved by hand, nothing is waited for."""

import asyncio
import socket
from typing import Any

import pytest
from tests.brokers.harness import Client, Running, ask

from mqttprov.brokers.connection import CLOSING_TIMEOUT_S, CONNECT_TIMEOUT_S, MAX_PROVISIONING_PACKET_BYTES
from mqttprov.core.permissions import REQUEST_TOPIC
from mqttprov.mqtt import Connect, Disconnected, ProtocolVersion, ReasonCode, ServerLimits, Will

BLOCK = bytes(100_000)


async def test_a_connection_that_says_nothing_is_ended(broker: Running) -> None:
    """Without CONNECT a connection lives ten seconds (P9); stock amqtt waits for ever (its defect 6)."""
    silent, half = await broker.open(None), await broker.open(None)
    half.send(b"\x10\x20\x00\x04MQ")
    broker.advance(CONNECT_TIMEOUT_S - 1)
    assert not silent.gone
    broker.advance(2.5)
    await silent.wait_closed()
    await half.wait_closed()
    assert bytes(silent.raw + half.raw) == b""


@pytest.mark.parametrize("version", list(ProtocolVersion))
async def test_keep_alive_is_enforced(broker: Running, version: ProtocolVersion) -> None:
    """After one and a half keep-alive times of silence the session ends and its will is published (MQTT-3.1.2-22)."""
    operator = await broker.operator()
    await operator.subscribe("v1/devices/#")
    will = Will("v1/devices/me/telemetry", b"offline", 1)
    device = await broker.device("gw-1", version=version, keep_alive_s=4, will=will)
    for _ in range(5):
        broker.advance(5)
        await device.ping()
        await operator.ping()
    broker.advance(7.5)
    await device.wait_closed()
    if version is ProtocolVersion.V5:
        assert (await device.take(Disconnected)).reason_code == ReasonCode.KEEP_ALIVE_TIMEOUT
    assert (await operator.message()).payload == b"offline"


@pytest.mark.parametrize("version", list(ProtocolVersion))
async def test_keep_alive_is_enforced_in_provisioning_sessions(broker: Running, version: ProtocolVersion) -> None:
    """Within their 60 s, too, a client is held to its own word (MQTT-3.1.2-22); who keeps it stays (P9)."""
    silent = await broker.session(version=version, keep_alive_s=4)
    alive = await broker.session(version=version, keep_alive_s=20)
    without = await broker.session(version=ProtocolVersion.V311, keep_alive_s=0)
    broker.advance(7.5)
    await silent.wait_closed()
    if version is ProtocolVersion.V5:
        assert (await silent.take(Disconnected)).reason_code == ReasonCode.KEEP_ALIVE_TIMEOUT
    broker.advance(15)
    await alive.ping()
    broker.advance(29)
    await without.ping()
    await alive.ping()
    broker.advance(31.5)
    await alive.wait_closed()
    broker.advance(30)
    await without.wait_closed()


async def test_a_long_keep_alive_is_lowered_in_mqtt_5_only(broker: Running) -> None:
    """MQTT 5 can be told the server's keep alive; 3.1.1 without one may be silent for ever."""
    token = (await broker.provision("gw-1"))["credentialsValue"]
    told = await broker.login(token, client_id="a", keep_alive_s=0)
    assert told.mqtt().keep_alive_s == broker.broker.limits.max_keep_alive_s
    silent = await broker.login(token, client_id="b", keep_alive_s=0, version=ProtocolVersion.V311)
    broker.advance(4 * 3600)
    await told.wait_closed()
    await silent.ping()


async def test_packets_are_limited_before_and_after_login(broker: Running) -> None:
    """A CONNECT is small; a device may send more, a stranger less, and each is told its limit in MQTT 5 (P9)."""
    limits = broker.broker.limits
    big = await broker.open(Connect("x", version=ProtocolVersion.V5, username="u", password=bytes(20_000)))
    assert await big.connack() == ReasonCode.PACKET_TOO_LARGE
    device = await broker.device("gw-1")
    size = limits.max_packet_bytes - 100
    await device.publish("v1/devices/me/telemetry", bytes(size))
    device.send(b"\x30\xff\xff\xff\x01")
    assert (await device.take(Disconnected)).reason_code == ReasonCode.PACKET_TOO_LARGE
    await device.wait_closed()
    session = await broker.session()
    session.send(b"\x30" + _length(MAX_PROVISIONING_PACKET_BYTES))
    assert (await session.take(Disconnected)).reason_code == ReasonCode.PACKET_TOO_LARGE
    fits = await broker.session()
    assert (await ask(fits, bytes(60_000)))["status"] == "FAILURE"


def _length(value: int) -> bytes:
    """Write MQTT's variable byte integer."""
    encoded = bytearray()
    while True:
        value, low = divmod(value, 128)
        encoded.append(low | (0x80 if value else 0))
        if not value:
            return bytes(encoded)


async def test_too_many_connections_are_refused(broker: Running) -> None:
    """Past the maximum a connection is closed at once, and one that ends makes room again."""
    inside: Any = broker.broker
    inside._max_connections = 3
    first = [await broker.open(None) for _ in range(3)]
    fourth = await broker.open(None)
    await fourth.wait_closed()
    first[0].drop()
    await first[0].wait_closed()
    async with asyncio.timeout(30):
        while len(inside._connections) > 2:  # noqa: ASYNC110 - the broker learns of it in its own turn of this loop
            await asyncio.sleep(0)
    session = await broker.session()
    assert (await ask(session, broker.payload("gw-1")))["status"] == "SUCCESS"


async def _fill(sender: Client, reader: Client, *, qos: int, blocks: int) -> None:
    """Let a subscriber that does not read be sent many blocks."""
    await reader.subscribe("t", qos=qos)
    reader.pause()
    for _ in range(blocks):
        await sender.publish("t", BLOCK)


async def test_a_slow_reader_of_qos_1_is_ended(broker: Running) -> None:
    """What a subscriber does not read is bounded; a message of QoS 1 is not lost silently: the session ends (P9)."""
    sender, reader, other = [await broker.operator() for _ in range(3)]
    await other.subscribe("t")
    await _fill(sender, reader, qos=1, blocks=150)
    reader.resume()
    await reader.wait_closed()
    assert len(reader.raw) < 100 * len(BLOCK)
    await other.ping()
    assert len(other.messages()) == 150


async def test_a_slow_reader_of_qos_0_loses_messages_and_stays(broker: Running) -> None:
    """QoS 0 promises nothing: what does not fit is dropped, memory stays bounded and the session lives (P9)."""
    sender, reader = await broker.operator(), await broker.operator()
    await _fill(sender, reader, qos=0, blocks=150)
    held = [c.session.pending.output_bytes for c in broker.broker._connections]
    assert max(held) <= broker.broker.limits.max_queued_bytes
    reader.resume()
    await reader.ping()
    assert 0 < len(reader.messages()) < 150


async def test_a_client_that_never_reads_its_answers_is_not_read_either(broker: Running) -> None:
    """Asking without reading fills no memory: the broker stops reading, and keep-alive ends the silence (P9)."""
    limit = 65_536
    broker.broker.limits = ServerLimits(max_queued_bytes=limit)
    device = await broker.device("gw-1", receive_bytes=4096)
    (connection,) = [c for c in broker.broker._connections if c.principal is not None]
    assert connection._transport is not None
    connection._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    device.pause()
    async with asyncio.timeout(20):
        while connection.session.wants_input:
            device.send(b"\xc0\x00" * 10_000)
            await asyncio.sleep(0)
    held = connection.session.pending.output_bytes
    device.send(b"\xc0\x00" * 100_000)
    for _ in range(20):
        await asyncio.sleep(0)
    assert limit < connection.session.pending.output_bytes == held < 6 * limit
    broker.advance(100)
    while connection in broker.broker._connections:  # noqa: ASYNC110 - it happens in a turn of this loop
        await asyncio.sleep(0)


async def test_a_client_that_reads_late_gets_all_its_answers(broker: Running) -> None:
    """Holding back the reads is pacing, not punishment: once the client reads, everything is answered."""
    broker.broker.limits = ServerLimits(max_queued_bytes=65_536)
    device = await broker.device("gw-1", receive_bytes=4096)
    (connection,) = [c for c in broker.broker._connections if c.principal is not None]
    assert connection._transport is not None
    connection._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    device.pause()
    count = 0
    async with asyncio.timeout(20):
        while connection.session.wants_input:
            device.send(b"\xc0\x00" * 10_000)
            count += 10_000
            await asyncio.sleep(0)
    before = len(device.raw)
    device.resume()
    await device.until(lambda: len(device.raw) - before == 2 * count)
    assert set(device.raw[before:]) == {0xD0, 0x00}


async def test_an_ended_session_that_does_not_read_gives_its_place_back(broker: Running) -> None:
    """A peer that leaves its last bytes unread holds its connection for ten seconds and no longer (P9)."""
    device = await broker.device("gw-1", keep_alive_s=600)
    inside: Any = broker.broker
    broker.advance(CONNECT_TIMEOUT_S + 2)  # its place in the wheel is now that of its keep-alive
    (connection,) = [c for c in inside._connections if c.principal is not None]
    device.pause()
    # As much as the kernel does not take, but less than what counts as congestion.
    while not connection._transport.get_write_buffer_size():
        connection._transport.write(bytes(10_000))
    device.send(b"\xf7\x00")  # breaks the protocol
    async with asyncio.timeout(30):
        while not connection.session.closed:  # noqa: ASYNC110 - it happens in a turn of this loop
            await asyncio.sleep(0)
    assert connection in inside._connections
    broker.advance(CLOSING_TIMEOUT_S + 2)
    async with asyncio.timeout(CLOSING_TIMEOUT_S - 2):
        while connection in inside._connections:  # noqa: ASYNC110 - it happens in a turn of this loop
            await asyncio.sleep(0)


async def test_requests_past_the_queue_are_refused_at_once(broker: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full queue is told at once, with the time to come back (P9, DESIGN 5.12); nothing is used up."""
    monkeypatch.setattr("mqttprov.responder.pipeline.MAX_QUEUED", 0)
    session = await broker.session()
    reply = await ask(session, broker.payload("gw-1"))
    assert (reply["status"], reply["retryAfter"] > 0, bool(reply["errorMsg"])) == ("FAILURE", True, True)
    monkeypatch.undo()
    assert (await ask(session, broker.payload("gw-1")))["status"] == "SUCCESS"
    session.publish_nowait(REQUEST_TOPIC, broker.payload("gw-2"))
    await session.message()
