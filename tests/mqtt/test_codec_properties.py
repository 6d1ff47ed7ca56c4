"""Properties of encoder and decoder over all packets and all bytes (Hypothesis)."""

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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
    ProtocolError,
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
    connack_return_code,
    encode,
)
from mqttprov.mqtt.properties import _KINDS, WILL, PacketType
from mqttprov.mqtt.reasons import REASON_OF_RETURN_CODE

UNHURRIED = settings(deadline=None)  # a busy machine is no fault

V311, V5 = ProtocolVersion.V311, ProtocolVersion.V5

texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12)
payloads = st.binary(max_size=200)
packet_ids = st.integers(1, 65_535)
qos = st.integers(0, 2)
reasons = st.sampled_from(list(ReasonCode))
u16 = st.integers(0, 65_535)
u32 = st.integers(0, 2**32 - 1)
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "payload_format_indicator": st.booleans(),
    "message_expiry_interval_s": u32,
    "content_type": texts,
    "response_topic": texts,
    "correlation_data": payloads,
    "subscription_identifiers": st.lists(st.integers(1, 268_435_455), min_size=1, max_size=3).map(tuple),
    "session_expiry_interval_s": u32,
    "assigned_client_identifier": texts,
    "server_keep_alive_s": u16,
    "authentication_method": texts,
    "authentication_data": payloads,
    "request_problem_information": st.booleans(),
    "will_delay_interval_s": u32,
    "request_response_information": st.booleans(),
    "response_information": texts,
    "server_reference": texts,
    "reason_string": texts,
    "receive_maximum": st.integers(1, 65_535),
    "topic_alias_maximum": u16,
    "topic_alias": st.integers(1, 65_535),
    "maximum_qos": st.integers(0, 1),
    "retain_available": st.booleans(),
    "user_properties": st.lists(st.tuples(texts, texts), min_size=1, max_size=3).map(tuple),
    "maximum_packet_size_bytes": st.integers(1, 2**32 - 1),
    "wildcard_subscription_available": st.booleans(),
    "subscription_identifiers_available": st.booleans(),
    "shared_subscription_available": st.booleans(),
}


def allowed_in(carrier: int) -> set[str]:
    """Give the fields of Properties that a packet type, or WILL, may carry."""
    return {kind.field for kind in _KINDS if carrier in kind.packets}


@st.composite
def properties_of(draw: st.DrawFn, carrier: int) -> Properties:
    """Draw the properties that a packet may carry."""
    allowed = sorted(allowed_in(carrier))
    chosen = draw(st.lists(st.sampled_from(allowed), unique=True, max_size=5))
    values = {name: draw(FIELDS[name]) for name in chosen}
    if carrier == PacketType.SUBSCRIBE and "subscription_identifiers" in values:
        values["subscription_identifiers"] = values["subscription_identifiers"][:1]
    if carrier == PacketType.CONNECT and "authentication_data" in values:
        values.setdefault("authentication_method", "m")
    return Properties(**values)


