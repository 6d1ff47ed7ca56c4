"""What outlives a connection: resumed sessions in exact bytes, bounds, expiry, and the same on the client's side."""

import pytest
from tests.mqtt.wire.script import Server, play

from mqttprov.mqtt import (
    ClientSession,
    Connack,
    Connect,
    Connected,
    DeliveryState,
    Disconnect,
    Message,
    MessageReceived,
    Properties,
    ProtocolVersion,
    Publish,
    Published,
    Pubrec,
    Pubrel,
    ReasonCode,
    ServerLimits,
    ServerSession,
    SessionStateError,
    Subscription,
    Verdict,
    Will,
    encode,
)

V311, V5 = ProtocolVersion.V311, ProtocolVersion.V5
R = ReasonCode
RESUME_311 = "C 100d 00044d515454 04 00 003c 000163\nS 2002 01 00"


def message(text: str, expiry_s: int | None = None) -> Message:
    """Make a message to `a`."""
    if expiry_s is None:
        return Message("a", text.encode())
    return Message("a", text.encode(), properties=Properties(message_expiry_interval_s=expiry_s))


def test_server_goes_on_where_the_connection_broke() -> None:
    """PUBREL again, messages again with dup and their ids, then what waits, in order (MQTT-4.4.0-1)."""
    first = Server(ServerLimits(max_in_flight_messages=3))
    play(first, "C 100d 00044d515454 04 00 003c 000163\nS 2002 00 00")
    for text, qos in (("1", 2), ("2", 1), ("3", 2), ("4", 1)):
        first.session.publish(message(text), qos)
    first.session.take_output()
    first.hear(bytes.fromhex("5002 0001"))
    first.session.take_output()
    first.session.connection_lost()
    state = first.session.detach()
    assert state.enqueue(message("5"), 1) is Verdict.WAITING
    play(
        Server(ServerLimits(max_in_flight_messages=3), state),
        RESUME_311
        + " 6202 0001"  # PUBREL of the first
        + " 3a06 000161 0002 32"  # the second again
        + " 3c06 000161 0003 33"  # the third again; the window is full
        + """
        C 7002 0001
        S 3206 000161 0004 34           # the fourth, for the first time
        C 4002 0002
        S 3206 000161 0005 35""",
    )


def test_repetition_of_qos_2_on_a_new_connection_is_not_handed_over() -> None:
    """The id is known until PUBREL, on whatever connection (MQTT-4.3.3-2)."""
    first = Server()
    play(first, "C 100d 00044d515454 04 00 003c 000163\nS 2002 00 00\nC 3406 000161 0007 78\nS 5002 0007")
    first.session.connection_lost()
    again = Server(state=first.session.detach())
    play(again, RESUME_311 + "\nC 3c06 000161 0007 78\nS 5002 0007\nC 6202 0007\nS 7002 0007")
    assert (first.taken, again.taken) == ([b"x"], [])


def test_smaller_window_of_the_new_connection_holds() -> None:
    """Receive Maximum belongs to the connection: what was in flight waits for it too (MQTT-3.3.4-9)."""
    state = DeliveryState(10, 1000)
    for text in "12":
        state.enqueue(message(text), 1)
    play(
        Server(state=state),
        "C 1011 00044d515454 05 00 003c 03 210001 000163\nS 200e 01 00 0b 210064 220010 2700040000 "
        "3207 000161 0001 00 31"
        "\nC 4002 0001\nS 3207 000161 0002 00 32",
    )


def test_what_waits_is_bounded_in_messages_and_bytes() -> None:
    """The newest is refused, the caller told, and its id is free again (P9)."""
    state = DeliveryState(2, 1000)
    assert [state.enqueue(message("x"), 1) for _ in range(3)] == [Verdict.WAITING, Verdict.WAITING, Verdict.FULL]
    assert state.queued_messages == 2
    heavy = DeliveryState(100, 1000)
    assert [heavy.enqueue(message("x" * 495), 2) for _ in range(3)] == [Verdict.WAITING, Verdict.WAITING, Verdict.FULL]
    assert heavy.queued_bytes == 1000
    named = Message("a", b"", properties=Properties(user_properties=(("k" * 500, "v" * 500),)))
    assert DeliveryState(1, 1000).enqueue(named, 1) is Verdict.FULL
    with pytest.raises(ValueError, match="QoS 0"):
        state.enqueue(message("x"), 0)


