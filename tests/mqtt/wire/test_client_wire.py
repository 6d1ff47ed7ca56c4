"""What a client says to each packet in both versions, bytes in and bytes out."""

from typing import Any

import pytest
from tests.mqtt.wire.script import Action, Client, play

from mqttprov.mqtt import (
    Connect,
    Connected,
    Disconnected,
    LimitReachedError,
    Properties,
    ProtocolVersion,
    ProtocolViolated,
    Published,
    ReasonCode,
    Refused,
    Subscribed,
    Subscription,
    Unsubscribed,
    Will,
)

V311, V5 = ProtocolVersion.V311, ProtocolVersion.V5
# CONNECT of client `c`, clean, keep alive 60 s, and the answer. In MQTT 5 it takes 256 KiB and 16 topic aliases.
HELLO_311 = """
C 100d 00044d515454 04 02 003c 000163
S 2002 00 00
C
"""
HELLO_5 = """
C 1016 00044d515454 05 02 003c 08 220010 2700040000 000163
S 2003 00 00 00
C
"""
EVERYTHING = Properties(
    payload_format_indicator=True,
    message_expiry_interval_s=60,
    content_type="t",
    response_topic="r",
    correlation_data=b"\1",
    user_properties=(("k", "v"), ("k", "w")),
)


def client(version: ProtocolVersion, *, manual_ack: bool = False, clean: bool = True) -> Client:
    """Make the client of the two greetings; it has not heard the answer yet."""
    told = Properties(topic_alias_maximum=16) if version is V5 else Properties()
    return Client(Connect("c", version, clean, properties=told), manual_ack=manual_ack)


ACTIONS: dict[str, Action] = {
    "publish 0": lambda one: one.session.publish("a", b"x", 0),
    "publish 1": lambda one: one.session.publish("a", b"x", 1),
    "publish 2": lambda one: one.session.publish("a", b"x", 2),
    "publish 1 retained": lambda one: one.session.publish("a", b"x", 1, retain=True),
    "publish with everything": lambda one: one.session.publish("a", b"x", 0, properties=EVERYTHING),
    "subscribe": lambda one: one.session.subscribe([("a", 1), ("b/#", 2)]),
    "subscribe with options": lambda one: one.session.subscribe(
        [Subscription("a", 1, no_local=True, retain_as_published=True, retain_handling=2)], subscription_identifier=5
    ),
    "subscribe shared": lambda one: one.session.subscribe([("$share/g/a", 2)]),
    "unsubscribe": lambda one: one.session.unsubscribe(["a", "b/#"]),
    "ping": lambda one: one.session.ping(),
    "disconnect": lambda one: one.session.disconnect(),
    "acknowledge 1": lambda one: one.session.acknowledge(1),
    "both from a": lambda one: [event.publish.topic for event in one.events[1:]] == ["a", "a"] or pytest.fail("lost"),
    "refuse 1": lambda one: one.session.acknowledge(1, ReasonCode.NOT_AUTHORIZED),
}

