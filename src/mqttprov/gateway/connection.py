"""One connection of a gateway, carried by one paho-mqtt client: actions -> paho calls, paho callbacks -> events.

paho is driven by hand (`service`) from the caller's thread: no threads, no reconnection of its own, nothing that comes
late. When to connect, and what anything means, is decided by `machine`.
"""

import logging
import ssl
from collections.abc import Callable
from typing import Any, Final

from paho.mqtt.client import Client, ConnectFlags, DisconnectFlags, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from mqttprov.gateway.actions import Connect, Publish, Subscribe
from mqttprov.gateway.events import (
    ConnectFailed,
    ConnectionLost,
    ConnectRefused,
    ConnectSucceeded,
    Event,
    MessageReceived,
    PublishAcknowledged,
)
from mqttprov.gateway.own_topics import OwnTopics
from mqttprov.gateway.replies import MAX_REPLY_BYTES

_log = logging.getLogger(__name__)

NOT_AUTHORIZED: Final = 0x87
# What a gateway has to say while the network is away is a heartbeat at most; the rest is dropped (P9).
_MAX_QUEUED_MESSAGES: Final = 100
_MAX_PACKET_BYTES: Final = MAX_REPLY_BYTES + 1024


class Connection:
    """A connection from its CONNECT to its end; `report` gets the events, within the calls of this class only."""

    def __init__(
        self,
        connect: Connect,
        *,
        host: str,
        port: int,
        tls: ssl.SSLContext | None,
        connect_timeout_s: float,
        report: Callable[[Event], None],
        own_topics: OwnTopics | None = None,
    ) -> None:
        self._own_topics: Final = own_topics
        self._connect: Final = connect
        self._address: Final = (host, port)
        self._report: Final = report
        self._tokens: dict[int, int] = {}
        self._answered = False  # a CONNACK came
        self._over = False
        version = MQTTProtocolVersion(connect.version)
        clean_session = None if version == MQTTProtocolVersion.MQTTv5 else True
        self._paho: Final = Client(
            CallbackAPIVersion.VERSION2, connect.client_id, clean_session, None, version, reconnect_on_failure=False
        )
        self._paho.connect_timeout = connect_timeout_s
        self._paho.max_queued_messages_set(_MAX_QUEUED_MESSAGES)
        if connect.username is not None:
            self._paho.username_pw_set(connect.username, connect.password)
        if tls is not None:
            self._paho.tls_set_context(tls)
        self._paho.on_connect = self._on_connect
        self._paho.on_disconnect = self._on_disconnect
        self._paho.on_message = self._on_message
        self._paho.on_publish = self._on_publish

    def open(self) -> None:
        """Connect (TCP and TLS, blocking for the connect time-out at most) and send CONNECT."""
        host, port = self._address
        try:
            if self._connect.version == 5:
                properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]  # paho leaves it untyped
                properties.MaximumPacketSize = _MAX_PACKET_BYTES
                self._paho.connect(host, port, self._connect.keep_alive_s, clean_start=True, properties=properties)
            else:
                self._paho.connect(host, port, self._connect.keep_alive_s)
        except (OSError, ValueError) as error:  # ValueError: a host name that cannot be one
            self._fail(error)

    def _fail(self, error: OSError | ValueError) -> None:
        rejected = isinstance(error, ssl.SSLError) and "ALERT" in (error.reason or "")
        if rejected and self._connect.use_client_certificate:
            _log.warning("the server rejected the client certificate: %s", error)
            self._end(ConnectRefused(NOT_AUTHORIZED))
        else:
            self._end(ConnectFailed(str(error)))

    def subscribe(self, action: Subscribe) -> None:
        """Send SUBSCRIBE."""
        self._paho.subscribe([(self._outward(topic_filter), action.qos) for topic_filter in action.filters])

    def publish(self, action: Publish) -> None:
        """Send PUBLISH; its PUBACK is reported if it has a token."""
        info = self._paho.publish(self._outward(action.topic), action.payload, action.qos)
        if info.rc == MQTTErrorCode.MQTT_ERR_QUEUE_SIZE:
            _log.warning("dropped a message for %s: %d are waiting to be sent", action.topic, _MAX_QUEUED_MESSAGES)
        elif action.token is not None:
            self._tokens[info.mid] = action.token

    def _outward(self, topic: str) -> str:
        return topic if self._own_topics is None else self._own_topics.outward(topic)

    def close(self) -> None:
        """Send DISCONNECT if there is somebody to send it to, and close. Reports nothing any more."""
        self._over = True
        self._paho.disconnect()
        socket = self._paho.socket()
        if socket is not None:  # not connected yet, or DISCONNECT could not be written at once
            socket.close()

    @property
    def socket(self) -> Any:
        """The socket to wait for, None when there is none. Typed loosely, as paho does."""
        return None if self._over else self._paho.socket()

    @property
    def wants_write(self) -> bool:
        """Whether there is something to write as soon as the socket takes it."""
        return self._paho.want_write()

    def service(self, *, readable: bool, writable: bool) -> None:
        """Do what the socket is ready for, and what time asks for (PINGREQ, keep-alive time-out)."""
        try:
            while readable and not self._over:
                self._paho.loop_read()
                socket = self._paho.socket()
                # TLS may hold decrypted packets that no selector knows of.
                readable = isinstance(socket, ssl.SSLSocket) and socket.pending() > 0
            if writable and not self._over:
                self._paho.loop_write()
            if not self._over:
                self._paho.loop_misc()
        except Exception as error:  # noqa: BLE001  paho raises whatever its parser trips over; a gateway goes on (P10)
            _log.warning("closing a connection that sent something unreadable: %s", type(error).__name__)
            self._end(ConnectionLost(f"unreadable packet ({type(error).__name__})"))
            self.close()

    def _end(self, event: Event) -> None:
        if not self._over:
            self._over = True
            self._report(event)

    def _on_connect(
        self, _client: Client, _userdata: Any, _flags: ConnectFlags, reason: ReasonCode, _properties: Properties | None
    ) -> None:
        self._answered = True
        if reason.is_failure:
            self._end(ConnectRefused(reason.value))
        elif not self._over:
            self._report(ConnectSucceeded())

    def _on_disconnect(
        self,
        _client: Client,
        _userdata: Any,
        _flags: DisconnectFlags,
        reason: ReasonCode,
        _properties: Properties | None,
    ) -> None:
        if self._connect.use_client_certificate and not self._answered:
            # With TLS 1.3 a server that rejects our certificate hangs up after the handshake, before any CONNACK. One
            # that merely crashed looks alike; a refusal too many does no harm, as the stored credentials are kept.
            _log.warning("the server hung up on our client certificate: %s", reason)
            self._end(ConnectRefused(NOT_AUTHORIZED))
        else:
            self._end(ConnectionLost(str(reason)))

    def _on_message(self, _client: Client, _userdata: Any, message: MQTTMessage) -> None:
        if not self._over:
            topic = message.topic if self._own_topics is None else self._own_topics.inward(message.topic)
            self._report(MessageReceived(topic, bytes(message.payload)))

    def _on_publish(
        self, _client: Client, _userdata: Any, message_id: int, _reason: ReasonCode, _properties: Properties
    ) -> None:
        token = self._tokens.pop(message_id, None)
        if token is not None and not self._over:
            self._report(PublishAcknowledged(token))
