"""What a server says to each packet in both versions, bytes in and bytes out."""

import pytest
from tests.mqtt.wire.script import HELLO_5, HELLO_311, Action, Server, play

from mqttprov.mqtt import Message, Properties, ReasonCode, ServerLimits

M = Message("a", b"x")
ACTIONS: dict[str, Action] = {
    "publish 0": lambda server: server.session.publish(M, 0),
    "publish 1": lambda server: server.session.publish(M, 1),
    "publish 2": lambda server: server.session.publish(M, 2),
    "publish 1 retained": lambda server: server.session.publish(M, 1, retain=True),
    "publish 0 for 5 and 300": lambda server: server.session.publish(M, 0, subscription_ids=(5, 300)),
    "publish 1 expiring": lambda server: server.session.publish(
        Message("a", b"x", properties=Properties(message_expiry_interval_s=60), arrived_s=10.0), 1, now_s=25.5
    ),
    "publish expired": lambda server: server.session.publish(
        Message("a", b"x", properties=Properties(message_expiry_interval_s=60), arrived_s=10.0), 1, now_s=70.0
    ),
    "publish with everything": lambda server: server.session.publish(
        Message(
            "a",
            b"x",
            properties=Properties(
                payload_format_indicator=True,
                content_type="t",
                response_topic="r",
                correlation_data=b"\1",
                user_properties=(("k", "v"), ("k", "w")),
            ),
        ),
        0,
    ),
    "refuse": lambda server: setattr(server, "refuses", ReasonCode.NOT_AUTHORIZED),
    "hold": lambda server: setattr(server, "holds", True),
    "acknowledge 1": lambda server: server.session.acknowledge(1),
    "explain 1": lambda server: server.session.acknowledge(1, ReasonCode.QUOTA_EXCEEDED, "later"),
    "disconnect": lambda server: server.session.disconnect(ReasonCode.SERVER_SHUTTING_DOWN),
    "disconnect in words": lambda server: server.session.disconnect(ReasonCode.SERVER_SHUTTING_DOWN, "bye"),
}

CONVERSATIONS_311 = {
    "PINGREQ": "C c000\nS d000",
    "DISCONNECT": "C e000\nS\nX",
    "SUBSCRIBE": "C 820c 0001 000161 01 0003622f23 02\nS 9004 0001 01 02",
    "UNSUBSCRIBE": "C a205 0002 000161\nS b002 0002",
    "PUBLISH QoS 0": "C 3004 000161 78\nS",
    "PUBLISH QoS 0 retained": "C 3104 000161 78\nS",
    "PUBLISH QoS 1": "C 3206 000161 0001 78\nS 4002 0001",
    "PUBLISH QoS 1 refused, which it cannot be told": "! refuse\nC 3206 000161 0001 78\nS 4002 0001",
    "PUBLISH QoS 2": "C 3406 000161 0001 78\nS 5002 0001\nC 6202 0001\nS 7002 0001",
    "PUBLISH QoS 2 twice": """
        C 3406 000161 0001 78   # PUBLISH
        S 5002 0001             # PUBREC
        C 3c06 000161 0001 78   # again, dup
        S 5002 0001             # the same answer, nothing handed over
        C 6202 0001             # PUBREL
        S 7002 0001             # PUBCOMP
        C 6202 0001             # again
        S 7002 0001""",
    "PUBREL for nothing": "C 6202 0009\nS 7002 0009",
    "server QoS 0": "! publish 0\nS 3004 000161 78",
    "server QoS 1": "! publish 1\nS 3206 000161 0001 78\nC 4002 0001\nS",
    "server QoS 1 retained": "! publish 1 retained\nS 3306 000161 0001 78",
    "server QoS 2": "! publish 2\nS 3406 000161 0001 78\nC 5002 0001\nS 6202 0001\nC 7002 0001\nS",
    "PUBREC twice": "! publish 2\nS 3406 000161 0001 78\nC 5002 0001 5002 0001\nS 6202 0001 6202 0001",
    "PUBREC for nothing": "C 5002 0009\nS 6202 0009",
    "PUBACK and PUBCOMP for nothing": "C 4002 0009 7002 0009\nS",
    "identifiers and properties are left out": "! publish 0 for 5 and 300\n! publish 1 expiring\n"
    "S 3004 000161 78 3206 000161 0001 78",
    "expired": "! publish expired\nS",
    "server DISCONNECT": "! disconnect in words\nS\nX",
}
CONVERSATIONS_5 = {
    "PINGREQ": "C c000\nS d000",
    "DISCONNECT": "C e000\nS\nX",
    "DISCONNECT with will": "C e00104\nS\nX",
    "SUBSCRIBE": "C 8212 0001 02 0b05 000161 01 0006 24736861 7265 02\nS 9005 0001 00 01 02",
    "SUBSCRIBE options": "C 8207 0001 00 000161 2d\nS 9004 0001 00 01",
    "SUBSCRIBE shared": "C 8211 0001 00 000b 2473686172652f672f61 62 02\nS 9004 0001 00 02",
    "UNSUBSCRIBE": "C a206 0002 00 000161\nS b004 0002 00 00",
    "PUBLISH QoS 0": "C 3005 000161 00 78\nS",
    "PUBLISH QoS 1": "C 3207 000161 0001 00 78\nS 4002 0001",
    "PUBLISH QoS 1 refused": "! refuse\nC 3207 000161 0001 00 78\nS 4003 0001 87",
    "PUBLISH QoS 1 refused in words, which it wants none of": "! hold\nC 3207 000161 0001 00 78\n! explain 1\n"
    "S 4003 0001 97",
    "PUBLISH QoS 2": "C 3407 000161 0001 00 78\nS 5002 0001\nC 6202 0001\nS 7002 0001",
    "PUBLISH QoS 2 refused ends there": """
        ! refuse
        C 3407 000161 0001 00 78
        S 5003 0001 87
        C 6202 0001
        S 7003 0001 92          # packet identifier not found""",
    "PUBLISH QoS 2 twice before the broker has it": """
        ! hold
        C 3407 000161 0001 00 78 3c07 000161 0001 00 78
        S
        ! acknowledge 1
        S 5002 0001""",
    "PUBREL with a reason": "C 3407 000161 0001 00 78\nS 5002 0001\nC 6203 0001 92\nS 7002 0001",
    "topic alias": """
        C 3008 000161 03 230010 78      # alias 16 is now `a`
        C 3007 0000 03 230010 78        # and this goes there
        S""",
    "server QoS 0": "! publish 0\nS 3005 000161 00 78",
    "server QoS 1": "! publish 1\nS 3207 000161 0001 00 78\nC 4003 0001 10\nS",
    "server QoS 2": "! publish 2\nS 3407 000161 0001 00 78\nC 5002 0001\nS 6202 0001\nC 7002 0001\nS",
    "server QoS 2 refused": "! publish 2\nS 3407 000161 0001 00 78\nC 5003 0001 97\nS\n"
    "! publish 1\nS 3207 000161 0002 00 78",
    "PUBREC for nothing": "C 5002 0009\nS 6203 0009 92",
    "subscription identifiers": "! publish 0 for 5 and 300\nS 300a 000161 05 0b05 0bac02 78",
    "lifetime that is left": "! publish 1 expiring\nS 320c 000161 0001 05 020000002d 78",
    "expired": "! publish expired\nS",
    "properties passed on": "! publish with everything\n"
    "S 3021 000161 1c 0101 03000174 08000172 09000101 2600016b000176 2600016b000177 78",
    "server DISCONNECT": "! disconnect\nS e0018b\nX",
}  # fmt: skip


