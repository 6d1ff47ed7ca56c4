"""MQTT 5 properties (section 2.2.2): the value, its bytes, and which packet may carry which property.

No packets live here: a packet is named by its PacketType, the will inside CONNECT by WILL.
"""

from collections.abc import Callable
from enum import IntEnum
from typing import Any, Final, NamedTuple

import msgspec

from mqttprov.mqtt.errors import ProtocolError, malformed, violation
from mqttprov.mqtt.primitives import (
    binary,
    read_binary,
    read_text,
    read_u16,
    read_u32,
    read_varint,
    text,
    u16,
    varint,
)
from mqttprov.mqtt.reasons import ReasonCode


class PacketType(IntEnum):
    """MQTT control packet types (section 2.1.2)."""

    CONNECT = 1
    CONNACK = 2
    PUBLISH = 3
    PUBACK = 4
    PUBREC = 5
    PUBREL = 6
    PUBCOMP = 7
    SUBSCRIBE = 8
    SUBACK = 9
    UNSUBSCRIBE = 10
    UNSUBACK = 11
    PINGREQ = 12
    PINGRESP = 13
    DISCONNECT = 14
    AUTH = 15


WILL: Final = 16  # the will's own property list inside CONNECT


class Properties(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """All properties that MQTT 5 knows; None or () means absent. Fields stand in the order of their identifiers."""

    payload_format_indicator: bool | None = None
    message_expiry_interval_s: int | None = None
    content_type: str | None = None
    response_topic: str | None = None
    correlation_data: bytes | None = None
    subscription_identifiers: tuple[int, ...] = ()
    session_expiry_interval_s: int | None = None
    assigned_client_identifier: str | None = None
    server_keep_alive_s: int | None = None
    authentication_method: str | None = None
    authentication_data: bytes | None = None
    request_problem_information: bool | None = None
    will_delay_interval_s: int | None = None
    request_response_information: bool | None = None
    response_information: str | None = None
    server_reference: str | None = None
    reason_string: str | None = None
    receive_maximum: int | None = None
    topic_alias_maximum: int | None = None
    topic_alias: int | None = None
    maximum_qos: int | None = None
    retain_available: bool | None = None
    user_properties: tuple[tuple[str, str], ...] = ()
    maximum_packet_size_bytes: int | None = None
    wildcard_subscription_available: bool | None = None
    subscription_identifiers_available: bool | None = None
    shared_subscription_available: bool | None = None

    def __repr__(self) -> str:
        """Show only the names of the properties that are there: values may be secrets (P6)."""
        present = [
            n for n, v in zip(self.__struct_fields__, msgspec.structs.astuple(self), strict=True) if v not in _ABSENT
        ]
        return f"Properties({', '.join(present)})"


_ABSENT = (None, ())
EMPTY_PROPERTIES: Final = Properties()

_Reader = Callable[[bytes, int, int], tuple[Any, int]]
_Writer = Callable[[Any], bytes]


class _Kind(msgspec.Struct, frozen=True):
    """How one property looks on the wire and where it may stand."""

    identifier: int
    field: str
    read: _Reader
    write: _Writer
    packets: frozenset[int]
    repeatable: bool = False


def _read_flag(data: bytes, pos: int, stop: int) -> tuple[bool, int]:
    if pos >= stop:
        raise malformed("packet ends inside a property")
    if data[pos] > 1:
        raise violation("a property that is 0 or 1 has another value")
    return data[pos] == 1, pos + 1


def _read_qos(data: bytes, pos: int, stop: int) -> tuple[int, int]:
    value, after = _read_flag(data, pos, stop)
    return int(value), after


def _read_positive_u16(data: bytes, pos: int, stop: int) -> tuple[int, int]:
    value, after = read_u16(data, pos, stop)
    if value == 0:
        raise violation("Receive Maximum is 0")
    return value, after


def _read_alias(data: bytes, pos: int, stop: int) -> tuple[int, int]:
    value, after = read_u16(data, pos, stop)
    if value == 0:
        raise ProtocolError(ReasonCode.TOPIC_ALIAS_INVALID, "Topic Alias is 0")
    return value, after


def _read_positive_u32(data: bytes, pos: int, stop: int) -> tuple[int, int]:
    value, after = read_u32(data, pos, stop)
    if value == 0:
        raise violation("Maximum Packet Size is 0")
    return value, after


def _read_subscription_identifier(data: bytes, pos: int, stop: int) -> tuple[int, int]:
    found = read_varint(data, pos, stop)
    if found is None:
        raise malformed("packet ends inside a property")
    if found[0] == 0:
        raise violation("Subscription Identifier is 0")
    return found


def _read_only_identifier(data: bytes, pos: int, stop: int) -> tuple[tuple[int], int]:
    """Read the identifier of SUBSCRIBE, which has at most one (section 3.8.2.1.2)."""
    identifier, pos = _read_subscription_identifier(data, pos, stop)
    return (identifier,), pos


def _read_pair(data: bytes, pos: int, stop: int) -> tuple[tuple[str, str], int]:
    name, pos = read_text(data, pos, stop)
    value, pos = read_text(data, pos, stop)
    return (name, value), pos


def _byte(value: int) -> bytes:
    return bytes((value,))


def _u32(value: int) -> bytes:
    return value.to_bytes(4, "big")


def _pair(value: tuple[str, str]) -> bytes:
    return text(value[0]) + text(value[1])


def _kinds() -> tuple[_Kind, ...]:
    """Return the table of MQTT 5 section 2.2.2.2."""
    t = PacketType
    message = frozenset({t.PUBLISH, WILL})
    hello = frozenset({t.CONNECT, t.CONNACK})
    connack = frozenset({t.CONNACK})
    authentication = frozenset({t.CONNECT, t.CONNACK, t.AUTH})
    acks = frozenset({t.PUBACK, t.PUBREC, t.PUBREL, t.PUBCOMP, t.SUBACK, t.UNSUBACK})
    everywhere = frozenset(t) - {t.PINGREQ, t.PINGRESP} | {WILL}
    return (
        _Kind(0x01, "payload_format_indicator", _read_flag, _byte, message),
        _Kind(0x02, "message_expiry_interval_s", read_u32, _u32, message),
        _Kind(0x03, "content_type", read_text, text, message),
        _Kind(0x08, "response_topic", read_text, text, message),
        _Kind(0x09, "correlation_data", read_binary, binary, message),
        _Kind(0x0B, "subscription_identifiers", _read_subscription_identifier, varint,
              frozenset({t.PUBLISH, t.SUBSCRIBE}), repeatable=True),
        _Kind(0x11, "session_expiry_interval_s", read_u32, _u32, hello | {t.DISCONNECT}),
        _Kind(0x12, "assigned_client_identifier", read_text, text, connack),
        _Kind(0x13, "server_keep_alive_s", read_u16, u16, connack),
        _Kind(0x15, "authentication_method", read_text, text, authentication),
        _Kind(0x16, "authentication_data", read_binary, binary, authentication),
        _Kind(0x17, "request_problem_information", _read_flag, _byte, frozenset({t.CONNECT})),
        _Kind(0x18, "will_delay_interval_s", read_u32, _u32, frozenset({WILL})),
        _Kind(0x19, "request_response_information", _read_flag, _byte, frozenset({t.CONNECT})),
        _Kind(0x1A, "response_information", read_text, text, connack),
        _Kind(0x1C, "server_reference", read_text, text, connack | {t.DISCONNECT}),
        _Kind(0x1F, "reason_string", read_text, text, acks | {t.CONNACK, t.DISCONNECT, t.AUTH}),
        _Kind(0x21, "receive_maximum", _read_positive_u16, u16, hello),
        _Kind(0x22, "topic_alias_maximum", read_u16, u16, hello),
        _Kind(0x23, "topic_alias", _read_alias, u16, frozenset({t.PUBLISH})),
        _Kind(0x24, "maximum_qos", _read_qos, _byte, connack),
        _Kind(0x25, "retain_available", _read_flag, _byte, connack),
        _Kind(0x26, "user_properties", _read_pair, _pair, everywhere, repeatable=True),
        _Kind(0x27, "maximum_packet_size_bytes", _read_positive_u32, _u32, hello),
        _Kind(0x28, "wildcard_subscription_available", _read_flag, _byte, connack),
        _Kind(0x29, "subscription_identifiers_available", _read_flag, _byte, connack),
        _Kind(0x2A, "shared_subscription_available", _read_flag, _byte, connack),
    )  # fmt: skip


_KINDS = _kinds()
_REPEATABLE = tuple([kind.field for kind in _KINDS if kind.repeatable])
_KIND_OF_FIELD = {kind.field: kind for kind in _KINDS}


class _Rule(NamedTuple):
    """How to read a property in one kind of packet."""

    field: str
    read: _Reader
    repeatable: bool


def _rules_of(carrier: int) -> dict[int, _Rule]:
    rules = {
        kind.identifier: _Rule(kind.field, kind.read, kind.repeatable) for kind in _KINDS if carrier in kind.packets
    }
    if carrier == PacketType.SUBSCRIBE:
        rules[0x0B] = _Rule("subscription_identifiers", _read_only_identifier, repeatable=False)
    return rules


_RULES = {carrier: _rules_of(carrier) for carrier in (*map(int, PacketType), WILL)}


def read_properties(data: bytes, pos: int, stop: int, carrier: int) -> tuple[Properties, int]:
    """Read the property list of a packet type, or of WILL; return it and the position behind it.

    Raises ProtocolError: 0x81 for one that may not stand here, 0x82 for a duplicate or a forbidden value.
    """
    if pos < stop and data[pos] == 0:
        return EMPTY_PROPERTIES, pos + 1
    length = read_varint(data, pos, stop)
    if length is None or length[1] + length[0] > stop:
        raise malformed("the properties are longer than their packet")
    pos = length[1]
    end = pos + length[0]
    rules = _RULES[carrier]
    found: dict[str, Any] = {}
    while pos < end:
        rule = rules.get(data[pos])  # every identifier known so far fits into one byte
        if rule is None:
            raise malformed(f"property 0x{data[pos]:02X} is not allowed in this packet")
        field, read, repeatable = rule
        value, pos = read(data, pos + 1, end)
        if repeatable:
            found.setdefault(field, []).append(value)
        elif field in found:
            raise violation(f"property {field} is there twice")
        else:
            found[field] = value
    for field in _REPEATABLE:
        if field in found:
            found[field] = tuple(found[field])
    return Properties(**found), end


def write_properties(properties: Properties, carrier: int) -> bytes:
    """Write a property list with its length for a packet type, or for WILL.

    Raises ValueError if this carrier may not have one of them, or if a value does not fit.
    """
    if properties is EMPTY_PROPERTIES:
        return b"\0"
    out = bytearray()
    present: dict[str, Any] = msgspec.to_builtins(properties, builtin_types=(bytes,))  # in the order of the fields
    for field, value in present.items():
        kind = _KIND_OF_FIELD[field]
        if carrier not in kind.packets:
            raise ValueError(f"property {field} may not stand in this packet (MQTT 5 section 2.2.2.2): leave it out")
        for single in value if kind.repeatable else (value,):
            out.append(kind.identifier)
            out += kind.write(single)
    return varint(len(out)) + out
