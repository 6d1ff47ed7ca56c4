"""Who hears what on a stock amqtt with our plugin: private replies, `me`, permissions, audit events."""

import asyncio
import json

import pytest
from tests.brokers.amqtt.harness import NOT_AUTHORIZED, Stock, stock
from tests.brokers.harness import ask, request_bytes

from mqttprov.core.model import OperatorRole, Profile
from mqttprov.core.permissions import REQUEST_TOPIC, RESPONSE_TOPIC
from mqttprov.mqtt import Connect, ProtocolVersion, ReasonCode, Will

GATEWAYS = 100
REFUSED = ReasonCode.UNSPECIFIED_ERROR  # 0x80, the only refusal that SUBACK of MQTT 3.1.1 knows
FILTERS = ("#", "+/+/+", "/#", "/+/+", RESPONSE_TOPIC, REQUEST_TOPIC, "/provision/+", "v1/devices/me/#", "$SYS/#")
ANONYMOUS = {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}}


async def test_no_eavesdropper_gets_a_byte_of_a_reply(broker: Stock) -> None:
    """Operators, observers, devices and other provisioning sessions with every filter: nothing of any reply (P3)."""
    issued = broker.admin.create_profile(Profile(0, "nosy", publish_topics=("%d/#",), subscribe_topics=("%d/#",)))
    nosy = await ask(await broker.session(), request_bytes(issued, "provision"))
    listeners = [
        await broker.operator(OperatorRole.OPERATOR),
        await broker.operator(OperatorRole.OBSERVER),
        await broker.login(nosy["credentialsValue"]),
        await broker.session(client_id="provision"),
    ]
    for listener in listeners:
        for topic_filter in FILTERS:
            await listener.subscribe(topic_filter)
        listener.raw.clear()
    gate = asyncio.Semaphore(20)

    async def one(number: int) -> str:
        async with gate:
            session = await broker.session(client_id="provision")
            if number % 2:
                await session.subscribe(RESPONSE_TOPIC)
            reply = await ask(session, broker.payload(f"gw-{number}"), qos=number % 2)
            assert reply["deviceName"] == f"gw-{number}"
            return str(reply["credentialsValue"])

    secrets = await asyncio.gather(*(one(number) for number in range(GATEWAYS)))
    assert len(set(secrets)) == GATEWAYS
    for listener in listeners:
        await listener.ping()
        for forbidden in (b"credentialsValue", b"SUCCESS", RESPONSE_TOPIC.encode(), *(s.encode() for s in secrets)):
            assert forbidden not in listener.raw


async def test_me_is_each_session_s_own(broker: Stock) -> None:
    """A device says `me`, operators read its name; what they send to a name reaches that device alone, as `me`."""
    operator = await broker.operator()
    await operator.subscribe("v1/devices/+/telemetry")
    one, other = await broker.device("gw-1"), await broker.device("gw-2")
    for device in (one, other):
        assert await device.subscribe("v1/devices/me/rpc/request/+", "v1/devices/me/telemetry") == (1, 1)
        assert await device.subscribe("v1/devices/gw-1/#", "#") == (REFUSED, REFUSED)
    await one.publish("v1/devices/me/telemetry", b'{"t":1}')
    heard = await operator.message()
    assert (heard.topic, heard.payload) == ("v1/devices/gw-1/telemetry", b'{"t":1}')
    await operator.publish("v1/devices/gw-2/rpc/request/7", b'{"method":"x"}')
    call = await other.message()
    assert (call.topic, call.payload) == ("v1/devices/me/rpc/request/7", b'{"method":"x"}')
    for device in (one, other):
        await device.ping()
        assert device.messages() == []


async def test_devices_may_not_speak_or_listen_for_others(broker: Stock) -> None:
    """What a device may not publish reaches nobody; amqtt acknowledges it all the same."""
    operator = await broker.operator()
    await operator.subscribe("#")
    device = await broker.device("gw-1")
    for topic in ("v1/devices/gw-2/telemetry", "provision/audit/suspended", RESPONSE_TOPIC, "elsewhere"):
        await device.publish(topic, b"forged")
    await operator.ping()
    assert not [m for m in operator.messages() if m.payload == b"forged"]
    observer = await broker.operator(OperatorRole.OBSERVER)
    await observer.publish("elsewhere", b"forged")
    await operator.ping()
    assert not [m for m in operator.messages() if m.payload == b"forged"]