@pytest.mark.parametrize("name", CONVERSATIONS_311)
def test_conversation_in_311(name: str) -> None:
    """Exactly these bytes answer those (MQTT 3.1.1 chapter 3)."""
    play(Server(), HELLO_311 + CONVERSATIONS_311[name], ACTIONS)


@pytest.mark.parametrize("name", CONVERSATIONS_5)
def test_conversation_in_5(name: str) -> None:
    """Exactly these bytes answer those (MQTT 5 chapter 3)."""
    play(Server(), HELLO_5 + CONVERSATIONS_5[name], ACTIONS)


REFUSALS = {
    # what the client sends: the reason that MQTT 5 is told; 3.1.1 sees the connection close
    "second CONNECT": ("100d 00044d515454 04 02 003c 000163", "1010 00044d515454 05 02 003c 02 1700 000163", 0x82),
    "CONNACK": ("2002 0000", "2003 000000", 0x82),
    "SUBACK": ("9003 0001 00", "9004 0001 00 00", 0x82),
    "UNSUBACK": ("b002 0001", "b004 0001 00 00", 0x82),
    "PINGRESP": ("d000", "d000", 0x82),
    "AUTH": (None, "f000", 0x82),
    "reserved type": ("0000", "0000", 0x81),
    "PUBLISH QoS 3": ("3606 000161 0001 78", "3607 000161 0001 00 78", 0x81),
    "PUBLISH to nowhere": ("3003 0000 78", "3004 0000 00 78", 0x90),
    "PUBLISH to a wildcard": ("3004 00012b 78", "3005 00012b 00 78", 0x90),
    "PUBLISH with packet id 0": ("3206 000161 0000 78", "3207 000161 0000 00 78", 0x82),
    "PUBLISH QoS 1 with the id of a QoS 2 that is not over": (
        "3406 000161 0001 78 3206 000161 0001 78",
        "3407 000161 0001 00 78 3207 000161 0001 00 78",
        0x82,
    ),
    "PUBLISH with a subscription identifier": (None, "3007 000161 02 0b01 78", 0x82),
    "PUBLISH with alias 0": (None, "3008 000161 03 230000 78", 0x94),
    "PUBLISH with alias 17": (None, "3008 000161 03 230011 78", 0x94),
    "PUBLISH with an alias not set": (None, "3007 0000 03 230001 78", 0x82),
    "PUBLISH with a response topic that is a wildcard": (None, "3009 000161 04 08000123 78", 0x90),
    "PUBREL flags": ("6002 0001", "6002 0001", 0x81),
    "SUBSCRIBE to nothing": ("8202 0001", "8203 0001 00", 0x82),
    "SUBSCRIBE with retain handling 3": (None, "8207 0001 00 000161 30", 0x82),
    "SUBSCRIBE shared without what is local": (None, "8210 0001 00 000a 2473686172652f672f61 04", 0x82),
    "UNSUBSCRIBE nothing": ("a202 0001", "a203 0001 00", 0x82),
    "DISCONNECT that makes the session last": (None, "e007 00 05 11 0000000a", 0x82),
    "larger than announced": ("30818010 000161", "30818010 000161", 0x95),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_refusal(name: str) -> None:
    """MQTT 5 is told the reason (section 4.13), to 3.1.1 the connection just ends; nothing is said after it."""
    in_311, in_5, reason = REFUSALS[name]
    if in_311 is not None:
        play(Server(), f"{HELLO_311}\nC {in_311}\nS\nX\nC c000\nS")
    play(Server(), f"{HELLO_5}\nC {in_5}\nS e001{reason:02x}\nX\nC c000\nS")


@pytest.mark.parametrize(
    ("published", "answer", "reason"),
    [(2, "4002 0001", 0x82), (1, "5002 0001", 0x82)],
)
def test_answer_of_the_other_qos_is_refused(published: int, answer: str, reason: int) -> None:
    """PUBACK ends no QoS 2 and PUBREC begins no end of QoS 1 (MQTT-4.3.2-1, -4.3.3-1)."""
    server = Server()
    play(server, HELLO_5)
    server.session.publish(M, published)
    server.session.take_output()
    play(server, f"C {answer}\nS e001{reason:02x}\nX")


def test_reasons_are_told_in_words_to_who_wants_them() -> None:
    """MQTT-3.1.2-29."""
    play(
        Server(),
        """
        C 100e 00044d515454 05 02 003c 00 000163
        S 200e 00 00 0b 210064 220010 2700040000
        ! hold
        C 3207 000161 0001 00 78
        ! explain 1
        S 400c 0001 97 08 1f0005 6c61746572
        ! disconnect in words
        S e008 8b 06 1f0003 627965
        X""",
        ACTIONS,
    )


def test_words_that_do_not_fit_are_left_out_and_so_is_a_connack() -> None:
    """A client that takes 16 bytes hears the code alone, one that takes 15 cannot be accepted (MQTT-3.1.2-24)."""
    connect = "C 1013 00044d515454 05 02 003c 05 27000000{} 000163\n"
    play(Server(), connect.format("10") + "S 200e 00 00 0b 210064 220010 2700040000\nC 0000\nS e00181\nX")
    play(Server(), connect.format("0f") + "S\nX")


@pytest.mark.parametrize("hello", [HELLO_311, HELLO_5])
def test_id_that_awaits_pubrel_is_in_use(hello: str) -> None:
    """QoS 1 cannot take it (MQTT-2.2.1-3), though the first exchange is half over."""
    nothing = "00" if hello is HELLO_5 else ""
    first, second = (f"{kind}{6 + len(nothing) // 2:02x} 000161 0001 {nothing} 78" for kind in ("34", "32"))
    play(Server(), f"{hello}C {first}\nS 5002 0001\nC {second}\nS {'e00182' if nothing else ''}\nX")


def test_receive_maximum_counts_qos_2_until_its_end() -> None:
    """QoS 1 and 2 together (MQTT 5 section 4.9): a message counts until PUBACK or PUBCOMP."""
    server = Server(ServerLimits(receive_maximum=2))
    play(
        server,
        HELLO_5.replace("210064", "210002")
        + """
        C 3407 000161 0001 00 78 3407 000161 0002 00 78
        S 5002 0001 5002 0002
        C 6202 0001
        S 7002 0001
        C 3407 000161 0003 00 78            # in the place that is free again
        S 5002 0003
        C 3207 000161 0004 00 78            # one too many
        S e00193
        X""",
    )


def test_window_of_the_client_counts_qos_2_until_its_end() -> None:
    """The client's Receive Maximum of 1: the next message waits for PUBCOMP (MQTT-3.3.4-9)."""
    hello = "C 1011 00044d515454 05 02 003c 03 210001 000163\nS 200e 00 00 0b 210064 220010 2700040000"
    play(
        Server(),
        hello
        + """
        ! publish 2
        ! publish 1
        S 3407 000161 0001 00 78
        C 5002 0001
        S 6202 0001
        C 7002 0001
        S 3207 000161 0002 00 78""",
        ACTIONS,
    )


def test_ids_of_qos_2_are_bounded_in_311() -> None:
    """A 3.1.1 client that never sends PUBREL is ended at the bound; it knows no Receive Maximum (P9)."""
    server = Server(ServerLimits(max_queued_messages=3))
    play(server, HELLO_311 + "".join(f"C 3406 000161 000{n} 78\nS 5002 000{n}\n" for n in (1, 2, 3)))
    play(server, "C 3406 000161 0004 78\nS\nX")
