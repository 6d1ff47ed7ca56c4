"""The server's side of a conversation behind the login, in exact bytes where it speaks."""

import pytest

from mqttprov.mqtt import (
    EMPTY_PROPERTIES,
    Connect,
    ConnectReceived,
    Disconnect,
    Disconnected,
    Message,
    MessageDelivered,
    PacketDecoder,
    Properties,
    ProtocolVersion,
    ProtocolViolated,
    Publish,
    PublishReceived,
    ReasonCode,
    ServerEvent,
    ServerLimits,
    ServerSession,
    Subscribe,
    SubscribeReceived,
    Subscription,
    Unsubscribe,
    UnsubscribeReceived,
    Will,
    encode,
)
from mqttprov.mqtt.packets import Packet

V311, V5 = ProtocolVersion.V311, ProtocolVersion.V5
R = ReasonCode
LIMITS = ServerLimits()
BOTH = pytest.mark.parametrize("version", [V311, V5])


def connected(
    version: ProtocolVersion = V311,
    limits: ServerLimits = LIMITS,
    properties: Properties = EMPTY_PROPERTIES,
    will: Will | None = None,
) -> ServerSession:
    """Make a session that has accepted its client and has nothing to say."""
    session = ServerSession(limits)
    packet = Connect("c", version, will=will, properties=properties)
    assert session.receive(encode(packet, version)) == [ConnectReceived(packet)]
    assert session.accept() == []
    session.take_output()
    return session


def send(session: ServerSession, *packets: Packet) -> list[ServerEvent]:
    """Let the client send packets in one read."""
    assert session.version is not None
    return session.receive(b"".join(encode(packet, session.version) for packet in packets))


def violation_of(events: list[ServerEvent]) -> ReasonCode:
    """Return the reason of the violation that ends the events."""
    assert isinstance(events[-1], ProtocolViolated)
    return events[-1].error.reason_code


def test_conversation_of_an_unmodified_gateway() -> None:
    """The recorded provisioning of ThingsBoard's gateway, byte for byte (reference thingsboard.md section 11.4)."""
    session = ServerSession(LIMITS)
    (asked,) = session.receive(bytes.fromhex("101700044d5154540482003c0000000970726f766973696f6e"))
    assert isinstance(asked, ConnectReceived)
    assert asked.connect.username == "provision"
    assert session.accept() == []
    assert session.take_output().hex() == "20020000"
    request = Publish("/provision/request", b"{}")
    assert session.receive(
        bytes.fromhex("8218000100132f70726f766973696f6e2f726573706f6e736500") + encode(request, V311)
    ) == [SubscribeReceived(Subscribe(1, (Subscription("/provision/response"),))), PublishReceived(request)]
    session.suback(1, (R.GRANTED_QOS_0,))
    assert session.publish(Message("/provision/response", b'{"status":"SUCCESS"}'), 0).taken
    assert session.take_output() == bytes.fromhex("9003000100") + encode(
        Publish("/provision/response", b'{"status":"SUCCESS"}'), V311
    )
    assert session.receive(b"\xe0\x00") == [Disconnected(R.NORMAL_DISCONNECTION, clean=True)]
    assert session.closed
    assert session.take_output() == b""


def test_limits_of_the_listener_hold_where_accept_names_none() -> None:
    """`max_packet_bytes` of the limits is what a login gives by default."""
    session = connected(limits=ServerLimits(max_packet_bytes=100))
    assert violation_of(send(session, Publish("a", bytes(100)))) == R.PACKET_TOO_LARGE


VIOLATIONS: list[tuple[ProtocolVersion, Packet, ReasonCode]] = [
    (V5, Publish("a", b"", properties=Properties(topic_alias=17)), R.TOPIC_ALIAS_INVALID),
    (V5, Publish("", b"", properties=Properties(topic_alias=1)), R.PROTOCOL_ERROR),
    (V5, Publish("a", b"", properties=Properties(response_topic="a/#")), R.TOPIC_NAME_INVALID),
    (V5, Publish("a", b"", properties=Properties(subscription_identifiers=(1,))), R.PROTOCOL_ERROR),
    (V5, Publish("a/+", b""), R.TOPIC_NAME_INVALID),
    (V311, Publish("", b""), R.TOPIC_NAME_INVALID),
    (V5, Subscribe(1, (Subscription("a"), Subscription("$share/g/a", no_local=True))), R.PROTOCOL_ERROR),
    (V5, Disconnect(properties=Properties(session_expiry_interval_s=10)), R.PROTOCOL_ERROR),
    (V5, Connect("again", V5), R.PROTOCOL_ERROR),
    (V311, Connect("again", V311), R.PROTOCOL_ERROR),
]


