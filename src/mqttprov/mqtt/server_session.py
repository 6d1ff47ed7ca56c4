"""One connection as a broker sees it, without I/O: bytes in, events and bytes out.

Here live the rules of conversation for the server's side. Who may do what, who gets which message and all time are the
broker's; the bytes of packets are encoder's and decoder's; what outlives the connection is `delivery`'s.

The driver's duties:
1. pass every read to `receive`, handle the events in order, then write `take_output()` once; close when `closed`;
2. answer ConnectReceived with `accept` (and handle the events it returns) or `refuse`;
3. stop reading while `wants_input` is false, and do not take output while the transport is congested: output then
   gathers here, where `publish` refuses what passes the bound (P9);
4. end a session that is silent for `keep_alive_timeout_s` with `disconnect(KEEP_ALIVE_TIMEOUT)`;
5. tell the end of the connection by `connection_lost`; publish `will` if it is still there when the session has ended;
6. keep what `detach` gives for `session_expiry_s` after the end, and pass it to `accept` when the client is back.

`now_s` is any clock of the broker's, the one that `Message.arrived_s` is from; only message expiry looks at it.

States: AWAITING_CONNECT -> DECIDING -> CONNECTED -> CLOSED; every state may go to CLOSED, none leads back.
"""

from typing import Final

from mqttprov.mqtt.delivery import DeliveryState
from mqttprov.mqtt.encoder import PINGRESP_BYTES, encode
from mqttprov.mqtt.errors import ProtocolError, SessionStateError, violation
from mqttprov.mqtt.events import (
    ConnectReceived,
    Disconnected,
    ProtocolViolated,
    ServerEvent,
    SubscribeReceived,
    UnsubscribeReceived,
)
from mqttprov.mqtt.packets import (
    Connack,
    Connect,
    Disconnect,
    Packet,
    Pingreq,
    ProtocolVersion,
    Puback,
    Publish,
    Pubrel,
    Suback,
    Subscribe,
    Unsuback,
    Unsubscribe,
    Will,
)
from mqttprov.mqtt.reasons import CONNACK_REFUSALS, ReasonCode, connack_return_code
from mqttprov.mqtt.sending import ANSWERS
from mqttprov.mqtt.server_messages import ServerMessages, State
from mqttprov.mqtt.server_policy import (
    ClientWishes,
    ServerLimits,
    check_connect,
    check_disconnect,
    check_subscribe,
    connack_v5,
    explained,
    wishes_of,
)

_KEEP_ALIVE_GRACE: Final = 1.5  # MQTT-3.1.2-22 (v5), -24 (3.1.1)


_, _DECIDING, _CONNECTED, _CLOSED = State
_V5 = ProtocolVersion.V5
_NO_CONNECT_WAITS: Final = "accept() or refuse() answers a ConnectReceived: call one of them once, after it"
_CONNACKS_V311: Final = (b"\x20\x02\x00\x00", b"\x20\x02\x01\x00")  # by session present


