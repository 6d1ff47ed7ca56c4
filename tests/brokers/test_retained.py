"""Retained messages in a running broker: who gets them and when, `me` topics, bounds, their end."""

import asyncio

import pytest
from tests.brokers.harness import Client, Running, ask, eventually, request_bytes
from tests.brokers.test_device_life import CALLS, act, life

from mqttprov.core.model import OperatorRole, Profile
from mqttprov.core.permissions import REQUEST_TOPIC
from mqttprov.mqtt import Properties, ProtocolVersion, ReasonCode, RetainedLimits, RetainedStore, Will
from mqttprov.responder.administration import IssuedToken
from mqttprov.responder.token_actions import TokenChange

TELEMETRY = "v1/devices/me/telemetry"


async def now_here(client: Client) -> list[tuple[str, bytes, bool]]:
    """Give what a client has got by now, audit events aside."""
    await client.ping()
    messages, client.events = client.messages(), []
    return [(m.topic, m.payload, m.retain) for m in messages if not m.topic.startswith("provision/audit")]


@pytest.mark.parametrize("version", list(ProtocolVersion))
async def test_a_newcomer_gets_the_last_message_of_each_topic(broker: Running, version: ProtocolVersion) -> None:
    """With the retain flag, for filters with and without wildcards; an empty message clears the topic (MQTT-3.3.1)."""
    operator = await broker.operator()
    for topic, payload in (("t/a", b"1"), ("t/a", b"2"), ("t/b", b"3"), ("t/c", b"4"), ("t/c", b"")):
        await operator.publish(topic, payload, retain=True)
    password = broker.admin.create_operator("ops", OperatorRole.OBSERVER)
    newcomer = await broker.login("ops", password, version=version)
    await newcomer.subscribe("t/a")
    assert await now_here(newcomer) == [("t/a", b"2", True)]
    await newcomer.subscribe("t/+")
    assert sorted(await now_here(newcomer)) == [("t/a", b"2", True), ("t/b", b"3", True)]
    await operator.publish("t/b", b"5", retain=True)
    assert await now_here(newcomer) == [("t/b", b"5", False)]  # it was subscribed already (MQTT-3.3.1-12)


async def test_a_subscription_says_how_it_wants_retained_messages(broker: Running) -> None:
    """Retain handling 0, 1 and 2; retain as published; shared subscriptions get none (MQTT 5 sections 3.8.3.1, 4.8)."""
    operator, reader = await broker.operator(), await broker.operator()
    await operator.publish("t", b"x", retain=True)
    kept = [("t", b"x", True)]
    for handling, expected in ((2, []), (1, []), (0, kept), (0, kept)):
        await reader.subscribe("t", retain_handling=handling)
        assert await now_here(reader) == expected
    reader.mqtt().unsubscribe(["t"])
    await reader.subscribe("t", retain_handling=1, retain_as_published=True, number=7)
    await reader.ping()
    assert reader.messages()[0].properties.subscription_identifiers == (7,)
    assert await now_here(reader) == kept
    await operator.publish("t", b"y", retain=True)
    assert await now_here(reader) == [("t", b"y", True)]
    await reader.subscribe("$share/g/t")
    assert await now_here(reader) == []


async def test_a_devices_retained_messages_are_for_operators_alone(broker: Running) -> None:
    """`me` topics are translated inside; no device gets what another one, or itself, retained there (rule 15)."""
    device = await broker.device("gw-1")
    await device.publish(TELEMETRY, b"t", retain=True)
    await device.publish("v1/devices/me/rpc/request/1", b"own", retain=True)
    operator = await broker.operator()
    await operator.publish("v1/devices/gw-1/rpc/request/2", b"for gw-1", retain=True)
    other = await broker.device("gw-2")
    await device.subscribe("v1/devices/me/#")
    await other.subscribe("v1/devices/me/#")
    await operator.subscribe("v1/devices/gw-1/#")
    assert await now_here(device) == [("v1/devices/me/rpc/request/2", b"for gw-1", True)]
    assert await now_here(other) == []
    assert sorted(await now_here(operator)) == [
        ("v1/devices/gw-1/rpc/request/1", b"own", True),
        ("v1/devices/gw-1/rpc/request/2", b"for gw-1", True),
        ("v1/devices/gw-1/telemetry", b"t", True),
    ]


