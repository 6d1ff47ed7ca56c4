"""The bytes of one whole packet -> its value. Framing, buffering and size limits are the decoder's business.

A parser takes `(first, data, pos, stop, v5)`: the first byte with its flags already checked, the read, the bounds of
the body in it, and whether the connection speaks MQTT 5. It raises ProtocolError; IndexError and UnicodeDecodeError
mean malformed too and are turned into it by the decoder, so that the common packets pay for no extra check.
"""

from collections.abc import Callable

from mqttprov.mqtt.errors import ProtocolError, malformed, violation
from mqttprov.mqtt.packets import (
    Auth,
    Connack,
    Connect,
    Disconnect,
    Packet,
    Pingreq,
    Pingresp,
    ProtocolVersion,
    Puback,
    Pubcomp,
    Publish,
    Pubrec,
    Pubrel,
    Suback,
    Subscribe,
    Subscription,
    Unsuback,
    Unsubscribe,
    Will,
)
from mqttprov.mqtt.primitives import read_binary, read_text
from mqttprov.mqtt.properties import EMPTY_PROPERTIES, WILL, PacketType, Properties, read_properties
from mqttprov.mqtt.reasons import REASON_OF_BYTE, REASON_OF_RETURN_CODE, ReasonCode

Parser = Callable[[int, bytes, int, int, bool], Packet]

_PINGREQ = Pingreq()
_PINGRESP = Pingresp()
_NORMAL_DISCONNECT = Disconnect()
_V311 = ProtocolVersion.V311
_V5 = ProtocolVersion.V5
_PUBLISH = PacketType.PUBLISH
_SUBSCRIBE = PacketType.SUBSCRIBE
_CONNACK = PacketType.CONNACK
_SUBACK = PacketType.SUBACK
_RETURN_CODES_OF_SUBACK = frozenset({0, 1, 2, 0x80})


class UnsupportedVersionError(ProtocolError):
    """CONNECT asks for another protocol; `answer_in` is the version in which it understands a refusal best."""

    def __init__(self, text: str, answer_in: ProtocolVersion) -> None:
        super().__init__(ReasonCode.UNSUPPORTED_PROTOCOL_VERSION, text)
        self.answer_in = answer_in


def _read_packet_id(data: bytes, pos: int, stop: int) -> tuple[int, int]:
    after = pos + 2
    if after > stop:
        raise malformed("packet ends inside its packet id")
    packet_id = data[pos] << 8 | data[pos + 1]
    if packet_id == 0:
        raise violation("packet id is 0 (MQTT-2.2.1-3)")
    return packet_id, after


def _reason(byte: int) -> ReasonCode:
    reason = REASON_OF_BYTE.get(byte)
    if reason is None:
        raise violation(f"0x{byte:02X} is no reason code")
    return reason


def _reasons(codes: bytes) -> tuple[ReasonCode, ...]:
    try:
        return tuple(map(REASON_OF_BYTE.__getitem__, codes))
    except KeyError as error:
        raise violation(f"0x{error.args[0]:02X} is no reason code") from None


def _at_end(pos: int, stop: int) -> None:
    if pos != stop:
        raise malformed("packet is longer than its content")


def parse_publish(first: int, data: bytes, pos: int, stop: int, v5: bool) -> Publish:
    """Parse PUBLISH (section 3.3)."""
    topic_end = pos + 2 + (data[pos] << 8 | data[pos + 1])
    if topic_end > stop:
        raise malformed("the topic is longer than its packet")
    topic = data[pos + 2 : topic_end].decode()
    if "\0" in topic:
        raise malformed("a text contains U+0000")
    pos = topic_end
    packet_id = None
    if first & 0x06:
        packet_id, pos = _read_packet_id(data, pos, stop)
    properties = EMPTY_PROPERTIES
    if v5:
        properties, pos = read_properties(data, pos, stop, _PUBLISH)
    if first == 0x30:
        return Publish(topic, data[pos:stop], 0, False, False, None, properties)
    return Publish(topic, data[pos:stop], first >> 1 & 3, first & 1 == 1, first & 8 == 8, packet_id, properties)