class ServerSession(ServerMessages):
    """The server's side of one MQTT connection. See the module for the driver's duties."""

    __slots__ = ("_connect", "_keep_alive_s", "_max_session_expiry_s", "client_id", "session_expiry_s", "will")

    def __init__(self, limits: ServerLimits) -> None:
        super().__init__(limits)
        self.client_id = ""
        self.will: Will | None = None  # still due at the end of the session; a clean DISCONNECT takes it away
        # How long to keep the session after its end: as asked from CONNECT on, as granted from `accept` on, and as the
        # client's DISCONNECT changes it. Never more than granted; 0 is not at all.
        self.session_expiry_s = 0
        self._connect: Connect | None = None  # only while the broker decides: it holds the password
        self._keep_alive_s = 0
        self._max_session_expiry_s = 0

    @property
    def keep_alive_timeout_s(self) -> float | None:
        """After how many silent seconds the client counts as gone; None for never, and before CONNECT."""
        return self._keep_alive_s * _KEEP_ALIVE_GRACE or None

    # --- from the client ---

    def receive(self, data: bytes, now_s: float = 0.0) -> list[ServerEvent]:
        """Take one read and return what it means; [] after the end. Never raises for what the client sent."""
        if self._state is _CLOSED:
            return []
        if self._output.size_bytes > 2 * self._limits.max_queued_bytes:
            # Messages stop at the bound itself, so the rest are answers that the client asks for and does not read.
            return [self._fail(ProtocolError(ReasonCode.QUOTA_EXCEEDED, "the client reads no answers"))]
        return self._events(self._decoder.feed(data), now_s)

    def connection_lost(self) -> list[ServerEvent]:
        """Take the end of the connection: Disconnected, not clean, unless the session had ended before."""
        if self._state is _CLOSED:
            return []
        self._connect = None
        self._close()
        return [Disconnected(ReasonCode.UNSPECIFIED_ERROR, clean=False, publish_will=self.will is not None)]

    def _events(self, packets: list[Packet], now_s: float) -> list[ServerEvent]:
        events: list[ServerEvent] = []
        try:
            for packet in packets:
                # The order is that of frequency; decoding has already turned away what only a server may send.
                if isinstance(packet, Publish):
                    self._on_publish(packet, events)
                else:
                    self._handle(packet, events, now_s)
                if self._state is _CLOSED:  # what follows a DISCONNECT does not count
                    return events
        except ProtocolError as error:
            events.append(self._fail(error))
            return events
        if self._decoder.error is not None:
            events.append(self._fail(self._decoder.error))
        return events

    def _handle(self, packet: Packet, events: list[ServerEvent], now_s: float) -> None:
        if isinstance(packet, Puback):
            self._on_answer(packet, events, now_s)
        elif isinstance(packet, Connect):
            self._on_connect(packet, events)
        elif isinstance(packet, Subscribe):
            check_subscribe(packet)
            events.append(SubscribeReceived(packet))
        elif isinstance(packet, Disconnect):
            self._on_disconnect(packet, events)
        elif isinstance(packet, Pingreq):
            self._output.put(PINGRESP_BYTES)
        elif isinstance(packet, ANSWERS):
            self._on_answer(packet, events, now_s)
        elif isinstance(packet, Pubrel):
            self._on_pubrel(packet)
        elif isinstance(packet, Unsubscribe):
            events.append(UnsubscribeReceived(packet))
        else:
            raise violation(f"{type(packet).__name__.upper()}, though enhanced authentication is not in use")

    def _on_connect(self, connect: Connect, events: list[ServerEvent]) -> None:
        self._state = _DECIDING
        check_connect(connect)
        self._wishes = wishes_of(connect)
        self.session_expiry_s = self._wishes.session_expiry_s
        self._connect = connect
        self.client_id = connect.client_id
        self._keep_alive_s = connect.keep_alive_s
        events.append(ConnectReceived(connect))

    def _on_disconnect(self, disconnect: Disconnect, events: list[ServerEvent]) -> None:
        check_disconnect(disconnect, self._wishes.session_expiry_s)
        changed_s = disconnect.properties.session_expiry_interval_s
        if changed_s is not None:
            self.session_expiry_s = min(changed_s, self._max_session_expiry_s)
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
        max_session_expiry_s: int = 0,
        session_present: bool = False,
        state: DeliveryState | None = None,
        now_s: float = 0.0,
    ) -> list[ServerEvent]:
        """Send CONNACK 0, go on with an earlier session, and return the events of what was sent behind CONNECT.

        `assigned_client_id` is for a client without id and told to it in MQTT 5, where it is required. `keep_alive_s`
        lowers the client's, in MQTT 5 only. `max_packet_bytes` holds from here on. The session is kept as long as the
        client asked, at most `max_session_expiry_s`. With `session_present`, `state` is what `detach` gave: what was in
        flight is sent again, then what waits (MQTT-4.4.0-1).
        Raises SessionStateError unless a CONNECT waits, ValueError for a missing or needless client id.
        """
        connect, wishes = self._connect, self._wishes
        if connect is None:
            raise SessionStateError(_NO_CONNECT_WAITS)
        if (assigned_client_id is not None and connect.client_id) or (
            assigned_client_id is None and not connect.client_id and connect.version is _V5
        ):
            raise ValueError("assigned_client_id goes to a client without client id, and to no other")
        if session_present and (state is None or connect.clean_start):
            raise ValueError("session_present needs the state of the session, and a client that did not start clean")
        self._connect = None
        self._state = _CONNECTED
        self.will = connect.will
        self.client_id = assigned_client_id or connect.client_id
        self._max_session_expiry_s = max_session_expiry_s
        if wishes.session_expiry_s > max_session_expiry_s:
            self.session_expiry_s = max_session_expiry_s
        self._delivery = state
        self._decoder.max_packet_bytes = max_packet_bytes or self._limits.max_packet_bytes
        if connect.version is not _V5:
            self._output.put(_CONNACKS_V311[session_present])
        elif not self._answer(self._connack_v5(wishes, session_present, assigned_client_id, keep_alive_s)):
            return [ProtocolViolated(ProtocolError(ReasonCode.PACKET_TOO_LARGE, "the client takes no CONNACK"))]
        if state is not None and not state.is_empty:
            self._make_sender().resume(now_s)
        return self._events(self._decoder.resume(), now_s)

    def _connack_v5(
        self, wishes: ClientWishes, session_present: bool, assigned_client_id: str | None, keep_alive_s: int | None
    ) -> bytes:
        allowed_s = min(keep_alive_s or self._limits.max_keep_alive_s, self._limits.max_keep_alive_s)
        lowered_s = allowed_s if self._keep_alive_s == 0 or self._keep_alive_s > allowed_s else None
        if lowered_s is not None:
            self._keep_alive_s = lowered_s
        return connack_v5(
            session_present,
            assigned_client_id,
            lowered_s,
            self.session_expiry_s if self.session_expiry_s != wishes.session_expiry_s else None,
            self._limits.receive_maximum,
            self._decoder.max_packet_bytes,
        )

    def refuse(self, reason_code: ReasonCode, reason_string: str | None = None) -> None:
        """Send CONNACK with a refusal and close. 3.1.1 gets the nearest return code, or none if there is no such.

        Raises SessionStateError unless a CONNECT waits, ValueError if the reason is no refusal.
        """
        if self._state is not _DECIDING:
            raise SessionStateError(_NO_CONNECT_WAITS)
        if reason_code < 0x80:
            raise ValueError(f"{reason_code.name} is no refusal: give a reason code from 0x80 on")
        self._refuse(reason_code, reason_string)

    def _refuse(self, reason_code: ReasonCode, reason_string: str | None) -> None:
        self._connect = None
        version = self._decoder.version
        if version is _V5 and reason_code not in CONNACK_REFUSALS:
            reason_code = ReasonCode.UNSPECIFIED_ERROR  # the reason is one of DISCONNECT's, such as a shutdown
        if version is _V5:
            self._output.put(
                explained(lambda words: encode(Connack(False, reason_code, words), _V5), reason_string, self._wishes)
            )
        elif version is not None and connack_return_code(reason_code):
            self._output.put(encode(Connack(session_present=False, reason_code=reason_code), version))
        self._close()

    def suback(self, packet_id: int, reason_codes: tuple[ReasonCode, ...], reason_string: str | None = None) -> None:
        """Send SUBACK, one code per filter; 3.1.1 gets 0x80 for every refusal. Without effect on a closed session."""
        if self._state is not _CLOSED:
            version = self._version()
            if reason_string is None:
                packet = encode(Suback(packet_id, reason_codes), version)
            else:
                packet = explained(
                    lambda words: encode(Suback(packet_id, reason_codes, words), version), reason_string, self._wishes
                )
            self._answer(packet)

    def unsuback(self, packet_id: int, reason_codes: tuple[ReasonCode, ...]) -> None:
        """Send UNSUBACK; 3.1.1 gets no codes. Without effect on a closed session."""
        if self._state is not _CLOSED:
            self._answer(encode(Unsuback(packet_id, reason_codes), self._version()))

    def disconnect(self, reason_code: ReasonCode, reason_string: str | None = None) -> None:
        """End the session: DISCONNECT with the reason in MQTT 5, nothing on the wire in 3.1.1.

        A CONNECT that waits is refused. The will stays due; a broker that does not want it takes it from `will`.
        """
        if self._state is _DECIDING:
            self._refuse(reason_code, reason_string)
        elif self._state is not _CLOSED:
            self._say_goodbye(reason_code, reason_string)
            self._close()

    # --- inside ---

    def _say_goodbye(self, reason_code: ReasonCode, reason_string: str | None) -> None:
        if self._state is _CONNECTED and self._decoder.version is _V5:
            self._output.put(
                explained(lambda words: encode(Disconnect(reason_code, words), _V5), reason_string, self._wishes)
            )

    def _fail(self, error: ProtocolError) -> ProtocolViolated:
        if self._state is _CONNECTED:
            self._say_goodbye(error.reason_code, error.text)
            self._close()
        else:
            self._refuse(error.reason_code, error.text)
        return ProtocolViolated(error.with_traceback(None))
