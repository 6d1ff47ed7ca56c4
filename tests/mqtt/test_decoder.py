"""The decoder: framing, limits, strictness, and never anything but packets and one ProtocolError."""

import pytest

from mqttprov.mqtt import (
    Connect,
    Disconnect,
    Packet,
    PacketDecoder,
    Pingreq,
    ProtocolError,
    ProtocolVersion,
    Publish,
    ReasonCode,
    encode,
)

V311, V5 = ProtocolVersion.V311, ProtocolVersion.V5
R = ReasonCode


def server_decoder(version: ProtocolVersion = V311, max_packet_bytes: int = 1000) -> PacketDecoder:
    """Make a server's decoder that has its CONNECT behind it."""
    decoder = PacketDecoder(max_packet_bytes)
    assert len(decoder.feed(encode(Connect("x", version), version))) == 1
    assert decoder.resume() == []
    return decoder


def error_of(decoder: PacketDecoder) -> ProtocolError:
    """Return the error that must be there."""
    assert decoder.error is not None
    return decoder.error


def test_whole_bytewise_and_trailing_data_give_the_same_packets() -> None:
    """However a stream is cut, the packets are the same."""
    packets: list[Packet] = [Publish("a/b", bytes(200)), Pingreq(), Publish("a", b"x", 1, packet_id=9), Disconnect()]
    stream = b"".join(encode(packet, V311) for packet in packets)
    whole = server_decoder().feed(stream)
    bytewise = server_decoder()
    one_by_one = [packet for at in range(len(stream)) for packet in bytewise.feed(stream[at : at + 1])]
    trailing = server_decoder()
    assert whole == one_by_one == packets
    assert trailing.feed(stream + b"\x30\x05ab") == packets
    assert trailing.error is None


def test_version_is_learnt_from_connect() -> None:
    """A server reads what follows CONNECT in the version that CONNECT names."""
    for version in (V311, V5):
        decoder = server_decoder(version)
        assert decoder.version is version
        assert decoder.feed(encode(Publish("a", b"x"), version)) == [Publish("a", b"x")]


def test_decoder_pauses_behind_connect_until_resumed() -> None:
    """Nothing behind CONNECT is read before the client is accepted (MQTT-3.1.4-5)."""
    decoder = PacketDecoder(1000)
    connect = Connect("x")
    assert decoder.feed(encode(connect, V311) + b"\xc0\x00\xc0") == [connect]
    assert decoder.feed(b"\x00") == []
    assert decoder.resume() == [Pingreq(), Pingreq()]
    assert decoder.feed(b"\xc0\x00") == [Pingreq()]


def test_limit_may_grow_between_connect_and_what_follows() -> None:
    """A login may allow larger packets, even for one that came in the same read as CONNECT."""
    decoder = PacketDecoder(50)
    large = Publish("a", bytes(500))
    assert len(decoder.feed(encode(Connect("x"), V311) + encode(large, V311))) == 1
    decoder.max_packet_bytes = 1000
    assert decoder.resume() == [large]


def test_too_much_behind_connect_is_an_error_while_paused() -> None:
    """A client that is not accepted yet can make the server keep its first read or the maximum, no more (P9)."""
    decoder = PacketDecoder(50)
    decoder.feed(encode(Connect("x"), V311) + bytes(40))
    assert decoder.feed(bytes(10)) == []
    assert decoder.error is None
    assert decoder.feed(b"\0") == []
    assert error_of(decoder).reason_code == R.QUOTA_EXCEEDED
    assert decoder.resume() == []


def test_packet_of_exactly_the_maximum_passes_and_one_byte_more_does_not() -> None:
    """The maximum counts the whole packet with its header, as Maximum Packet Size does (MQTT 5 section 3.1.2.11.4)."""
    packet = encode(Publish("a", bytes(200)), V311)
    assert server_decoder(max_packet_bytes=len(packet)).feed(packet) == [Publish("a", bytes(200))]
    decoder = server_decoder(max_packet_bytes=len(packet) - 1)
    assert decoder.feed(packet) == []
    assert error_of(decoder).reason_code == R.PACKET_TOO_LARGE


def test_too_large_packet_is_refused_by_its_header_alone() -> None:
    """Not a byte of the body is awaited or kept (P9)."""
    decoder = server_decoder(max_packet_bytes=100)
    assert decoder.feed(b"\x30\xff\xff\xff") == []
    assert decoder.error is None
    assert decoder.feed(b"\x7f") == []
    assert error_of(decoder).reason_code == R.PACKET_TOO_LARGE
    assert not decoder._pending


def test_what_is_kept_never_exceeds_the_maximum() -> None:
    """An endless trickle leaves less than one packet in memory (P9)."""
    decoder = server_decoder(max_packet_bytes=300)
    stream = encode(Publish("a", bytes(290)), V311) * 20
    kept = []
    for at in range(0, len(stream), 7):
        decoder.feed(stream[at : at + 7])
        kept.append(len(decoder._pending))
    assert decoder.error is None
    assert max(kept) < 300