CONVERSATIONS_311 = {
    "PINGREQ": "! ping\nC c000\nS d000\nC",
    "DISCONNECT": "! disconnect\nC e000\nX",
    "SUBSCRIBE": "! subscribe\nC 820c 0001 000161 01 0003622f23 02\nS 9004 0001 01 80\nC",
    "options and identifiers are left out": "! subscribe with options\nC 8206 0001 000161 01\nS 9003 0001 01\nC",
    "UNSUBSCRIBE": "! unsubscribe\nC a20a 0001 000161 0003622f23\nS b002 0001\nC",
    "ids are free again": "! subscribe\nC 820c 0001 000161 01 0003622f23 02\nS 9004 0001 01 02\n"
    "! unsubscribe\nC a20a 0002 000161 0003622f23\nS b002 0002\n! publish 1\nC 3206 000161 0003 78",
    "PUBLISH QoS 0": "! publish 0\nC 3004 000161 78",
    "PUBLISH QoS 1": "! publish 1\nC 3206 000161 0001 78\nS 4002 0001\nC",
    "PUBLISH QoS 1 retained": "! publish 1 retained\nC 3306 000161 0001 78",
    "PUBLISH QoS 2": "! publish 2\nC 3406 000161 0001 78\nS 5002 0001\nC 6202 0001\nS 7002 0001\nC",
    "properties are left out": "! publish with everything\nC 3004 000161 78",
    "PUBREC twice": "! publish 2\nC 3406 000161 0001 78\nS 5002 0001 5002 0001\nC 6202 0001 6202 0001",
    "PUBREC for nothing": "S 5002 0009\nC 6202 0009",
    "PUBACK and PUBCOMP for nothing": "S 4002 0009 7002 0009\nC",
    "server QoS 0": "S 3004 000161 78\nC",
    "server QoS 1": "S 3206 000161 0001 78\nC 4002 0001",
    "server QoS 1 retained": "S 3306 000161 0001 78\nC 4002 0001",
    "server QoS 2": "S 3406 000161 0001 78\nC 5002 0001\nS 6202 0001\nC 7002 0001",
    "PUBREL for nothing": "S 6202 0009\nC 7002 0009",
    "an answer in pieces": "! publish 1\nC 3206 000161 0001 78\nS 40\nC\nS 0200\nC\nS 01\nC",
}
CONVERSATIONS_5 = {
    "PINGREQ": "! ping\nC c000\nS d000\nC",
    "DISCONNECT": "! disconnect\nC e000\nX",
    "server DISCONNECT": "S e0018b\nC\nX",
    "server DISCONNECT in words": "S e008 8b 06 1f0003 627965\nC\nX",
    "SUBSCRIBE": "! subscribe\nC 820d 0001 00 000161 01 0003622f23 02\nS 9005 0001 00 01 87\nC",
    "SUBSCRIBE options": "! subscribe with options\nC 8209 0001 02 0b05 000161 2d\nS 9004 0001 00 01\nC",
    "SUBSCRIBE shared": "! subscribe shared\nC 8210 0001 00 000a 2473686172652f672f61 02\nS 9004 0001 00 02\nC",
    "UNSUBSCRIBE": "! unsubscribe\nC a20b 0001 00 000161 0003622f23\nS b005 0001 00 00 11\nC",
    "PUBLISH QoS 0": "! publish 0\nC 3005 000161 00 78",
    "PUBLISH QoS 1": "! publish 1\nC 3207 000161 0001 00 78\nS 4003 0001 10\nC",
    "PUBLISH QoS 1 refused in words": "! publish 1\nC 3207 000161 0001 00 78\nS 4008 0001 97 04 1f0001 6e\nC",
    "PUBLISH QoS 2": "! publish 2\nC 3407 000161 0001 00 78\nS 5002 0001\nC 6202 0001\nS 7002 0001\nC",
    "PUBLISH QoS 2 refused ends there": "! publish 2\nC 3407 000161 0001 00 78\nS 5003 0001 97\nC\n"
    "! publish 1\nC 3207 000161 0002 00 78",
    "PUBLISH properties": "! publish with everything\n"
    "C 3026 000161 21 0101 020000003c 03000174 08000172 09000101 2600016b000176 2600016b000177 78",
    "PUBREC for nothing": "S 5002 0009\nC 6203 0009 92",
    "server QoS 0 with identifiers": "S 300a 000161 05 0b05 0bac02 78\nC",
    "server QoS 1": "S 3207 000161 0001 00 78\nC 4002 0001",
    "server QoS 2": "S 3407 000161 0001 00 78\nC 5002 0001\nS 6202 0001\nC 7002 0001",
    "server QoS 2 gives up": "S 3407 000161 0001 00 78\nC 5002 0001\nS 6203 0001 92\nC 7002 0001",
    "PUBREL for nothing": "S 6202 0009\nC 7003 0009 92",
    "server topic alias": """
        S 3008 000161 03 230010 78      # alias 16 is now `a`
        S 3007 0000 03 230010 78        # and this came from there
        C
        ! both from a""",
}  # fmt: skip


