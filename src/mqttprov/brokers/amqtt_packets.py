"""Bytes of a connection -> packets with their size, and our packets -> amqtt's, as its plugins know them.

amqtt knows MQTT 3.1.1 alone. A packet of MQTT 5 is shown as what 3.1.1 has of it, of the same class and with the size
that it really has; AUTH has no class. Who is told of packets, and when, is `amqtt_packet_news`'s.
"""

from collections.abc import Coroutine, Iterator
from typing import Any, Final

import msgspec
from amqtt.adapters import BufferReader
from amqtt.mqtt import packet_dict
from amqtt.mqtt.packet import CONNECT

from mqttprov.mqtt import (
    TOPIC_ALIAS_MAXIMUM,
    Auth,
    Connack,
    Connect,
    InboundAliases,
    Packet,
    PacketDecoder,
    ProtocolError,
    ProtocolVersion,
    Publish,
    ReasonCode,
    connack_return_code,
    encode,
)

_V311: Final = ProtocolVersion.V311
_ANY_SIZE: Final = 5 + 0x0FFF_FFFF  # the session has bounds, and ends past them


def _sized(kind: Any) -> Any:
    """Make a subclass whose size is said and not counted; in its repr it is what it stands for."""
    return type(kind.__name__, (kind,), {"__slots__": ("bytes_length",), "__module__": kind.__module__})


_SIZED: Final[dict[int, Any]] = {number: _sized(kind) for number, kind in packet_dict.items()}


class PacketReader:
    """Reads one direction of a connection along. What is kept is less than one packet, plus the read that it came in.

    Behind CONNECT it pauses, as the session does: what follows counts only once the client is accepted.
    """

    __slots__ = ("_aliases", "_decoder", "_needed", "_paused", "_rest")

    def __init__(self, version: ProtocolVersion | None = None) -> None:
        """Begin; `version` is None for what a client sends, and its version for what it is sent."""
        self._decoder = PacketDecoder(_ANY_SIZE, version=version)
        self._aliases: InboundAliases | None = None
        self._rest = bytearray()
        self._needed = 0
        self._paused = False

    def feed(self, data: bytes) -> Iterator[tuple[Packet, int]]:
        """Give the packets that this read completes, each with its size in bytes; none behind a violation."""
        if self._paused or self._rest:
            self._rest += data
            if self._paused or len(self._rest) < self._needed:
                return
            data = bytes(self._rest)
            self._rest.clear()
        pos = 0
        while self._decoder.error is None and pos < len(data):
            stop = _end(data, pos)
            if stop is None or stop > len(data) or self._paused:
                self._rest += data[pos:]
                self._needed = (stop or 0) - pos
                return
            for packet in self._decoder.feed(data[pos:stop]):
                self._paused = isinstance(packet, Connect)
                yield self._with_topic(packet), stop - pos
            pos = stop

    def resume(self) -> Iterator[tuple[Packet, int]]:
        """Go on behind CONNECT."""
        self._decoder.resume()
        self._paused = False
        self._needed = 0
        return self.feed(b"")

    def _with_topic(self, packet: Packet) -> Packet:
        """Give a message that has an alias its topic, which 3.1.1 always has."""
        if not isinstance(packet, Publish) or packet.properties.topic_alias is None:
            return packet
        if self._aliases is None:
            self._aliases = InboundAliases(TOPIC_ALIAS_MAXIMUM)
        try:
            return self._aliases.resolve(packet)
        except ProtocolError:
            return packet  # the session ends for it


def _end(data: bytes, start: int) -> int | None:
    """Give where the packet ends that begins there; None if its length is not here yet."""
    length = 0
    for at in range(start + 1, min(start + 5, len(data))):
        length |= (data[at] & 0x7F) << 7 * (at - start - 1)
        if data[at] < 0x80:
            return at + 1 + length
    return None


def disguised(connect: Connect, username: str | None) -> Connect:
    """Give a CONNECT that may be shown: by a name, never by a token and never with a password (P6)."""
    return msgspec.structs.replace(connect, username=username, password=None)


def as_amqtt(packet: Packet, size_bytes: int) -> Any:
    """Give a packet as amqtt's decoder would have read it; None for AUTH. Raises amqtt's errors and ValueError."""
    if isinstance(packet, Auth):
        return None
    raw = encode(_in_311(packet), _V311)
    number = raw[0] >> 4
    # amqtt makes up a client id where there is none, and would count it.
    is_sized = len(raw) != size_bytes or number == CONNECT
    told = _result_of((_SIZED if is_sized else packet_dict)[number].from_stream(BufferReader(raw)))
    if is_sized:
        told.bytes_length = size_bytes
    if isinstance(packet, Connect):
        told.proto_level = packet.version
    return told


def _in_311(packet: Packet) -> Packet:
    if isinstance(packet, Connect):
        return msgspec.structs.replace(packet, version=_V311)
    if isinstance(packet, Connack) and connack_return_code(packet.reason_code) is None:
        return msgspec.structs.replace(packet, reason_code=ReasonCode.UNSPECIFIED_ERROR)
    return packet


def _result_of(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine that has all it needs."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value
    coroutine.close()
    raise RuntimeError("amqtt's decoder waits, though the whole packet is there")
