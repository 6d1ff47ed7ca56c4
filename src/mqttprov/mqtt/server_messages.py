"""The messages of one connection as a broker sees it: in until they are acknowledged, out until they are delivered.

It knows of no login, no subscription and no end but for what they mean to messages: that is server_session's, which is
built on it. Parts are made on first need, since most sessions are idle and must stay small.
"""

from enum import Enum, auto

from mqttprov.mqtt.aliases import InboundAliases
from mqttprov.mqtt.decoder import PacketDecoder
from mqttprov.mqtt.delivery import DeliveryState, Verdict, outgoing
from mqttprov.mqtt.encoder import encode_acknowledgement, encode_publish
from mqttprov.mqtt.errors import SessionStateError
from mqttprov.mqtt.events import MessageDelivered, PublishReceived, ServerEvent
from mqttprov.mqtt.inbound import Arrival, InboundWindow
from mqttprov.mqtt.messages import Message, properties_for_delivery
from mqttprov.mqtt.output import OutputBuffer
from mqttprov.mqtt.packets import ProtocolVersion, Puback, Pubcomp, Publish, Pubrec, Pubrel
from mqttprov.mqtt.properties import EMPTY_PROPERTIES
from mqttprov.mqtt.reasons import ReasonCode
from mqttprov.mqtt.sending import Sender
from mqttprov.mqtt.server_policy import (
    NO_WISHES,
    TOPIC_ALIAS_MAXIMUM,
    PendingCounts,
    ServerLimits,
    check_publish,
    explained,
)


class State(Enum):
    """Where a connection stands; see server_session."""

    AWAITING_CONNECT = auto()
    DECIDING = auto()
    CONNECTED = auto()
    CLOSED = auto()


# As constants, since looking a member up in its Enum class costs as much as parsing a short packet.
_AWAITING_CONNECT, _DECIDING, _CONNECTED, _CLOSED = State
_NEW, _KNOWN = Arrival.NEW, Arrival.KNOWN
_SENT, _DROPPED, _FULL, _NOT_CONNECTED = Verdict.SENT, Verdict.DROPPED, Verdict.FULL, Verdict.CLOSED
_V5 = ProtocolVersion.V5
_SUCCESS = ReasonCode.SUCCESS
_PUBACK, _PUBREC, _PUBCOMP = 0x40, 0x50, 0x70


