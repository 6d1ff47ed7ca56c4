"""Messages of QoS 1 and 2 going out over one connection: DeliveryState -> packets in the output. Both sessions use it.

What is to be kept is `delivery`'s; this holds what the peer said of this connection: window, packet size, version.
"""

from collections.abc import Sequence
from typing import Final

from mqttprov.mqtt.delivery import DeliveryState, Outgoing, Verdict
from mqttprov.mqtt.encoder import encode_acknowledgement, encode_publish
from mqttprov.mqtt.messages import properties_for_delivery
from mqttprov.mqtt.output import OutputBuffer
from mqttprov.mqtt.packets import ProtocolVersion, Puback, Pubcomp, Pubrec
from mqttprov.mqtt.properties import EMPTY_PROPERTIES
from mqttprov.mqtt.reasons import ReasonCode

ANSWERS: Final = (Puback, Pubrec, Pubcomp)  # as a tuple: making a union anew for each packet costs 0.3 us
_V5 = ProtocolVersion.V5
_PUBREL = 0x62
_SENT, _DROPPED, _FULL = Verdict.SENT, Verdict.DROPPED, Verdict.FULL


def encode_outgoing(entry: Outgoing, packet_id: int, dup: bool, version: ProtocolVersion, now_s: float) -> bytes:
    """Write the PUBLISH of a delivery; ValueError for a message that MQTT cannot carry."""
    message = entry.message
    properties = EMPTY_PROPERTIES
    if version is _V5:
        properties = properties_for_delivery(message, entry.subscription_ids, now_s)
    return encode_publish(message.topic, message.payload, entry.qos, entry.retain, dup, packet_id, properties, version)


class Sender:
    """One connection's way out. `window` is how many messages the peer takes unacknowledged (Receive Maximum)."""

    __slots__ = ("_output", "_version", "max_packet_bytes", "state", "window")

    def __init__(
        self, state: DeliveryState, output: OutputBuffer, version: ProtocolVersion, window: int, max_packet_bytes: int
    ) -> None:
        self.state = state
        self.window = window
        self.max_packet_bytes = max_packet_bytes
        self._output = output
        self._version = version

    def submit(self, entry: Outgoing, now_s: float) -> Verdict:
        """Send a message or let it wait. Raises ValueError if MQTT cannot carry it."""
        packet_id = self.state.take_id()
        return _FULL if packet_id is None else self.submit_as(packet_id, entry, now_s)

    def submit_as(self, packet_id: int, entry: Outgoing, now_s: float) -> Verdict:
        """Send a message or let it wait under an id that was taken for it; given back unless the message is taken."""
        state, output = self.state, self._output
        if not state.may_send(entry, self.window):
            return state.wait(packet_id, entry, output.size_bytes)
        try:
            packet = encode_outgoing(entry, packet_id, False, self._version, now_s)
        except ValueError:
            state.release_id(packet_id)
            raise
        size = len(packet)
        if size > self.max_packet_bytes or size + output.size_bytes > state.max_queued_bytes:
            state.release_id(packet_id)
            return _DROPPED if size > self.max_packet_bytes else _FULL
        state.send(packet_id, entry)
        output.put(packet)
        return _SENT

    def resume(self, now_s: float) -> Sequence[int]:
        """Go on where the last connection ended: PUBREL again, messages again, then what waits, as the window allows.

        Gives the ids of messages that the peer does not take, as `pump` does.
        """
        for packet_id in self.state.released_ids():
            self._output.put(
                encode_acknowledgement(_PUBREL, packet_id, ReasonCode.SUCCESS, EMPTY_PROPERTIES, self._version)
            )
        return self.pump(now_s)

    def pump(self, now_s: float) -> Sequence[int]:
        """Send what waits while the window has room; give the ids of messages too large for the peer, now dropped.

        One that has been sent before never expires: the peer may have it, and the id must see its end.
        """
        state = self.state
        if not state.queued_bytes:
            return ()
        dropped: list[int] = []
        while (following := state.next_waiting(self.window)) is not None:
            packet_id, entry, was_sent = following
            if not was_sent and entry.message.has_expired(now_s):
                state.release_id(packet_id)
                continue
            packet = encode_outgoing(entry, packet_id, was_sent, self._version, now_s)
            if len(packet) > self.max_packet_bytes:
                state.release_id(packet_id)
                dropped.append(packet_id)
                continue
            state.send(packet_id, entry)
            self._output.put(packet)
        return dropped

    def on_answer(self, answer: Puback | Pubrec | Pubcomp) -> bool:
        """Take one step of a message on its way to the peer; true if it is the last one: then `pump`.

        An id that is not in flight no longer counts: harmless, and common after a reconnect. Raises ProtocolError for
        an answer of the other QoS.
        """
        packet_id = answer.packet_id
        if isinstance(answer, Puback):
            return self.state.acknowledged(packet_id)
        if isinstance(answer, Pubcomp):
            return self.state.completed(packet_id)
        refused = answer.reason_code >= 0x80
        known = self.state.received_by_peer(packet_id, refused)
        if not refused:
            reason = ReasonCode.SUCCESS if known else ReasonCode.PACKET_IDENTIFIER_NOT_FOUND
            self._output.put(encode_acknowledgement(_PUBREL, packet_id, reason, EMPTY_PROPERTIES, self._version))
        return known and refused
