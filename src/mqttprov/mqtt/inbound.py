"""Messages of QoS 1 that came in and are not yet acknowledged. Both sessions use it; it neither parses nor sends."""

from mqttprov.mqtt.errors import ProtocolError, violation
from mqttprov.mqtt.outbound import MAX_PACKET_ID
from mqttprov.mqtt.reasons import ReasonCode


class InboundWindow:
    """The packet ids that an acknowledgement is owed for, at most `receive_maximum` of them (P9)."""

    __slots__ = ("_owed", "_receive_maximum")

    def __init__(self, receive_maximum: int | None) -> None:
        # None where the peer cannot know of a maximum (3.1.1); the number of ids is the bound then.
        self._receive_maximum = receive_maximum or MAX_PACKET_ID
        self._owed: set[int] = set()

    def __len__(self) -> int:
        return len(self._owed)

    def note(self, packet_id: int, dup: bool) -> bool:
        """Note a message; False for a repetition that the acknowledgement which is owed answers as well.

        Raises ProtocolError for an id in use without the dup flag, and for one message too many.
        """
        owed = self._owed
        if packet_id in owed:
            if dup:
                return False
            raise violation("packet id is still in use (MQTT-2.2.1-3)")
        if len(owed) >= self._receive_maximum:
            raise ProtocolError(ReasonCode.RECEIVE_MAXIMUM_EXCEEDED, "more messages in flight than Receive Maximum")
        owed.add(packet_id)
        return True

    def settle(self, packet_id: int) -> None:
        """Note that a message is acknowledged; ValueError if none with this id waits for it."""
        try:
            self._owed.remove(packet_id)
        except KeyError:
            raise ValueError(f"no message with packet id {packet_id} waits for PUBACK: acknowledge each once") from None