def test_bytes_in_flight_are_bounded_too() -> None:
    """A client that reads but acknowledges nothing holds no more than the bound, and at least one (P9)."""
    session = Server(ServerLimits(max_queued_bytes=1000))
    play(session, "C 100d 00044d515454 04 02 003c 000163\nS 2002 00 00")
    verdicts = []
    for _ in range(20):
        verdicts.append(session.session.publish(message("x" * 400), 1))
        session.session.take_output()
    assert verdicts == [Verdict.SENT] * 2 + [Verdict.WAITING] * 2 + [Verdict.FULL] * 16
    session.hear(bytes.fromhex("4002 0001"))
    assert session.session.pending.queued_messages == 1


def test_expired_messages_are_not_delivered_unless_delivery_had_begun() -> None:
    """Lifetime is counted from arrival (MQTT-3.3.2-5, -6); a message that was sent before sees its end."""
    state = DeliveryState(10, 1000)
    for text, expiry_s in (("short", 5), ("long", 50), ("for ever", None)):
        state.enqueue(message(text, expiry_s), 1)
    assert state.drop_expired(10.0) == 1
    assert state.queued_messages == 2
    session = ServerSession(ServerLimits())
    connect = Connect("c", V5, clean_start=False)
    session.receive(encode(connect, V5))
    session.accept(session_present=True, state=state, now_s=20.0)
    sent = session.take_output()
    left = Properties(message_expiry_interval_s=30)
    assert encode(Publish("a", b"long", 1, packet_id=2, properties=left), V5) in sent
    session.connection_lost()
    again = ServerSession(ServerLimits())
    again.receive(encode(connect, V5))
    again.accept(session_present=True, state=session.detach(), now_s=100.0)
    over = Properties(message_expiry_interval_s=0)
    assert encode(Publish("a", b"long", 1, dup=True, packet_id=2, properties=over), V5) in again.take_output()


def test_packet_that_became_too_large_counts_as_delivered() -> None:
    """The client of the new connection takes less (MQTT-3.1.2-25); what follows is not held up."""
    state = DeliveryState(10, 1000)
    for text in ("x" * 100, "y"):
        state.enqueue(message(text), 1)
    session = ServerSession(ServerLimits())
    session.receive(encode(Connect("c", V5, False, properties=Properties(maximum_packet_size_bytes=50)), V5))
    session.accept(session_present=True, state=state)
    assert session.take_output().endswith(encode(Publish("a", b"y", 1, packet_id=2), V5))
    assert session.pending.in_flight == 1


@pytest.mark.parametrize(
    ("version", "clean", "asked_s", "told_s", "goodbye_s", "expiry_s"),
    [
        (V311, True, None, None, None, 0),
        (V311, False, None, None, None, 100),
        (V5, False, None, None, None, 0),
        (V5, False, 60, None, None, 60),
        (V5, False, 600, 100, None, 100),
        (V5, True, 60, None, 0, 0),
        (V5, True, 60, None, 90, 90),
        (V5, True, 60, None, 900, 100),
    ],
)
def test_session_lasts_as_asked_and_granted(
    version: ProtocolVersion, clean: bool, asked_s: int | None, told_s: int | None, goodbye_s: int | None, expiry_s: int
) -> None:
    """CONNACK names the interval only where it differs; DISCONNECT may change it (MQTT 5 section 3.14.2.2.2)."""
    session = ServerSession(ServerLimits())
    wishes = Properties(session_expiry_interval_s=asked_s) if asked_s is not None else Properties()
    session.receive(encode(Connect("c", version, clean, properties=wishes), version))
    session.accept(max_session_expiry_s=100)
    client = ClientSession(Connect("c", version, clean))
    (event,) = client.receive(session.take_output())
    assert isinstance(event, Connected)
    assert event.connack.properties.session_expiry_interval_s == told_s
    if goodbye_s is not None:
        session.receive(encode(Disconnect(properties=Properties(session_expiry_interval_s=goodbye_s)), version))
    assert session.session_expiry_s == expiry_s