async def test_only_who_may_publish_retains_and_only_who_may_subscribe_gets(broker: Running) -> None:
    """Permissions come first: an observer, a stranger's topic, a provisioning session retain nothing."""
    issued = broker.admin.create_profile(Profile(0, "plant", subscribe_topics=("orders/%d/#",)))
    operator, observer = await broker.operator(), await broker.operator(OperatorRole.OBSERVER)
    assert await observer.publish("t", b"x", retain=True) == ReasonCode.NOT_AUTHORIZED
    session = await broker.session()
    session.publish_nowait(REQUEST_TOPIC, request_bytes(issued, "gw-1"), 1, retain=True)
    token = await session.message()
    assert len(broker.broker.router.retained) == 0
    await operator.publish("orders/gw-1/new", b"1", retain=True)
    await operator.publish("orders/gw-2/new", b"2", retain=True)
    assert token.payload
    reply = await ask(await broker.session(), request_bytes(issued, "gw-1"))
    device = await broker.login(reply["credentialsValue"])
    codes = await device.subscribe("orders/+/new", "orders/gw-2/new", "orders/gw-1/+")
    assert codes == (ReasonCode.NOT_AUTHORIZED, ReasonCode.NOT_AUTHORIZED, ReasonCode.GRANTED_QOS_1)
    assert await now_here(device) == [("orders/gw-1/new", b"1", True)]


async def test_without_room_the_sender_is_told_and_listeners_get_the_message(broker: Running) -> None:
    """Retained messages are bounded; one past the bound is not kept, and PUBACK or PUBREC says so (P9)."""
    broker.broker.router.retained = RetainedStore(RetainedLimits(max_messages_per_owner=2))
    device, other, operator = await broker.device("gw-1"), await broker.device("gw-2"), await broker.operator()
    await operator.subscribe("v1/devices/gw-1/#")
    topics = [f"v1/devices/me/attributes/{n}" for n in range(3)]
    for topic in topics[:2]:
        assert await device.publish(topic, b"x", retain=True) == ReasonCode.SUCCESS
    for qos in (1, 2):
        assert await device.publish(topics[2], b"x", qos, retain=True) == ReasonCode.QUOTA_EXCEEDED
    assert await other.publish(topics[2], b"x", retain=True) == ReasonCode.SUCCESS
    assert len(await now_here(operator)) == 4


async def test_an_expired_message_is_not_given_and_the_rest_of_its_time_is_told(broker: Running) -> None:
    """Message expiry counts down while a message is retained (MQTT-3.3.2-6)."""
    operator = await broker.operator()
    await operator.publish("t", b"x", retain=True, properties=Properties(message_expiry_interval_s=100))
    broker.advance(40.5)
    await operator.subscribe("t")
    assert (await operator.message()).properties.message_expiry_interval_s in {59, 60}
    broker.advance(60)
    await operator.subscribe("t")
    assert await now_here(operator) == []


async def test_more_retained_messages_than_a_queue_holds_are_all_given(broker: Running) -> None:
    """A wildcard may match thousands: they follow as the client takes them, and its session lives (P9)."""
    for first in (0, 1_000):
        operator = await broker.operator()
        for number in range(first, first + 1_000):  # the bound of one owner
            operator.publish_nowait(f"t/{number}", bytes(1_000), 1, retain=True)
            if not number % 50:
                await operator.ping()
        await operator.ping()
    await operator.publish("t/more", b"x", retain=True)
    assert len(broker.broker.router.retained) == 2_000
    for qos in (0, 1, 2):
        reader = await broker.operator()
        await reader.subscribe("t/#", qos=qos)
        await reader.until(lambda one=reader: len(one.messages()) == 2_000)  # type: ignore[misc] # lambda default
        await reader.ping()
        assert len({m.topic for m in reader.messages()}) == len(reader.messages()) == 2_000