def parse_connect(_first: int, data: bytes, pos: int, stop: int, _v5: bool) -> Connect:
    """Parse CONNECT (section 3.1); any other protocol or level than 3.1.1 and 5 raises UnsupportedVersionError."""
    if data.startswith(b"\0\4MQTT\4", pos, stop):
        version = _V311
    elif data.startswith(b"\0\4MQTT\5", pos, stop):
        version = _V5
    else:
        raise _other_version(data, pos, stop)
    flags = data[pos + 7]
    if pos + 10 > stop:
        raise malformed("packet ends inside the header of CONNECT")
    keep_alive_s = data[pos + 8] << 8 | data[pos + 9]
    will_flag = flags & 0x04
    if flags & 0x01 or (flags & 0x18) == 0x18 or (flags & 0x38 and not will_flag):
        raise malformed("reserved or contradictory flags in CONNECT (MQTT-3.1.2-3, -11, -14)")
    if version is _V311 and flags & 0xC0 == 0x40:
        raise malformed("a password without a user name (MQTT-3.1.2-22)")
    pos += 10
    properties = EMPTY_PROPERTIES
    if version is _V5:
        properties, pos = read_properties(data, pos, stop, PacketType.CONNECT)
        if properties.authentication_data is not None and properties.authentication_method is None:
            raise violation("authentication data without a method (MQTT 5 section 3.1.2.11.10)")
    client_id, pos = read_text(data, pos, stop)
    will = None
    if will_flag:
        will, pos = _read_will(data, pos, stop, flags, version is _V5)
    username = password = None
    if flags & 0x80:
        username, pos = read_text(data, pos, stop)
    if flags & 0x40:
        password, pos = read_binary(data, pos, stop)
    _at_end(pos, stop)
    return Connect(client_id, version, flags & 0x02 == 2, keep_alive_s, username, password, will, properties)


def _read_will(data: bytes, pos: int, stop: int, flags: int, v5: bool) -> tuple[Will, int]:
    properties = EMPTY_PROPERTIES
    if v5:
        properties, pos = read_properties(data, pos, stop, WILL)
    topic, pos = read_text(data, pos, stop)
    payload, pos = read_binary(data, pos, stop)
    return Will(topic, payload, flags >> 3 & 3, flags & 0x20 != 0, properties), pos


def _other_version(data: bytes, pos: int, stop: int) -> ProtocolError:
    name, pos = read_binary(data, pos, stop)
    if name not in {b"MQTT", b"MQIsdp"}:
        return malformed("CONNECT does not name the protocol MQTT")
    if pos >= stop:
        return malformed("packet ends inside the header of CONNECT")
    level = data[pos]
    answer_in = _V5 if level > _V5 else _V311
    return UnsupportedVersionError(f"protocol level {level} is not served, only 4 (MQTT 3.1.1) and 5", answer_in)


def parse_connack(_first: int, data: bytes, pos: int, stop: int, v5: bool) -> Connack:
    """Parse CONNACK (section 3.2); the return codes of 3.1.1 become reason codes."""
    if stop - pos < 2:
        raise malformed("packet ends inside CONNACK")
    flags, code = data[pos], data[pos + 1]
    if flags > 1:
        raise malformed("reserved flags in CONNACK")
    if v5:
        properties, pos = read_properties(data, pos + 2, stop, _CONNACK)
        _at_end(pos, stop)
        return Connack(flags == 1, _reason(code), properties)
    _at_end(pos + 2, stop)
    if code >= len(REASON_OF_RETURN_CODE):
        raise violation(f"{code} is no return code of CONNACK")
    return Connack(flags == 1, REASON_OF_RETURN_CODE[code])


_ACKNOWLEDGEMENTS: dict[int, type[Puback | Pubrec | Pubrel | Pubcomp]] = {4: Puback, 5: Pubrec, 6: Pubrel, 7: Pubcomp}


def parse_acknowledgement(first: int, data: bytes, pos: int, stop: int, v5: bool) -> Packet:
    """Parse PUBACK, PUBREC, PUBREL and PUBCOMP (sections 3.4 to 3.7)."""
    kind = _ACKNOWLEDGEMENTS[first >> 4]
    packet_id, pos = _read_packet_id(data, pos, stop)
    if pos == stop:
        return kind(packet_id)
    if not v5:
        raise malformed("packet is longer than its content")
    reason, properties = _read_reason_and_properties(data, pos, stop, first >> 4)
    return kind(packet_id, reason, properties)


def _read_reason_and_properties(data: bytes, pos: int, stop: int, carrier: int) -> tuple[ReasonCode, Properties]:
    reason = _reason(data[pos])
    pos += 1
    if pos == stop:  # the property length may be left out as well
        return reason, EMPTY_PROPERTIES
    properties, pos = read_properties(data, pos, stop, carrier)
    _at_end(pos, stop)
    return reason, properties


