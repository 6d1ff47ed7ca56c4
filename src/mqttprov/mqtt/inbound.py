"""Messages of QoS 1 and 2 that came in and whose exchange goes on. Both sessions use it; it neither parses nor sends.

QoS 1 is over when the application has it and PUBACK is sent. QoS 2 goes by MQTT 5 section 4.3.3: the id is noted when
the message is handed over, so that happens once; PUBREC is sent when the application has taken it, and any repetition
until PUBREL gets PUBREC alone. The ids of QoS 2 outlive the connection (DeliveryState), the rest belongs to it.
"""

from enum import Enum, auto

from mqttprov.mqtt.delivery import MAX_PACKET_ID
from mqttprov.mqtt.errors import ProtocolError, violation
from mqttprov.mqtt.packets import Publish
from mqttprov.mqtt.reasons import ReasonCode


class Arrival(Enum):
    """What a message is that came in."""

    NEW = auto()
    AWAITED = auto()  # a repetition that the acknowledgement which is owed answers as well
    KNOWN = auto()  # a repetition of QoS 2 that is to be answered with PUBREC and not handed over


_NEW, _AWAITED, _KNOWN = Arrival


class InboundWindow:
    """Messages in flight towards us, at most `receive_maximum`; of QoS 2 at most `max_unreleased` ids are kept (P9)."""

    __slots__ = ("_max_unreleased", "_owed", "_receive_maximum", "_unreleased", "received")

    def __init__(self, receive_maximum: int | None, max_unreleased: int, received: set[int] | None) -> None:
        # None where the peer cannot know of a maximum (3.1.1); the number of ids is the bound then.
        self._receive_maximum = receive_maximum or MAX_PACKET_ID
        self._max_unreleased = max_unreleased
        self._owed: dict[int, int] = {}  # id -> QoS, of messages that the application has not taken yet
        self._unreleased: set[int] | None = None  # of QoS 2 on this connection, PUBREC sent
        self.received = received  # of QoS 2 on any connection, PUBREL not come; made on first need

    def __len__(self) -> int:
        """Count the messages that an acknowledgement by the application is owed for."""
        return len(self._owed)

    def note(self, publish: Publish) -> Arrival:
        """Note a message of QoS 1 or 2. Raises ProtocolError for an id in use, and for one message too many."""
        packet_id, qos = publish.packet_id or 0, publish.qos
        owed = self._owed.get(packet_id)
        if owed is not None:
            if owed == qos and publish.dup:
                return _AWAITED
            raise violation("packet id is still in use (MQTT-2.2.1-3)")
        if qos == 1 and not self.received and len(self._owed) < self._receive_maximum:
            self._owed[packet_id] = 1
            return _NEW  # the common case at half the price
        unreleased = self._unreleased
        is_known = self.received is not None and packet_id in self.received
        if is_known and qos == 1:
            raise violation("packet id is still in use (MQTT-2.2.1-3)")
        if is_known and unreleased is not None and packet_id in unreleased:
            return _KNOWN
        if len(self._owed) + (len(unreleased) if unreleased else 0) >= self._receive_maximum:
            raise ProtocolError(ReasonCode.RECEIVE_MAXIMUM_EXCEEDED, "more messages in flight than Receive Maximum")
        if is_known:
            self._count_unreleased(packet_id)
            return _KNOWN
        if qos == 2:
            self._note_received(packet_id)
        self._owed[packet_id] = qos
        return _NEW

    def _note_received(self, packet_id: int) -> None:
        if self.received is None:
            self.received = set()
        if len(self.received) >= self._max_unreleased:
            raise ProtocolError(ReasonCode.RECEIVE_MAXIMUM_EXCEEDED, "too many messages of QoS 2 without PUBREL")
        self.received.add(packet_id)

    def _count_unreleased(self, packet_id: int) -> None:
        if self._unreleased is None:
            self._unreleased = set()
        self._unreleased.add(packet_id)

    def settle(self, packet_id: int, *, is_over: bool) -> int:
        """Note that the application has answered a message; give its QoS. ValueError if none with this id waits for it.

        `is_over`: the answer ends the exchange even of QoS 2, because it is a refusal that the peer understands.
        """
        qos = self._owed.pop(packet_id, None)
        if qos is None:
            raise ValueError(f"no message with packet id {packet_id} waits for its answer: acknowledge each once")
        if not self._owed:
            self._owed = {}  # a dict that was filled once stays large, and most clients are idle
        if qos == 2:
            if is_over and self.received is not None:
                self.received.discard(packet_id)
            else:
                self._count_unreleased(packet_id)
        return qos

    def release(self, packet_id: int) -> bool:
        """Take PUBREL; False if the id is unknown. Raises ProtocolError if it comes before its PUBREC."""
        if packet_id in self._owed:
            raise violation("PUBREL before PUBREC (MQTT-4.3.3-1)")
        if self._unreleased is not None:
            self._unreleased.discard(packet_id)
        if self.received is None or packet_id not in self.received:
            return False
        self.received.remove(packet_id)
        return True
