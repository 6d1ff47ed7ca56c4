"""One connection as a client sees it, without I/O: bytes in, events and bytes out. For the swarm and for responders.

Here live the rules of conversation for the client's side; what to say and all time are the user's.

The driver's duties: write `take_output()` after every call and close when `closed`; pass every read to `receive`; send
`ping()` when nothing was written for `keep_alive_s`, and give the connection up if `ping_outstanding` stays true.

States: CONNECTING -> CONNECTED -> CLOSED. Packets may follow CONNECT at once (MQTT 5 section 3.1.4), before
the server's limits are known; once they are, they hold.
"""

from collections.abc import Sequence
from enum import Enum, auto
from functools import lru_cache
from typing import Final

import msgspec

from mqttprov.mqtt.decoder import PacketDecoder
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
from mqttprov.mqtt.inbound import InboundWindow
from mqttprov.mqtt.outbound import MAX_PACKET_ID, OutboundQueue, Verdict
from mqttprov.mqtt.output import OutputBuffer
from mqttprov.mqtt.packets import (
    Connack,
    Connect,
    Disconnect,
    Packet,
    Pingresp,
    ProtocolVersion,
    Puback,
    Publish,
    Suback,
    Subscribe,
    Subscription,
    Unsuback,
    Unsubscribe,
)
from mqttprov.mqtt.primitives import MAX_REMAINING_LENGTH
from mqttprov.mqtt.properties import EMPTY_PROPERTIES, Properties
from mqttprov.mqtt.reasons import ReasonCode
from mqttprov.mqtt.topics import validate_topic_filter, validate_topic_name

_V5 = ProtocolVersion.V5


class _State(Enum):
    CONNECTING = auto()
    CONNECTED = auto()
    CLOSED = auto()


_CONNECTING, _CONNECTED, _CLOSED = _State