def packet_strategies(version: ProtocolVersion) -> list[st.SearchStrategy[Packet]]:
    """Return a strategy per packet type that can be written in a version."""
    v5 = version is V5

    def properties(carrier: int) -> st.SearchStrategy[Properties]:
        return properties_of(carrier) if v5 else st.just(Properties())

    def codes(of_311: st.SearchStrategy[ReasonCode]) -> st.SearchStrategy[ReasonCode]:
        return reasons if v5 else of_311

    def many(each: st.SearchStrategy[Any], at_least: int = 1) -> st.SearchStrategy[tuple[Any, ...]]:
        return st.lists(each, min_size=at_least, max_size=4).map(tuple)

    def acknowledgement(
        kind: type[Puback | Pubrec | Pubrel | Pubcomp], carrier: PacketType
    ) -> st.SearchStrategy[Packet]:
        return st.builds(kind, packet_ids, codes(success), properties(carrier))

    t = PacketType
    success = st.just(ReasonCode.SUCCESS)
    will = st.none() | st.builds(Will, texts, payloads, qos, st.booleans(), properties(WILL))
    logins = st.tuples(texts, st.none() | payloads) | st.tuples(st.none(), payloads if v5 else st.none())
    options = st.tuples(st.booleans(), st.booleans(), st.integers(0, 2)) if v5 else st.just((False, False, 0))
    subscription = st.builds(lambda f, q, o: Subscription(f, q, *o), texts, qos, options)
    publish = properties(t.PUBLISH)
    return [
        st.builds(
            lambda name, clean, alive, login, last, wishes: Connect(
                name, version, clean, alive, login[0], login[1], last, wishes
            ),
            *(texts, st.booleans(), u16, logins, will, properties(t.CONNECT)),
        ),
        st.builds(Connack, st.booleans(), codes(st.sampled_from(REASON_OF_RETURN_CODE)), properties(t.CONNACK)),
        st.builds(
            lambda topic, data, keep, p: Publish(topic, data, 0, keep, False, None, p),
            *(texts, payloads),
            *(st.booleans(), publish),
        ),
        st.builds(Publish, texts, payloads, st.integers(1, 2), st.booleans(), st.booleans(), packet_ids, publish),
        acknowledgement(Puback, t.PUBACK),
        acknowledgement(Pubrec, t.PUBREC),
        acknowledgement(Pubrel, t.PUBREL),
        acknowledgement(Pubcomp, t.PUBCOMP),
        st.builds(Subscribe, packet_ids, many(subscription), properties(t.SUBSCRIBE)),
        st.builds(Suback, packet_ids, many(codes(st.sampled_from(SUBACK_CODES_311))), properties(t.SUBACK)),
        st.builds(Unsubscribe, packet_ids, many(texts), properties(t.UNSUBSCRIBE)),
        st.builds(Unsuback, packet_ids, many(reasons) if v5 else st.just(()), properties(t.UNSUBACK)),
        st.builds(Disconnect, codes(success), properties(t.DISCONNECT)),
        st.just(Pingreq()),
        st.just(Pingresp()),
        *([st.builds(Auth, reasons, properties(t.AUTH))] if v5 else []),
    ]


SUBACK_CODES_311 = [ReasonCode(code) for code in (0, 1, 2, 0x80)]
PACKETS = {version: st.one_of(packet_strategies(version)) for version in ProtocolVersion}


def packets(version: ProtocolVersion) -> st.SearchStrategy[Packet]:
    """Return any packet that can be written in a version."""
    return PACKETS[version]


versioned_packets = st.sampled_from([V311, V5]).flatmap(lambda v: st.tuples(st.just(v), packets(v)))
slices = st.lists(st.integers(1, 40), min_size=1, max_size=30)


def cut(data: bytes, sizes: Sequence[int]) -> list[bytes]:
    """Cut bytes into slices of the given sizes, again and again."""
    parts = []
    at = turn = 0
    while at < len(data):
        size = sizes[turn % len(sizes)]
        parts.append(data[at : at + size])
        at += size
        turn += 1
    return parts


def read_all(decoder: PacketDecoder, parts: Sequence[bytes]) -> list[Packet]:
    """Feed slices one by one, going on behind CONNECT at once."""
    return [packet for part in parts for packet in (*decoder.feed(part), *decoder.resume())]


def decoders_for(version: ProtocolVersion) -> list[PacketDecoder]:
    """Return a server's decoder behind its CONNECT and a client's one."""
    server = PacketDecoder(1 << 20)
    read_all(server, [encode(Connect("x", version), version)])
    return [server, PacketDecoder(1 << 20, version=version)]


