"""amqtt's packet events on our broker: its own plugins that count and log packets, and others that are slow or fail."""

import asyncio
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.brokers.amqtt.our_broker import Ours, ours
from tests.brokers.amqtt.slow_plugins import NotingPlugin, PacketPlugin, SlowPacketPlugin
from tests.brokers.harness import Client, eventually
from tests.brokers.test_device_life import act, life

from mqttprov.brokers import amqtt_packet_news
from mqttprov.brokers.amqtt_engine import AmqttConnection
from mqttprov.core.model import OperatorRole
from mqttprov.mqtt import Connect, ProtocolVersion, ReasonCode, Will, encode

V311, V5 = ProtocolVersion.V311, ProtocolVersion.V5
SYS = "amqtt.plugins.sys.broker.BrokerSysPlugin"
PACKETS = "amqtt.plugins.logging_amqtt.PacketLoggerPlugin"
TABOO = "amqtt.plugins.topic_checking.TopicTabooPlugin"
HERE = "tests.brokers.amqtt.slow_plugins."
VERSIONS = pytest.mark.parametrize("version", [V311, V5])


@pytest.fixture(autouse=True)
def nothing_told() -> Iterator[None]:
    """Begin and end with plugins that were told nothing."""
    for noting in (PacketPlugin, NotingPlugin):
        noting.told.clear()
    PacketPlugin.packets.clear()
    yield
    SlowPacketPlugin.gate = None


@pytest.fixture
def sent_bytes(monkeypatch: pytest.MonkeyPatch) -> dict[Client, int]:
    """Count what clients send."""
    counted: dict[Client, int] = {}
    send = Client.send

    def counting(client: Client, data: bytes) -> None:
        counted[client] = counted.get(client, 0) + len(data)
        send(client, data)

    monkeypatch.setattr(Client, "send", counting)
    return counted


async def traffic(broker: Ours, version: ProtocolVersion) -> tuple[list[Client], str]:
    """Let a device and an operator exchange messages of every QoS; give both, and the device's token."""
    token = (await broker.provision("gw-1"))["credentialsValue"]
    device = await broker.login(token, client_id="c-1", version=version)
    secret = broker.admin.create_operator("op", OperatorRole.OPERATOR)
    operator = await broker.login("op", secret, client_id="o-1", version=version)
    await operator.subscribe("v1/devices/+/telemetry", qos=2)
    for qos in (0, 1, 2):
        if qos:
            await device.publish("v1/devices/me/telemetry", b"up" * 100, qos)
        else:
            device.publish_nowait("v1/devices/me/telemetry", b"up" * 100)
        assert (await operator.message()).qos == qos
    packet_id = operator.mqtt().unsubscribe(["v1/devices/+/telemetry"])
    assert packet_id
    operator.send(operator.mqtt().take_output())
    for client in (device, operator):
        await client.ping()
    return [device, operator], token


@VERSIONS
async def test_amqtt_s_own_counters_count(
    tmp_path: Path, version: ProtocolVersion, sent_bytes: dict[Client, int]
) -> None:
    """Packets and bytes to the last one, as the clients count them; and `$SYS` says so."""
    broker = Ours(tmp_path / "state", {SYS: {"sys_interval": 1000}})
    with pytest.warns(DeprecationWarning, match="psutil"):
        await broker.start()
    try:
        clients, _ = await traffic(broker, version)
        plugin: Any = broker.amqtt.plugins_manager.get_plugin("BrokerSysPlugin")
        stats = dict(plugin._stats)
        assert stats["bytes_received"] == sum(sent_bytes[client] for client in clients)
        assert stats["bytes_sent"] == sum(len(client.raw) for client in clients)
        assert (stats["publish_received"], stats["publish_sent"]) == (3, 3)
        # 2 CONNECT, SUBSCRIBE, UNSUBSCRIBE, 2 PINGREQ; 3 PUBLISH, PUBREL; PUBACK, PUBREC, PUBCOMP; and the answers.
        assert (stats["messages_received"], stats["messages_sent"]) == (13, 13)
        observer = await broker.operator()
        await observer.subscribe("$SYS/broker/load/#", "$SYS/broker/messages/#")
        plugin.broadcast_dollar_sys_topics()
        await observer.until(lambda: any(m.topic.endswith("subscriptions/count") for m in observer.messages()))
        figures = {m.topic.removeprefix("$SYS/broker/"): int(m.payload) for m in observer.messages()}
        assert figures["load/bytes/received"] > stats["bytes_received"]
        assert figures["load/bytes/sent"] > stats["bytes_sent"]
        assert figures["messages/publish/received"] == figures["messages/publish/sent"] == 3
        assert figures["messages/received"] > 13
    finally:
        for client in broker.clients:
            client.abort()
        await broker.stop()
        broker.state.close()