@pytest.mark.parametrize("name", CONVERSATIONS_311)
def test_conversation_in_311(name: str) -> None:
    """Exactly these bytes answer those (MQTT 3.1.1 chapter 3)."""
    play(client(V311), HELLO_311 + CONVERSATIONS_311[name], ACTIONS)


@pytest.mark.parametrize("name", CONVERSATIONS_5)
def test_conversation_in_5(name: str) -> None:
    """Exactly these bytes answer those (MQTT 5 chapter 3)."""
    play(client(V5), HELLO_5 + CONVERSATIONS_5[name], ACTIONS)


CONNECTS: dict[str, tuple[dict[str, Any], str, str]] = {
    # What the user asks for: the bytes in 3.1.1 and in MQTT 5.
    "name and password": (
        {"username": "u", "password": b"p"},
        "1013 00044d515454 04 c2 003c 000163 000175 000170",
        "1019 00044d515454 05 c2 003c 05 2700040000 000163 000175 000170",
    ),
    "will": (
        {"will": Will("w", b"x", qos=2, retain=True, properties=Properties(will_delay_interval_s=30))},
        "1013 00044d515454 04 36 003c 000163 000177 000178",
        "101f 00044d515454 05 36 003c 05 2700040000 000163 05 180000001e 000177 000178",
    ),
    "a session that is kept": (
        {"clean_start": False, "keep_alive_s": 0, "properties": Properties(session_expiry_interval_s=60)},
        "100d 00044d515454 04 00 0000 000163",
        "1018 00044d515454 05 00 0000 0a 110000003c 2700040000 000163",
    ),
    "everything of MQTT 5": (
        {
            "properties": Properties(
                session_expiry_interval_s=1,
                receive_maximum=5,
                maximum_packet_size_bytes=100,
                topic_alias_maximum=16,
                request_response_information=True,
                request_problem_information=False,
                user_properties=(("k", "v"),),
            )
        },
        "100d 00044d515454 04 02 003c 000163",
        "1029 00044d515454 05 02 003c 1b 1100000001 1700 1901 210005 220010 2600016b000176 2700000064 000163",
    ),
}


@pytest.mark.parametrize("name", CONNECTS)
def test_connect(name: str) -> None:
    """CONNECT in both versions: MQTT 3.1.1 has no properties (section 3.1)."""
    asked, in_311, in_5 = CONNECTS[name]
    play(Client(Connect("c", V311, **asked)), f"C {in_311}")
    play(Client(Connect("c", V5, **asked)), f"C {in_5}")


REFUSED_LOGINS = [(V311, "2002 00 05", 0x87), (V311, "2002 01 00", None), (V5, "2003 00 86 00", 0x86)]


@pytest.mark.parametrize(("version", "connack", "reason"), REFUSED_LOGINS)
def test_refused_login(version: ProtocolVersion, connack: str, reason: int | None) -> None:
    """A refusal has its reason; an earlier session is none for who starts clean (MQTT-3.2.2-2). Nothing is said."""
    one = client(version)
    hello = HELLO_311 if version is V311 else HELLO_5
    play(one, f"{hello.split('S')[0]}\nS {connack}\nC\nX")
    (event,) = one.events
    assert isinstance(event, ProtocolViolated) if reason is None else event == Refused(ReasonCode(reason))


def test_answers_are_told() -> None:
    """Each answer reaches the user with its reasons, in order."""
    one = client(V5)
    play(
        one,
        HELLO_5
        + """
        ! subscribe
        ! unsubscribe
        C 820d 0001 00 000161 01 0003622f23 02 a20b 0002 00 000161 0003622f23
        ! publish 1
        ! publish 2
        C 3207 000161 0003 00 78 3407 000161 0004 00 78
        S 9005 0001 00 01 87 b005 0002 00 00 11 4003 0003 10 5003 0004 97
        C
        S e00189
        X""",
        ACTIONS,
    )
    connected, *rest = one.events
    assert isinstance(connected, Connected)
    assert rest == [
        Subscribed(1, (ReasonCode(1), ReasonCode.NOT_AUTHORIZED)),
        Unsubscribed(2, (ReasonCode.SUCCESS, ReasonCode.NO_SUBSCRIPTION_EXISTED)),
        Published(3, ReasonCode.NO_MATCHING_SUBSCRIBERS),
        Published(4, ReasonCode.QUOTA_EXCEEDED),
        Disconnected(ReasonCode.SERVER_BUSY, clean=False),
    ]


