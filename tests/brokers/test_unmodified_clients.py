"""What paho, a client that we did not write, gets from the broker: in both versions, and when its line breaks."""

import asyncio
from typing import Any

import pytest
from paho.mqtt.enums import MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.subscribeoptions import SubscribeOptions
from tests.brokers.harness import Running
from tests.brokers.paho_client import TO_BROKER, TO_CLIENT, V5, V311, Paho, breaking_line, told

from mqttprov.core.model import OperatorRole

PUBLISH, PUBREC, PUBREL, PUBCOMP = 3, 5, 6, 7
TOPIC = "line/7"
PAYLOADS = [b"1", b"2", b"3"]
both = pytest.mark.parametrize("version", [V311, V5], ids=["3.1.1", "5"])


def operator(broker: Running, name: str) -> tuple[str, str]:
    """Make an operator; give the login."""
    return name, broker.admin.create_operator(name, OperatorRole.OPERATOR)


@both
@pytest.mark.parametrize(
    "breaks_at",
    [(TO_BROKER, PUBLISH), (TO_CLIENT, PUBREC), (TO_BROKER, PUBREL), (TO_CLIENT, PUBCOMP)],
    ids=["PUBLISH", "PUBREC", "PUBREL", "PUBCOMP"],
)
async def test_qos_2_from_a_client_arrives_once_wherever_its_line_breaks(
    broker: Running, version: MQTTProtocolVersion, breaks_at: tuple[str, int]
) -> None:
    """Each message is handed over exactly once, in order (MQTT section 4.3.3)."""
    reader = await broker.operator()
    await reader.subscribe(TOPIC, qos=2)
    login = operator(broker, "sender")

    def send(port: int) -> bool:
        with Paho(port, version, login, client_id="sender", keep_s=60) as sender:
            for payload in PAYLOADS:
                sender.publish(TOPIC, payload, 2)
            return bool(sender.begun.get(timeout=30)[0])

    async with breaking_line(broker.port) as line:
        line.breaks_at = breaks_at
        resumed = await asyncio.to_thread(send, line.port)
        assert (line.broken, resumed) == (1, True)
    assert [(await reader.message()).payload for _ in PAYLOADS] == PAYLOADS
    await reader.ping()
    assert reader.messages() == []


@both
@pytest.mark.parametrize(
    "breaks_at",
    [(TO_CLIENT, PUBLISH), (TO_BROKER, PUBREC), (TO_CLIENT, PUBREL), (TO_BROKER, PUBCOMP)],
    ids=["PUBLISH", "PUBREC", "PUBREL", "PUBCOMP"],
)
async def test_qos_2_to_a_client_arrives_once_wherever_its_line_breaks(
    broker: Running, version: MQTTProtocolVersion, breaks_at: tuple[str, int]
) -> None:
    """The same the other way round: what was not over goes on after the reconnect."""
    sender = await broker.operator()
    login = operator(broker, "reader")
    async with breaking_line(broker.port) as line:
        reader = await asyncio.to_thread(Paho(line.port, version, login, client_id="reader", keep_s=60).open)
        await asyncio.to_thread(reader.subscribe, TOPIC, 2)
        line.breaks_at = breaks_at
        for payload in PAYLOADS:
            await sender.publish(TOPIC, payload, 2)
        resumed, _, _ = await asyncio.to_thread(reader.begun.get, True, 10)
        await sender.publish(TOPIC, b"last", 2)
        got = await asyncio.to_thread(reader.all_until, b"last")
        await asyncio.to_thread(reader.close)
        assert (line.broken, resumed) == (1, True)
    assert got == [*PAYLOADS, b"last"]


@both
async def test_kept_sessions_retained_messages_and_wills(broker: Running, version: MQTTProtocolVersion) -> None:
    """What waits, what is retained and what a client leaves behind comes as the client's own documentation says."""
    here, there = operator(broker, "here"), operator(broker, "there")

    def talk() -> None:
        with Paho(broker.port, version, here, client_id="h", keep_s=60) as reader:
            assert not reader.present
            assert len(reader.subscribe([("a/#", 2), ("wills/+", 1)])) == 2
        dying = Paho(broker.port, version, there, client_id="t")
        dying.client.will_set("wills/t", b"gone", 1, retain=True)
        with dying:
            for qos in (1, 2):
                dying.publish(f"a/{qos}", b"waits", qos)
            dying.publish("a/kept", b"retained", 1, retain=True)
            dying.client.socket().shutdown(2)  # type: ignore[union-attr] # it is connected
            dying.ended.get(timeout=30)
            with Paho(broker.port, version, here, client_id="h", keep_s=60) as reader:
                assert reader.present
                got = [reader.message() for _ in range(4)]  # those of QoS 2 when they are released, so in no order
                assert sorted((m.topic, m.qos, m.retain) for m in got) == [
                    ("a/1", 1, False), ("a/2", 2, False), ("a/kept", 1, False), ("wills/t", 1, False),
                ]  # fmt: skip
                reader.subscribe([("a/kept", 0), ("wills/t", 0)])
                assert {(m.topic, m.payload, m.retain) for m in (reader.message(), reader.message())} == {
                    ("a/kept", b"retained", True), ("wills/t", b"gone", True),
                }  # fmt: skip

    await asyncio.to_thread(talk)


