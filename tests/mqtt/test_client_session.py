"""The client's side of a conversation, in exact bytes where it speaks."""

from collections.abc import Callable

import pytest

from mqttprov.mqtt import (
    ClientEvent,
    ClientSession,
    Connack,
    Connect,
    Connected,
    Disconnect,
    Disconnected,
    LimitReachedError,
    MessageReceived,
    Packet,
    Pingreq,
    Properties,
    ProtocolVersion,
    ProtocolViolated,
    Publish,
    Published,
    ReasonCode,
    Refused,
    SessionStateError,
    Suback,
    Subscribe,
    Subscribed,
    Subscription,
    TopicError,
    Unsuback,
    Unsubscribe,
    Unsubscribed,
    encode,
)

V311, V5 = ProtocolVersion.V311, ProtocolVersion.V5
R = ReasonCode
ACCEPTED = Connack(session_present=False, reason_code=R.SUCCESS)
BOTH = pytest.mark.parametrize("version", [V311, V5])


def connected(
    version: ProtocolVersion = V311,
    told: Properties | None = None,
    manual_ack: bool = False,
    max_queued_messages: int = 10,
) -> ClientSession:
    """Make a session that is accepted and has nothing to say."""
    session = ClientSession(Connect("c", version), manual_ack=manual_ack, max_queued_messages=max_queued_messages)
    session.take_output()
    connack = Connack(False, R.SUCCESS, told or Properties())
    assert session.receive(encode(connack, version)) == [Connected(connack)]
    return session


def hear(session: ClientSession, *packets: Packet) -> list[ClientEvent]:
    """Let the server send packets in one read."""
    return session.receive(b"".join(encode(packet, session.version) for packet in packets))


def test_output_begins_with_connect_as_the_gateway_sends_it() -> None:
    """The swarm's provisioning CONNECT is the recorded gateway's (reference thingsboard.md section 11.4)."""
    session = ClientSession(Connect("", username="provision"))
    assert session.take_output().hex() == "101700044d5154540482003c0000000970726f766973696f6e"
    assert session.take_output() == b""
    assert not session.connected


def test_mqtt_5_announces_how_large_a_packet_it_takes() -> None:
    """Maximum Packet Size is told, unless the user tells one (MQTT 5 section 3.1.2.11.4)."""
    session = ClientSession(Connect("c", V5), max_packet_bytes=1000)
    announced = Properties(maximum_packet_size_bytes=1000)
    assert session.take_output() == encode(Connect("c", V5, properties=announced), V5)
    own = Connect("c", V5, properties=Properties(maximum_packet_size_bytes=10))
    assert ClientSession(own).take_output() == encode(own, V5)


@pytest.mark.parametrize(
    ("version", "hex_bytes", "reason_code"),
    [
        (V311, "20020001", R.UNSUPPORTED_PROTOCOL_VERSION),
        (V311, "20020002", R.CLIENT_IDENTIFIER_NOT_VALID),
        (V311, "20020003", R.SERVER_UNAVAILABLE),
        (V311, "20020004", R.BAD_USER_NAME_OR_PASSWORD),
        (V311, "20020005", R.NOT_AUTHORIZED),
        (V5, "2003008600", R.BAD_USER_NAME_OR_PASSWORD),
        (V5, "2003008900", R.SERVER_BUSY),
    ],
)
def test_refusal_has_one_vocabulary(version: ProtocolVersion, hex_bytes: str, reason_code: ReasonCode) -> None:
    """Return codes of 3.1.1 come as the reason codes of MQTT 5."""
    session = ClientSession(Connect("c", version))
    assert session.receive(bytes.fromhex(hex_bytes)) == [Refused(reason_code)]
    assert session.closed
    assert not session.connected


def test_server_may_change_client_id_and_keep_alive() -> None:
    """Assigned Client Identifier and Server Keep Alive replace the client's own (MQTT-3.1.2-21)."""
    session = ClientSession(Connect("", V5, keep_alive_s=120))
    assert (session.client_id, session.keep_alive_s) == ("", 120)
    told = Properties(assigned_client_identifier="auto-1", server_keep_alive_s=30)
    hear(session, Connack(False, R.SUCCESS, told))
    assert (session.client_id, session.keep_alive_s) == ("auto-1", 30)