VIOLATIONS = {
    # what the server sends: the reason that MQTT 5 is told; 3.1.1 sees the connection close
    "CONNECT": ("100d 00044d515454 04 02 003c 000163", "100e 00044d515454 05 02 003c 00 000163", 0x82),
    "second CONNACK": ("2002 0000", "2003 000000", 0x82),
    "SUBSCRIBE": ("8206 0001 000161 00", "8207 0001 00 000161 00", 0x82),
    "UNSUBSCRIBE": ("a205 0001 000161", "a206 0001 00 000161", 0x82),
    "PINGREQ": ("c000", "c000", 0x82),
    "AUTH": (None, "f000", 0x82),
    "DISCONNECT, which only clients send": ("e000", None, 0x82),
    "reserved type": ("0000", "0000", 0x81),
    "PUBLISH QoS 3": ("3606 000161 0001 78", "3607 000161 0001 00 78", 0x81),
    "PUBLISH to nowhere": ("3003 0000 78", "3004 0000 00 78", 0x90),
    "PUBLISH to a wildcard": ("3004 00012b 78", "3005 00012b 00 78", 0x90),
    "PUBLISH with packet id 0": ("3206 000161 0000 78", "3207 000161 0000 00 78", 0x82),
    "PUBLISH with alias 0": (None, "3008 000161 03 230000 78", 0x94),
    "PUBLISH with alias 17": (None, "3008 000161 03 230011 78", 0x94),
    "PUBLISH with an alias not set": (None, "3007 0000 03 230001 78", 0x82),
    "PUBREL flags": ("6002 0001", "6002 0001", 0x81),
    "PUBACK too short": ("4001 00", "4001 00", 0x81),
    "SUBACK without reasons": ("9002 0001", "9003 0001 00", 0x82),
    "larger than announced": ("30818010 000161", "30818010 000161", 0x95),
}


@pytest.mark.parametrize("name", VIOLATIONS)
def test_violation(name: str) -> None:
    """MQTT 5 is told the reason (section 4.13), to 3.1.1 the connection just ends; nothing is said after it."""
    in_311, in_5, reason = VIOLATIONS[name]
    if in_311 is not None:
        play(client(V311), f"{HELLO_311}\nS {in_311}\nC\nX\nS d000\nC")
    if in_5 is not None:
        play(client(V5), f"{HELLO_5}\nS {in_5}\nC e001{reason:02x}\nX\nS d000\nC")


@pytest.mark.parametrize(("published", "answer"), [("publish 2", "4002 0001"), ("publish 1", "5002 0001")])
def test_answer_of_the_other_qos_is_a_violation(published: str, answer: str) -> None:
    """PUBACK ends no QoS 2 and PUBREC begins no end of QoS 1 (MQTT-4.3.2-1, -4.3.3-1)."""
    one = client(V5)
    play(one, HELLO_5)
    ACTIONS[published](one)
    one.session.take_output()
    play(one, f"S {answer}\nC e00182\nX")