async def test_a_decommissioned_devices_retained_messages_are_gone(broker: Running) -> None:
    """Whoever gets the name after its release finds nothing that was retained for the former one (P8)."""
    device, operator = await broker.device("gw-1"), await broker.operator()
    await device.publish(TELEMETRY, b"t", retain=True)
    await operator.publish("v1/devices/gw-1/rpc/request/2", b"for gw-1", retain=True)
    await operator.publish("v1/devices/gw-10/rpc/request/2", b"for gw-10", retain=True)
    await act(life(broker).decommission, "gw-1")
    await eventually(lambda: len(broker.broker.router.retained) == 1)


async def test_who_gets_a_device_or_its_name_finds_nothing_retained(broker: Running) -> None:
    """Nor on the topics that its profile names by it, whoever retained it; those of others stay (P8)."""
    topics = ("plant/%d/#", "shared/#", "%d/#")
    issued = broker.admin.create_profile(Profile(0, "plant", publish_topics=topics, subscribe_topics=topics))
    new_owner = broker.admin.create_token("plant", "globex", TokenChange(), "globex")
    operator = await broker.operator()

    async def provisioned(token: IssuedToken = issued, name: str = "gw-1", **fields: str) -> Client:
        reply = await ask(await broker.session(), request_bytes(token, name, **fields))
        client = await broker.login(reply["credentialsValue"])
        await client.subscribe("plant/gw-1/#", "v1/devices/me/#")
        assert await now_here(client) == []
        return client

    async def retain(device: Client) -> None:
        for topic in ("plant/gw-1/mine", "gw-1/x", "shared/map", TELEMETRY):
            await device.publish(topic, b"old", retain=True)
        for topic in ("plant/gw-1/order", "v1/devices/gw-1/attributes", "plant/gw-2/order"):
            await operator.publish(topic, b"old", retain=True)

    await retain(await provisioned())
    offered = await asyncio.to_thread(life(broker).transfer, "gw-1", "globex")
    device = await provisioned(new_owner, claimCode=offered.claim_code)
    await retain(device)
    await device.ping()
    assert len(broker.broker.router.retained) == 7
    await act(life(broker).decommission, "gw-1", wait_ms=0)
    await act(life(broker).release, "gw-1")
    await provisioned(new_owner)
    assert len(broker.broker.router.retained) == 2


async def test_a_device_retains_nothing_while_it_says_farewell(broker: Running) -> None:
    """Its session is kept for its answer alone; what it held was cleared already (P8)."""
    device = await broker.device("gw-1")
    await device.subscribe(CALLS)
    retiring = asyncio.create_task(act(life(broker).decommission, "gw-1", wait_ms=300))
    await device.message()
    assert await device.publish(TELEMETRY, b"x", retain=True) == ReasonCode.QUOTA_EXCEEDED
    await retiring
    assert len(broker.broker.router.retained) == 0


async def test_a_device_named_as_a_topic_of_all_takes_nothing_with_it(broker: Running) -> None:
    """What a profile's pattern never opens is not cleared by it either (P8)."""
    issued = broker.admin.create_profile(Profile(0, "plant", publish_topics=("%d/#",)))
    await ask(await broker.session(), request_bytes(issued, "v1"))
    other = await broker.device("gw-2")
    await other.publish(TELEMETRY, b"t", retain=True)
    await act(life(broker).decommission, "v1")
    assert len(broker.broker.router.retained) == 1


async def test_a_will_may_be_retained(broker: Running) -> None:
    """A retained will tells newcomers that the client is gone (MQTT-3.1.2-17)."""
    device = await broker.device("gw-1", will=Will(TELEMETRY, b"gone", 1, retain=True))
    device.abort()
    await eventually(lambda: len(broker.broker.router.retained) == 1)
    operator = await broker.operator()
    await operator.subscribe("v1/devices/+/telemetry")
    assert await now_here(operator) == [("v1/devices/gw-1/telemetry", b"gone", True)]
