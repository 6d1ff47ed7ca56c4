"""What outlives a connection: messages of QoS 1 and 2 on their way to one peer, and QoS 2 that came in (section 4.3).

It neither encodes nor sends and knows no connection: while there is one, `sending` moves messages through it; while
there is none, the broker puts messages straight into it. Bounded in messages and bytes (P9): when it is full, the
newest message is refused and the caller told.

A message goes from waiting to in flight; QoS 1 ends with PUBACK. QoS 2 becomes released with PUBREC, when its content
can be forgotten, and ends with PUBCOMP. The end of a connection turns what is in flight back into waiting, in its order
and before everything else, to be sent again with the dup flag (MQTT-4.4.0-1).
"""

from collections import deque
from enum import Enum, auto
from typing import Final

import msgspec

from mqttprov.mqtt.errors import violation
from mqttprov.mqtt.messages import Message

MAX_PACKET_ID: Final = 65_535


class Verdict(Enum):
    """What became of a message that a session or a DeliveryState was given."""

    SENT = auto()  # in the output; QoS 1 and 2 are kept until they are acknowledged
    WAITING = auto()  # for room in the peer's window, or for the peer to come back
    DROPPED = auto()  # it counts as delivered: it has expired, or the client takes no packet so large (MQTT-3.1.2-25)
    FULL = auto()  # a bound is reached: not taken
    CLOSED = auto()  # the session is not connected: not taken

    @property
    def taken(self) -> bool:
        """Whether the message is on its way."""
        return self is _SENT or self is _WAITING


_SENT, _WAITING = Verdict.SENT, Verdict.WAITING


class Outgoing(msgspec.Struct, frozen=True, gc=False):
    """One message for one peer; made by `outgoing`. `size_bytes` is what it counts against the bounds."""

    message: Message
    qos: int
    retain: bool
    subscription_ids: tuple[int, ...]
    size_bytes: int


def outgoing(message: Message, qos: int, retain: bool, subscription_ids: tuple[int, ...] = ()) -> Outgoing:
    """Give a message its delivery's own QoS, 1 or 2 (MQTT-3.8.4-8), retain flag and subscription identifiers."""
    return Outgoing(message, qos, retain, subscription_ids, message.size_bytes + 4)


class _Mark(Enum):
    """Why a packet id without a message in flight is in use."""

    HELD = auto()  # by a SUBSCRIBE or UNSUBSCRIBE
    QUEUED = auto()
    RELEASED = auto()  # PUBREL is sent, PUBCOMP is due


_HELD, _QUEUED, _RELEASED = _Mark

_Waiting = tuple[int, Outgoing, bool]  # packet id, message, whether it was sent before


