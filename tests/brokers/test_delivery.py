"""What stands in a delivery, and how much of it at once: properties, identifiers, expiry, QoS 2, sizes, windows."""

import pytest
from tests.brokers.harness import Running, ask

from mqttprov.core.model import OperatorRole
from mqttprov.mqtt import EMPTY_PROPERTIES, Connect, Properties, ProtocolVersion, ReasonCode

V311, V5 = ProtocolVersion.V311, ProtocolVersion.V5
PASSED_ON = Properties(
    payload_format_indicator=True,
    content_type="application/json",
    correlation_data=b"7",
    user_properties=(("a", "1"), ("a", "2"), ("b", "")),
)


async def test_properties_of_a_message_are_passed_on(broker: Running) -> None:
    """User properties in their order, content type, format and correlation data, unaltered (MQTT-3.3.2-4 to -20)."""
    sender, reader = await broker.operator(), await broker.operator()
    await reader.subscribe("t")
    await sender.publish("t", b"{}", properties=PASSED_ON)
    assert (await reader.message()).properties == PASSED_ON
    password = broker.admin.create_operator("old", OperatorRole.OPERATOR)
    old = await broker.login("old", password, version=V311)
    await old.subscribe("t")
    await sender.publish("t", b"{}", properties=PASSED_ON)
    assert (await old.message()).properties == EMPTY_PROPERTIES


async def test_a_response_topic_leads_back_to_the_device(broker: Running) -> None:
    """`me` in a response topic is the device's name to operators, and the other way round (DESIGN 5.8)."""
    operator, device = await broker.operator(), await broker.device("gw-1")
    await operator.subscribe("v1/devices/gw-1/#")
    await device.subscribe("v1/devices/me/rpc/#")
    question = Properties(response_topic="v1/devices/me/rpc/response/9", correlation_data=b"9")
    await device.publish("v1/devices/me/rpc/request/9", b"?", properties=question)
    asked = (await operator.message()).properties
    assert (asked.response_topic, asked.correlation_data) == ("v1/devices/gw-1/rpc/response/9", b"9")
    await operator.publish(asked.response_topic or "", b"!", properties=Properties(correlation_data=b"9"))
    answer = await device.message()
    assert (answer.topic, answer.payload, answer.properties.correlation_data) == (
        "v1/devices/me/rpc/response/9", b"!", b"9",
    )  # fmt: skip
    back = Properties(response_topic="v1/devices/gw-1/telemetry")
    await operator.publish("v1/devices/gw-1/rpc/request/2", b"?", properties=back)
    assert (await device.message()).properties.response_topic == "v1/devices/me/telemetry"


async def test_one_copy_carries_all_identifiers(broker: Running) -> None:
    """Overlapping subscriptions: one message with the highest QoS and each identifier (MQTT-3.3.4-2 to -5)."""
    reader, sender = await broker.operator(), await broker.operator()
    await reader.subscribe("a/b", qos=0, number=1)
    await reader.subscribe("a/#", qos=2, number=268_435_455)
    await reader.subscribe("+/b", qos=1)
    await sender.publish("a/b", b"x", 2)
    message = await reader.message()
    assert (message.qos, sorted(message.properties.subscription_identifiers)) == (2, [1, 268_435_455])
    await reader.subscribe("a/b", number=5)
    await sender.publish("a/b", b"x")
    assert sorted((await reader.message()).properties.subscription_identifiers) == [5, 268_435_455]
    await reader.ping()
    assert reader.messages() == []


@pytest.mark.parametrize("version", list(ProtocolVersion))
@pytest.mark.parametrize("sent", [0, 1, 2])
async def test_every_pair_of_qos_meets_at_the_lower(broker: Running, sent: int, version: ProtocolVersion) -> None:
    """MQTT section 4.3, up to QoS 2, in both versions, in order."""
    reader = await broker.device("gw-1", version=version)
    sender = await broker.operator()
    for granted in (0, 1, 2):
        assert await reader.subscribe("v1/devices/me/rpc/request/+", qos=granted) == (granted,)
        for number in range(5):
            sender.publish_nowait(f"v1/devices/gw-1/rpc/request/{number}", b"x", sent)
        received = [await reader.message() for _ in range(5)]
        assert [(m.topic[-1], m.qos) for m in received] == [(str(n), min(sent, granted)) for n in range(5)]


async def test_a_client_without_no_local_hears_itself_and_one_with_does_not(broker: Running) -> None:
    """No Local is asked for by bridges (MQTT-3.8.3-3)."""
    client = await broker.operator()
    await client.subscribe("t", no_local=True)
    await client.publish("t", b"1")
    await client.subscribe("t")
    await client.publish("t", b"2")
    assert (await client.message()).payload == b"2"


async def test_a_client_gets_no_more_and_no_larger_messages_than_it_takes(broker: Running) -> None:
    """Receive Maximum and Maximum Packet Size of the client hold; what is too large counts as delivered (3.1.2.11)."""
    sender = await broker.operator()
    password = broker.admin.create_operator("ops", OperatorRole.OPERATOR)
    wishes = Properties(receive_maximum=3, maximum_packet_size_bytes=1_000)
    reader = await broker.login("ops", password, properties=wishes)
    reader.mqtt()._manual_ack = True
    await reader.subscribe("t")
    for number in range(6):
        await sender.publish("t", b"%d" % number)
        await sender.publish("t", bytes(2_000))
    await reader.ping()
    assert [m.payload for m in reader.messages()] == [b"0", b"1", b"2"]
    for _ in range(6):
        message = await reader.message()
        assert message.packet_id is not None
        reader.mqtt().acknowledge(message.packet_id)
        reader.send(reader.mqtt().take_output())
    await reader.ping()
    assert (message.payload, reader.messages()) == (b"5", [])


async def test_refusals_are_explained_in_words_to_who_wants_to_know(broker: Running) -> None:
    """A reason string says what was wrong, unless the client asks for none (MQTT-3.1.2-29)."""
    words = b"you may not publish to this topic"
    for wants in (True, False):
        wishes = Properties(request_problem_information=wants)
        device = await broker.device(f"gw-{wants}", properties=wishes)
        assert await device.publish("provision/audit/x", b"x") == ReasonCode.NOT_AUTHORIZED
        assert (words in device.raw) is wants


async def test_a_client_without_an_id_is_told_the_one_it_gets(broker: Running) -> None:
    """MQTT 5 assigns one, under which the session can be resumed (MQTT-3.2.2-16)."""
    token = (await broker.provision("gw-1"))["credentialsValue"]
    device = await broker.login(token, keep_s=60)
    assigned = device.mqtt().client_id
    assert assigned
    device.abort()
    again = await broker.login(token, client_id=assigned, keep_s=60)
    assert again.session_present
    refused = await broker.open(Connect("", V311, clean_start=False, username=token))
    assert await refused.connack() == ReasonCode.CLIENT_IDENTIFIER_NOT_VALID


async def test_a_provisioning_session_may_ask_with_qos_2(broker: Running) -> None:
    """A request of QoS 2 is one request; its subscription is granted QoS 1."""
    session = await broker.session()
    assert await session.subscribe("/provision/response", qos=2) == (ReasonCode.GRANTED_QOS_1,)
    reply = await ask(session, broker.payload("gw-1"), qos=2)
    assert reply["status"] == "SUCCESS"