def test_state_is_taken_from_a_session_that_has_ended() -> None:
    """While it goes on nobody else may touch its state, and a clean start goes on with nothing."""
    session = ServerSession(ServerLimits())
    session.receive(encode(Connect("c"), V311))
    with pytest.raises(ValueError, match="session_present"):
        session.accept(session_present=True, state=DeliveryState(1, 1))
    session.accept()
    with pytest.raises(SessionStateError, match="goes on"):
        session.detach()
    with pytest.raises(ValueError, match="clean"):
        ClientSession(Connect("c"), state=DeliveryState(1, 1))


def resumed(state: DeliveryState, session_present: bool) -> tuple[ClientSession, list[object], bytes]:
    """Let a client come back; give its events and what it says behind CONNECT."""
    client = ClientSession(Connect("c", V5, clean_start=False), state=state)
    client.take_output()
    events = client.receive(encode(Connack(session_present, R.SUCCESS), V5))
    return client, list(events), client.take_output()


def half_way() -> DeliveryState:
    """Give the state of a client with a message of QoS 2 released, one unacknowledged, one not sent."""
    client = ClientSession(Connect("c", V5, clean_start=False))
    client.receive(encode(Connack(False, R.SUCCESS, Properties(receive_maximum=2)), V5))
    for text, qos in (("1", 2), ("2", 1), ("3", 1)):
        client.publish("a", text.encode(), qos)
    client.receive(encode(Pubrec(1), V5))
    client.receive(encode(Publish("b", b"in", 2, packet_id=9), V5))
    return client.detach()


def test_client_goes_on_with_a_server_that_knows_it() -> None:
    """The same rules in the other direction; a repeated QoS 2 message is not told twice."""
    client, events, said = resumed(half_way(), session_present=True)
    assert [type(event) for event in events] == [Connected]
    assert said == b"".join(
        encode(packet, V5)
        for packet in (Pubrel(1), Publish("a", b"2", 1, dup=True, packet_id=2), Publish("a", b"3", 1, packet_id=3))
    )
    assert client.receive(encode(Publish("b", b"in", 2, dup=True, packet_id=9), V5)) == []
    assert client.take_output() == encode(Pubrec(9), V5)
    assert client.receive(bytes.fromhex("7002 0001")) == [Published(1, R.SUCCESS)]


def test_client_is_told_what_a_forgetful_server_has_lost() -> None:
    """What was sent is not sent again (MQTT-3.2.2-5) but named; what was never sent goes out."""
    client, events, said = resumed(half_way(), session_present=False)
    (connected,) = events
    assert isinstance(connected, Connected)
    assert [each.payload for each in connected.lost] == [b"2"]
    assert said == encode(Publish("a", b"3", 1, packet_id=3), V5)
    again = Publish("b", b"in", 2, packet_id=9)
    assert client.receive(encode(again, V5)) == [MessageReceived(again)]


def test_client_resolves_aliases_and_asks_with_options_and_identifier() -> None:
    """Topic aliases are those that it announced room for; SUBSCRIBE carries everything that MQTT 5 knows."""
    client = ClientSession(Connect("c", V5, properties=Properties(topic_alias_maximum=2)))
    client.receive(encode(Connack(False, R.SUCCESS), V5))
    client.take_output()
    client.subscribe([Subscription("a", 2, True, True, 2)], subscription_identifier=5)
    assert client.take_output().hex() == "82090001020b050001612e"
    aliased = [Publish(topic, b"x", properties=Properties(topic_alias=2)) for topic in ("t", "")]
    events = client.receive(b"".join(encode(each, V5) for each in aliased))
    assert events == [MessageReceived(Publish("t", b"x"))] * 2


def test_will_becomes_a_message_without_its_delay() -> None:
    """The delay is the will's, everything else is the message's (MQTT 5 section 3.1.3.2)."""
    will = Will("w", b"x", 2, True, Properties(will_delay_interval_s=9, content_type="t"))
    assert Message.from_will(will, 3.0) == Message("w", b"x", 2, True, Properties(content_type="t"), 3.0)
    assert "secret" not in repr(Message("w", b"secret"))