@VERSIONS
async def test_amqtt_s_own_logger_logs_packets_and_no_secret(
    tmp_path: Path, version: ProtocolVersion, caplog: pytest.LogCaptureFixture
) -> None:
    """Each packet with its client; a token is the device's name, no password, nothing of provisioning (P6)."""
    logging.getLogger("amqtt").setLevel(logging.DEBUG)
    async with ours(tmp_path / "state", {PACKETS: {}}) as broker:
        _, token = await traffic(broker, version)
        lines = [r.getMessage() for r in caplog.records if "-in-- " in r.getMessage() or "-out-> " in r.getMessage()]
        device = [line.split("(")[0] for line in lines if line.startswith("c-1 ")]
        assert device == [
            "c-1 -out-> ConnackPacket", "c-1 <-in-- PublishPacket", "c-1 <-in-- PublishPacket",
            "c-1 -out-> PubackPacket", "c-1 <-in-- PublishPacket", "c-1 -out-> PubrecPacket", "c-1 <-in-- PubrelPacket",
            "c-1 -out-> PubcompPacket", "c-1 <-in-- PingReqPacket", "c-1 -out-> PingRespPacket",
        ]  # fmt: skip
        assert lines[0].startswith("<-in-- ConnectPacket(")
        assert "client_id=c-1" in lines[0]
        assert "username=gw-1" in lines[0]
        assert "v1/devices/me/telemetry" in "".join(lines)
        for secret in (token, broker.issued.secret, broker.issued.key):
            assert secret not in "".join(lines)


async def test_without_such_a_plugin_nothing_is_made(tmp_path: Path) -> None:
    """Others may be there."""
    async with ours(tmp_path / "state", {TABOO: {}}) as broker:
        connection = broker.broker.new_connection()
        assert isinstance(connection, AmqttConnection)
        assert connection.packets is None


@VERSIONS
async def test_refused_logins_and_provisioning(tmp_path: Path, version: ProtocolVersion) -> None:
    """Of a refusal: CONNECT and CONNACK, without a session, a user name or a password. Of provisioning: nothing."""
    async with ours(tmp_path / "state", {HERE + "PacketPlugin": {}}) as broker:
        token = (await broker.provision("gw-1"))["credentialsValue"]
        await act(life(broker).suspend, "gw-1", "stolen")
        assert await broker.refusal(token, client_id="c-1", version=version) == ReasonCode.NOT_AUTHORIZED
        assert await broker.refusal("op", "secret", client_id="c-2", version=version) != ReasonCode.SUCCESS
        await eventually(lambda: len(PacketPlugin.told) >= 4)
        assert PacketPlugin.told == [("in", "ConnectPacket", None), ("out", "ConnackPacket", None)] * 2
        assert [p.client_id for p in PacketPlugin.packets[::2]] == ["c-1", "c-2"]
        assert [p.username for p in PacketPlugin.packets[::2]] == [None, None]
        assert [p.password for p in PacketPlugin.packets[::2]] == [None, None]
        assert [p.return_code for p in PacketPlugin.packets[1::2]] == [5, 4]


async def test_what_came_with_connect_is_told_behind_it(tmp_path: Path) -> None:
    """Packets that a client sends without waiting; of a refused one they are not told, as they do not count."""
    plugins: dict[str, Any] = {HERE + "PacketPlugin": {}, HERE + "SlowPlugin": {}}
    async with ours(tmp_path / "state", plugins) as broker:
        for username in ("guest", "mallory"):
            client = await broker.open(None)
            connect = Connect("g", V311, username=username, will=Will("x", b"w"))
            client.send(encode(connect, V311) + b"\xc0\x00" + b"\xe0\x00")
            await client.wait_closed()
        await eventually(lambda: len(PacketPlugin.told) >= 7)
    assert PacketPlugin.told == [
        ("in", "ConnectPacket", None), ("in", "PingReqPacket", "g"), ("in", "DisconnectPacket", "g"),
        ("out", "ConnackPacket", "g"), ("out", "PingRespPacket", "g"),
        ("in", "ConnectPacket", None), ("out", "ConnackPacket", None),
    ]  # fmt: skip


