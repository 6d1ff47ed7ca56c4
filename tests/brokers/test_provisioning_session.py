"""Provisioning sessions on the wire: what they may do, how they are answered, and that nobody else is."""

import asyncio
import json

import pytest
from tests.brokers.harness import Running, ask

from mqttprov.core.permissions import REQUEST_TOPIC, RESPONSE_TOPIC
from mqttprov.mqtt import (
    ClientSession,
    Connect,
    Disconnected,
    MessageReceived,
    ProtocolVersion,
    Published,
    ReasonCode,
    Unsubscribed,
)

BOTH = pytest.mark.parametrize("version", list(ProtocolVersion))


@BOTH
async def test_a_device_is_provisioned_and_logs_in(broker: Running, version: ProtocolVersion) -> None:
    """A request gets credentials, and these open a session, in MQTT 3.1.1 and 5."""
    session = await broker.login("provision", version=version)
    reply = await ask(session, broker.payload("gw-1"))
    assert reply["status"] == "SUCCESS"
    assert reply["credentialsType"] == "ACCESS_TOKEN"
    device = await broker.login(reply["credentialsValue"], version=version)
    await device.ping()


@BOTH
async def test_puback_comes_before_the_response(broker: Running, version: ProtocolVersion) -> None:
    """A request of QoS 1 is acknowledged right before its response (thingsboard.md rule 6)."""
    session = await broker.login("provision", version=version)
    await session.subscribe(RESPONSE_TOPIC)
    session.publish_nowait(REQUEST_TOPIC, broker.payload("gw-1"), 1)
    await session.until(lambda: bool(session.messages()))
    assert [type(event) for event in session.events] == [Published, MessageReceived]


@pytest.mark.parametrize(("wished", "given"), [(None, 1), (0, 0), (1, 1)])
async def test_the_response_has_the_qos_of_its_subscription(broker: Running, wished: int | None, given: int) -> None:
    """Without a subscription the response still comes, with QoS 1; it is never retained."""
    session = await broker.session()
    if wished is not None:
        assert await session.subscribe(RESPONSE_TOPIC, qos=wished) == (ReasonCode(wished),)
    session.publish_nowait(REQUEST_TOPIC, broker.payload("gw-1"), 0)
    message = await session.message()
    assert (message.topic, message.qos, message.retain) == (RESPONSE_TOPIC, given, False)


async def test_everything_in_one_segment_is_answered(broker: Running) -> None:
    """Clients do not wait for CONNACK or SUBACK (thingsboard.md rule 5): one segment with all of it is enough."""

    def first(session: ClientSession) -> None:
        session.subscribe([(RESPONSE_TOPIC, 1)])
        session.publish(REQUEST_TOPIC, broker.payload("gw-1"), 1)

    session = await broker.open(Connect("", username="provision"), first=first)
    assert json.loads((await session.message()).payload)["status"] == "SUCCESS"


async def test_two_clients_with_client_id_provision_live_side_by_side(broker: Running) -> None:
    """The client id `provision` is shared by design: no session is taken over (thingsboard.md rule 4)."""
    first = await broker.login(None, client_id="provision", version=ProtocolVersion.V311)
    second = await broker.login(None, client_id="provision", version=ProtocolVersion.V311)
    replies = await asyncio.gather(ask(first, broker.payload("gw-1")), ask(second, broker.payload("gw-2")))
    assert [reply["deviceName"] for reply in replies] == ["gw-1", "gw-2"]
    await first.ping()
    await second.ping()


@pytest.mark.parametrize("topic", ["v1/devices/me/telemetry", RESPONSE_TOPIC, "/provision/request/x"])
@BOTH
async def test_other_topics_end_a_provisioning_session(broker: Running, topic: str, version: ProtocolVersion) -> None:
    """A provisioning session may publish requests and nothing else (thingsboard.md rule 7); nothing is routed."""
    operator = await broker.operator()
    await operator.subscribe("#")
    session = await broker.login("provision", version=version)
    session.publish_nowait(topic, b"x", 1)
    acknowledged = await session.take(Published)
    expected = ReasonCode.TOPIC_NAME_INVALID if version is ProtocolVersion.V5 else ReasonCode.SUCCESS
    assert acknowledged.reason_code == expected
    await session.wait_closed()
    await operator.ping()
    assert [m for m in operator.messages() if not m.topic.startswith("provision/audit/")] == []


@BOTH
async def test_only_the_response_topic_can_be_subscribed_to(broker: Running, version: ProtocolVersion) -> None:
    """Other filters are refused each by itself; the session goes on (thingsboard.md section 3)."""
    session = await broker.login("provision", version=version)
    codes = await session.subscribe("#", RESPONSE_TOPIC, "/provision/+", "v1/devices/me/#", qos=1)
    refused = ReasonCode.TOPIC_FILTER_INVALID if version is ProtocolVersion.V5 else ReasonCode.UNSPECIFIED_ERROR
    assert codes == (refused, ReasonCode.GRANTED_QOS_1, refused, refused)
    assert (await ask(session, broker.payload("gw-1")))["status"] == "SUCCESS"


async def test_unsubscribing_tells_what_was_subscribed(broker: Running) -> None:
    """UNSUBSCRIBE works in a provisioning session; the response then comes with QoS 1 as without subscription."""
    session = await broker.session()
    await session.subscribe(RESPONSE_TOPIC, qos=0)
    session.mqtt().unsubscribe([RESPONSE_TOPIC, "other"])
    session.send(session.mqtt().take_output())
    codes = (await session.take(Unsubscribed)).reason_codes
    assert codes == (ReasonCode.SUCCESS, ReasonCode.NO_SUBSCRIPTION_EXISTED)
    session.publish_nowait(REQUEST_TOPIC, broker.payload("gw-1"), 0)
    assert (await session.message()).qos == 1


async def test_too_many_requests_at_once_end_the_session(broker: Running) -> None:
    """A session may have eight requests waiting for their answers; one that sends more in one go is ended (P9)."""
    session = await broker.session()
    for number in range(12):
        session.mqtt().publish(REQUEST_TOPIC, broker.payload(f"gw-{number}"), 0)
    session.send(session.mqtt().take_output())
    assert (await session.take(Disconnected)).reason_code == ReasonCode.MESSAGE_RATE_TOO_HIGH
    await session.wait_closed()
    assert (await broker.provision("gw-next"))["status"] == "SUCCESS"


async def test_a_provisioning_session_ends_a_minute_after_its_last_reply(broker: Running) -> None:
    """As ThingsBoard does (thingsboard.md rule 6); time is the test's."""
    session = await broker.session()
    broker.advance(50)
    assert (await ask(session, broker.payload("gw-1")))["status"] == "SUCCESS"
    broker.advance(50)
    await session.ping()
    broker.advance(12)
    await session.wait_closed()


async def test_msgpack_is_answered_in_msgpack(broker: Running) -> None:
    """The reply is written as the request was (DESIGN section 6)."""
    msgpack = pytest.importorskip("msgpack")
    session = await broker.session()
    session.publish_nowait(REQUEST_TOPIC, msgpack.packb(json.loads(broker.payload("gw-1"))), 1)
    reply = msgpack.unpackb((await session.message()).payload)
    assert reply["status"] == "SUCCESS"