@BOTH
def test_first_packet_must_be_connack(version: ProtocolVersion) -> None:
    """MQTT-3.2.0-1; before CONNACK there is nobody to say goodbye to."""
    session = ClientSession(Connect("c", version))
    session.take_output()
    (event,) = hear(session, Publish("a", b""))
    assert isinstance(event, ProtocolViolated)
    assert event.error.reason_code == R.PROTOCOL_ERROR
    assert session.closed
    assert session.take_output() == b""


@BOTH
def test_subscribing_is_answered_with_the_codes(version: ProtocolVersion) -> None:
    """The packet id joins request and answer."""
    session = connected(version)
    packet_id = session.subscribe([("a/+", 1), ("$share/prov/b", 0)])
    wanted = Subscribe(packet_id, (Subscription("a/+", 1), Subscription("$share/prov/b", 0)))
    assert session.take_output() == encode(wanted, version)
    codes = (R.GRANTED_QOS_1, R.UNSPECIFIED_ERROR)
    assert hear(session, Suback(packet_id, codes)) == [Subscribed(packet_id, codes)]
    assert hear(session, Suback(packet_id, codes)) == []


@BOTH
def test_unsubscribing_is_answered(version: ProtocolVersion) -> None:
    """3.1.1 gives no codes."""
    session = connected(version)
    packet_id = session.unsubscribe(["a/+"])
    assert session.take_output() == encode(Unsubscribe(packet_id, ("a/+",)), version)
    codes = (R.SUCCESS,) if version is V5 else ()
    assert hear(session, Unsuback(packet_id, codes)) == [Unsubscribed(packet_id, codes)]


@BOTH
def test_messages_are_published_and_acknowledged(version: ProtocolVersion) -> None:
    """QoS 0 has no packet id; QoS 1 ends with Published, once."""
    session = connected(version)
    assert session.publish("a", b"x", 0) is None
    packet_id = session.publish("a", b"y", 1)
    assert packet_id == 1
    expected = encode(Publish("a", b"x"), version) + encode(Publish("a", b"y", qos=1, packet_id=1), version)
    assert session.take_output() == expected
    assert session.receive(b"\x40\x02\x00\x01\x40\x02\x00\x01") == [Published(1, R.SUCCESS)]


def test_refused_message_has_its_reason() -> None:
    """PUBACK from 0x80 on is a refusal."""
    session = connected(V5)
    session.publish("a", b"y", 1)
    assert session.receive(bytes.fromhex("4003000187")) == [Published(1, R.NOT_AUTHORIZED)]


@BOTH
def test_received_messages_are_acknowledged_at_once(version: ProtocolVersion) -> None:
    """Without manual_ack PUBACK is written with the event."""
    session = connected(version)
    messages = [Publish("a", b"x"), Publish("a", b"y", qos=1, packet_id=7)]
    assert hear(session, *messages) == [MessageReceived(message) for message in messages]
    assert session.take_output().hex() == "40020007"
    with pytest.raises(SessionStateError, match="manual_ack"):
        session.acknowledge(7)


def test_manual_acknowledgement_waits_for_the_user() -> None:
    """A responder acknowledges a request when its answer is durable (P2); each once."""
    session = connected(V5, manual_ack=True)
    message = Publish("a", b"y", qos=1, packet_id=7)
    assert hear(session, message) == [MessageReceived(message)]
    assert session.take_output() == b""
    session.acknowledge(7, R.NOT_AUTHORIZED)
    assert session.take_output().hex() == "4003000787"
    with pytest.raises(ValueError, match="once"):
        session.acknowledge(7)


def test_server_beyond_our_receive_maximum_is_a_violation() -> None:
    """What was announced is enforced while acknowledgements are owed (P9)."""
    connect = Connect("c", V5, properties=Properties(receive_maximum=1))
    session = ClientSession(connect, manual_ack=True)
    session.take_output()
    hear(session, ACCEPTED)
    messages = [Publish("a", b"", qos=1, packet_id=n) for n in (1, 2)]
    first, second = hear(session, *messages)
    assert first == MessageReceived(messages[0])
    assert isinstance(second, ProtocolViolated)
    assert second.error.reason_code == R.RECEIVE_MAXIMUM_EXCEEDED
    assert session.take_output().hex() == "e00193"