class DeliveryState:
    """Packet ids in use, messages in flight and waiting, and the ids of QoS 2 messages that came in.

    The bounds hold for what waits; what is in flight has the bytes' bound once more.
    """

    __slots__ = (
        "_ids",
        "_last_id",
        "_waiting",
        "in_flight",
        "in_flight_bytes",
        "max_queued_bytes",
        "max_queued_messages",
        "queued_bytes",
        "received",
    )

    def __init__(self, max_queued_messages: int, max_queued_bytes: int) -> None:
        self.max_queued_messages = max_queued_messages
        self.max_queued_bytes = max_queued_bytes
        self.in_flight = 0  # sent and not yet acknowledged to the end
        self.in_flight_bytes = 0
        self.queued_bytes = 0
        self.received: set[int] | None = None  # QoS 2 taken in, PUBREL not yet come; made on first need, as the queue
        self._ids: dict[int, Outgoing | _Mark] = {}
        self._waiting: deque[_Waiting] | None = None
        self._last_id = 0

    @property
    def queued_messages(self) -> int:
        """How many messages wait."""
        return len(self._waiting) if self._waiting is not None else 0

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing that a new connection would have to go on with."""
        return not self._ids and not self.received

    # --- while the peer is away ---

    def enqueue(
        self, message: Message, qos: int, *, retain: bool = False, subscription_ids: tuple[int, ...] = ()
    ) -> Verdict:
        """Keep a message of QoS 1 or 2 for a peer that is not connected: WAITING or FULL."""
        if qos not in {1, 2}:
            raise ValueError(f"QoS {qos} is not kept: only messages of QoS 1 and 2 wait for who is away")
        packet_id = self.take_id()
        if packet_id is None:
            return Verdict.FULL
        return self.wait(packet_id, outgoing(message, qos, retain, subscription_ids))

    def drop_expired(self, now_s: float) -> int:
        """Forget waiting messages whose lifetime has passed and that were never sent; tell how many."""
        if not self._waiting:
            return 0
        kept: deque[_Waiting] = deque()
        for each in self._waiting:
            packet_id, entry, was_sent = each
            if was_sent or not entry.message.has_expired(now_s):
                kept.append(each)
            else:
                self._free(packet_id)
                self.queued_bytes -= entry.size_bytes
        dropped = len(self._waiting) - len(kept)
        self._waiting = kept or None
        return dropped

    # --- packet ids ---

    def take_id(self) -> int | None:
        """Return a packet id that is not in use, and hold it; None if all of them are."""
        ids = self._ids
        if len(ids) >= MAX_PACKET_ID:
            return None
        packet_id = self._last_id % MAX_PACKET_ID + 1
        while packet_id in ids:
            packet_id = packet_id % MAX_PACKET_ID + 1
        self._last_id = packet_id
        ids[packet_id] = _HELD
        return packet_id

    def release_id(self, packet_id: int) -> bool:
        """Give back an id that is held and carries no message; False if it is none of these."""
        if self._ids.get(packet_id) is not _HELD:
            return False
        self._free(packet_id)
        return True

    def _free(self, packet_id: int) -> None:
        del self._ids[packet_id]
        if not self._ids:
            self._ids = {}  # a dict that was filled once stays large, and most clients are idle

    # --- from waiting to acknowledged ---

    def may_send(self, message: Outgoing, window: int) -> bool:
        """Tell whether a message may be sent now: nobody waits before it, and window and bytes have room."""
        return not self._waiting and self._has_room(message, window)

    def _has_room(self, message: Outgoing, window: int) -> bool:
        if not self.in_flight:
            return window > 0  # whatever its size: there would never be more room
        return self.in_flight < window and self.in_flight_bytes + message.size_bytes <= self.max_queued_bytes

    def wait(self, packet_id: int, message: Outgoing, room_taken_bytes: int = 0) -> Verdict:
        """Let a message wait under an id that was taken for it; when FULL, the id is given back.

        `room_taken_bytes` is what the session holds elsewhere and counts against the same bound.
        """
        size = message.size_bytes
        if (
            self.queued_messages >= self.max_queued_messages
            or self.queued_bytes + room_taken_bytes + size > self.max_queued_bytes
        ):
            self._free(packet_id)
            return Verdict.FULL
        if self._waiting is None:
            self._waiting = deque()
        self._ids[packet_id] = _QUEUED
        self._waiting.append((packet_id, message, False))
        self.queued_bytes += size
        return _WAITING

    def send(self, packet_id: int, message: Outgoing) -> None:
        """Note that a message is in flight under an id that was taken for it."""
        self._ids[packet_id] = message
        self.in_flight += 1
        self.in_flight_bytes += message.size_bytes

    def next_waiting(self, window: int) -> _Waiting | None:
        """Take the message out that may be sent next: to be followed by `send`, or by `release_id` to forget it."""
        waiting = self._waiting
        if not waiting or not self._has_room(waiting[0][1], window):
            return None
        following = waiting.popleft()
        if not waiting:
            self._waiting = None
        self._ids[following[0]] = _HELD
        self.queued_bytes -= following[1].size_bytes
        return following

    def acknowledged(self, packet_id: int) -> bool:
        """Take PUBACK; False if no message of QoS 1 is in flight under this id. Raises ProtocolError for QoS 2."""
        message = self._ids.get(packet_id)
        if not isinstance(message, Outgoing):
            return False
        if message.qos != 1:
            raise violation("PUBACK for a message of QoS 2 (MQTT-4.3.3-1)")
        self._end(packet_id, message)
        return True

    def received_by_peer(self, packet_id: int, refused: bool) -> bool:
        """Take PUBREC; False if the id is unknown. A refusal ends the delivery, else its PUBREL is now due.

        Raises ProtocolError if the message is of QoS 1.
        """
        message = self._ids.get(packet_id)
        if message is _RELEASED:
            return not refused  # a repetition: PUBREL is due once more
        if not isinstance(message, Outgoing):
            return False
        if message.qos != 2:
            raise violation("PUBREC for a message of QoS 1 (MQTT-4.3.2-1)")
        if refused:
            self._end(packet_id, message)
            return True
        del self._ids[packet_id]
        self._ids[packet_id] = _RELEASED  # behind the others: PUBREL goes in the order of PUBREC (MQTT-4.6.0-4)
        self.in_flight_bytes -= message.size_bytes
        return True

    def completed(self, packet_id: int) -> bool:
        """Take PUBCOMP; False if no PUBREL waits for it."""
        if self._ids.get(packet_id) is not _RELEASED:
            return False
        self._free(packet_id)
        self.in_flight -= 1
        return True

    def _end(self, packet_id: int, message: Outgoing) -> None:
        self._free(packet_id)
        self.in_flight -= 1
        self.in_flight_bytes -= message.size_bytes

    # --- from one connection to the next ---

    def released_ids(self) -> list[int]:
        """Give the ids whose PUBREL is to be sent again, in order."""
        return [packet_id for packet_id, use in self._ids.items() if use is _RELEASED]

    def rewind(self) -> None:
        """Take the end of a connection: what was in flight waits again, before the rest; held ids are free."""
        again: list[_Waiting] = []
        for packet_id, use in list(self._ids.items()):
            if use is _HELD:
                del self._ids[packet_id]
            elif isinstance(use, Outgoing):
                again.append((packet_id, use, True))
                self._ids[packet_id] = _QUEUED
        if again:
            self._waiting = deque([*again, *(self._waiting or ())])
        self.queued_bytes += self.in_flight_bytes
        self.in_flight -= len(again)
        self.in_flight_bytes = 0

    def forget_sent(self) -> tuple[Message, ...]:
        """Drop everything that the peer has forgotten too (MQTT-3.2.2-5), after `rewind`; give the messages lost by it.

        What was never sent goes on waiting.
        """
        for packet_id in self.released_ids():
            del self._ids[packet_id]
        self.in_flight = 0
        self.received = None
        lost = [(packet_id, entry) for packet_id, entry, was_sent in self._waiting or () if was_sent]
        for packet_id, entry in lost:
            del self._ids[packet_id]
            self.queued_bytes -= entry.size_bytes
        self._waiting = deque([each for each in self._waiting or () if not each[2]]) or None
        return tuple([entry.message for _, entry in lost])
