"""Packets -> bytes. No reading and no rules of conversation.

Properties do not exist in 3.1.1, so they are left out there: a broker forwards a message of MQTT 5 to older clients so.
Every function raises ValueError for a value that MQTT cannot carry; that is our own mistake, never the peer's.
"""

from collections.abc import Callable
from typing import Any

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
)
from mqttprov.mqtt.primitives import binary, text, u16, varint
from mqttprov.mqtt.properties import EMPTY_PROPERTIES, WILL, PacketType, Properties, write_properties
from mqttprov.mqtt.reasons import ReasonCode, connack_return_code

_V5 = ProtocolVersion.V5
_CONNECT = PacketType.CONNECT
_PUBLISH = PacketType.PUBLISH
_SUBACK = PacketType.SUBACK

PINGREQ_BYTES = b"\xc0\x00"
PINGRESP_BYTES = b"\xd0\x00"


def frame(first: int, body: bytes) -> bytes:
    """Put the fixed header before the body of a packet; `first` is type and flags."""
    length = len(body)
    if length < 0x80:
        return bytes((first, length)) + body
    return bytes((first,)) + varint(length) + body


def encode_publish(
    topic: str,
    payload: bytes,
    qos: int,
    retain: bool,
    dup: bool,
    packet_id: int | None,
    properties: Properties,
    version: ProtocolVersion,
) -> bytes:
    """Write PUBLISH without making a Publish first: the hot path of a broker."""
    raw = topic.encode()
    if len(raw) > 0xFFFF:
        raise ValueError(f"a topic name of MQTT has at most 65535 bytes, not {len(raw)}: shorten it")
    head = len(raw).to_bytes(2, "big") + raw
    if qos:
        if not packet_id:
            raise ValueError("a PUBLISH of QoS 1 or 2 needs a packet id from 1 to 65535")
        head += packet_id.to_bytes(2, "big")
    elif packet_id is not None or dup:
        raise ValueError("a PUBLISH of QoS 0 has neither packet id nor dup flag")
    if version is _V5:
        head += b"\0" if properties is EMPTY_PROPERTIES else write_properties(properties, _PUBLISH)
    first = 0x30 | qos << 1 | retain | dup << 3
    length = len(head) + len(payload)
    if length < 0x80:
        return bytes((first, length)) + head + payload
    return b"".join((bytes((first,)), varint(length), head, payload))


def encode_acknowledgement(
    first: int, packet_id: int, reason_code: int, properties: Properties, version: ProtocolVersion
) -> bytes:
    """Write PUBACK, PUBREC, PUBREL or PUBCOMP, in its shortest form (MQTT 5 section 3.4.2.1)."""
    if version is not _V5 or (reason_code == 0 and properties is EMPTY_PROPERTIES):
        return bytes((first, 2, packet_id >> 8, packet_id & 0xFF))
    if properties is EMPTY_PROPERTIES:
        return bytes((first, 3, packet_id >> 8, packet_id & 0xFF, reason_code))
    body = u16(packet_id) + bytes((reason_code,)) + write_properties(properties, PacketType(first >> 4))
    return frame(first, body)


def _properties(properties: Properties, carrier: int, version: ProtocolVersion) -> bytes:
    return write_properties(properties, carrier) if version is _V5 else b""


def _connect(packet: Connect, _version: ProtocolVersion) -> bytes:
    version = packet.version  # the packet itself says which protocol it is in
    will, username, password = packet.will, packet.username, packet.password
    flags = packet.clean_start << 1
    rest = _properties(packet.properties, _CONNECT, version) + text(packet.client_id)
    if will is not None:
        flags |= 0x04 | will.retain << 5 | will.qos << 3
        rest += _properties(will.properties, WILL, version) + text(will.topic) + binary(will.payload)
    if username is not None:
        flags |= 0x80
        rest += text(username)
    elif version is not _V5 and password is not None:
        raise ValueError("MQTT 3.1.1 has no password without a user name (MQTT-3.1.2-22): add one or use MQTT 5")
    if password is not None:
        flags |= 0x40
        rest += binary(password)
    return frame(0x10, b"\0\4MQTT" + bytes((version, flags)) + u16(packet.keep_alive_s) + rest)


