"""A stream of bytes -> packets: framing, size limit, and which packet type may come from which side.

The bodies of packets are read in packet_parsers, the order of packets (but for CONNECT) is the sessions' business.
Memory is bounded (P9): what is kept is less than one packet of the maximum size, plus the read that it came in.
"""

from functools import lru_cache
from typing import Final

from mqttprov.mqtt.errors import ProtocolError, malformed, violation
from mqttprov.mqtt.packet_parsers import (
    Parser,
    UnsupportedVersionError,
    parse_acknowledgement,
    parse_auth,
    parse_connack,
    parse_connect,
    parse_disconnect,
    parse_ping,
    parse_publish,
    parse_suback,
    parse_subscribe,
    parse_unsuback,
    parse_unsubscribe,
)
from mqttprov.mqtt.packets import Connect, Packet, ProtocolVersion
from mqttprov.mqtt.primitives import read_varint
from mqttprov.mqtt.properties import PacketType
from mqttprov.mqtt.reasons import ReasonCode

_ParserTable = tuple[Parser | None, ...]


def _table(parsers: dict[int, Parser]) -> _ParserTable:
    return tuple(parsers.get(first) for first in range(256))


def _both_ways(v5: bool) -> dict[int, Parser]:
    # Reserved flags and QoS 3 simply have no entry; neither has dup with QoS 0 (MQTT-3.3.1-2).
    publish: dict[int, Parser] = {
        0x30 | dup << 3 | qos << 1 | retain: parse_publish
        for qos in range(3)
        for dup in range(2 if qos else 1)
        for retain in range(2)
    }
    acknowledgements: dict[int, Parser] = dict.fromkeys((0x40, 0x50, 0x62, 0x70), parse_acknowledgement)
    return publish | acknowledgements | ({0xF0: parse_auth} if v5 else {})


_TO_SERVER: dict[int, Parser] = {
    0x82: parse_subscribe,
    0xA2: parse_unsubscribe,
    0xC0: parse_ping,
    0xE0: parse_disconnect,
}
_TO_CLIENT: dict[int, Parser] = {0x20: parse_connack, 0x90: parse_suback, 0xB0: parse_unsuback, 0xD0: parse_ping}
_BEFORE_CONNECT: Final = _table({0x10: parse_connect})
_SERVER_TABLES: Final = {
    ProtocolVersion.V311: _table(_both_ways(v5=False) | _TO_SERVER),
    ProtocolVersion.V5: _table(_both_ways(v5=True) | _TO_SERVER),
}
_CLIENT_TABLES: Final = {
    ProtocolVersion.V311: _table(_both_ways(v5=False) | _TO_CLIENT),
    ProtocolVersion.V5: _table(_both_ways(v5=True) | _TO_CLIENT | {0xE0: parse_disconnect}),
}


# No secrets, and bounded (P9): CONNECT, CONNACK and PUBLISH, whose first bytes are lower, and AUTH are never kept.
_LAST_PUBLISH: Final = 0x3F
_AUTH: Final = 0xF0
_SHORT_BYTES: Final = 64  # with the length in one byte


@lru_cache(maxsize=1024)
def _parse_short(parse: Parser, packet: bytes, v5: bool) -> Packet:
    """Parse a whole packet; kept, because thousands of gateways subscribe and are answered with the same bytes."""
    return parse(packet[0], packet, 2, len(packet), v5)