def test_packets_before_an_error_are_returned_and_none_after() -> None:
    """A violation ends decoding for good; what was complete before counts (reference defect 4)."""
    decoder = server_decoder()
    good = encode(Publish("a", b"x"), V311)
    assert decoder.feed(good + b"\x00\x00" + good) == [Publish("a", b"x")]
    assert error_of(decoder).reason_code == R.MALFORMED_PACKET
    assert decoder.feed(good) == []


@pytest.mark.parametrize(
    "data", [b"\x30\x09\x00\x07secre\xff\xff", b"\x30\x08\x00\x06secre\0", b"\x30\x07\x00\x09secre"]
)
def test_error_keeps_no_traceback_and_quotes_nothing(data: bytes) -> None:
    """An error that is kept or logged holds nothing of what the peer sent (P6)."""
    decoder = server_decoder()
    decoder.feed(data)
    error = error_of(decoder)
    assert error.__traceback__ is None
    assert error.__context__ is None
    assert "secre" not in str(error)


def test_trickling_packet_is_looked_at_a_few_times_only() -> None:
    """A peer that sends byte by byte costs no time that grows with the square of its packet (P9)."""

    class Counting(PacketDecoder):
        looks = 0

        def _decode(self, data: bytes) -> list[Packet]:
            self.looks += 1
            return super()._decode(data)

    decoder = Counting(10_000, version=V311)
    message = Publish("a", bytes(5_000))
    packets = [packet for byte in encode(message, V311) for packet in decoder.feed(bytes((byte,)))]
    assert packets == [message]
    assert decoder.looks <= 6


MALFORMED = [
    ("reserved packet type 0", V311, "0000"),
    ("AUTH in 3.1.1", V311, "f000"),
    ("QoS 3", V311, "3605000161000178"),
    ("dup with QoS 0", V311, "380400016178"),
    ("reserved flags in SUBSCRIBE", V311, "8006000100016100"),
    ("reserved flags in PINGREQ", V311, "c100"),
    ("reserved flags in PUBREL", V311, "60020001"),
    ("length of five bytes", V311, "30ffffffff01"),
    ("length longer than needed", V311, "30860000016178"),
    ("length of zero in two bytes", V311, "c08000"),
    ("PINGREQ with a body", V311, "c00100"),
    ("PUBLISH without a topic", V311, "3000"),
    ("PUBLISH with half a topic length", V311, "300100"),
    ("topic longer than its packet", V311, "3003000261c0"),
    ("topic that runs into the next packet", V311, "3003000561 62636465"),
    ("topic is not UTF-8", V311, "30040002c328"),
    ("topic is a surrogate", V311, "30050003eda080"),
    ("topic with U+0000", V311, "30050003610062"),
    ("QoS 1 without packet id", V311, "3203000161"),
    ("PUBACK too short", V311, "400100"),
    ("PUBACK with a reason in 3.1.1", V311, "4003000100"),
    ("filter without options", V311, "82050001000161"),
    ("reserved options in 3.1.1", V311, "820600010001 61 04"),
    ("options with QoS 3", V311, "820600010001 61 03"),
    ("reserved options", V5, "82070001 00 000161 40"),
    ("UNSUBSCRIBE with half a filter", V311, "a2050001000261"),
    ("DISCONNECT with a reason in 3.1.1", V311, "e00100"),
    ("property of another packet", V5, "3008 000161 03210005 78"),
    ("unknown property", V5, "3007 000161 027f00 78"),
    ("properties longer than their packet", V5, "3005 000161 0501"),
    ("property cut off", V5, "3005 000161 0102"),
    ("bytes after the content", V5, "e00300 00ff"),
]


@pytest.mark.parametrize(("version", "hex_bytes"), [pytest.param(*case[1:], id=case[0]) for case in MALFORMED])
def test_malformed_packet_is_an_error(version: ProtocolVersion, hex_bytes: str) -> None:
    """Bytes that no packet may have are reason 0x81 (MQTT 5 section 4.13.1)."""
    decoder = server_decoder(version)
    assert decoder.feed(bytes.fromhex(hex_bytes)) == []
    assert error_of(decoder).reason_code == R.MALFORMED_PACKET


VIOLATIONS = [
    ("second CONNECT", V311, "100d00044d5154540402003c000178", R.PROTOCOL_ERROR),
    ("CONNACK to a server", V311, "20020000", R.PROTOCOL_ERROR),
    ("PINGRESP to a server", V311, "d000", R.PROTOCOL_ERROR),
    ("packet id 0", V311, "3206000161000078", R.PROTOCOL_ERROR),
    ("SUBSCRIBE with packet id 0", V311, "8206000000016100", R.PROTOCOL_ERROR),
    ("SUBSCRIBE without a filter", V311, "82020001", R.PROTOCOL_ERROR),
    ("UNSUBSCRIBE without a filter", V311, "a2020001", R.PROTOCOL_ERROR),
    ("retain handling 3", V5, "82070001 00 000161 30", R.PROTOCOL_ERROR),
    ("unknown reason code", V5, "40030001 7f", R.PROTOCOL_ERROR),
    ("property twice", V5, "3008 000161 04 0100 0100", R.PROTOCOL_ERROR),
    ("subscription identifier twice", V5, "820b0001 04 0b01 0b02 000161 00", R.PROTOCOL_ERROR),
    ("subscription identifier 0", V5, "82090001 02 0b00 000161 00", R.PROTOCOL_ERROR),
    ("payload format 2", V5, "3006 000161 02 0102", R.PROTOCOL_ERROR),
    ("topic alias 0", V5, "3007 000161 03 230000", R.TOPIC_ALIAS_INVALID),
]