def parse_subscribe(_first: int, data: bytes, pos: int, stop: int, v5: bool) -> Subscribe:
    """Parse SUBSCRIBE (section 3.8)."""
    packet_id, pos = _read_packet_id(data, pos, stop)
    properties = EMPTY_PROPERTIES
    if v5:
        properties, pos = read_properties(data, pos, stop, _SUBSCRIBE)
    subscriptions = []
    while pos < stop:
        topic_filter, pos = read_text(data, pos, stop)
        if pos >= stop:
            raise malformed("a subscription without options")
        options = data[pos]
        pos += 1
        if options < 3:
            subscriptions.append(Subscription(topic_filter, options))
            continue
        if options & 3 == 3 or options & (0xC0 if v5 else 0xFC):
            raise malformed("reserved bits in the options of a subscription (MQTT-3.8.3-4)")
        if options & 0x30 == 0x30:
            raise violation("retain handling 3")
        subscriptions.append(
            Subscription(topic_filter, options & 3, options & 4 == 4, options & 8 == 8, options >> 4 & 3)
        )
    if not subscriptions:
        raise violation("SUBSCRIBE without a topic filter (MQTT-3.8.3-3)")
    return Subscribe(packet_id, tuple(subscriptions), properties)


def parse_suback(_first: int, data: bytes, pos: int, stop: int, v5: bool) -> Suback:
    """Parse SUBACK (section 3.9)."""
    packet_id, pos = _read_packet_id(data, pos, stop)
    properties = EMPTY_PROPERTIES
    if v5:
        properties, pos = read_properties(data, pos, stop, _SUBACK)
    codes = data[pos:stop]
    if not codes:
        raise violation("SUBACK without a reason code")
    if not v5 and max(codes) > 2 and not _RETURN_CODES_OF_SUBACK.issuperset(codes):
        raise violation("a return code of SUBACK that MQTT 3.1.1 does not know")
    return Suback(packet_id, _reasons(codes), properties)


def parse_unsubscribe(_first: int, data: bytes, pos: int, stop: int, v5: bool) -> Unsubscribe:
    """Parse UNSUBSCRIBE (section 3.10)."""
    packet_id, pos = _read_packet_id(data, pos, stop)
    properties = EMPTY_PROPERTIES
    if v5:
        properties, pos = read_properties(data, pos, stop, PacketType.UNSUBSCRIBE)
    filters = []
    while pos < stop:
        topic_filter, pos = read_text(data, pos, stop)
        filters.append(topic_filter)
    if not filters:
        raise violation("UNSUBSCRIBE without a topic filter (MQTT-3.10.3-2)")
    return Unsubscribe(packet_id, tuple(filters), properties)


def parse_unsuback(_first: int, data: bytes, pos: int, stop: int, v5: bool) -> Unsuback:
    """Parse UNSUBACK (section 3.11)."""
    packet_id, pos = _read_packet_id(data, pos, stop)
    if not v5:
        _at_end(pos, stop)
        return Unsuback(packet_id)
    properties, pos = read_properties(data, pos, stop, PacketType.UNSUBACK)
    if pos == stop:
        raise violation("UNSUBACK without a reason code")
    return Unsuback(packet_id, _reasons(data[pos:stop]), properties)


def parse_ping(first: int, _data: bytes, pos: int, stop: int, _v5: bool) -> Packet:
    """Parse PINGREQ and PINGRESP (sections 3.12, 3.13)."""
    _at_end(pos, stop)
    return _PINGREQ if first == 0xC0 else _PINGRESP


def parse_disconnect(_first: int, data: bytes, pos: int, stop: int, v5: bool) -> Disconnect:
    """Parse DISCONNECT (section 3.14)."""
    if pos == stop:
        return _NORMAL_DISCONNECT
    if not v5:
        raise malformed("packet is longer than its content")
    return Disconnect(*_read_reason_and_properties(data, pos, stop, PacketType.DISCONNECT))


def parse_auth(_first: int, data: bytes, pos: int, stop: int, _v5: bool) -> Auth:
    """Parse AUTH (MQTT 5 section 3.15)."""
    if pos == stop:
        return Auth()
    return Auth(*_read_reason_and_properties(data, pos, stop, PacketType.AUTH))
