"""One connection as a client sees it, without I/O: bytes in, events and bytes out. For the swarm and for responders.

Here live the rules of conversation for the client's side; what to say and all time are the user's.

The driver's duties: write `take_output()` after every call and close when `closed`; pass every read to `receive`; send
`ping()` when nothing was written for `keep_alive_s`, and give the connection up if `ping_outstanding` stays true.

States: CONNECTING -> CONNECTED -> CLOSED. Packets may follow CONNECT at once (MQTT 5 section 3.1.4); its limits
hold once they are known. In MQTT 5, messages of QoS 1 and 2, also those of an earlier connection, wait for CONNACK.
"""

from collections.abc import Callable, Sequence
from enum import Enum, auto
from typing import Final

import msgspec

from mqttprov.mqtt.aliases import InboundAliases
from mqttprov.mqtt.client_requests import subscribe_packet, unsubscribe_packet
from mqttprov.mqtt.decoder import PacketDecoder
from mqttprov.mqtt.delivery import MAX_PACKET_ID, DeliveryState, Verdict, outgoing
from mqttprov.mqtt.encoder import PINGREQ_BYTES, encode, encode_acknowledgement, encode_publish
from mqttprov.mqtt.errors import LimitReachedError, ProtocolError, SessionStateError, violation
from mqttprov.mqtt.events import (
    ClientEvent,
    Connected,
    Disconnected,
    MessageReceived,
    ProtocolViolated,
    Published,
    Refused,
    Subscribed,
    Unsubscribed,
)
from mqttprov.mqtt.inbound import Arrival, InboundWindow
from mqttprov.mqtt.messages import Message
from mqttprov.mqtt.output import OutputBuffer
from mqttprov.mqtt.packets import (
    Connack,
    Connect,
    Disconnect,
    Packet,
    Pingresp,
    ProtocolVersion,
    Puback,
    Pubcomp,
    Publish,
    Pubrec,
    Pubrel,
    Suback,
    Subscription,
    Unsuback,
)
from mqttprov.mqtt.primitives import MAX_REMAINING_LENGTH
from mqttprov.mqtt.properties import EMPTY_PROPERTIES, Properties
from mqttprov.mqtt.reasons import ReasonCode
from mqttprov.mqtt.sending import ANSWERS, Sender, encode_outgoing
from mqttprov.mqtt.topics import validate_topic_name

_V5 = ProtocolVersion.V5


class _State(Enum):
    CONNECTING = auto()
    CONNECTED = auto()
    CLOSED = auto()


_CONNECTING, _CONNECTED, _CLOSED = _State
_PUBACK, _PUBREC, _PUBCOMP = 0x40, 0x50, 0x70
_UNKNOWN_ID = ReasonCode.PACKET_IDENTIFIER_NOT_FOUND
_GOODBYE = {version: encode(Disconnect(), version) for version in ProtocolVersion}