@pytest.mark.parametrize(("version", "packet", "reason_code"), VIOLATIONS)
def test_violation_ends_the_session_with_its_reason(
    version: ProtocolVersion, packet: Packet, reason_code: ReasonCode
) -> None:
    """A violation ends the session: MQTT 5 is told why, in words too, and 3.1.1 sees the connection close."""
    session = connected(version, will=Will("w", b"gone"))
    events = send(session, packet)
    assert violation_of(events) == reason_code
    assert session.closed
    assert isinstance(events[-1], ProtocolViolated)
    farewell = Disconnect(reason_code, Properties(reason_string=events[-1].error.text))
    assert session.take_output() == (encode(farewell, V5) if version is V5 else b"")
    assert session.will == Will("w", b"gone")


def test_reauthentication_ends_the_session() -> None:
    """AUTH is not in use: no CONNECT with a method is accepted."""
    session = connected(V5)
    assert violation_of(session.receive(bytes.fromhex("f000"))) == R.PROTOCOL_ERROR


@BOTH
def test_retain_flag_reaches_the_broker(version: ProtocolVersion) -> None:
    """Retaining is the broker's business."""
    message = Publish("a", b"x", retain=True)
    assert send(connected(version), message) == [PublishReceived(message)]


@BOTH
def test_events_before_a_violation_in_the_same_read_are_delivered(version: ProtocolVersion) -> None:
    """Nothing that came before the error is lost, whether the decoder or the session finds it (reference defect 4)."""
    good = Publish("a", b"x")
    for bad in (b"\x00\x00", encode(Publish("a/+", b""), version)):
        session = connected(version)
        events = session.receive(encode(good, version) + bad + encode(good, version))
        assert events[0] == PublishReceived(good)
        assert len(events) == 2
        assert isinstance(events[1], ProtocolViolated)
        assert session.receive(encode(good, version)) == []


def test_error_of_the_decoder_is_told_in_disconnect() -> None:
    """MQTT 5 section 4.13."""
    session = connected(V5)
    session.receive(b"\x36\x00")
    farewell = Disconnect(R.MALFORMED_PACKET, Properties(reason_string="reserved flags in PUBLISH"))
    assert session.take_output() == encode(farewell, V5)


def test_ping_is_answered_by_itself() -> None:
    """PINGREQ makes no event."""
    session = connected()
    assert session.receive(b"\xc0\x00\xc0\x00") == []
    assert session.take_output().hex() == "d000d000"


@BOTH
def test_messages_are_acknowledged_when_the_broker_says_so(version: ProtocolVersion) -> None:
    """PUBACK is explicit and goes before the reply that is published after it."""
    session = connected(version)
    message = Publish("a", b"x", qos=1, packet_id=10)
    assert send(session, message) == [PublishReceived(message)]
    assert session.take_output() == b""
    session.acknowledge(10)
    session.publish(Message("b", b"y"), 0)
    assert session.take_output() == b"\x40\x02\x00\x0a" + encode(Publish("b", b"y"), version)
    with pytest.raises(ValueError, match="once"):
        session.acknowledge(10)


def test_acknowledgement_may_refuse_in_mqtt_5_alone() -> None:
    """3.1.1 has no reason in PUBACK."""
    for version, expected in ((V5, "4003000187"), (V311, "40020001")):
        session = connected(version)
        send(session, Publish("a", b"", qos=1, packet_id=1))
        session.acknowledge(1, R.NOT_AUTHORIZED)
        assert session.take_output().hex() == expected


def test_client_of_mqtt_5_beyond_receive_maximum_is_disconnected() -> None:
    """MQTT 5 section 3.3.4: reason 0x93 (P9)."""
    session = connected(V5, ServerLimits(receive_maximum=2))
    messages = [Publish("a", b"", qos=1, packet_id=n) for n in (1, 2, 3)]
    assert len(send(session, *messages[:2])) == 2
    full = session.wants_input
    session.acknowledge(1)
    assert (full, session.wants_input) == (False, True)
    assert send(session, messages[2]) == [PublishReceived(messages[2])]
    assert violation_of(send(session, Publish("a", b"", qos=1, packet_id=4))) == R.RECEIVE_MAXIMUM_EXCEEDED


def test_client_of_311_is_held_back_instead() -> None:
    """3.1.1 knows no Receive Maximum: the driver is asked to stop reading, and no message is lost (P9)."""
    session = connected(V311, ServerLimits(receive_maximum=2))
    wants = [session.wants_input]
    events = send(session, *[Publish("a", b"", qos=1, packet_id=n) for n in (1, 2, 3)])
    assert len(events) == 3
    wants.append(session.wants_input)
    session.acknowledge(1)
    session.acknowledge(2)
    wants.append(session.wants_input)
    assert wants == [True, False, True]