class ServerMessages:
    """The message traffic of a ServerSession, and what it stands on: decoder, output, limits, state."""

    __slots__ = ("_aliases", "_decoder", "_delivery", "_inbound", "_limits", "_output", "_sender", "_state", "_wishes")

    def __init__(self, limits: ServerLimits) -> None:
        self._limits = limits
        self._state = _AWAITING_CONNECT
        self._decoder = PacketDecoder(limits.max_packet_bytes_before_login)
        self._output = OutputBuffer()
        self._wishes = NO_WISHES
        self._aliases: InboundAliases | None = None
        self._inbound: InboundWindow | None = None
        self._delivery: DeliveryState | None = None
        self._sender: Sender | None = None

    @property
    def closed(self) -> bool:
        """Whether the session is over: write what `take_output` has and close the connection."""
        return self._state is _CLOSED

    @property
    def version(self) -> ProtocolVersion | None:
        """The protocol of the client, None before its CONNECT."""
        return self._decoder.version

    @property
    def wants_input(self) -> bool:
        """Whether to go on reading. Not while the broker owes acknowledgements or the client does not read its answers.

        MQTT 3.1.1 has no Receive Maximum, so holding back the reads is the one way to bound its messages.
        """
        inbound = self._inbound
        return self._output.size_bytes <= self._limits.max_queued_bytes and (
            inbound is None or len(inbound) < self._limits.receive_maximum
        )

    @property
    def pending(self) -> PendingCounts:
        """What the session holds at the moment."""
        state = self._delivery
        outgoing = (state.in_flight, state.queued_messages, state.queued_bytes) if state else (0, 0, 0)
        return PendingCounts(*outgoing, len(self._inbound or ()), self._output.size_bytes)

    def take_output(self) -> bytes:
        """Return everything that is to be written now, and forget it."""
        return self._output.take()

    # --- in ---

    def _on_publish(self, publish: Publish, events: list[ServerEvent]) -> None:
        if publish.properties is not EMPTY_PROPERTIES and publish.properties.topic_alias is not None:
            if self._aliases is None:
                self._aliases = InboundAliases(TOPIC_ALIAS_MAXIMUM)
            publish = self._aliases.resolve(publish)
        check_publish(publish)
        if publish.packet_id is not None:
            arrival = self._inbound_window().note(publish)
            if arrival is not _NEW:
                if arrival is _KNOWN:
                    self._answer(
                        encode_acknowledgement(_PUBREC, publish.packet_id, _SUCCESS, EMPTY_PROPERTIES, self._version())
                    )
                return
        events.append(PublishReceived(publish))

    def _inbound_window(self) -> InboundWindow:
        if self._inbound is None:
            maximum = self._limits.receive_maximum if self._decoder.version is _V5 else None
            received = self._delivery.received if self._delivery else None
            self._inbound = InboundWindow(maximum, self._limits.max_queued_messages, received)
        return self._inbound

    def acknowledge(
        self, packet_id: int, reason_code: ReasonCode = ReasonCode.SUCCESS, reason_string: str | None = None
    ) -> None:
        """Send PUBACK or PUBREC for a PublishReceived: the broker has taken it, or refuses it with a code from 0x80.

        3.1.1 is told of no refusal. Without effect on a closed session: the commit came too late.
        Raises ValueError if no such message waits for it.
        """
        if self._state is _CLOSED:
            return
        version = self._version()
        is_over = reason_code >= 0x80 and version is _V5
        first = _PUBACK if self._inbound_window().settle(packet_id, is_over=is_over) == 1 else _PUBREC
        if reason_string is None:
            self._answer(encode_acknowledgement(first, packet_id, reason_code, EMPTY_PROPERTIES, version))
        else:
            self._answer(
                explained(
                    lambda words: encode_acknowledgement(first, packet_id, reason_code, words, version),
                    reason_string,
                    self._wishes,
                )
            )

    def _on_pubrel(self, pubrel: Pubrel) -> None:
        known = self._inbound_window().release(pubrel.packet_id)
        reason = _SUCCESS if known else ReasonCode.PACKET_IDENTIFIER_NOT_FOUND
        self._answer(encode_acknowledgement(_PUBCOMP, pubrel.packet_id, reason, EMPTY_PROPERTIES, self._version()))

    # --- out ---

    def publish(
        self,
        message: Message,
        qos: int,
        *,
        retain: bool = False,
        subscription_ids: tuple[int, ...] = (),
        now_s: float = 0.0,
    ) -> Verdict:
        """Send a message, or let one of QoS 1 or 2 wait for the client's window; these keep their order.

        `qos` and `retain` are the delivery's own; `subscription_ids` go to MQTT 5 clients. See Verdict for what becomes
        of it. Raises ValueError for what MQTT cannot carry.
        """
        if self._state is not _CONNECTED:
            return _NOT_CONNECTED
        if message.properties is not EMPTY_PROPERTIES and message.has_expired(now_s):
            return _DROPPED
        if qos:
            sender = self._sender or self._make_sender()
            return sender.submit(outgoing(message, qos, retain, subscription_ids), now_s)
        version = self._decoder.version
        properties = EMPTY_PROPERTIES
        if version is _V5 and (subscription_ids or message.properties is not EMPTY_PROPERTIES):
            properties = properties_for_delivery(message, subscription_ids, now_s)
        packet = encode_publish(message.topic, message.payload, 0, retain, False, None, properties, self._version())
        if len(packet) > self._wishes.max_packet_bytes:
            return _DROPPED
        if len(packet) + self._output.size_bytes > self._limits.max_queued_bytes:
            return _FULL
        self._output.put(packet)
        return _SENT

    def _on_answer(self, answer: Puback | Pubrec | Pubcomp, events: list[ServerEvent], now_s: float) -> None:
        sender = self._sender or self._make_sender()
        if sender.on_answer(answer):
            events.append(MessageDelivered(answer.packet_id, answer.reason_code))
            sender.pump(now_s)

    # --- both ---

    def detach(self) -> DeliveryState:
        """Take out of a closed session what a later connection goes on with; once. Raises SessionStateError else.

        Until then, messages for the client are put straight into it (`DeliveryState.enqueue`).
        """
        if self._state is not _CLOSED:
            raise SessionStateError("the session goes on: end it before its state is taken")
        state = self._delivery or self._new_state()
        self._delivery = None
        if self._inbound is not None:
            state.received = self._inbound.received or None
            self._inbound = None
        state.rewind()
        return state

    def _version(self) -> ProtocolVersion:
        version = self._decoder.version
        if version is None:
            raise SessionStateError("the client has not sent CONNECT: answer nothing before ConnectReceived")
        return version

    def _new_state(self) -> DeliveryState:
        return DeliveryState(self._limits.max_queued_messages, self._limits.max_queued_bytes)

    def _make_sender(self) -> Sender:
        if self._delivery is None:
            self._delivery = self._new_state()
        window = min(self._limits.max_in_flight_messages, self._wishes.receive_maximum)
        self._sender = Sender(self._delivery, self._output, self._version(), window, self._wishes.max_packet_bytes)
        return self._sender

    def _answer(self, packet: bytes) -> bool:
        """Send an answer that is owed; False if the client takes no packet so large, which ends the session."""
        if len(packet) > self._wishes.max_packet_bytes:
            self._close()  # MQTT-3.1.2-24 forbids to send it, and it must not be left out
            return False
        self._output.put(packet)
        return True

    def _close(self) -> None:
        self._state = _CLOSED
        self._sender = None
        self._aliases = None