async def test_patterns_of_the_profile_are_routed_by_amqtt(broker: Stock) -> None:
    """Topics outside `v1/` that a profile opens work between devices and operators; the name keeps devices apart."""
    issued = broker.admin.create_profile(
        Profile(0, "site", publish_topics=("site/%d/#",), subscribe_topics=("site/%d/#",))
    )
    tokens = [
        (await ask(await broker.session(), request_bytes(issued, name)))["credentialsValue"] for name in ("a", "b")
    ]
    a, b = [await broker.login(token) for token in tokens]
    operator = await broker.operator()
    await operator.subscribe("site/#")
    assert await a.subscribe("site/a/#", "site/b/#") == (1, REFUSED)
    await b.publish("site/b/x", b"from-b")
    assert (await operator.message()).payload == b"from-b"
    await operator.publish("site/a/y", b"to-a")
    assert (await a.message()).payload == b"to-a"
    assert (await operator.message()).payload == b"to-a"
    assert not [m for m in b.messages() if m.topic.startswith("site/")]


async def test_audit_events_reach_operators(broker: Stock) -> None:
    """Each outcome is published with its place in the chain, QoS 1, to those who listen."""
    operator = await broker.operator()
    await operator.subscribe("provision/audit/+")
    await broker.provision("gw-1")
    kinds = []
    while "provisioned" not in kinds:
        message = await operator.message()
        event = json.loads(message.payload)
        assert message.qos == 1
        assert event["hash"]
        kinds.append(event["event"]["kind"])
        assert message.topic == f"provision/audit/{kinds[-1]}"


async def test_a_gateway_s_questions_are_answered(broker: Stock) -> None:
    """`getSessionLimits` gets its answer, so that an unmodified gateway counts itself connected (DESIGN 5.8)."""
    device = await broker.device("gw-1")
    await device.subscribe("v1/devices/me/rpc/response/+")
    await device.publish("v1/devices/me/rpc/request/1", b'{"method":"getSessionLimits"}')
    answer = await device.message()
    assert answer.topic == "v1/devices/me/rpc/response/1"
    assert "maxPayloadSize" in json.loads(answer.payload)


@pytest.mark.parametrize("topic", ["v1/devices/gw-2/telemetry", "provision/audit/x", "$SYS/x"])
async def test_a_will_that_may_not_be_published_is_refused(broker: Stock, topic: str) -> None:
    """amqtt would publish it unchecked (defect 7), so CONNECT is refused."""
    token = (await broker.provision("gw-1"))["credentialsValue"]
    will = Will(topic, b"boo")
    connect = Connect("", version=ProtocolVersion.V311, username=token, will=will)
    assert await broker.attempt(connect) == NOT_AUTHORIZED


async def test_a_will_is_published_under_the_device_s_name(broker: Stock) -> None:
    """A will on a `me` topic reaches operators under the device's name, and is not retained."""
    token = (await broker.provision("gw-1"))["credentialsValue"]
    operator = await broker.operator()
    await operator.subscribe("v1/devices/+/attributes")
    device = await broker.login(token, will=Will("v1/devices/me/attributes", b"gone", retain=True))
    device.abort()
    heard = await operator.message()
    assert (heard.topic, heard.payload) == ("v1/devices/gw-1/attributes", b"gone")
    assert broker.amqtt.retained_messages == {}


async def test_nothing_of_ours_is_retained(broker: Stock) -> None:
    """amqtt pushes retained messages to whoever connects (defect 3); so devices and operators retain nothing."""
    operator = await broker.operator()
    operator.mqtt().publish("site/x", b"secret", 1, retain=True)
    operator.send(operator.mqtt().take_output())
    await operator.ping()
    await broker.quiet()
    assert broker.amqtt.retained_messages == {}


async def test_other_plugins_users_keep_their_topics_and_get_none_of_ours(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Who another plugin lets in uses all topics but those of devices, replies and the audit."""
    async with stock(tmp_path_factory.mktemp("state") / "state", plugins=ANONYMOUS) as broker:
        operator = await broker.operator()
        await operator.subscribe("#")
        stranger = await broker.login(None, client_id="stranger")
        assert await stranger.subscribe("#", "v1/devices/+/telemetry", "/provision/response") == (1, REFUSED, REFUSED)
        await stranger.publish("v1/devices/gw-1/rpc/request/1", b"forged")
        await stranger.publish("home/lamp", b"on")
        assert (await stranger.message()).payload == b"on"
        device = await broker.device("gw-1")
        await device.publish("v1/devices/me/telemetry", b"private")
        await stranger.ping()
        assert b"private" not in stranger.raw
        await operator.until(lambda: any(m.payload == b"private" for m in operator.messages()))
        assert not [m for m in operator.messages() if m.payload == b"forged"]
