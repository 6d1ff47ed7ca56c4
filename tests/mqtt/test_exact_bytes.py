"""Every packet type in both versions against the bytes of the specification and of recorded gateways, both ways."""

import pytest

from mqttprov.mqtt import (
    Auth,
    Connack,
    Connect,
    Disconnect,
    Packet,
    PacketDecoder,
    Pingreq,
    Pingresp,
    Properties,
    ProtocolVersion,
    Puback,
    Pubcomp,
    Publish,
    Pubrec,
    Pubrel,
    ReasonCode,
    Suback,
    Subscribe,
    Subscription,
    Unsuback,
    Unsubscribe,
    Will,
    encode,
)

V311, V5 = ProtocolVersion.V311, ProtocolVersion.V5
R = ReasonCode

TOKEN_REQUEST = (
    b'{"provisionDeviceKey":"KEY","provisionDeviceSecret":"SECRET","token":"my-access-token-1",'
    b'"credentialsType":"ACCESS_TOKEN","deviceName":"Factory-Gateway-01","gateway":true}'
)
TOKEN_REPLY = b'{"credentialsValue": "my-access-token-1", "credentialsType": "ACCESS_TOKEN", "status": "SUCCESS"}'

# Recorded from thingsboard-gateway 3.8.5 and the brokers it spoke with (reference thingsboard.md section 11.4).
RECORDED: list[tuple[str, ProtocolVersion, str, Packet]] = [
    (
        "provision CONNECT",
        V311,
        "101700044d5154540482003c0000000970726f766973696f6e",
        Connect("", V311, keep_alive_s=60, username="provision"),
    ),
    ("CONNACK", V311, "20020000", Connack(session_present=False, reason_code=R.SUCCESS)),
    (
        "SUBSCRIBE response",
        V311,
        "8218000100132f70726f766973696f6e2f726573706f6e736500",
        Subscribe(1, (Subscription("/provision/response", 0),)),
    ),
    (
        "PUBLISH request",
        V311,
        (
            "30bf0100122f70726f766973696f6e2f726571756573747b2270726f766973696f6e4465766963654b6579223a224b4559222c2270"
            "726f766973696f6e446576696365536563726574223a22534543524554222c22746f6b656e223a226d792d6163636573732d746f6b"
            "656e2d31222c2263726564656e7469616c7354797065223a224143434553535f544f4b454e222c226465766963654e616d65223a22"
            "466163746f72792d476174657761792d3031222c2267617465776179223a747275657d"
        ),
        Publish("/provision/request", TOKEN_REQUEST),
    ),
    ("SUBACK", V311, "9003000100", Suback(1, (R.GRANTED_QOS_0,))),
    (
        "PUBLISH response",
        V311,
        (
            "307600132f70726f766973696f6e2f726573706f6e73657b2263726564656e7469616c7356616c7565223a20226d792d6163636573"
            "732d746f6b656e2d31222c202263726564656e7469616c7354797065223a20224143434553535f544f4b454e222c20227374617475"
            "73223a202253554343455353227d"
        ),
        Publish("/provision/response", TOKEN_REPLY),
    ),
    ("DISCONNECT", V311, "e000", Disconnect()),
    (
        "token CONNECT",
        V5,
        "102000044d5154540582007800000000116d792d6163636573732d746f6b656e2d31",
        Connect("", V5, keep_alive_s=120, username="my-access-token-1"),
    ),
    (
        "basic CONNECT",
        V5,
        "101700044d51545405c2007800000263310002753100027031",
        Connect("c1", V5, keep_alive_s=120, username="u1", password=b"p1"),
    ),
    ("X.509 CONNECT", V5, "100d00044d51545405020078000000", Connect("", V5, keep_alive_s=120)),
    (
        "CONNACK with properties",
        V5,
        "200900000621001422000a",  # recorded with Topic Alias Maximum first; the order is free
        Connack(
            session_present=False,
            reason_code=R.SUCCESS,
            properties=Properties(receive_maximum=20, topic_alias_maximum=10),
        ),
    ),
    (
        "SUBSCRIBE attributes",
        V5,
        "821e000100001876312f646576696365732f6d652f6174747269627574657301",
        Subscribe(1, (Subscription("v1/devices/me/attributes", 1),)),
    ),
    ("SUBACK 1", V5, "900400010001", Suback(1, (R.GRANTED_QOS_1,))),
    ("PUBACK without subscribers", V5, "4003000b10", Puback(11, R.NO_MATCHING_SUBSCRIBERS)),
]

