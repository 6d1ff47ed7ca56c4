"""Messages of QoS 1 on their way out: packet ids, the peer's window, and a bounded queue behind it (P9).

Both sessions use it. It neither encodes nor sends: it tells which packets may go now. Messages are not kept once they
are sent, because within one connection nothing is sent twice (MQTT-4.4.0-1).
"""

from collections import deque
from collections.abc import Callable
from enum import Enum, auto

from mqttprov.mqtt.output import OutputBuffer

MAX_PACKET_ID = 65_535

_HELD, _WAITING, _IN_FLIGHT = range(3)


class Verdict(Enum):
    """What becomes of a message that was submitted."""

    SEND = auto()
    WAIT = auto()
    REFUSE = auto()


class OutboundQueue:
    """Packet ids in use, the number in flight, and what waits for the window."""

    __slots__ = (
        "_in_use",
        "_last_id",
        "_waiting",
        "in_flight",
        "max_queued_bytes",
        "max_queued_messages",
        "queued_bytes",
        "window",
    )

    def __init__(self, window: int, max_queued_messages: int, max_queued_bytes: int) -> None:
        self.window = window  # how many messages the peer takes unacknowledged (Receive Maximum)
        self.max_queued_messages = max_queued_messages
        self.max_queued_bytes = max_queued_bytes
        self.in_flight = 0
        self.queued_bytes = 0
        self._in_use: dict[int, int] = {}  # id -> held, waiting or in flight
        self._waiting: deque[tuple[int, bytes]] | None = None  # made on first need: an idle connection must stay small
        self._last_id = 0

    @property
    def queued_messages(self) -> int:
        """How many messages wait for the window."""
        return len(self._waiting) if self._waiting is not None else 0

    def take_id(self) -> int | None:
        """Return a packet id that is not in use, and hold it; None if all of them are."""
        if len(self._in_use) >= MAX_PACKET_ID:
            return None
        packet_id = self._last_id
        while True:
            packet_id = packet_id + 1 if packet_id < MAX_PACKET_ID else 1
            if packet_id not in self._in_use:
                break
        self._last_id = packet_id
        self._in_use[packet_id] = _HELD
        return packet_id

    def release_id(self, packet_id: int) -> bool:
        """Give an id back that no message was submitted with; False if it was not held so."""
        if self._in_use.get(packet_id) != _HELD:
            return False
        del self._in_use[packet_id]
        return True

    def submit(self, packet_id: int, packet: bytes, room_taken_bytes: int = 0) -> Verdict:
        """Decide about a message whose id was taken: send now, wait for the window, or refuse and give the id back.

        `room_taken_bytes` is what the session holds elsewhere and counts against the same bound.
        """
        if self.in_flight < self.window:  # then nobody waits: every acknowledgement lets the next one go
            self._in_use[packet_id] = _IN_FLIGHT
            self.in_flight += 1
            return Verdict.SEND
        if (
            self.queued_messages >= self.max_queued_messages
            or self.queued_bytes + room_taken_bytes + len(packet) > self.max_queued_bytes
        ):
            del self._in_use[packet_id]
            return Verdict.REFUSE
        if self._waiting is None:
            self._waiting = deque()
        self._in_use[packet_id] = _WAITING
        self._waiting.append((packet_id, packet))
        self.queued_bytes += len(packet)
        return Verdict.WAIT

    def send(self, make_packet: Callable[[int], bytes], fits: Callable[[bytes], bool], output: OutputBuffer) -> bool:
        """Make a message's packet and let it go or wait; False if it is not taken, whatever the reason."""
        packet_id = self.take_id()
        if packet_id is None:
            return False
        try:
            packet = make_packet(packet_id)
        except ValueError:
            self.release_id(packet_id)
            raise
        if not fits(packet):
            self.release_id(packet_id)
            return False
        verdict = self.submit(packet_id, packet, output.size_bytes)
        if verdict is Verdict.SEND:
            output.put(packet)
        return verdict is not Verdict.REFUSE

    def acknowledged(self, packet_id: int) -> bool:
        """Note an acknowledgement; False if no message with this id is in flight."""
        if self._in_use.get(packet_id) != _IN_FLIGHT:
            return False
        del self._in_use[packet_id]
        self.in_flight -= 1
        return True

    def next_ready(self) -> bytes | None:
        """Return the next waiting packet if the window has room for it, and note it as sent."""
        if not self._waiting or self.in_flight >= self.window:
            return None
        packet_id, packet = self._waiting.popleft()
        self.queued_bytes -= len(packet)
        self._in_use[packet_id] = _IN_FLIGHT
        self.in_flight += 1
        return packet