async def test_a_request_in_another_session_does_not_show_its_secret(tmp_path: Path) -> None:
    """It is refused, and plugins see neither key nor secret (P6)."""
    plugins: dict[str, Any] = {HERE + "PacketPlugin": {}, HERE + "NotingPlugin": {}}
    async with ours(tmp_path / "state", plugins) as broker:
        device = await broker.device("gw-1")
        assert await device.publish("/provision/request", broker.payload("gw-2")) == ReasonCode.NOT_AUTHORIZED
        (publish,) = [p for p in PacketPlugin.packets if type(p).__name__ == "PublishPacket"]
        assert publish.data == b""
        assert publish.bytes_length > len(broker.payload("gw-2"))
        assert "received" not in [kind for kind, _ in NotingPlugin.told]


async def test_a_slow_plugin_hears_in_order_and_nobody_waits(tmp_path: Path) -> None:
    """Messages go through while the plugin is far behind; then it hears of each packet, in order."""
    async with ours(tmp_path / "state", {HERE + "SlowPacketPlugin": {}}) as broker:
        SlowPacketPlugin.gate = asyncio.Event()
        device, operator = await broker.device("gw-1"), await broker.operator()
        await operator.subscribe("v1/devices/+/telemetry")
        for number in range(50):
            device.publish_nowait("v1/devices/me/telemetry", str(number).encode(), 1)
        await operator.until(lambda: len(operator.messages()) == 50)
        assert PacketPlugin.told == []
        SlowPacketPlugin.gate.set()
        SlowPacketPlugin.gate = None
        await eventually(lambda: len([p for p in PacketPlugin.packets if hasattr(p, "data")]) == 100)
        for direction in ("in", "out"):
            heard = [
                int(p.data)
                for p, (way, _, _) in zip(PacketPlugin.packets, PacketPlugin.told, strict=True)
                if way == direction and hasattr(p, "data")
            ]
            assert heard == list(range(50))


async def test_what_waits_for_a_plugin_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, expected_errors: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Past the bound packets are left out of the news, the log says so once, and how many they were (P9)."""
    expected_errors.append("plugins are slower than packets come")
    monkeypatch.setattr(amqtt_packet_news, "MAX_WAITING_PACKETS", 10)
    async with ours(tmp_path / "state", {HERE + "SlowPacketPlugin": {}}) as broker:
        SlowPacketPlugin.gate = asyncio.Event()
        device = await broker.device("gw-1")
        for _ in range(30):
            await device.publish("v1/devices/me/telemetry", b"x")
        SlowPacketPlugin.gate.set()
        await eventually(lambda: len(PacketPlugin.told) == 11)  # one that the plugin had, and those that waited
        await eventually(lambda: "51 packets were not told" in caplog.text)
        assert caplog.text.count("plugins are slower") == 1
        SlowPacketPlugin.gate = None
        PacketPlugin.told.clear()
        await device.ping()
        await eventually(lambda: [kind for _, kind, _ in PacketPlugin.told] == ["PingReqPacket", "PingRespPacket"])


async def test_a_flood_of_packets_lets_others_have_their_turn(tmp_path: Path) -> None:
    """Plugins hear of a thousand packets in one read by and by, of all of them and in order."""
    async with ours(tmp_path / "state", {HERE + "PacketPlugin": {}}) as broker:
        device = await broker.device("gw-1", client_id="c-1", version=V311)
        await device.ping()
        PacketPlugin.told.clear()
        connection = next(iter(broker.broker._connections))
        connection.data_received(b"\xc0\x00" * 1000)
        assert len(PacketPlugin.told) <= amqtt_packet_news.MAX_PACKETS_AT_ONCE
        await eventually(lambda: len(PacketPlugin.told) == 2000)
        assert [way for way, _, _ in PacketPlugin.told] == ["in"] * 1000 + ["out"] * 1000


async def test_a_plugin_that_fails_harms_nobody(tmp_path: Path, expected_errors: list[str]) -> None:
    """Messages go through, and other plugins are told."""
    expected_errors.append("a plugin failed")
    plugins: dict[str, Any] = {HERE + "BrokenPacketPlugin": {}, HERE + "PacketPlugin": {}}
    async with ours(tmp_path / "state", plugins) as broker:
        device = await broker.device("gw-1", client_id="c-1")
        assert await device.publish("v1/devices/me/telemetry", b"x") == ReasonCode.SUCCESS
        await device.ping()
        await eventually(lambda: len(PacketPlugin.told) == 12)
    assert PacketPlugin.told[::2] == PacketPlugin.told[1::2]