# Written out by hand from the specifications.
BY_HAND: list[tuple[str, ProtocolVersion, str, Packet]] = [
    (
        "CONNECT with everything",
        V311,
        "102300044d51545404ee000a 000161 000177 0003ff0001 000175 0009ff0000000000000001",
        Connect("a", V311, True, 10, "u", b"\xff" + bytes(7) + b"\1", Will("w", b"\xff\0\1", qos=1, retain=True)),
    ),
    (
        "CONNECT with everything",
        V5,
        "102000044d5154540514000a 0511000000ff 000161 05180000003c 000177 00020102",
        Connect(
            "a",
            V5,
            False,
            10,
            will=Will("w", b"\1\2", qos=2, properties=Properties(will_delay_interval_s=60)),
            properties=Properties(session_expiry_interval_s=255),
        ),
    ),
    ("CONNACK refused", V311, "20020005", Connack(session_present=False, reason_code=R.NOT_AUTHORIZED)),
    ("CONNACK refused", V5, "2003008700", Connack(session_present=False, reason_code=R.NOT_AUTHORIZED)),
    ("CONNACK session", V5, "2003010000", Connack(session_present=True, reason_code=R.SUCCESS)),
    ("PUBLISH QoS 1", V311, "3206 0001 61 000a 78", Publish("a", b"x", qos=1, packet_id=10)),
    ("PUBLISH QoS 2 dup retain", V311, "3d06 0001 61 000a 78", Publish("a", b"x", 2, True, True, 10)),
    ("PUBLISH empty", V311, "3103 0001 61", Publish("a", b"", retain=True)),
    ("PUBLISH QoS 0", V5, "3005 0001 61 00 78", Publish("a", b"x")),
    (
        "PUBLISH with properties",
        V5,
        "3217 0001 61 1234 10 0101 08000172 09000163 0b8001 230005 78",
        Publish(
            "a",
            b"x",
            qos=1,
            packet_id=0x1234,
            properties=Properties(
                payload_format_indicator=True,
                response_topic="r",
                correlation_data=b"c",
                subscription_identifiers=(128,),
                topic_alias=5,
            ),
        ),
    ),
    ("PUBACK", V311, "4002 0007", Puback(7)),
    ("PUBACK", V5, "4002 0007", Puback(7)),
    ("PUBACK reason", V5, "4003 0007 87", Puback(7, R.NOT_AUTHORIZED)),
    ("PUBACK text", V5, "4008 0007 87 04 1f000178", Puback(7, R.NOT_AUTHORIZED, Properties(reason_string="x"))),
    ("PUBREC", V311, "5002 0007", Pubrec(7)),
    ("PUBREC", V5, "5003 0007 97", Pubrec(7, R.QUOTA_EXCEEDED)),
    ("PUBREL", V311, "6202 0007", Pubrel(7)),
    ("PUBREL", V5, "6203 0007 92", Pubrel(7, R.PACKET_IDENTIFIER_NOT_FOUND)),
    ("PUBCOMP", V311, "7002 0007", Pubcomp(7)),
    ("PUBCOMP", V5, "7003 0007 92", Pubcomp(7, R.PACKET_IDENTIFIER_NOT_FOUND)),
    (
        "SUBSCRIBE two",
        V311,
        "820c 0002 0003612f62 01 00012b 02",
        Subscribe(2, (Subscription("a/b", 1), Subscription("+", 2))),
    ),
    (
        "SUBSCRIBE options",
        V5,
        "8209 0002 020b05 000161 2d",
        Subscribe(2, (Subscription("a", 1, True, True, 2),), Properties(subscription_identifiers=(5,))),
    ),
    ("SUBACK mixed", V311, "9005 0002 010080", Suback(2, (R.GRANTED_QOS_1, R.GRANTED_QOS_0, R.UNSPECIFIED_ERROR))),
    ("SUBACK mixed", V5, "9005 0002 00 018f", Suback(2, (R.GRANTED_QOS_1, R.TOPIC_FILTER_INVALID))),
    ("UNSUBSCRIBE", V311, "a208 0003 0001 61 0001 62", Unsubscribe(3, ("a", "b"))),
    ("UNSUBSCRIBE", V5, "a206 0003 00 0001 61", Unsubscribe(3, ("a",))),
    ("UNSUBACK", V311, "b002 0003", Unsuback(3)),
    ("UNSUBACK", V5, "b005 0003 00 0011", Unsuback(3, (R.SUCCESS, R.NO_SUBSCRIPTION_EXISTED))),
    ("PINGREQ", V311, "c000", Pingreq()),
    ("PINGREQ", V5, "c000", Pingreq()),
    ("PINGRESP", V311, "d000", Pingresp()),
    ("PINGRESP", V5, "d000", Pingresp()),
    ("DISCONNECT", V5, "e000", Disconnect()),
    ("DISCONNECT reason", V5, "e0018d", Disconnect(R.KEEP_ALIVE_TIMEOUT)),
    (
        "DISCONNECT text",
        V5,
        "e0098b 07 1f000462796521",
        Disconnect(R.SERVER_SHUTTING_DOWN, Properties(reason_string="bye!")),
    ),
    ("AUTH", V5, "f000", Auth()),
    (
        "AUTH continue",
        V5,
        "f00a18 08 15000178 16000179",
        Auth(R.CONTINUE_AUTHENTICATION, Properties(authentication_method="x", authentication_data=b"y")),
    ),
]

