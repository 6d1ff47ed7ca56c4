"""The server's side up to the login: CONNECT, the decision about it, CONNACK."""

import pytest

from mqttprov.mqtt import (
    Connack,
    Connect,
    ConnectReceived,
    Disconnected,
    Message,
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
    SessionStateError,
    Verdict,
    Will,
    encode,
)

V311, V5 = ProtocolVersion.V311, ProtocolVersion.V5
R = ReasonCode
LIMITS = ServerLimits()


def violation_of(events: list[ServerEvent]) -> ReasonCode:
    """Return the reason of the violation that ends the events."""
    assert isinstance(events[-1], ProtocolViolated)
    return events[-1].error.reason_code


def without_words(data: bytes) -> bytes:
    """Leave the reason string out of a CONNACK of MQTT 5."""
    for packet in PacketDecoder(1000, version=V5).feed(data):
        assert isinstance(packet, Connack)
        if packet.properties.reason_string:
            return encode(Connack(packet.session_present, packet.reason_code), V5)
    return data


def test_connack_of_mqtt_5_says_honestly_what_is_served() -> None:
    """Limits are announced; what is not named is served: every QoS, retained messages, wildcards, identifiers, shared
    subscriptions (MQTT 5 section 3.2.2.3)."""
    session = ServerSession(ServerLimits(receive_maximum=7, max_keep_alive_s=100))
    asked = Connect("", V5, keep_alive_s=120, properties=Properties(session_expiry_interval_s=60))
    session.receive(encode(asked, V5))
    session.accept(assigned_client_id="auto-1", max_packet_bytes=5000)
    (connack,) = PacketDecoder(1000, version=V5).feed(session.take_output())
    assert connack == Connack(
        session_present=False,
        reason_code=R.SUCCESS,
        properties=Properties(
            session_expiry_interval_s=0,
            assigned_client_identifier="auto-1",
            server_keep_alive_s=100,
            receive_maximum=7,
            topic_alias_maximum=16,
            maximum_packet_size_bytes=5000,
        ),
    )
    assert session.client_id == "auto-1"
    assert session.keep_alive_timeout_s == 150


def test_connack_tells_a_client_nothing_that_it_need_not_know() -> None:
    """Keep alive, client id and expiry are named only where the server changes them."""
    session = ServerSession(LIMITS)
    session.receive(encode(Connect("c", V5, keep_alive_s=60), V5))
    session.accept()
    (connack,) = PacketDecoder(1000, version=V5).feed(session.take_output())
    assert isinstance(connack, Connack)
    assert connack.properties.server_keep_alive_s is None
    assert connack.properties.assigned_client_identifier is None
    assert connack.properties.session_expiry_interval_s is None


@pytest.mark.parametrize(
    ("version", "asked_s", "imposed_s", "timeout_s"),
    [
        (V311, 60, None, 90.0),
        (V311, 1, None, 1.5),
        (V311, 0, None, None),
        (V311, 60, 10, 90.0),
        (V5, 60, None, 90.0),
        (V5, 60, 10, 15.0),
        (V5, 5, 10, 7.5),
        (V5, 0, None, 5400.0),
        (V5, 65_535, None, 5400.0),
    ],
)
def test_keep_alive_times_out_after_one_and_a_half(
    version: ProtocolVersion, asked_s: int, imposed_s: int | None, timeout_s: float | None
) -> None:
    """Only MQTT 5 clients can be told another keep alive than theirs, so only they are held to it."""
    session = ServerSession(LIMITS)
    assert session.keep_alive_timeout_s is None
    session.receive(encode(Connect("c", version, keep_alive_s=asked_s), version))
    session.accept(keep_alive_s=imposed_s)
    assert session.keep_alive_timeout_s == timeout_s