def test_repeated_message_is_not_delivered_twice_while_its_puback_is_owed() -> None:
    """With the dup flag it is a repetition, without it a violation (MQTT-2.2.1-3)."""
    session = connected()
    first = Publish("a", b"x", qos=1, packet_id=1)
    assert send(session, first) == [PublishReceived(first)]
    assert send(session, Publish("a", b"x", qos=1, dup=True, packet_id=1)) == []
    assert violation_of(send(session, first)) == R.PROTOCOL_ERROR


@BOTH
def test_subscriptions_are_answered_by_the_broker(version: ProtocolVersion) -> None:
    """Each filter has its own code; invalid filters reach the broker, which refuses them one by one."""
    session = connected(version)
    subscribe = Subscribe(5, (Subscription("a", 1), Subscription("b/#/c", 0)))
    assert send(session, subscribe) == [SubscribeReceived(subscribe)]
    session.suback(5, (R.GRANTED_QOS_1, R.TOPIC_FILTER_INVALID))
    assert session.take_output().hex() == ("900400050180" if version is V311 else "9005000500018f")
    unsubscribe = Unsubscribe(6, ("a",))
    assert send(session, unsubscribe) == [UnsubscribeReceived(unsubscribe)]
    session.unsuback(6, (R.SUCCESS,))
    assert session.take_output().hex() == ("b0020006" if version is V311 else "b00400060000")


@BOTH
def test_message_of_qos_1_is_delivered_once_acknowledged(version: ProtocolVersion) -> None:
    """MessageDelivered comes with the first PUBACK; a second one, or a stranger's, means nothing."""
    session = connected(version)
    assert session.publish(Message("a", b"x"), 1).taken
    assert session.take_output() == encode(Publish("a", b"x", qos=1, packet_id=1), version)
    assert session.pending.in_flight == 1
    assert session.receive(bytes.fromhex("40020001")) == [MessageDelivered(1, R.SUCCESS)]
    assert session.receive(bytes.fromhex("40020001 40020009")) == []
    assert session.pending.in_flight == 0


def test_refusal_of_a_message_is_told() -> None:
    """The reason in the client's PUBACK reaches the broker."""
    session = connected(V5)
    session.publish(Message("a", b"x"), 1)
    assert session.receive(bytes.fromhex("4003000187")) == [MessageDelivered(1, R.NOT_AUTHORIZED)]


def test_messages_beyond_the_clients_window_wait_in_order() -> None:
    """The client's Receive Maximum is honoured (MQTT-3.3.4-9), and waiting messages follow its acknowledgements."""
    session = connected(V5, properties=Properties(receive_maximum=2))
    for number in range(5):
        assert session.publish(Message("a", bytes((number,))), 1).taken
    decoder = PacketDecoder(1000, version=V5)
    sent = decoder.feed(session.take_output())
    assert session.pending.queued_messages == 3
    while len(sent) < 5:
        oldest = sent[-2]
        assert isinstance(oldest, Publish)
        assert oldest.packet_id is not None
        session.receive(b"\x40\x02" + oldest.packet_id.to_bytes(2, "big"))
        (following,) = decoder.feed(session.take_output())
        sent.append(following)
        assert session.pending.in_flight == 2
    assert [packet.payload[0] for packet in sent if isinstance(packet, Publish)] == [0, 1, 2, 3, 4]
    assert session.pending.queued_bytes == 0


def test_queue_is_bounded_in_messages() -> None:
    """Past the bound a message is not taken, and the publisher knows (P9)."""
    session = connected(limits=ServerLimits(max_in_flight_messages=1, max_queued_messages=2))
    assert [session.publish(Message("a", b""), 1).taken for _ in range(4)] == [True, True, True, False]
    session.take_output()
    session.receive(bytes.fromhex("40020001"))
    assert session.publish(Message("a", b""), 1).taken


def test_queue_and_unwritten_output_are_bounded_in_bytes() -> None:
    """While the driver cannot write, output gathers up to the bound only; replies of either QoS count (P9)."""
    for qos in (0, 1):
        session = connected(limits=ServerLimits(max_queued_bytes=1000, max_in_flight_messages=3))
        taken = [session.publish(Message("a", bytes(100)), qos).taken for _ in range(20)]
        assert taken.count(True) == 9
        assert taken == sorted(taken, reverse=True)
        pending = session.pending
        assert pending.output_bytes + pending.queued_bytes <= 1000
        session.take_output()
        assert session.pending.output_bytes == 0
        assert session.publish(Message("a", bytes(100)), qos).taken