TO_CLIENT = (Connack, Suback, Unsuback, Pingresp)


def read(data: bytes, packet: Packet, version: ProtocolVersion) -> list[Packet]:
    """Decode on the side that such a packet comes to; a server's decoder has its CONNECT before."""
    if isinstance(packet, TO_CLIENT):
        decoder = PacketDecoder(1 << 20, version=version)
        return decoder.feed(data)
    decoder = PacketDecoder(1 << 20)
    if isinstance(packet, Connect):
        return decoder.feed(data)
    decoder.feed(encode(Connect("x", version), version))
    decoder.resume()
    return decoder.feed(data)


CASES = [pytest.param(*case[1:], id=f"{case[0]} {case[1].name}") for case in RECORDED + BY_HAND]


@pytest.mark.parametrize(("version", "hex_bytes", "packet"), CASES)
def test_packet_is_written_with_exactly_these_bytes(version: ProtocolVersion, hex_bytes: str, packet: Packet) -> None:
    """Encoding gives byte for byte what the specification, or the recorded peer, writes."""
    assert encode(packet, version).hex() == hex_bytes.replace(" ", "")


@pytest.mark.parametrize(("version", "hex_bytes", "packet"), CASES)
def test_exactly_these_bytes_are_read_as_the_packet(version: ProtocolVersion, hex_bytes: str, packet: Packet) -> None:
    """Decoding gives the same value that was encoded."""
    assert read(bytes.fromhex(hex_bytes), packet, version) == [packet]


@pytest.mark.parametrize(
    ("hex_bytes", "packet"),
    [
        ("200900000622000a210014", Properties(receive_maximum=20, topic_alias_maximum=10)),
        (
            (
                "203500003222000a1200296175746f2d30324538373633442d464243362d433638312d424141462d454241414335413031434637"
                "210014"
            ),
            Properties(
                receive_maximum=20,
                topic_alias_maximum=10,
                assigned_client_identifier="auto-02E8763D-FBC6-C681-BAAF-EBAAC5A01CF7",
            ),
        ),
    ],
)
def test_connack_properties_of_a_recorded_broker_are_read_in_its_order(hex_bytes: str, packet: Properties) -> None:
    """Properties may come in any order (MQTT 5 section 2.2.2.2)."""
    decoder = PacketDecoder(100, version=V5)
    assert decoder.feed(bytes.fromhex(hex_bytes)) == [Connack(False, R.SUCCESS, packet)]


def test_long_forms_of_short_packets_are_read_alike() -> None:
    """An acknowledgement may carry its reason and an empty property list though it need not (MQTT 5 section 3.4.2)."""
    decoder = PacketDecoder(100, version=V5)
    assert decoder.feed(bytes.fromhex("4003000700 400400070000 e00100 e0020000")) == [
        Puback(7),
        Puback(7),
        Disconnect(),
        Disconnect(),
    ]


def test_properties_are_left_out_in_311() -> None:
    """A message of MQTT 5 is forwarded to a 3.1.1 client without its properties."""
    message = Publish("a", b"x", properties=Properties(content_type="text/plain"))
    assert encode(message, V311) == encode(Publish("a", b"x"), V311)


def test_every_refusal_of_a_subscription_is_0x80_in_311() -> None:
    """SUBACK of 3.1.1 knows one failure code only (section 3.9.3)."""
    assert encode(Suback(1, (R.NOT_AUTHORIZED, R.GRANTED_QOS_1)), V311).hex() == "900400018001"


@pytest.mark.parametrize(
    ("packet", "version", "says"),
    [
        (Connect("x" * 65_536), V311, "65535"),
        (Connect("a\0b"), V311, "U\\+0000"),
        (Connect("a", V311, password=b"p"), V311, "password"),
        (Connect("a", password=bytes(65_536), username="u"), V311, "65535"),
        (Connack(False, R.TOPIC_NAME_INVALID), V311, "return code"),
        (Publish("t" * 65_536, b""), V311, "65535"),
        (Publish("t", b"", qos=1), V311, "packet id"),
        (Publish("t", b"", qos=1, packet_id=0), V311, "packet id"),
        (Publish("t", b"", packet_id=1), V311, "QoS 0"),
        (Publish("t", b"", properties=Properties(receive_maximum=1)), V5, "receive_maximum"),
        (Publish("t", bytes(268_435_456)), V311, "268435455"),
        (Auth(), V311, "AUTH"),
    ],
)
def test_what_mqtt_cannot_carry_is_refused_with_a_reason(packet: Packet, version: ProtocolVersion, says: str) -> None:
    """Encoding our own mistake raises ValueError and says what is wrong."""
    with pytest.raises(ValueError, match=says):
        encode(packet, version)