@pytest.mark.parametrize(
    ("version", "reason_code", "hex_bytes"),
    [
        (V311, R.BAD_USER_NAME_OR_PASSWORD, "20020004"),
        (V311, R.NOT_AUTHORIZED, "20020005"),
        (V311, R.BANNED, "20020005"),
        (V311, R.SERVER_BUSY, "20020003"),
        (V311, R.CLIENT_IDENTIFIER_NOT_VALID, "20020002"),
        (V311, R.PACKET_TOO_LARGE, ""),
        (V5, R.BAD_USER_NAME_OR_PASSWORD, "2003008600"),
        (V5, R.BANNED, "2003008a00"),
        (V5, R.SERVER_SHUTTING_DOWN, "2003008000"),
    ],
)
def test_refusal_is_told_in_the_words_of_the_version(
    version: ProtocolVersion, reason_code: ReasonCode, hex_bytes: str
) -> None:
    """3.1.1 gets the nearest return code or a mere close; MQTT 5 a code that CONNACK may have."""
    session = ServerSession(LIMITS)
    session.receive(encode(Connect("c", version, will=Will("w", b"")), version))
    session.refuse(reason_code)
    assert session.take_output().hex() == hex_bytes
    assert session.closed
    assert session.will is None


def test_refusal_needs_a_refusing_reason() -> None:
    """A CONNACK that accepts by mistake cannot be sent."""
    session = ServerSession(LIMITS)
    session.receive(encode(Connect("c"), V311))
    with pytest.raises(ValueError, match="no refusal"):
        session.refuse(R.SUCCESS)


@pytest.mark.parametrize(
    ("hex_bytes", "reason_code", "answer"),
    [
        ("100f00064d51497364700302003c000178", R.UNSUPPORTED_PROTOCOL_VERSION, "20020001"),
        ("100d00044d5154540602003c000178", R.UNSUPPORTED_PROTOCOL_VERSION, "2003008400"),
        ("c000", R.PROTOCOL_ERROR, ""),
        ("100d00044d5154540403003c000178", R.MALFORMED_PACKET, ""),
        ("101100044d5154540502003c03210000000178", R.PROTOCOL_ERROR, "2003008200"),
        ("10ffff7f00044d51545405", R.PACKET_TOO_LARGE, "2003009500"),
        ("10ffff7f00044d51545404", R.PACKET_TOO_LARGE, ""),
    ],
)
def test_bad_connect_is_answered_in_the_form_its_sender_knows(
    hex_bytes: str, reason_code: ReasonCode, answer: str
) -> None:
    """Old clients get CONNACK 1, MQTT 5 clients a reason code, others nothing at all."""
    session = ServerSession(LIMITS)
    events = session.receive(bytes.fromhex(hex_bytes))
    assert violation_of(events) == reason_code
    assert without_words(session.take_output()).hex() == answer
    assert session.closed


@pytest.mark.parametrize(
    ("connect", "reason_code", "answer"),
    [
        (Connect("", V311, clean_start=False), R.CLIENT_IDENTIFIER_NOT_VALID, "20020002"),
        (Connect("c", V311, will=Will("a/#", b"")), R.TOPIC_NAME_INVALID, ""),
        (Connect("c", V5, will=Will("a/#", b"")), R.TOPIC_NAME_INVALID, "2003009000"),
        (
            Connect("c", V5, will=Will("w", b"", properties=Properties(response_topic="+"))),
            R.TOPIC_NAME_INVALID,
            "2003009000",
        ),
        (Connect("c", V5, properties=Properties(authentication_method="x")), R.BAD_AUTHENTICATION_METHOD, "2003008c00"),
    ],
)
def test_connect_that_asks_for_the_unserved_is_refused(connect: Connect, reason_code: ReasonCode, answer: str) -> None:
    """The broker never sees such a CONNECT."""
    session = ServerSession(LIMITS)
    events = session.receive(encode(connect, connect.version))
    assert len(events) == 1
    assert violation_of(events) == reason_code
    assert without_words(session.take_output()).hex() == answer


def test_client_without_id_needs_an_assigned_one_in_mqtt_5() -> None:
    """Every MQTT 5 client learns its id (MQTT-3.1.3-7); a client that has one keeps it."""
    session = ServerSession(LIMITS)
    session.receive(encode(Connect("", V5), V5))
    with pytest.raises(ValueError, match="assigned_client_id"):
        session.accept()
    session.accept(assigned_client_id="a1")
    assert session.client_id == "a1"
    other = ServerSession(LIMITS)
    other.receive(encode(Connect("mine"), V311))
    with pytest.raises(ValueError, match="assigned_client_id"):
        other.accept(assigned_client_id="a2")