def _connack(packet: Connack, version: ProtocolVersion) -> bytes:
    code: int | None = packet.reason_code
    if version is not _V5:
        code = connack_return_code(packet.reason_code)
        if code is None:
            raise ValueError(f"MQTT 3.1.1 has no return code for {packet.reason_code.name}: close without CONNACK")
    return frame(0x20, bytes((packet.session_present, code or 0)) + _properties(packet.properties, 2, version))


def _publish(packet: Publish, version: ProtocolVersion) -> bytes:
    return encode_publish(
        packet.topic,
        packet.payload,
        packet.qos,
        packet.retain,
        packet.dup,
        packet.packet_id,
        packet.properties,
        version,
    )


def _subscription(subscription: Subscription, version: ProtocolVersion) -> bytes:
    options = subscription.qos
    if version is _V5:
        options |= (
            subscription.no_local << 2 | subscription.retain_as_published << 3 | subscription.retain_handling << 4
        )
    return text(subscription.topic_filter) + bytes((options,))


def _subscribe(packet: Subscribe, version: ProtocolVersion) -> bytes:
    filters = b"".join([_subscription(each, version) for each in packet.subscriptions])
    return frame(0x82, u16(packet.packet_id) + _properties(packet.properties, PacketType.SUBSCRIBE, version) + filters)


def _suback(packet: Suback, version: ProtocolVersion) -> bytes:
    if version is _V5:
        properties = write_properties(packet.properties, _SUBACK)
        return frame(0x90, u16(packet.packet_id) + properties + bytes(packet.reason_codes))
    codes = [code if code < 0x80 else ReasonCode.UNSPECIFIED_ERROR for code in packet.reason_codes]
    return frame(0x90, u16(packet.packet_id) + bytes(codes))


def _unsubscribe(packet: Unsubscribe, version: ProtocolVersion) -> bytes:
    filters = b"".join([text(each) for each in packet.topic_filters])
    properties = _properties(packet.properties, PacketType.UNSUBSCRIBE, version)
    return frame(0xA2, u16(packet.packet_id) + properties + filters)


def _unsuback(packet: Unsuback, version: ProtocolVersion) -> bytes:
    if version is not _V5:
        return frame(0xB0, u16(packet.packet_id))
    properties = write_properties(packet.properties, PacketType.UNSUBACK)
    return frame(0xB0, u16(packet.packet_id) + properties + bytes(packet.reason_codes))


def _disconnect(packet: Disconnect, version: ProtocolVersion) -> bytes:
    if version is not _V5:
        return b"\xe0\x00"
    return _reason_and_properties(0xE0, packet.reason_code, packet.properties)


def _auth(packet: Auth, version: ProtocolVersion) -> bytes:
    if version is not _V5:
        raise ValueError("MQTT 3.1.1 has no AUTH packet: use MQTT 5")
    return _reason_and_properties(0xF0, packet.reason_code, packet.properties)


def _reason_and_properties(first: int, reason_code: int, properties: Properties) -> bytes:
    if properties is EMPTY_PROPERTIES:
        return bytes((first, 1, reason_code)) if reason_code else bytes((first, 0))
    return frame(first, bytes((reason_code,)) + write_properties(properties, PacketType(first >> 4)))


def _acknowledgement(first: int) -> Callable[[Any, ProtocolVersion], bytes]:
    def write(packet: Puback | Pubrec | Pubrel | Pubcomp, version: ProtocolVersion) -> bytes:
        return encode_acknowledgement(first, packet.packet_id, packet.reason_code, packet.properties, version)

    return write


_ENCODERS: dict[type, Callable[[Any, ProtocolVersion], bytes]] = {
    Connect: _connect,
    Connack: _connack,
    Publish: _publish,
    Puback: _acknowledgement(0x40),
    Pubrec: _acknowledgement(0x50),
    Pubrel: _acknowledgement(0x62),
    Pubcomp: _acknowledgement(0x70),
    Subscribe: _subscribe,
    Suback: _suback,
    Unsubscribe: _unsubscribe,
    Unsuback: _unsuback,
    Pingreq: lambda _packet, _version: PINGREQ_BYTES,
    Pingresp: lambda _packet, _version: PINGRESP_BYTES,
    Disconnect: _disconnect,
    Auth: _auth,
}


def encode(packet: Packet, version: ProtocolVersion) -> bytes:
    """Write a packet. CONNECT is written in the version that it names itself."""
    return _ENCODERS[type(packet)](packet, version)