@both
async def test_a_client_without_rights_is_told(broker: Running, version: MQTTProtocolVersion) -> None:
    """A wrong password, a forbidden will and a forbidden filter, as paho words them; nobody else is touched."""
    login = operator(broker, "here")

    def refusals() -> list[str]:
        said = []
        with Paho(broker.port, version, login, client_id="h") as victim:
            wrong = Paho(broker.port, version, ("here", "wrong"), client_id="h")
            will = Paho(broker.port, version, login, client_id="w")
            will.client.will_set("provision/audit/x", b"", 0)
            for one in (wrong, will):
                one.start()
                said.append(one.begun.get(timeout=30)[1])
                one.close()
            said += victim.subscribe([("$SYS/#", 0)])
            victim.publish("a", b"still here")
            assert victim.ended.empty()
        return said

    said = await asyncio.to_thread(refusals)
    # paho words the return codes of 3.1.1 as reasons of MQTT 5.
    assert said[:2] == ["Bad user name or password", "Not authorized"]
    assert said[2] in {"Not authorized", "Unspecified error"}


class Five:
    """Clients of MQTT 5 beside each other."""

    def __init__(self, broker: Running) -> None:
        self._broker = broker
        self._login = operator(broker, "ops")

    def __call__(self, client_id: str = "", **connect: Any) -> Paho:
        """Make one that is not connected yet."""
        return Paho(self._broker.port, V5, self._login, client_id=client_id, connect=connect)


async def test_subscriptions_of_mqtt_5(broker: Running) -> None:
    """Identifiers, no local, retain as published and retain handling; shared ones take turns."""
    five = Five(broker)

    def talk() -> None:
        with five("one") as one, five("two") as two:
            number = told(PacketTypes.SUBSCRIBE, SubscriptionIdentifier=[7])
            options = SubscribeOptions(qos=1, noLocal=True, retainAsPublished=True, retainHandling=2)
            two.publish("a/b", b"earlier", retain=True)
            one.subscribe("a/+", options=options, properties=number)
            one.publish("a/b", b"own")
            two.publish("a/b", b"other", retain=True)
            got = one.message()
            assert (got.payload, got.retain, got.properties.SubscriptionIdentifier) == (b"other", True, [7])
            for member in (one, two):
                member.subscribe("$share/group/s", options=SubscribeOptions(qos=1))
            for payload in [*PAYLOADS, b"4"]:
                two.publish("s", payload)
            shares = [{member.message().payload, member.message().payload} for member in (one, two)]
            assert set.union(*shares) == {*PAYLOADS, b"4"}
            assert one.messages.empty()
            assert two.messages.empty()

    await asyncio.to_thread(talk)


async def test_properties_of_mqtt_5(broker: Running) -> None:
    """What a message says of itself is passed on unchanged, by topic alias too; client ids are assigned and told."""
    five = Five(broker)
    about = {
        "PayloadFormatIndicator": 1,
        "ContentType": "text/plain",
        "ResponseTopic": "answers",
        "CorrelationData": b"\x07",
        "UserProperty": [("k", "v"), ("k", "w")],
    }

    def talk() -> None:
        with five("reader") as reader, five() as sender:
            assert sender.connack.AssignedClientIdentifier
            assert sender.connack.TopicAliasMaximum == 16
            reader.subscribe("a", 1)
            sender.publish("a", b"1", properties=told(PacketTypes.PUBLISH, TopicAlias=3, **about))
            sender.publish("", b"2", properties=told(PacketTypes.PUBLISH, TopicAlias=3, MessageExpiryInterval=50))
            first, second = reader.message(), reader.message()
            assert first.topic == second.topic == "a"
            assert {name: getattr(first.properties, name) for name in about} == about
            assert second.properties.MessageExpiryInterval in {49, 50}

    await asyncio.to_thread(talk)


async def test_limits_of_mqtt_5(broker: Running) -> None:
    """A client gets no larger packets than it takes; one that sends too large ones is told why it is ended."""
    five = Five(broker)

    def talk() -> None:
        with five("small", MaximumPacketSize=100, ReceiveMaximum=1) as small, five("large") as large:
            small.subscribe("a", 1)
            for payload in (b"x" * 200, b"1", b"2"):
                large.publish("a", payload)
            assert [small.message().payload, small.message().payload] == [b"1", b"2"]
            assert large.connack.MaximumPacketSize == 262_144
            large.client.publish("a", bytes(262_144), 1)
            assert large.ended.get(timeout=30) == "Packet too large"

    await asyncio.to_thread(talk)


async def test_a_takeover_and_a_delayed_will(broker: Running) -> None:
    """The same login with the same id ends the earlier one, who is told; a will waits for who comes back in time."""
    five = Five(broker)

    def talk() -> None:
        with five("reader") as reader:
            reader.subscribe("wills", 1)
            first = five("twice", SessionExpiryInterval=60)
            first.client.will_set("wills", b"gone", 1, properties=told(PacketTypes.WILLMESSAGE, WillDelayInterval=30))
            with first:
                first.client.reconnect_delay_set(30, 60)  # it would take its place back
                with five("twice") as second:
                    assert first.ended.get(timeout=30) == "Session taken over"
                    assert reader.message().payload == b"gone"  # a clean start ended the session that it waited for
                    assert second.ended.empty()

    await asyncio.to_thread(talk)