def test_calls_out_of_turn_are_refused() -> None:
    """Accepting and refusing answer one CONNECT once; nothing is answered before it."""
    session = ServerSession(LIMITS)
    with pytest.raises(SessionStateError, match="ConnectReceived"):
        session.accept()
    with pytest.raises(SessionStateError, match="ConnectReceived"):
        session.refuse(R.NOT_AUTHORIZED)
    with pytest.raises(SessionStateError, match="CONNECT"):
        session.suback(1, (R.SUCCESS,))
    assert session.publish(Message("a", b""), 0) is Verdict.CLOSED
    session.receive(encode(Connect("c"), V311))
    session.accept()
    with pytest.raises(SessionStateError, match="ConnectReceived"):
        session.accept()


def test_what_follows_connect_waits_for_the_decision() -> None:
    """A client that does not wait for CONNACK is heard once it is accepted, never if refused (MQTT-3.1.4-5)."""
    eager = encode(Connect("c"), V311) + encode(Publish("a", b"x"), V311) + b"\xc0\x00"
    session = ServerSession(LIMITS)
    assert session.receive(eager) == [ConnectReceived(Connect("c"))]
    assert session.accept() == [PublishReceived(Publish("a", b"x"))]
    assert session.take_output().hex() == "20020000" + "d000"
    refused = ServerSession(LIMITS)
    refused.receive(eager)
    refused.refuse(R.NOT_AUTHORIZED)
    assert refused.take_output().hex() == "20020005"


def test_packet_size_grows_with_the_login() -> None:
    """Before login little is taken, after it what `accept` allows (P9)."""
    limits = ServerLimits(max_packet_bytes_before_login=100)
    session = ServerSession(limits)
    large = Publish("a", bytes(500))
    session.receive(encode(Connect("c"), V311))
    assert session.accept(max_packet_bytes=600) == []
    assert session.receive(encode(large, V311)) == [PublishReceived(large)]
    assert violation_of(session.receive(encode(Publish("a", bytes(600)), V311))) == R.PACKET_TOO_LARGE
    before = ServerSession(limits)
    assert (
        violation_of(before.receive(encode(Connect("c", password=bytes(100), username="u"), V311)))
        == R.PACKET_TOO_LARGE
    )


def test_client_that_takes_not_even_connack_is_left() -> None:
    """No packet larger than announced is ever sent, so such a session ends at once (MQTT-3.1.2-24)."""
    session = ServerSession(LIMITS)
    session.receive(encode(Connect("c", V5, properties=Properties(maximum_packet_size_bytes=10)), V5))
    assert violation_of(session.accept()) == R.PACKET_TOO_LARGE
    assert session.closed
    assert session.take_output() == b""


@pytest.mark.parametrize(("version", "answer"), [(V311, "20020003"), (V5, "2003008000")])
def test_disconnect_of_a_waiting_client_refuses_it(version: ProtocolVersion, answer: str) -> None:
    """A shutdown during a login is told by CONNACK, never by DISCONNECT."""
    session = ServerSession(LIMITS)
    session.receive(encode(Connect("c", version), version))
    session.disconnect(R.SERVER_SHUTTING_DOWN)
    assert session.take_output().hex() == answer


def test_disconnect_before_connect_is_silent() -> None:
    """A peer that has said nothing is told nothing, such as after a CONNECT timeout."""
    session = ServerSession(LIMITS)
    session.receive(b"\x10")
    session.disconnect(R.KEEP_ALIVE_TIMEOUT)
    assert session.closed
    assert session.take_output() == b""


def test_bytewise_conversation_is_the_same() -> None:
    """Reads of one byte each give the same events and answers."""
    session = ServerSession(LIMITS)
    events: list[ServerEvent] = []
    message = Publish("a", bytes(300), qos=1, packet_id=3)
    for byte in encode(Connect("c"), V311) + encode(message, V311) + b"\xc0\x00\xe0\x00":
        for event in session.receive(bytes((byte,))):
            events.append(event)
            if isinstance(event, ConnectReceived):
                events += session.accept()
    assert events == [
        ConnectReceived(Connect("c")),
        PublishReceived(message),
        Disconnected(R.NORMAL_DISCONNECTION, clean=True),
    ]
    assert session.take_output().hex() == "20020000d000"