def test_a_server_that_is_known_to_exceed_it_may() -> None:
    """As far as the user allows, and no further (P9)."""
    connect = Connect("c", V5, properties=Properties(receive_maximum=1))
    session = ClientSession(connect, manual_ack=True, max_unsettled=2)
    hear(session, ACCEPTED)
    messages = [Publish("a", b"", qos=1, packet_id=n) for n in (1, 2, 3)]
    *borne, last = hear(session, *messages)
    assert borne == [MessageReceived(message) for message in messages[:2]]
    assert isinstance(last, ProtocolViolated)


@pytest.mark.parametrize(
    ("message", "reason_code"),
    [
        (Publish("a", b"", properties=Properties(topic_alias=1)), R.TOPIC_ALIAS_INVALID),
        (Publish("a/#", b""), R.TOPIC_NAME_INVALID),
        (Publish("", b""), R.TOPIC_NAME_INVALID),
        (ACCEPTED, R.PROTOCOL_ERROR),
    ],
)
def test_what_the_server_may_not_send_ends_the_session(message: Packet, reason_code: ReasonCode) -> None:
    """The server is told why in MQTT 5."""
    session = connected(V5)
    good = Publish("a", b"")
    before, event = hear(session, good, message)
    assert before == MessageReceived(good)
    assert isinstance(event, ProtocolViolated)
    assert event.error.reason_code == reason_code
    assert session.closed
    assert session.take_output() == bytes((0xE0, 1, reason_code))


def test_malformed_bytes_from_the_server_end_the_session() -> None:
    """The decoder's error comes as an event, after what came before it."""
    session = connected(V5)
    good, event = session.receive(encode(Publish("a", b""), V5) + b"\x00\x00")
    assert good == MessageReceived(Publish("a", b""))
    assert isinstance(event, ProtocolViolated)
    assert session.take_output().hex() == "e00181"
    assert session.receive(b"\xd0\x00") == []


def test_packet_larger_than_announced_is_refused() -> None:
    """The server cannot make a client keep more than it announced (P9)."""
    session = ClientSession(Connect("c", V5), max_packet_bytes=100)
    hear(session, ACCEPTED)
    (event,) = hear(session, Publish("a", bytes(100)))
    assert isinstance(event, ProtocolViolated)
    assert event.error.reason_code == R.PACKET_TOO_LARGE


def test_ping_is_outstanding_until_the_answer() -> None:
    """The driver sees a dead server by it."""
    session = connected()
    outstanding = [session.ping_outstanding]
    session.ping()
    assert session.take_output() == encode(Pingreq(), V311)
    outstanding.append(session.ping_outstanding)
    assert session.receive(b"\xd0\x00") == []
    outstanding.append(session.ping_outstanding)
    assert outstanding == [False, True, False]


@pytest.mark.parametrize(("reason_code", "clean"), [(R.NORMAL_DISCONNECTION, True), (R.SESSION_TAKEN_OVER, False)])
def test_server_may_disconnect_with_a_reason(reason_code: ReasonCode, clean: bool) -> None:
    """MQTT 5 section 3.14; what follows does not count."""
    session = connected(V5)
    assert hear(session, Disconnect(reason_code), Publish("a", b"")) == [Disconnected(reason_code, clean)]
    assert session.closed


@BOTH
def test_goodbye_closes_the_session(version: ProtocolVersion) -> None:
    """After DISCONNECT nothing more is said, and saying something is our own mistake."""
    session = connected(version)
    session.disconnect()
    assert session.closed
    session.disconnect()
    assert session.take_output().hex() == "e000"
    calls: list[Callable[[], object]] = [
        lambda: session.publish("a", b"", 0),
        lambda: session.publish("a", b"", 1),
        lambda: session.subscribe([("a", 0)]),
        lambda: session.unsubscribe(["a"]),
        session.ping,
    ]
    for call in calls:
        with pytest.raises(SessionStateError, match="closed"):
            call()
    session.acknowledge(1)
    assert session.take_output() == b""


