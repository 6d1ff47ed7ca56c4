"""Bytes -> our packets with their size -> amqtt's packets (Hypothesis)."""

import pytest
from amqtt.mqtt import packet_dict
from amqtt.mqtt.connect import ConnectPacket
from amqtt.mqtt.publish import PublishPacket
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tests.mqtt.test_codec_properties import cut, packets, slices, versioned_packets

from mqttprov.brokers.amqtt_packets import PacketReader, as_amqtt, disguised
from mqttprov.mqtt import (
    Auth,
    Connack,
    Connect,
    Packet,
    Properties,
    ProtocolVersion,
    Publish,
    ReasonCode,
    Will,
    encode,
)

V311, V5 = ProtocolVersion.V311, ProtocolVersion.V5
UNHURRIED = settings(deadline=None, max_examples=60)


def has_wildcards(packet: Packet) -> bool:
    """Tell whether it is a message that no session takes, and amqtt does not read."""
    return isinstance(packet, Publish) and any(c in packet.topic for c in "+#")


@UNHURRIED
@given(versioned_packets)
def test_every_packet_has_amqtt_s_class_and_its_own_size(case: tuple[ProtocolVersion, Packet]) -> None:
    """In both versions; what 3.1.1 sends is byte for byte what amqtt would write."""
    version, packet = case
    assume(not has_wildcards(packet))
    raw = encode(packet, version)
    shown = disguised(packet, None) if isinstance(packet, Connect) else packet
    told = as_amqtt(shown, len(raw))
    if isinstance(packet, Auth):
        assert told is None
        return
    assert isinstance(told, packet_dict[raw[0] >> 4])
    assert (told.bytes_length, told.fixed_header.packet_type) == (len(raw), raw[0] >> 4)
    assert repr(told).startswith(packet_dict[raw[0] >> 4].__name__ + "(")
    if version is V311 and not isinstance(packet, Connect):
        assert told.to_bytes() == raw


def from_client(version: ProtocolVersion) -> st.SearchStrategy[list[Packet]]:
    """Draw what a client may send behind CONNECT."""
    names = {"Publish", "Puback", "Pubrec", "Pubrel", "Pubcomp", "Subscribe", "Unsubscribe", "Pingreq", "Disconnect"}
    may = packets(version).filter(
        lambda p: type(p).__name__ in names and not (isinstance(p, Publish) and p.properties.topic_alias)
    )
    return st.lists(may, max_size=6)


@UNHURRIED
@given(st.sampled_from([V311, V5]).flatmap(lambda v: st.tuples(st.just(v), from_client(v))), slices, st.booleans())
def test_a_stream_is_read_along_in_any_slices(
    case: tuple[ProtocolVersion, list[Packet]], sizes: list[int], early: bool
) -> None:
    """All packets with their sizes, in order; behind CONNECT only when the client is accepted, early or late."""
    version, behind = case
    hello = Connect("x", version)
    stream = [hello, *behind]
    raw = [encode(packet, version) for packet in stream]
    reader = PacketReader()
    found: list[tuple[Packet, int]] = []
    for part in cut(b"".join(raw), sizes):
        found += reader.feed(part)
        if early and found:
            found += reader.resume()
    if not early:
        assert found == [(hello, len(raw[0]))]
        found += reader.resume()
    assert found == [(packet, len(data)) for packet, data in zip(stream, raw, strict=True)]


@given(st.binary(max_size=60), slices, st.sampled_from([None, V311, V5]))
def test_any_bytes_do_no_harm(data: bytes, sizes: list[int], version: ProtocolVersion | None) -> None:
    """Whatever comes, nothing is raised (P9)."""
    reader = PacketReader(version)
    for part in cut(data, sizes):
        assert len(list(reader.feed(part))) <= len(data)


def test_an_alias_stands_for_its_topic() -> None:
    """3.1.1 has no aliases: plugins see the topic."""
    reader = PacketReader()
    stream = [Connect("x", V5)]
    named = Publish("a/b", b"1", properties=Properties(topic_alias=3))
    known = Publish("", b"2", properties=Properties(topic_alias=3))
    unknown = Publish("", b"3", properties=Properties(topic_alias=4))
    list(reader.feed(encode(stream[0], V5)))
    list(reader.resume())
    found = [p for each in (named, known, unknown) for p, _ in reader.feed(encode(each, V5))]
    assert [p.topic for p in found if isinstance(p, Publish)] == ["a/b", "a/b", ""]


def test_what_3_1_1_has_of_a_packet_is_there() -> None:
    """Fields as a plugin reads them; no password; the real version; a return code for what 3.1.1 has no word for."""
    will = Will("t", b"w", 1, retain=True)
    connect = Connect("c-1", V5, False, 17, "token", b"secret", will, Properties(receive_maximum=5))
    told = as_amqtt(disguised(connect, "gw-1"), 99)
    assert isinstance(told, ConnectPacket)
    assert (told.client_id, told.username, told.password, told.keep_alive) == ("c-1", "gw-1", None, 17)
    assert (told.will_topic, told.will_message, told.will_qos, told.proto_level) == ("t", b"w", 1, 5)
    assert told.clean_session_flag is False
    assert "secret" not in repr(told)
    publish = Publish("a/b", b"data", 2, True, True, 7, Properties(content_type="x"))
    told = as_amqtt(publish, 99)
    assert isinstance(told, PublishPacket)
    assert (told.topic_name, told.data, told.qos, told.packet_id) == ("a/b", b"data", 2, 7)
    assert (told.retain_flag, told.dup_flag, told.bytes_length) == (True, True, 99)
    assert as_amqtt(Connack(False, ReasonCode.PACKET_TOO_LARGE), 9).return_code == 3


def test_what_amqtt_does_not_read_is_an_error_of_its_own() -> None:
    """The caller hears of it."""
    with pytest.raises(Exception, match="wildcard"):
        as_amqtt(Publish("a/#", b""), 7)