@pytest.mark.parametrize(
    ("version", "hex_bytes", "reason_code"), [pytest.param(*case[1:], id=case[0]) for case in VIOLATIONS]
)
def test_well_formed_but_forbidden_packet_has_its_own_reason(
    version: ProtocolVersion, hex_bytes: str, reason_code: ReasonCode
) -> None:
    """What the protocol forbids though it can be read has the reason that MQTT 5 gives for it."""
    decoder = server_decoder(version)
    assert decoder.feed(bytes.fromhex(hex_bytes)) == []
    assert error_of(decoder).reason_code == reason_code


BAD_CONNECTS = [
    ("something else first", "c000", R.PROTOCOL_ERROR, None),
    ("HTTP", b"GET / HTTP/1.1\r\n".hex(), R.PROTOCOL_ERROR, None),
    ("TLS", "160301", R.MALFORMED_PACKET, None),
    ("reserved flags", "110d00044d5154540402003c000178", R.MALFORMED_PACKET, None),
    ("another protocol", "100900044d5158580402003c", R.MALFORMED_PACKET, None),
    ("MQTT 3.1", "100f00064d514973647003 02003c000178", R.UNSUPPORTED_PROTOCOL_VERSION, V311),
    ("level 3", "100d00044d5154540302003c000178", R.UNSUPPORTED_PROTOCOL_VERSION, V311),
    ("level 6", "100d00044d5154540602003c000178", R.UNSUPPORTED_PROTOCOL_VERSION, V5),
    ("bridge of level 0x84", "100d00044d5154548402003c000178", R.UNSUPPORTED_PROTOCOL_VERSION, V5),
    ("reserved connect flag", "100d00044d5154540403003c000178", R.MALFORMED_PACKET, None),
    ("will QoS without will", "100d00044d515454040a003c000178", R.MALFORMED_PACKET, None),
    ("will QoS 3", "101300044d515454041e003c000178 000177 000100", R.MALFORMED_PACKET, None),
    ("password alone in 3.1.1", "101000044d5154540442003c000178 000170", R.MALFORMED_PACKET, None),
    ("cut off", "100b00044d5154540402003c00", R.MALFORMED_PACKET, None),
    ("bytes after the content", "100e00044d5154540402003c000178ff", R.MALFORMED_PACKET, None),
    ("receive maximum 0", "101100044d5154540502003c 03210000 000178", R.PROTOCOL_ERROR, V5),
    ("maximum packet size 0", "101300044d5154540502003c 052700000000 000178", R.PROTOCOL_ERROR, V5),
    ("authentication data alone", "101200044d5154540502003c 0416000178 000178", R.PROTOCOL_ERROR, V5),
    ("will property outside the will", "101300044d5154540502003c 051800000000 000178", R.MALFORMED_PACKET, V5),
]


@pytest.mark.parametrize(
    ("hex_bytes", "reason_code", "answer_in"), [pytest.param(*case[1:], id=case[0]) for case in BAD_CONNECTS]
)
def test_bad_connect_is_an_error_and_tells_how_to_answer(
    hex_bytes: str, reason_code: ReasonCode, answer_in: ProtocolVersion | None
) -> None:
    """`version` is then the form in which the peer understands a CONNACK, or None if there is none."""
    decoder = PacketDecoder(1000)
    assert decoder.feed(bytes.fromhex(hex_bytes)) == []
    assert error_of(decoder).reason_code == reason_code
    assert decoder.version is answer_in


@pytest.mark.parametrize(
    ("version", "hex_bytes", "reason_code"),
    [
        (V311, "c000", R.PROTOCOL_ERROR),
        (V311, "100d00044d5154540402003c000178", R.PROTOCOL_ERROR),
        (V311, "e000", R.PROTOCOL_ERROR),
        (V311, "20020006", R.PROTOCOL_ERROR),
        (V311, "20020200", R.MALFORMED_PACKET),
        (V311, "200100", R.MALFORMED_PACKET),
        (V311, "9003000103", R.PROTOCOL_ERROR),
        (V311, "90020001", R.PROTOCOL_ERROR),
        (V311, "b003000100", R.MALFORMED_PACKET),
        (V5, "b003000100", R.PROTOCOL_ERROR),
        (V5, "2003007f00", R.PROTOCOL_ERROR),
    ],
)
def test_client_side_turns_away_what_no_server_may_send(
    version: ProtocolVersion, hex_bytes: str, reason_code: ReasonCode
) -> None:
    """A client's decoder is as strict with its server."""
    decoder = PacketDecoder(1000, version=version)
    assert decoder.feed(bytes.fromhex(hex_bytes)) == []
    assert error_of(decoder).reason_code == reason_code