@pytest.mark.parametrize(("version", "nothing"), [(V311, ""), (V5, "00")])
def test_what_was_in_flight_goes_on_after_a_reconnect(version: ProtocolVersion, nothing: str) -> None:
    """PUBREL again, then messages again with DUP, then what waited (MQTT-4.4.0-1); what was received is known."""
    before = client(version, clean=False)
    before.session.take_output()
    size = 6 + len(nothing) // 2
    play(
        before,
        f"""
        S {"2002 00 00" if version is V311 else "2003 00 00 00"}
        ! publish 2
        ! publish 1
        C 34{size:02x} 000161 0001 {nothing} 78 32{size:02x} 000161 0002 {nothing} 78
        S 5002 0001
        C 6202 0001
        S 34{size:02x} 000161 0007 {nothing} 78
        C 5002 0007""",
        ACTIONS,
    )
    again = Client(Connect("c", version, clean_start=False), state=before.session.detach())
    again.session.take_output()
    play(
        again,
        f"""
        S {"2002 01 00" if version is V311 else "2003 01 00 00"}
        C 6202 0001 3a{size:02x} 000161 0002 {nothing} 78
        S 3c{size:02x} 000161 0007 {nothing} 78     # the server repeats what it did not hear PUBREC of
        C 5002 0007
        S 7002 0001 4002 0002 6202 0007
        C 7002 0007""",
    )
    assert (before.taken, again.taken) == ([b"x"], [])
    assert again.events[1:] == [Published(1, ReasonCode.SUCCESS), Published(2, ReasonCode.SUCCESS)]


def test_a_server_without_the_session_ends_what_was_in_flight() -> None:
    """Session present 0: the user learns which messages may be lost, and nothing is sent again (MQTT-3.2.2-5)."""
    before = client(V5, clean=False)
    before.session.take_output()
    play(before, "S 2003 00 00 00\n! publish 1\nC 3207 000161 0001 00 78", ACTIONS)
    again = Client(Connect("c", V5, clean_start=False), state=before.session.detach())
    again.session.take_output()
    play(again, "S 2003 00 00 00\nC\n! publish 1\nC 3207 000161 0002 00 78", ACTIONS)
    (connected,) = again.events
    assert isinstance(connected, Connected)
    assert [message.payload for message in connected.lost] == [b"x"]


def test_limits_of_the_server_hold() -> None:
    """Receive Maximum counts until PUBCOMP; what is larger than its Maximum Packet Size is not sent (MQTT-3.3.4-7)."""
    one = client(V5)
    play(
        one,
        HELLO_5.replace("2003 00 00 00", "200b 00 00 08 210001 270000000a")
        + """
        ! publish 2
        ! publish 1
        C 3407 000161 0001 00 78
        S 5002 0001
        C 6202 0001
        S 7002 0001
        C 3207 000161 0002 00 78""",
        ACTIONS,
    )
    with pytest.raises(LimitReachedError):
        one.session.publish("a", b"four", 1)
    assert one.session.take_output() == b""


@pytest.mark.parametrize(
    ("version", "sent_at_once"), [(V311, "3004 000161 78 3206 000161 0001 78"), (V5, "3005 000161 00 78")]
)
def test_what_is_published_before_connack(version: ProtocolVersion, sent_at_once: str) -> None:
    """MQTT 5 has its Receive Maximum in CONNACK, so QoS 1 waits for it."""
    one = client(version)
    one.session.take_output()
    later = "" if version is V311 else "3207 000161 0001 00 78"
    connack = "2002 00 00" if version is V311 else "2003 00 00 00"
    play(one, f"! publish 0\n! publish 1\nC {sent_at_once}\nS {connack}\nC {later}", ACTIONS)


@pytest.mark.parametrize(
    ("version", "message", "answers"),
    [
        (V311, "3206 000161 0001 78", ("4002 0001", "4002 0001")),
        (V311, "3406 000161 0001 78", ("5002 0001", "5002 0001")),
        (V5, "3207 000161 0001 00 78", ("4002 0001", "4003 0001 87")),
        (V5, "3407 000161 0001 00 78", ("5002 0001", "5003 0001 87")),
    ],
)
def test_messages_are_acknowledged_by_hand(version: ProtocolVersion, message: str, answers: tuple[str, str]) -> None:
    """A responder answers when what it did is durable (P2); 3.1.1 knows no refusal."""
    hello = HELLO_311 if version is V311 else HELLO_5
    for action, answer in zip(("acknowledge 1", "refuse 1"), answers, strict=True):
        play(client(version, manual_ack=True), f"{hello}\nS {message}\nC\n! {action}\nC {answer}", ACTIONS)