class PacketDecoder:
    """Turns reads into packets, for a server (`version` None: learnt from CONNECT) or for a client (`version` given).

    On the server's side it pauses behind CONNECT: a server must not act on what follows before it has accepted the
    client (MQTT-3.1.4-5), and the size limit of what follows depends on the login. `resume` goes on. Meanwhile no more
    than `max_packet_bytes` are kept, or what came in the same read as CONNECT.

    `max_packet_bytes` counts the whole packet with its fixed header and may be changed at any time.
    """

    __slots__ = ("_needed", "_parsers", "_paused", "_pending", "_v5", "error", "max_packet_bytes", "version")

    def __init__(self, max_packet_bytes: int, *, version: ProtocolVersion | None = None) -> None:
        self.max_packet_bytes = max_packet_bytes
        self.version = version
        self.error: ProtocolError | None = None
        self._parsers = _BEFORE_CONNECT if version is None else _CLIENT_TABLES[version]
        self._v5 = version == ProtocolVersion.V5
        self._pending: bytes | bytearray = b""  # a bytearray only while a packet is incomplete: most are idle
        self._needed = 0  # so many bytes must be pending before another look at them pays
        self._paused = False

    def feed(self, data: bytes) -> list[Packet]:
        """Take one read and return the packets that it completes.

        The first violation ends decoding for good: it is left in `error`, and the packets before it are returned.
        """
        if self.error is not None:
            return []
        if self._paused:
            self._keep_while_paused(data)
            return []
        if self._pending:
            self._pending += data
            if len(self._pending) < self._needed:
                return []
            data = bytes(self._pending)
            self._pending = b""
        return self._decode(data)

    def resume(self) -> list[Packet]:
        """Go on behind CONNECT, the client being accepted, and return the packets that waited."""
        self._paused = False
        if self.error is not None or not self._pending:
            return []
        data = bytes(self._pending)
        self._pending = b""
        return self._decode(data)

    def _keep_while_paused(self, data: bytes) -> None:
        if self._pending and len(self._pending) + len(data) > self.max_packet_bytes:
            self._fail(ProtocolError(ReasonCode.QUOTA_EXCEEDED, "too much sent without waiting for CONNACK"))
        else:
            self._keep(data)

    def _keep(self, data: bytes) -> None:
        if self._pending:
            self._pending += data
        elif data:
            self._pending = bytearray(data)

    def _fail(self, error: Exception) -> None:
        if isinstance(error, UnicodeDecodeError):
            error = malformed("a text is not UTF-8")
        elif isinstance(error, IndexError):
            error = malformed("packet ends too early")
        elif isinstance(error, UnsupportedVersionError):
            self.version = error.answer_in
        assert isinstance(error, ProtocolError)  # noqa: S101 - for the type checker: nothing else is caught
        self.error = error.with_traceback(None)  # a traceback would keep the read alive, secrets and all
        self._pending = b""

    def _decode(self, data: bytes) -> list[Packet]:
        packets: list[Packet] = []
        try:
            self._decode_into(packets, data)
        except (ProtocolError, UnicodeDecodeError, IndexError) as error:
            self._fail(error)
            if self.version is None and b"\0\4MQTT\5" in data[:12]:
                self.version = ProtocolVersion.V5  # a bad CONNECT, but one whose sender understands a reason
        return packets

    def _decode_into(self, packets: list[Packet], data: bytes) -> None:
        pos = 0
        end = len(data)
        max_bytes, parsers, v5 = self.max_packet_bytes, self._parsers, self._v5
        while pos < end:
            first = data[pos]
            parse = parsers[first]
            if parse is None:
                raise self._explain(first)
            body = pos + 2
            if body <= end and (length := data[pos + 1]) < 0x80:
                stop = body + length
            elif body < end and 0 < data[body] < 0x80:
                stop = body + 1 + (data[pos + 1] & 0x7F | data[body] << 7)
                body += 1
            else:
                found = read_varint(data, pos + 1, end)
                if found is None:
                    self._wait(data[pos:], end - pos + 1)
                    return
                length, body = found
                stop = body + length
            if stop - pos > max_bytes:
                raise ProtocolError(
                    ReasonCode.PACKET_TOO_LARGE, f"a packet of {stop - pos} bytes, where {max_bytes} are the maximum"
                )
            if stop > end:
                self._wait(data[pos:], stop - pos)
                return
            if _LAST_PUBLISH < first < _AUTH and stop - pos <= _SHORT_BYTES:
                packet = _parse_short(parse, data[pos:stop], v5)
            else:
                packet = parse(first, data, body, stop, v5)
            packets.append(packet)
            pos = stop
            if parsers is _BEFORE_CONNECT:
                self._learn_version(packet)
                self._paused = True
                self._keep(data[pos:])
                return

    def _wait(self, rest: bytes, needed: int) -> None:
        self._pending = bytearray(rest)  # nothing else is pending while bytes are decoded
        self._needed = needed

    def _learn_version(self, packet: Packet) -> None:
        assert isinstance(packet, Connect)  # noqa: S101 - for the type checker: the table before CONNECT has no other
        self.version = packet.version
        self._v5 = packet.version == ProtocolVersion.V5
        self._parsers = _SERVER_TABLES[packet.version]

    def _explain(self, first: int) -> ProtocolError:
        kind = first >> 4
        if kind == 0 or (kind == PacketType.AUTH and not self._v5):
            return malformed("reserved packet type")
        name = PacketType(kind).name
        if self._parsers is _BEFORE_CONNECT:
            if kind == PacketType.CONNECT:
                return malformed("reserved flags in CONNECT")
            return violation(f"{name} before CONNECT (MQTT-3.1.0-1)")
        if kind == PacketType.CONNECT and self._parsers in _SERVER_TABLES.values():
            return violation("a second CONNECT (MQTT-3.1.0-2)")
        if any(self._parsers[kind << 4 | flags] for flags in range(16)):
            return malformed(f"reserved flags in {name}")
        return violation(f"{name} from the wrong side")