class ClientSession:
    """The client's side of one MQTT connection; its output begins with CONNECT. See the module for the driver's duties.

    Messages of QoS 1 and 2 are acknowledged as they come, or by `acknowledge` with `manual_ack`. `max_packet_bytes`
    bounds what the server may send (P9) and is announced in MQTT 5; `max_queued_*` bound what waits for its Receive
    Maximum. `max_unsettled` replaces ours, for a server that does not keep to the one in `connect`. `state` is what
    `detach` of an earlier session gave: for a client that does not start clean.
    """

    __slots__ = (
        "_aliases",
        "_decoder",
        "_inbound",
        "_manual_ack",
        "_max_qos",
        "_output",
        "_receive_maximum",
        "_retain_available",
        "_sender",
        "_starts_clean",
        "_state",
        "_topic_alias_maximum",
        "client_id",
        "keep_alive_s",
        "ping_outstanding",
        "version",
    )

    def __init__(
        self,
        connect: Connect,
        *,
        max_packet_bytes: int = 262_144,
        manual_ack: bool = False,
        max_queued_messages: int = 1_000,
        max_queued_bytes: int = 1_048_576,
        max_unsettled: int | None = None,
        state: DeliveryState | None = None,
    ) -> None:
        version, properties = connect.version, connect.properties
        self.version: Final = version
        self.client_id = connect.client_id  # replaced by the one that the server assigns, if it does
        self.keep_alive_s = connect.keep_alive_s  # replaced by the one that the server demands, if it does
        self.ping_outstanding = False
        self._state = _CONNECTING
        self._decoder = PacketDecoder(max_packet_bytes, version=version)
        self._manual_ack = manual_ack
        self._receive_maximum = max_unsettled or properties.receive_maximum
        self._topic_alias_maximum = properties.topic_alias_maximum or 0
        self._starts_clean = connect.clean_start
        self._max_qos, self._retain_available = 2, True
        self._aliases: InboundAliases | None = None
        self._inbound: InboundWindow | None = None
        if version is _V5 and properties.maximum_packet_size_bytes is None:
            announced = msgspec.structs.replace(properties, maximum_packet_size_bytes=max_packet_bytes)
            connect = msgspec.structs.replace(connect, properties=announced)
        self._output = OutputBuffer()
        self._output.put(encode(connect, version))
        if state is not None and connect.clean_start:
            raise ValueError("a client that starts clean goes on with nothing: leave clean start or state out")
        knows_window = version is not _V5 and (state is None or state.is_empty)
        window = MAX_PACKET_ID if knows_window else 0  # until CONNACK
        state = state or DeliveryState(max_queued_messages, max_queued_bytes)
        self._sender = Sender(state, self._output, version, window, MAX_REMAINING_LENGTH)

    @property
    def connected(self) -> bool:
        """Whether the server has accepted us and the session goes on."""
        return self._state is _CONNECTED

    @property
    def closed(self) -> bool:
        """Whether the session is over: write what `take_output` has and close the connection."""
        return self._state is _CLOSED

    def take_output(self) -> bytes:
        """Return everything that is to be written now, and forget it."""
        return self._output.take()

    # --- from the server ---

    def receive(self, data: bytes) -> list[ClientEvent]:
        """Take one read and return what it means; [] after the end. Never raises for what the server sent."""
        events: list[ClientEvent] = []
        if self._state is _CLOSED:
            return events
        decoder = self._decoder
        try:
            for packet in decoder.feed(data):
                self._handle(packet, events)
                if self._state is _CLOSED:
                    return events
            if decoder.error is not None:
                raise decoder.error
        except ProtocolError as error:
            events.append(self._fail(error))
        return events

    def _handle(self, packet: Packet, events: list[ClientEvent]) -> None:
        if self._state is _CONNECTING:
            if not isinstance(packet, Connack):
                raise violation(f"{type(packet).__name__.upper()} before CONNACK (MQTT-3.2.0-1)")
            self._on_connack(packet, events)
        elif isinstance(packet, Publish):
            self._on_publish(packet, events)
        elif isinstance(packet, ANSWERS):
            self._on_answer(packet, events)
        elif isinstance(packet, Suback):
            if self._sender.state.release_id(packet.packet_id):
                events.append(Subscribed(packet.packet_id, packet.reason_codes))
        elif isinstance(packet, Pubrel):
            known = self._inbound_window().release(packet.packet_id)
            self._acknowledge(_PUBCOMP, packet.packet_id, ReasonCode.SUCCESS if known else _UNKNOWN_ID)
        elif isinstance(packet, Unsuback):
            if self._sender.state.release_id(packet.packet_id):
                events.append(Unsubscribed(packet.packet_id, packet.reason_codes))
        elif isinstance(packet, Pingresp):
            self.ping_outstanding = False
        elif isinstance(packet, Disconnect):
            self._state = _CLOSED
            clean = packet.reason_code == ReasonCode.NORMAL_DISCONNECTION
            events.append(Disconnected(packet.reason_code, clean))
        else:
            raise violation(f"unexpected {type(packet).__name__.upper()}")

    def _on_connack(self, connack: Connack, events: list[ClientEvent]) -> None:
        if connack.reason_code != ReasonCode.SUCCESS:
            self._state = _CLOSED
            events.append(Refused(connack.reason_code))
            return
        sender, told = self._sender, connack.properties
        is_resuming = sender.window == 0 and not sender.state.is_empty
        if connack.session_present and self._starts_clean:
            raise violation("session present for a client that started clean (MQTT-3.2.2-2)")
        self._state = _CONNECTED
        sender.window = told.receive_maximum or MAX_PACKET_ID
        if told is not EMPTY_PROPERTIES:
            sender.max_packet_bytes = told.maximum_packet_size_bytes or MAX_REMAINING_LENGTH
            self._max_qos = 2 if told.maximum_qos is None else told.maximum_qos
            self._retain_available = told.retain_available is not False
            self.client_id = told.assigned_client_identifier or self.client_id
            if told.server_keep_alive_s is not None:
                self.keep_alive_s = told.server_keep_alive_s  # MQTT-3.1.2-21
        lost = () if connack.session_present or not is_resuming else sender.state.forget_sent()
        events.append(Connected(connack, lost))
        if is_resuming:
            self._tell_dropped(sender.resume(0.0), events)

    def _on_publish(self, publish: Publish, events: list[ClientEvent]) -> None:
        if publish.properties.topic_alias is not None:
            if self._aliases is None:
                self._aliases = InboundAliases(self._topic_alias_maximum)
            publish = self._aliases.resolve(publish)
        if not publish.topic or "+" in publish.topic or "#" in publish.topic:
            raise ProtocolError(ReasonCode.TOPIC_NAME_INVALID, "message to an empty topic or to a wildcard")
        packet_id = publish.packet_id
        if packet_id is not None:
            if publish.qos == 1 and not self._manual_ack:
                self._acknowledge(_PUBACK, packet_id, ReasonCode.SUCCESS)
            else:
                arrival = self._inbound_window().note(publish)
                if arrival is Arrival.AWAITED:
                    return
                if arrival is Arrival.KNOWN:
                    self._acknowledge(_PUBREC, packet_id, ReasonCode.SUCCESS)
                    return
                if not self._manual_ack:
                    self._inbound_window().settle(packet_id, is_over=False)
                    self._acknowledge(_PUBREC, packet_id, ReasonCode.SUCCESS)
        events.append(MessageReceived(publish))

    def _inbound_window(self) -> InboundWindow:
        if self._inbound is None:
            self._inbound = InboundWindow(self._receive_maximum, MAX_PACKET_ID, self._sender.state.received)
        return self._inbound

    def _acknowledge(self, first: int, packet_id: int, reason_code: ReasonCode) -> None:
        self._output.put(encode_acknowledgement(first, packet_id, reason_code, EMPTY_PROPERTIES, self.version))

    def _on_answer(self, answer: Puback | Pubrec | Pubcomp, events: list[ClientEvent]) -> None:
        if self._sender.on_answer(answer):
            events.append(Published(answer.packet_id, answer.reason_code))
            self._tell_dropped(self._sender.pump(0.0), events)

    def _tell_dropped(self, packet_ids: Sequence[int], events: list[ClientEvent]) -> None:
        """Tell the user of messages from an earlier connection that are too large for the server of this one."""
        events.extend([Published(packet_id, ReasonCode.PACKET_TOO_LARGE) for packet_id in packet_ids])

    def _fail(self, error: ProtocolError) -> ProtocolViolated:
        if self._state is _CONNECTED and self.version is _V5:
            self._output.put(encode(Disconnect(error.reason_code), _V5))
        self._state = _CLOSED
        return ProtocolViolated(error.with_traceback(None))

    # --- from the user ---

    def subscribe(
        self, subscriptions: Sequence[Subscription | tuple[str, int]], *, subscription_identifier: int | None = None
    ) -> int:
        """Subscribe to filters, with options or with a QoS alone; return the packet id that Subscribed will carry.

        Every message for these filters then carries the identifier. In 3.1.1 there are neither options nor identifiers.
        Raises TopicError for an invalid filter, ValueError for another QoS, SessionStateError on a closed session.
        """
        return self._request(subscribe_packet, tuple(subscriptions), subscription_identifier)

    def unsubscribe(self, topic_filters: Sequence[str]) -> int:
        """End subscriptions; return the packet id that Unsubscribed will carry. Raises as `subscribe` does."""
        return self._request(unsubscribe_packet, tuple(topic_filters))

    def _request(self, make_packet: Callable[..., bytes], *content: object) -> int:
        packet_id = self._take_id()
        try:
            self._output.put(self._fitting(make_packet(packet_id, self.version, *content)))
        except (LimitReachedError, ValueError):
            self._sender.state.release_id(packet_id)
            raise
        return packet_id

    def publish(
        self, topic: str, payload: bytes, qos: int, *, retain: bool = False, properties: Properties = EMPTY_PROPERTIES
    ) -> int | None:
        """Publish a message; return the packet id that Published will carry, None for QoS 0.

        Raises LimitReachedError if it is not taken: too large or unwanted for the server, or the queue is full (P9);
        TopicError for an invalid topic, ValueError for another QoS than 0 to 2, SessionStateError on a closed session.
        """
        validate_topic_name(topic)
        if qos not in {0, 1, 2}:
            raise ValueError(f"there is no QoS {qos}: publish with 0, 1 or 2")
        if qos > self._max_qos or (retain and not self._retain_available):
            raise LimitReachedError("the server takes no such QoS or no retained messages: see its CONNACK")
        if qos == 0:
            self._require_open()
            self._output.put(
                self._fitting(encode_publish(topic, payload, 0, retain, False, None, properties, self.version))
            )
            return None
        packet_id = self._take_id()
        state = self._sender.state
        entry = outgoing(Message(topic, payload, qos, retain, properties), qos, retain)
        if not state.may_send(entry, self._sender.window):
            try:
                self._fitting(encode_outgoing(entry, packet_id, False, self.version, 0.0))
            except (LimitReachedError, ValueError):
                state.release_id(packet_id)
                raise
        verdict = self._sender.submit_as(packet_id, entry, 0.0)
        if verdict is Verdict.DROPPED:
            raise LimitReachedError(f"the server takes packets of {self._sender.max_packet_bytes} bytes: send less")
        if verdict is Verdict.FULL:
            raise LimitReachedError("too many messages wait for the server: publish again after Published")
        return packet_id

    def acknowledge(self, packet_id: int, reason_code: ReasonCode = ReasonCode.SUCCESS) -> None:
        """Send PUBACK or PUBREC for a MessageReceived, with `manual_ack`. Without effect on a closed session.

        Raises ValueError if no such message waits for it, SessionStateError without `manual_ack`.
        """
        if self._state is _CLOSED:
            return
        if not self._manual_ack:
            raise SessionStateError("this session acknowledges by itself: make it with manual_ack to do it by hand")
        is_over = reason_code >= 0x80 and self.version is _V5
        qos = self._inbound_window().settle(packet_id, is_over=is_over)
        self._acknowledge(_PUBACK if qos == 1 else _PUBREC, packet_id, reason_code)

    def detach(self) -> DeliveryState:
        """Take out of a session that has ended what a later one goes on with; once.

        The session counts as ended from here on, for a connection that broke.
        """
        self._state = _CLOSED
        state = self._sender.state
        if self._inbound is not None:
            state.received = self._inbound.received or None
            self._inbound = None
        state.rewind()
        return state

    def ping(self) -> None:
        """Send PINGREQ; `ping_outstanding` is true until the answer. Raises SessionStateError on a closed session."""
        self._require_open()
        self.ping_outstanding = True
        self._output.put(PINGREQ_BYTES)

    def disconnect(self) -> None:
        """Say goodbye and close; without effect on a closed session."""
        if self._state is not _CLOSED:
            self._output.put(_GOODBYE[self.version])
            self._state = _CLOSED

    def _require_open(self) -> None:
        if self._state is _CLOSED:
            raise SessionStateError("the session is closed: connect again with a new one")

    def _take_id(self) -> int:
        self._require_open()
        packet_id = self._sender.state.take_id()
        if packet_id is None:
            raise LimitReachedError("all packet ids are in use: wait for answers of the server")
        return packet_id

    def _fitting(self, packet: bytes) -> bytes:
        maximum = self._sender.max_packet_bytes
        if len(packet) > maximum:
            raise LimitReachedError(f"the packet has {len(packet)} bytes, the server takes {maximum}: send less")
        return packet