class ClientSession:
    """The client's side of one MQTT connection; its output begins with CONNECT. See the module for the driver's duties.

    Messages of QoS 1 are acknowledged as they come, or by `acknowledge` with `manual_ack`. `max_packet_bytes` bounds
    what the server may send (P9) and is announced in MQTT 5; `max_queued_*` bound what waits for its Receive Maximum.
    """

    __slots__ = (
        "_decoder",
        "_inbound",
        "_max_qos",
        "_outbound",
        "_output",
        "_retain_available",
        "_server_max_packet_bytes",
        "_state",
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
    ) -> None:
        self.version: Final = connect.version
        self.client_id = connect.client_id  # replaced by the one that the server assigns, if it does
        self.keep_alive_s = connect.keep_alive_s  # replaced by the one that the server demands, if it does
        self.ping_outstanding = False
        self._state = _CONNECTING
        self._decoder = PacketDecoder(max_packet_bytes, version=connect.version)
        self._outbound = OutboundQueue(MAX_PACKET_ID, max_queued_messages, max_queued_bytes)
        self._inbound = InboundWindow(connect.properties.receive_maximum) if manual_ack else None
        self._server_max_packet_bytes = MAX_REMAINING_LENGTH
        self._max_qos = 1
        self._retain_available = True
        if connect.version is _V5 and connect.properties.maximum_packet_size_bytes is None:
            announced = msgspec.structs.replace(connect.properties, maximum_packet_size_bytes=max_packet_bytes)
            connect = msgspec.structs.replace(connect, properties=announced)
        self._output = OutputBuffer()
        self._output.put(encode(connect, connect.version))

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
        try:
            for packet in self._decoder.feed(data):
                self._handle(packet, events)
                if self._state is _CLOSED:
                    return events
        except ProtocolError as error:
            events.append(self._fail(error))
            return events
        if self._decoder.error is not None:
            events.append(self._fail(self._decoder.error))
        return events

    def _handle(self, packet: Packet, events: list[ClientEvent]) -> None:
        if self._state is _CONNECTING:
            if not isinstance(packet, Connack):
                raise violation(f"{type(packet).__name__.upper()} before CONNACK (MQTT-3.2.0-1)")
            self._on_connack(packet, events)
        elif isinstance(packet, Publish):
            self._on_publish(packet, events)
        elif isinstance(packet, Puback):
            self._on_puback(packet, events)
        elif isinstance(packet, Suback):
            if self._outbound.release_id(packet.packet_id):
                events.append(Subscribed(packet.packet_id, packet.reason_codes))
        elif isinstance(packet, Unsuback):
            if self._outbound.release_id(packet.packet_id):
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
        self._state = _CONNECTED
        told = connack.properties
        if told is not EMPTY_PROPERTIES:
            self._outbound.window = told.receive_maximum or MAX_PACKET_ID
            self._server_max_packet_bytes = told.maximum_packet_size_bytes or MAX_REMAINING_LENGTH
            self._max_qos = 1 if told.maximum_qos is None else told.maximum_qos
            self._retain_available = told.retain_available is not False
            self.client_id = told.assigned_client_identifier or self.client_id
            if told.server_keep_alive_s is not None:
                self.keep_alive_s = told.server_keep_alive_s  # MQTT-3.1.2-21
        events.append(Connected(connack))

    def _on_publish(self, publish: Publish, events: list[ClientEvent]) -> None:
        if publish.properties.topic_alias is not None:
            raise ProtocolError(ReasonCode.TOPIC_ALIAS_INVALID, "topic alias, though none is allowed")
        if not publish.topic or "+" in publish.topic or "#" in publish.topic:
            raise ProtocolError(ReasonCode.TOPIC_NAME_INVALID, "message to an empty topic or to a wildcard")
        packet_id = publish.packet_id
        if packet_id is not None:
            if publish.qos > 1:
                raise ProtocolError(ReasonCode.QOS_NOT_SUPPORTED, "message of QoS 2, though none was subscribed to")
            if self._inbound is not None:
                if not self._inbound.note(packet_id, publish.dup):
                    return
            else:
                self._output.put(
                    encode_acknowledgement(0x40, packet_id, ReasonCode.SUCCESS, EMPTY_PROPERTIES, self.version)
                )
        events.append(MessageReceived(publish))

    def _on_puback(self, puback: Puback, events: list[ClientEvent]) -> None:
        if self._outbound.acknowledged(puback.packet_id):
            events.append(Published(puback.packet_id, puback.reason_code))
            while (packet := self._outbound.next_ready()) is not None:
                self._output.put(packet)

    def _fail(self, error: ProtocolError) -> ProtocolViolated:
        if self._state is _CONNECTED and self.version is _V5:
            self._output.put(encode(Disconnect(error.reason_code), _V5))
        self._state = _CLOSED
        return ProtocolViolated(error.with_traceback(None))

    # --- from the user ---

    def subscribe(self, subscriptions: Sequence[tuple[str, int]]) -> int:
        """Subscribe to filters with a QoS of 0 or 1 each; return the packet id that Subscribed will carry.

        Raises TopicError for an invalid filter, ValueError for another QoS, SessionStateError on a closed session.
        """
        packet_id = self._take_id()
        try:
            self._output.put(self._fitting(_subscribe_packet(packet_id, tuple(subscriptions), self.version)))
        except (LimitReachedError, ValueError):
            self._outbound.release_id(packet_id)
            raise
        return packet_id

    def unsubscribe(self, topic_filters: Sequence[str]) -> int:
        """End subscriptions; return the packet id that Unsubscribed will carry. Raises as `subscribe` does."""
        for topic_filter in topic_filters:
            validate_topic_filter(topic_filter)
        packet_id = self._take_id()
        try:
            self._output.put(self._fitting(encode(Unsubscribe(packet_id, tuple(topic_filters)), self.version)))
        except (LimitReachedError, ValueError):
            self._outbound.release_id(packet_id)
            raise
        return packet_id

    def publish(
        self, topic: str, payload: bytes, qos: int, *, retain: bool = False, properties: Properties = EMPTY_PROPERTIES
    ) -> int | None:
        """Publish a message; return the packet id that Published will carry, None for QoS 0.

        Raises LimitReachedError if it is not taken: too large or unwanted for the server, or the queue is full (P9);
        TopicError for an invalid topic, ValueError for another QoS than 0 and 1, SessionStateError on a closed session.
        """
        validate_topic_name(topic)
        if qos not in {0, 1}:
            raise ValueError(f"QoS {qos} is not served: publish with 0 or 1")
        if qos > self._max_qos or (retain and not self._retain_available):
            raise LimitReachedError("the server takes no such QoS or no retained messages: see its CONNACK")
        if qos == 0:
            self._require_open()
            self._output.put(
                self._fitting(encode_publish(topic, payload, 0, retain, False, None, properties, self.version))
            )
            return None
        packet_id = self._take_id()
        try:
            packet = self._fitting(
                encode_publish(topic, payload, 1, retain, False, packet_id, properties, self.version)
            )
        except (LimitReachedError, ValueError):
            self._outbound.release_id(packet_id)
            raise
        verdict = self._outbound.submit(packet_id, packet)
        if verdict is Verdict.REFUSE:
            raise LimitReachedError("too many messages wait for the server: publish again after Published")
        if verdict is Verdict.SEND:
            self._output.put(packet)
        return packet_id

    def acknowledge(self, packet_id: int, reason_code: ReasonCode = ReasonCode.SUCCESS) -> None:
        """Send PUBACK for a MessageReceived of QoS 1, with `manual_ack`. Without effect on a closed session.

        Raises ValueError if no such message waits for it, SessionStateError without `manual_ack`.
        """
        if self._state is _CLOSED:
            return
        if self._inbound is None:
            raise SessionStateError("this session acknowledges by itself: make it with manual_ack to do it by hand")
        self._inbound.settle(packet_id)
        self._output.put(encode_acknowledgement(0x40, packet_id, reason_code, EMPTY_PROPERTIES, self.version))

    def ping(self) -> None:
        """Send PINGREQ; `ping_outstanding` is true until the answer. Raises SessionStateError on a closed session."""
        self._require_open()
        self.ping_outstanding = True
        self._output.put(PINGREQ_BYTES)

    def disconnect(self) -> None:
        """Say goodbye and close; without effect on a closed session."""
        if self._state is not _CLOSED:
            self._output.put(encode(Disconnect(), self.version))
            self._state = _CLOSED

    def _require_open(self) -> None:
        if self._state is _CLOSED:
            raise SessionStateError("the session is closed: connect again with a new one")

    def _take_id(self) -> int:
        self._require_open()
        packet_id = self._outbound.take_id()
        if packet_id is None:
            raise LimitReachedError("all packet ids are in use: wait for answers of the server")
        return packet_id

    def _fitting(self, packet: bytes) -> bytes:
        if len(packet) > self._server_max_packet_bytes:
            raise LimitReachedError(
                f"the packet has {len(packet)} bytes, the server takes {self._server_max_packet_bytes}: send less"
            )
        return packet


@lru_cache(maxsize=256)
def _subscribe_packet(packet_id: int, subscriptions: tuple[tuple[str, int], ...], version: ProtocolVersion) -> bytes:
    """Check and encode SUBSCRIBE; kept, because thousands of sessions of a swarm send the same ones."""
    for topic_filter, qos in subscriptions:
        validate_topic_filter(topic_filter)
        if qos not in {0, 1}:
            raise ValueError(f"QoS {qos} is not served: subscribe with 0 or 1")
    wanted = tuple([Subscription(topic_filter, qos) for topic_filter, qos in subscriptions])
    return encode(Subscribe(packet_id, wanted), version)