def test_window_of_the_server_is_honoured() -> None:
    """Receive Maximum of the server (MQTT-3.3.4-7): the rest waits in order, in a bounded queue (P9)."""
    session = connected(V5, Properties(receive_maximum=1), max_queued_messages=2)
    ids = [session.publish("a", bytes((n,)), 1) for n in range(3)]
    with pytest.raises(LimitReachedError, match="wait"):
        session.publish("a", b"", 1)
    sent = [session.take_output()]
    for packet_id in ids[:2]:
        assert packet_id is not None
        session.receive(b"\x40\x02" + packet_id.to_bytes(2, "big"))
        sent.append(session.take_output())
    assert sent == [encode(Publish("a", bytes((n,)), qos=1, packet_id=ids[n]), V5) for n in range(3)]
    assert session.publish("a", b"", 1) is not None


def test_answer_to_another_packet_cannot_free_a_waiting_message() -> None:
    """A server that answers with a wrong packet type neither loses nor sends a message that waits."""
    session = connected(V5, Properties(receive_maximum=1))
    first, second = session.publish("a", b"1", 1), session.publish("a", b"2", 1)
    assert (first, second) == (1, 2)
    session.take_output()
    assert hear(session, Suback(2, (R.SUCCESS,))) == []
    assert session.receive(bytes.fromhex("40020002")) == []
    assert session.receive(bytes.fromhex("40020001")) == [Published(1, R.SUCCESS)]
    assert session.take_output() == encode(Publish("a", b"2", qos=1, packet_id=2), V5)


@pytest.mark.parametrize(
    ("told", "payload", "qos", "retain"),
    [
        (Properties(maximum_packet_size_bytes=50), bytes(50), 0, False),
        (Properties(maximum_packet_size_bytes=50), bytes(50), 1, False),
        (Properties(maximum_qos=0), b"", 1, False),
        (Properties(retain_available=False), b"", 0, True),
    ],
)
def test_what_the_server_does_not_take_is_not_sent(told: Properties, payload: bytes, qos: int, retain: bool) -> None:
    """The server's announcements are honoured, and the user knows (MQTT-3.2.2-11, -14, -15)."""
    session = connected(V5, told)
    with pytest.raises(LimitReachedError, match="server"):
        session.publish("a", payload, qos, retain=retain)
    assert session.take_output() == b""
    assert session.publish("a", b"", 0) is None
    assert session.take_output() == encode(Publish("a", b""), V5)


def test_request_that_is_too_large_costs_no_packet_id() -> None:
    """A subscription that the server does not take leaves nothing behind."""
    session = connected(V5, Properties(maximum_packet_size_bytes=50))
    with pytest.raises(LimitReachedError, match="bytes"):
        session.subscribe([("x" * 60, 0)])
    for _ in range(3):
        session.subscribe([("x", 0)])
    assert len(session._sender.state._ids) == 3


def test_own_mistakes_are_told() -> None:
    """Invalid topics and a QoS that there is not never reach the wire."""
    session = connected()
    with pytest.raises(TopicError):
        session.publish("a/+", b"", 0)
    with pytest.raises(TopicError):
        session.subscribe([("a/#/b", 0)])
    with pytest.raises(TopicError):
        session.unsubscribe(["a+"])
    with pytest.raises(ValueError, match="QoS 3"):
        session.publish("a", b"", 3)
    with pytest.raises(ValueError, match="QoS 3"):
        session.subscribe([("a", 3)])
    assert session.take_output() == b""


def test_all_packet_ids_in_use_is_a_limit() -> None:
    """There are 65535 ids; the next request is refused until an answer frees one (P9)."""
    session = connected()
    ids = {session.unsubscribe(["a"]) for _ in range(65_535)}
    assert ids == set(range(1, 65_536))
    with pytest.raises(LimitReachedError, match="packet ids"):
        session.subscribe([("a", 0)])
    hear(session, Unsuback(500))
    assert session.subscribe([("a", 0)]) == 500
