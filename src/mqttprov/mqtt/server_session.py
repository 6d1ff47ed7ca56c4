"""One connection as a broker sees it, without I/O: bytes in, events and bytes out.

Here live the rules of conversation for the server's side. Who may do what, who gets which message and all time are the
broker's; the bytes of packets are encoder's and decoder's.

The driver's duties:
1. pass every read to `receive`, handle the events in order, then write `take_output()` once; close when `closed`;
2. answer ConnectReceived with `accept` (and handle the events it returns) or `refuse`;
3. stop reading while `wants_input` is false, and do not take output while the transport is congested: output then
   gathers here, where `publish` refuses what passes the bound (P9);
4. end a session that is silent for `keep_alive_timeout_s` with `disconnect(KEEP_ALIVE_TIMEOUT)`;
5. tell the end of the connection by `connection_lost`; publish `will` if it is still there when the session has ended.

States: AWAITING_CONNECT -> DECIDING -> CONNECTED -> CLOSED; every state may go to CLOSED, none leads back.
"""

from enum import Enum, auto
from typing import Final

from mqttprov.mqtt.decoder import PacketDecoder
from mqttprov.mqtt.encoder import PINGRESP_BYTES, encode, encode_acknowledgement, encode_publish
from mqttprov.mqtt.errors import ProtocolError, SessionStateError, violation
from mqttprov.mqtt.events import (
    ConnectReceived,
    Disconnected,
    MessageDelivered,
    ProtocolViolated,
    PublishReceived,
    ServerEvent,
    SubscribeReceived,
    UnsubscribeReceived,
)
from mqttprov.mqtt.inbound import InboundWindow
from mqttprov.mqtt.outbound import OutboundQueue
from mqttprov.mqtt.output import OutputBuffer
from mqttprov.mqtt.packets import (
    Connack,
    Connect,
    Disconnect,
    Packet,
    Pingreq,
    ProtocolVersion,
    Puback,
    Publish,
    Suback,
    Subscribe,
    Unsuback,
    Unsubscribe,
    Will,
)
from mqttprov.mqtt.properties import EMPTY_PROPERTIES, Properties
from mqttprov.mqtt.reasons import CONNACK_REFUSALS, ReasonCode, connack_return_code
from mqttprov.mqtt.server_policy import (
    PendingCounts,
    ServerLimits,
    check_connect,
    check_disconnect,
    check_publish,
    check_subscribe,
    connack_v5,
)

_UNLIMITED: Final = 1 << 32
_KEEP_ALIVE_GRACE: Final = 1.5  # MQTT-3.1.2-22 (v5), -24 (3.1.1)


class _State(Enum):
    AWAITING_CONNECT = auto()
    DECIDING = auto()
    CONNECTED = auto()
    CLOSED = auto()


# As constants, since looking a member up in its Enum class costs as much as parsing a short packet.
_AWAITING_CONNECT, _DECIDING, _CONNECTED, _CLOSED = _State
_V5 = ProtocolVersion.V5
_NO_CONNECT_WAITS: Final = "accept() or refuse() answers a ConnectReceived: call one of them once, after it"
_CONNACK_ACCEPTED_V311: Final = b"\x20\x02\x00\x00"