@UNHURRIED
@given(versioned_packets, slices)
def test_every_packet_round_trips_in_any_slices(case: tuple[ProtocolVersion, Packet], sizes: list[int]) -> None:
    """What is encoded is decoded as the same value on the side that it is meant for, however the bytes are cut."""
    version, packet = case
    data = encode(packet, version)
    if isinstance(packet, Connect):
        assert read_all(PacketDecoder(1 << 20), cut(data, sizes)) == [packet]
        return
    server, client = decoders_for(version)
    results = [read_all(server, cut(data, sizes)), read_all(client, cut(data, sizes))]
    assert [packet] in results
    assert [d for d in (server, client) if d.error is not None] == [
        d for d, result in zip((server, client), results, strict=True) if result != [packet]
    ]


@UNHURRIED
@given(st.sampled_from([V311, V5]).flatmap(lambda v: st.lists(packets(v), max_size=6).map(lambda p: (v, p))), slices)
def test_slicing_never_changes_what_a_server_reads(
    case: tuple[ProtocolVersion, list[Packet]], sizes: list[int]
) -> None:
    """Whole or sliced, a stream of any packets gives the same packets and the same error."""
    version, stream = case
    data = encode(Connect("x", version), version) + b"".join(encode(packet, version) for packet in stream)
    whole, sliced = PacketDecoder(1 << 20), PacketDecoder(1 << 20)
    assert read_all(whole, [data]) == read_all(sliced, cut(data, sizes))
    assert str(whole.error) == str(sliced.error)


@st.composite
def hostile_bytes(draw: st.DrawFn) -> bytes:
    """Draw arbitrary bytes, or valid packets with a few bytes changed, dropped or added."""
    if draw(st.booleans()):
        return draw(st.binary(max_size=200))
    version = draw(st.sampled_from([V311, V5]))
    stream = draw(st.lists(packets(version), min_size=1, max_size=3))
    data = bytearray(b"".join(encode(packet, version) for packet in stream))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        data[at : at + draw(st.integers(0, 2))] = draw(st.binary(max_size=2))
    return bytes(data)


@UNHURRIED
@given(hostile_bytes(), slices, st.sampled_from([None, V311, V5]), st.booleans())
def test_any_bytes_give_packets_or_one_protocol_error(
    data: bytes, sizes: list[int], version: ProtocolVersion | None, connected: bool
) -> None:
    """Nothing that a peer sends raises anything, keeps more than the limit (P9), or revives a failed decoder."""
    decoder = PacketDecoder(150, version=version)
    if version is None and connected:
        read_all(decoder, [encode(Connect("x", V5), V5)])
    for part in cut(data, sizes):
        packets_read = decoder.feed(part)
        assert all(isinstance(packet, msgspec.Struct) for packet in packets_read)
        assert len(decoder._pending) <= 150 + len(part)
        decoder.resume()
    if decoder.error is not None:
        assert isinstance(decoder.error, ProtocolError)
        assert decoder.error.reason_code >= 0x80
        assert decoder.feed(b"\xc0\x00") == decoder.resume() == []


@UNHURRIED
@given(st.data())
def test_each_property_is_written_only_where_it_is_allowed(data: st.DataObject) -> None:
    """A property in a packet that may not carry it is refused on writing (MQTT 5 section 2.2.2.2)."""
    name = data.draw(st.sampled_from(sorted(FIELDS)))
    properties = Properties(**{name: data.draw(FIELDS[name])})
    for carrier, packet in (
        (PacketType.CONNACK, Connack(False, ReasonCode.SUCCESS, properties)),
        (PacketType.PUBLISH, Publish("a", b"", properties=properties)),
        (PacketType.DISCONNECT, Disconnect(properties=properties)),
    ):
        if name in allowed_in(carrier):
            encode(packet, V5)
        else:
            with pytest.raises(ValueError, match=name):
                encode(packet, V5)


def test_return_codes_of_311_map_back_to_their_reason() -> None:
    """Each CONNACK return code has a reason code that is written as this code again (3.1.1 section 3.2.2.3)."""
    assert [connack_return_code(reason) for reason in REASON_OF_RETURN_CODE] == [0, 1, 2, 3, 4, 5]