def test_client_that_does_not_read_its_answers_is_cut_off() -> None:
    """Answers past twice the bound end the session (P9); before that the driver is asked not to read."""
    session = connected(V5, limits=ServerLimits(max_queued_bytes=1000))
    session.receive(b"\xc0\x00" * 501)
    assert not session.wants_input
    session.receive(b"\xc0\x00" * 500)
    assert violation_of(session.receive(b"\xc0\x00")) == R.QUOTA_EXCEEDED
    farewell = Disconnect(R.QUOTA_EXCEEDED, Properties(reason_string="the client reads no answers"))
    assert session.take_output().endswith(encode(farewell, V5))


def test_packet_larger_than_the_client_takes_is_not_sent() -> None:
    """The client's Maximum Packet Size is honoured for messages of both QoS (MQTT-3.1.2-24)."""
    session = connected(V5, properties=Properties(maximum_packet_size_bytes=100))
    assert not session.publish(Message("a", bytes(100)), 0).taken
    assert not session.publish(Message("a", bytes(100)), 1).taken
    assert session.publish(Message("a", bytes(90)), 1).taken
    assert session.take_output() == encode(Publish("a", bytes(90), qos=1, packet_id=2), V5)
    assert session._delivery is not None
    assert list(session._delivery._ids) == [2]


def test_suback_larger_than_the_client_takes_ends_the_session() -> None:
    """An answer that is owed but may not be sent leaves no other way."""
    session = connected(V5, properties=Properties(maximum_packet_size_bytes=60))
    session.suback(1, (R.GRANTED_QOS_0,) * 60)
    assert session.closed
    assert session.take_output() == b""


def test_failed_encoding_leaves_no_packet_id_in_use() -> None:
    """A message that cannot be written costs no id."""
    session = connected(V5)
    with pytest.raises(ValueError, match="server_reference"):
        session.publish(Message("a", b"", properties=Properties(server_reference="x")), 1)
    for _ in range(3):
        assert session.publish(Message("a", b""), 1).taken
    assert session.pending.in_flight == 3


def test_normal_disconnect_takes_the_will_away() -> None:
    """MQTT-3.14.4-3; what follows DISCONNECT in the same read does not count."""
    session = connected(will=Will("w", b"gone"))
    due = session.will
    assert session.receive(b"\xe0\x00\xc0\x00") == [Disconnected(R.NORMAL_DISCONNECTION, clean=True)]
    assert (due, session.will) == (Will("w", b"gone"), None)
    assert session.take_output() == b""


@pytest.mark.parametrize("reason_code", [R.DISCONNECT_WITH_WILL_MESSAGE, R.UNSPECIFIED_ERROR])
def test_disconnect_for_another_reason_leaves_the_will_due(reason_code: ReasonCode) -> None:
    """MQTT 5 section 3.14.4."""
    session = connected(V5, will=Will("w", b"gone"))
    assert send(session, Disconnect(reason_code)) == [Disconnected(reason_code, clean=False, publish_will=True)]
    assert session.will == Will("w", b"gone")


def test_lost_connection_leaves_the_will_due() -> None:
    """The end without DISCONNECT is reported once, and not after a clean end."""
    session = connected(will=Will("w", b"gone"))
    assert session.connection_lost() == [Disconnected(R.UNSPECIFIED_ERROR, clean=False, publish_will=True)]
    assert session.connection_lost() == []
    undecided = ServerSession(LIMITS)
    undecided.receive(encode(Connect("c", will=Will("w", b"")), V311))
    assert undecided.connection_lost() == [Disconnected(R.UNSPECIFIED_ERROR, clean=False, publish_will=False)]


@BOTH
def test_server_disconnects_with_a_reason_where_it_can_be_told(version: ProtocolVersion) -> None:
    """MQTT 5 gets DISCONNECT, 3.1.1 a closed connection; afterwards nothing is sent any more (P7)."""
    session = connected(version)
    session.publish(Message("a", b"x"), 0)
    before = session.take_output()
    session.disconnect(R.SESSION_TAKEN_OVER)
    assert session.closed
    assert before
    assert session.take_output().hex() == ("e0018e" if version is V5 else "")
    session.disconnect(R.SESSION_TAKEN_OVER)
    assert not session.publish(Message("a", b"x"), 1).taken
    session.acknowledge(1)
    session.suback(1, (R.SUCCESS,))
    session.unsuback(1, (R.SUCCESS,))
    assert session.receive(b"\xc0\x00") == []
    assert session.take_output() == b""