class ServerSession:
    """The server's side of one MQTT connection. See the module for the driver's duties."""

    __slots__ = (
        "_client_max_packet_bytes",
        "_connect",
        "_decoder",
        "_expiry_asked_s",
        "_inbound",
        "_keep_alive_s",
        "_limits",
        "_outbound",
        "_output",
        "_state",
        "_window",
        "client_id",
        "will",
    )

    def __init__(self, limits: ServerLimits) -> None:
        self.client_id = ""
        self.will: Will | None = None  # still due at the end of the session; a clean DISCONNECT takes it away
        self._limits = limits
        self._state = _AWAITING_CONNECT
        self._decoder = PacketDecoder(limits.max_packet_bytes_before_login)
        self._output = OutputBuffer()
        self._connect: Connect | None = None  # only while the broker decides: it holds the password
        self._inbound: InboundWindow | None = None  # made on first need, as the queue: idle sessions must stay small
        self._outbound: OutboundQueue | None = None
        self._window = limits.max_in_flight_messages
        self._client_max_packet_bytes = _UNLIMITED
        self._keep_alive_s = 0
        self._expiry_asked_s = 0

    @property
    def closed(self) -> bool:
        """Whether the session is over: write what `take_output` has and close the connection."""
        return self._state is _CLOSED

    @property
    def version(self) -> ProtocolVersion | None:
        """The protocol of the client, None before its CONNECT."""
        return self._decoder.version

    @property
    def keep_alive_timeout_s(self) -> float | None:
        """After how many silent seconds the client counts as gone; None for never, and before CONNECT."""
        return self._keep_alive_s * _KEEP_ALIVE_GRACE or None

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
        queue = self._outbound
        outgoing = (queue.in_flight, queue.queued_messages, queue.queued_bytes) if queue else (0, 0, 0)
        return PendingCounts(*outgoing, len(self._inbound or ()), self._output.size_bytes)

    def take_output(self) -> bytes:
        """Return everything that is to be written now, and forget it."""
        return self._output.take()

    # --- from the client ---

    def receive(self, data: bytes) -> list[ServerEvent]:
        """Take one read and return what it means; [] after the end. Never raises for what the client sent."""
        if self._state is _CLOSED:
            return []
        if self._output.size_bytes > 2 * self._limits.max_queued_bytes:
            # Messages stop at the bound itself, so the rest are answers that the client asks for and does not read.
            return [self._fail(ProtocolError(ReasonCode.QUOTA_EXCEEDED, "the client reads no answers"))]
        return self._events(self._decoder.feed(data))

    def connection_lost(self) -> list[ServerEvent]:
        """Take the end of the connection: Disconnected, not clean, unless the session had ended before."""
        if self._state is _CLOSED:
            return []
        self._close()
        return [Disconnected(ReasonCode.UNSPECIFIED_ERROR, clean=False, publish_will=self.will is not None)]

    def _events(self, packets: list[Packet]) -> list[ServerEvent]:
        events: list[ServerEvent] = []
        try:
            for packet in packets:
                self._handle(packet, events)
                if self._state is _CLOSED:  # what follows a DISCONNECT does not count
                    return events
        except ProtocolError as error:
            events.append(self._fail(error))
            return events
        if self._decoder.error is not None:
            events.append(self._fail(self._decoder.error))
        return events

    def _handle(self, packet: Packet, events: list[ServerEvent]) -> None:
        # The order is that of frequency; decoding has already turned away what only a server may send.
        if isinstance(packet, Publish):
            check_publish(packet, self._decoder.version)
            if packet.packet_id is None or self._inbound_window().note(packet.packet_id, packet.dup):
                events.append(PublishReceived(packet))
        elif isinstance(packet, Puback):
            self._on_puback(packet, events)
        elif isinstance(packet, Connect):
            self._on_connect(packet, events)
        elif isinstance(packet, Subscribe):
            check_subscribe(packet, self._decoder.version)
            events.append(SubscribeReceived(packet))
        elif isinstance(packet, Pingreq):
            self._output.put(PINGRESP_BYTES)
        elif isinstance(packet, Disconnect):
            self._on_disconnect(packet, events)
        elif isinstance(packet, Unsubscribe):
            events.append(UnsubscribeReceived(packet))
        else:
            raise violation(f"{type(packet).__name__.upper()}, though neither QoS 2 nor AUTH is in use")

    def _on_connect(self, connect: Connect, events: list[ServerEvent]) -> None:
        self._state = _DECIDING
        check_connect(connect)
        wishes = connect.properties
        if wishes is not EMPTY_PROPERTIES:
            self._window = min(self._window, wishes.receive_maximum or self._window)
            self._client_max_packet_bytes = wishes.maximum_packet_size_bytes or _UNLIMITED
            self._expiry_asked_s = wishes.session_expiry_interval_s or 0
        self._connect = connect
        self.client_id = connect.client_id
        self._keep_alive_s = connect.keep_alive_s
        events.append(ConnectReceived(connect))

    def _inbound_window(self) -> InboundWindow:
        if self._inbound is None:
            self._inbound = InboundWindow(self._limits.receive_maximum if self._decoder.version is _V5 else None)
        return self._inbound

    def _on_puback(self, puback: Puback, events: list[ServerEvent]) -> None:
        outbound = self._outbound
        if outbound is None or not outbound.acknowledged(puback.packet_id):
            return  # for a message that no longer counts: harmless, and common after a reconnect
        events.append(MessageDelivered(puback.packet_id, puback.reason_code))
        while (packet := outbound.next_ready()) is not None:
            self._output.put(packet)

    def _on_disconnect(self, disconnect: Disconnect, events: list[ServerEvent]) -> None:
        check_disconnect(disconnect, self._expiry_asked_s)
        clean = disconnect.reason_code == ReasonCode.NORMAL_DISCONNECTION
        if clean:
            self.will = None  # MQTT-3.14.4-3
        self._close()
        events.append(Disconnected(disconnect.reason_code, clean, publish_will=self.will is not None))

    # --- from the broker ---

    def accept(
        self,
        *,
        assigned_client_id: str | None = None,
        keep_alive_s: int | None = None,
        max_packet_bytes: int | None = None,
    ) -> list[ServerEvent]:
        """Send CONNACK 0 and return the events of what the client sent behind its CONNECT.

        `assigned_client_id` is for a client without id and told to it in MQTT 5, where it is required. `keep_alive_s`
        lowers the client's, in MQTT 5 only. `max_packet_bytes` holds from here on.
        Raises SessionStateError unless a CONNECT waits, ValueError for a missing or needless client id.
        """
        connect = self._connect
        if connect is None:
            raise SessionStateError(_NO_CONNECT_WAITS)
        if (assigned_client_id is not None and connect.client_id) or (
            assigned_client_id is None and not connect.client_id and connect.version is _V5
        ):
            raise ValueError("assigned_client_id goes to a client without client id, and to no other")
        self._connect = None
        self._state = _CONNECTED
        self.will = connect.will
        self.client_id = assigned_client_id or connect.client_id
        self._decoder.max_packet_bytes = max_packet_bytes or self._limits.max_packet_bytes
        if connect.version is not _V5:
            self._output.put(_CONNACK_ACCEPTED_V311)
        elif not self._answer(self._connack_v5(assigned_client_id, keep_alive_s)):
            return [ProtocolViolated(ProtocolError(ReasonCode.PACKET_TOO_LARGE, "the client takes no CONNACK"))]
        return self._events(self._decoder.resume())

    def _connack_v5(self, assigned_client_id: str | None, keep_alive_s: int | None) -> bytes:
        allowed_s = min(keep_alive_s or self._limits.max_keep_alive_s, self._limits.max_keep_alive_s)
        lowered_s = allowed_s if self._keep_alive_s == 0 or self._keep_alive_s > allowed_s else None
        if lowered_s is not None:
            self._keep_alive_s = lowered_s
        return connack_v5(
            assigned_client_id,
            lowered_s,
            0 if self._expiry_asked_s else None,
            self._limits.receive_maximum,
            self._decoder.max_packet_bytes,
        )

    def refuse(self, reason_code: ReasonCode) -> None:
        """Send CONNACK with a refusal and close. 3.1.1 gets the nearest return code, or none if there is no such.

        Raises SessionStateError unless a CONNECT waits, ValueError if the reason is no refusal.
        """
        if self._state is not _DECIDING:
            raise SessionStateError(_NO_CONNECT_WAITS)
        if reason_code < 0x80:
            raise ValueError(f"{reason_code.name} is no refusal: give a reason code from 0x80 on")
        self._refuse(reason_code)

    def _refuse(self, reason_code: ReasonCode) -> None:
        version = self._decoder.version
        if version is _V5 and reason_code not in CONNACK_REFUSALS:
            reason_code = ReasonCode.UNSPECIFIED_ERROR  # the reason is one of DISCONNECT's, such as a shutdown
        if version is _V5 or (version is not None and connack_return_code(reason_code)):
            self._output.put(encode(Connack(session_present=False, reason_code=reason_code), version))
        self._close()

    def acknowledge(self, packet_id: int, reason_code: ReasonCode = ReasonCode.SUCCESS) -> None:
        """Send PUBACK for a PublishReceived of QoS 1. Without effect on a closed session: the commit came too late.

        Raises ValueError if no such message waits for it.
        """
        if self._state is _CLOSED:
            return
        self._inbound_window().settle(packet_id)
        self._answer(encode_acknowledgement(0x40, packet_id, reason_code, EMPTY_PROPERTIES, self._version()))

    def suback(self, packet_id: int, reason_codes: tuple[ReasonCode, ...]) -> None:
        """Send SUBACK, one code per filter; 3.1.1 gets 0x80 for every refusal. Without effect on a closed session."""
        if self._state is not _CLOSED:
            self._answer(encode(Suback(packet_id, reason_codes), self._version()))

    def unsuback(self, packet_id: int, reason_codes: tuple[ReasonCode, ...]) -> None:
        """Send UNSUBACK; 3.1.1 gets no codes. Without effect on a closed session."""
        if self._state is not _CLOSED:
            self._answer(encode(Unsuback(packet_id, reason_codes), self._version()))

    def publish(
        self, topic: str, payload: bytes, qos: int, *, retain: bool = False, properties: Properties = EMPTY_PROPERTIES
    ) -> bool:
        """Send a message of QoS 0 or 1, or let it wait for the client's window.

        False if it is not taken: the session is not connected, a bound is reached (P9), or the client announced that it
        takes no packet of this size (then it counts as sent, MQTT-3.1.2-25). Messages of QoS 1 keep their order.
        """
        if self._state is not _CONNECTED:
            return False
        version = self._version()
        if qos == 0:
            packet = encode_publish(topic, payload, 0, retain, False, None, properties, version)
            taken = self._fits(packet)
            if taken:
                self._output.put(packet)
            return taken
        if qos != 1:
            raise ValueError(f"QoS {qos} is not served: publish with 0 or 1")
        if self._outbound is None:
            limits = self._limits
            self._outbound = OutboundQueue(self._window, limits.max_queued_messages, limits.max_queued_bytes)
        return self._outbound.send(
            lambda packet_id: encode_publish(topic, payload, 1, retain, False, packet_id, properties, version),
            self._fits,
            self._output,
        )

    def disconnect(self, reason_code: ReasonCode) -> None:
        """End the session: DISCONNECT with the reason in MQTT 5, nothing on the wire in 3.1.1.

        A CONNECT that waits is refused. The will stays due; a broker that does not want it takes it from `will`.
        """
        if self._state is _DECIDING:
            self._refuse(reason_code)
        elif self._state is not _CLOSED:
            self._say_goodbye(reason_code)
            self._close()

    # --- inside ---

    def _version(self) -> ProtocolVersion:
        version = self._decoder.version
        if version is None:
            raise SessionStateError("the client has not sent CONNECT: answer nothing before ConnectReceived")
        return version

    def _fits(self, packet: bytes) -> bool:
        size = len(packet)
        return size <= self._client_max_packet_bytes and size + self._output.size_bytes <= self._limits.max_queued_bytes

    def _answer(self, packet: bytes) -> bool:
        """Send an answer that is owed; False if the client takes no packet so large, which ends the session."""
        if len(packet) > self._client_max_packet_bytes:
            self._close()  # MQTT-3.1.2-24 forbids to send it, and it must not be left out
            return False
        self._output.put(packet)
        return True

    def _say_goodbye(self, reason_code: ReasonCode) -> None:
        if self._state is _CONNECTED and self._decoder.version is _V5:
            self._output.put(encode(Disconnect(reason_code), _V5))

    def _fail(self, error: ProtocolError) -> ProtocolViolated:
        if self._state is _CONNECTED:
            self._say_goodbye(error.reason_code)
            self._close()
        else:
            self._refuse(error.reason_code)
        return ProtocolViolated(error.with_traceback(None))

    def _close(self) -> None:
        self._state = _CLOSED
        self._connect = None
        self._outbound = None
        self._inbound = None
