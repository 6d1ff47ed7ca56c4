"""One MQTT connection of a virtual gateway: `mqtt.ClientSession` on an asyncio transport. Bytes and time-keeping only.

What the events mean is decided by `gateway.machine`, by way of the gateway that owns the connection. A raw Protocol and
no streams, because thousands of them share a loop (reference/simulation.md section 7).
"""

import asyncio
import os
import socket
import ssl
from collections.abc import Awaitable, Callable
from functools import lru_cache
from time import monotonic
from typing import Final, Protocol, cast

from mqttprov.gateway import actions
from mqttprov.gateway.replies import MAX_REPLY_BYTES
from mqttprov.mqtt import (
    EMPTY_PROPERTIES,
    ClientEvent,
    ClientSession,
    Connect,
    Connected,
    Disconnected,
    LimitReachedError,
    MessageReceived,
    Properties,
    ProtocolVersion,
    ProtocolViolated,
    Published,
    Refused,
    Subscribed,
)

_MAX_PACKET_BYTES: Final = MAX_REPLY_BYTES + 1024
_MAX_QUEUED_MESSAGES: Final = 16
# With the properties of CONNECT; the session would otherwise make some for each connection to announce its limit.
_VERSIONS: Final = {
    4: (ProtocolVersion.V311, EMPTY_PROPERTIES),
    5: (ProtocolVersion.V5, Properties(maximum_packet_size_bytes=_MAX_PACKET_BYTES)),
}
_IP_BIND_ADDRESS_NO_PORT: Final = 24  # linux/in.h; Python names it from 3.12 on
_NOT_AUTHORIZED: Final = 0x87
_PING_AFTER: Final = 0.5  # of the keep alive; the rest is for being late


class Owner(Protocol):
    """What a connection tells the gateway that it belongs to. Nothing comes after its end was told or `close`.

    What it is given to send while it tells of a read is written once all of that read is told.
    """

    def connected(self) -> None:
        """CONNACK 0 came."""

    def refused_login(self, reason_code: int, *, said: bool = True) -> None:
        """Another CONNACK came; the connection is over.

        Not `said`: the broker hung up on our client certificate, as one does that rejects it, or that has crashed.
        """

    def message(self, topic: str, payload: bytes) -> None:
        """A PUBLISH came and is acknowledged."""

    def acknowledged(self, token: int) -> None:
        """The PUBACK for the publish with this token came."""

    def not_connected(self, why: str) -> None:
        """No connection came about."""

    def lost(self, why: str) -> None:
        """The connection is over."""


class Network:
    """All connections of a swarm together: knows whether any is open."""

    def __init__(self) -> None:
        self.loop: Final = asyncio.get_running_loop()
        self.idle: Final = asyncio.Event()  # no connection is open
        self.idle.set()
        self._open = 0

    def count(self, change: int) -> None:
        """Note that a connection begins (1) or has ended (-1)."""
        self._open += change
        if not self._open:
            self.idle.set()
        elif self._open == change:
            self.idle.clear()


class Route:
    """A way to the broker, shared by the connections that take it."""

    __slots__ = ("_address", "_host", "_port", "_source", "_tls", "network")

    def __init__(
        self,
        network: Network,
        host: str,
        address: str,
        port: int,
        *,
        tls: ssl.SSLContext | None = None,
        source: str | None = None,
    ) -> None:
        """`host` is what the certificate is checked against, `address` where to connect to (no name: no look-ups).

        `source`: the address to connect from, None leaves it to the system.
        """
        self.network: Final = network
        self._host: Final = host if tls is not None else None
        self._address: Final = address
        self._port: Final = port
        self._tls: Final = tls
        self._source: Final = source

    def connect(self, protocol: asyncio.Protocol) -> Awaitable[object]:
        """Open a connection (TCP_NODELAY, as uvloop and asyncio both set it), once awaited. Raises OSError then."""
        if self._source is not None:
            return self._connect_from(self._source, protocol)
        return self.network.loop.create_connection(
            lambda: protocol, self._address, self._port, ssl=self._tls, server_hostname=self._host
        )

    async def _connect_from(self, source: str, protocol: asyncio.Protocol) -> None:
        loop = self.network.loop
        opened = self._bound(source)
        try:
            await loop.sock_connect(opened, (self._address, self._port))
            await loop.create_connection(lambda: protocol, sock=opened, ssl=self._tls, server_hostname=self._host)
        except BaseException:
            opened.close()
            raise

    def _bound(self, source: str) -> socket.socket:
        """Make a socket that is bound to an address alone.

        Otherwise the kernel looks for a port that nobody uses towards anybody, and with some thousand taken that search
        takes milliseconds for each connection; at connect it needs one that is free towards the broker.
        """
        opened = socket.socket(socket.AF_INET6 if ":" in source else socket.AF_INET)
        try:
            opened.setblocking(False)
            opened.setsockopt(socket.IPPROTO_IP, _IP_BIND_ADDRESS_NO_PORT, 1)
            opened.bind((source, 0))
        except BaseException:
            opened.close()
            raise
        return opened


class Link(asyncio.Protocol):
    """A connection from the Connect action to its end; tells its owner what happens until then."""

    __slots__ = ("_by_certificate", "_network", "_opening", "_owner", "_session", "_tokens", "_transport", "_written_s")

    def __init__(self, owner: Owner, action: actions.Connect, route: Route) -> None:
        self._owner: Owner | None = owner
        self._network: Final = route.network
        self._by_certificate: Final = action.use_client_certificate
        self._session: Final = ClientSession(
            _connect_packet(action),
            max_packet_bytes=_MAX_PACKET_BYTES,
            max_queued_messages=_MAX_QUEUED_MESSAGES,
            max_queued_bytes=_MAX_PACKET_BYTES,
        )
        self._transport: asyncio.Transport | None = None
        self._tokens: dict[int, int] | None = None  # packet id -> token; made on first need
        self._written_s = 0.0
        self._opening: asyncio.Task[None] | None = self._network.loop.create_task(self._open(route))

    async def _open(self, route: Route) -> None:
        self._network.count(1)  # here, because a task that is cancelled before it begins never gets to the end
        try:
            await route.connect(self)
        except OSError as error:
            if self._by_certificate and _is_alert(error):
                self._end(lambda owner: owner.refused_login(_NOT_AUTHORIZED))
            else:
                reason = reason_of(error)
                self._end(lambda owner: owner.not_connected(reason))
        finally:
            self._opening = None
            if self._transport is None:  # else connection_lost counts it
                self._network.count(-1)

    # --- asyncio.Protocol ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send CONNECT."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by class, only by its methods
        if self._owner is None:
            self._transport.abort()
        else:
            self.flush()

    def data_received(self, data: bytes) -> None:
        """Take a read, tell the owner, write the answers at once."""
        for event in self._session.receive(data):
            if self._owner is None:
                return
            self._tell(self._owner, event)
        self.flush()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the end, unless it was told or wanted."""
        self._network.count(-1)
        self._tell_end(exc)

    def _tell_end(self, exc: Exception | None) -> None:
        if self._by_certificate and not self._session.connected:
            # With TLS 1.3 a server that rejects our certificate hangs up after the handshake, before any CONNACK.
            self._end(lambda owner: owner.refused_login(_NOT_AUTHORIZED, said=_is_alert(exc)))
        else:
            self._end(lambda owner: owner.lost(reason_of(exc)))

    def _tell(self, owner: Owner, event: ClientEvent) -> None:
        if isinstance(event, Subscribed):
            return  # nobody waits for it
        if isinstance(event, Connected):
            owner.connected()
        elif isinstance(event, MessageReceived):
            self._message(owner, event.publish.topic, event.publish.payload)
        elif isinstance(event, Published):
            token = None if self._tokens is None else self._tokens.pop(event.packet_id, None)
            if token is not None:
                owner.acknowledged(token)
        elif isinstance(event, Refused):
            self._hang_up(lambda owner: owner.refused_login(int(event.reason_code)))
        elif isinstance(event, Disconnected):
            self._hang_up(lambda owner: owner.lost(f"DISCONNECT {event.reason_code.name}"))
        elif isinstance(event, ProtocolViolated):
            self._hang_up(lambda owner: owner.lost(f"protocol violated by the broker: {event.error}"))

    def _message(self, owner: Owner, topic: str, payload: bytes) -> None:
        owner.message(topic, payload)

    def _hang_up(self, tell: Callable[[Owner], None]) -> None:
        self.flush()
        self._close()
        self._end(tell)

    def _end(self, tell: Callable[[Owner], None]) -> None:
        owner, self._owner = self._owner, None
        if owner is not None:
            tell(owner)

    # --- the gateway's actions ---

    def subscribe(self, action: actions.Subscribe) -> None:
        """Put SUBSCRIBE into the output, unless the broker takes no packet of its size."""
        if self._session.closed:
            return
        try:
            self._session.subscribe(_subscriptions(action))
        except LimitReachedError:
            return

    def publish(self, action: actions.Publish) -> None:
        """Put PUBLISH into the output; one that the session does not take is dropped, as a gateway's queue would."""
        if self._session.closed:
            return
        try:
            packet_id = self._session.publish(action.topic, action.payload, action.qos)
        except LimitReachedError:
            return
        if action.token is not None and packet_id is not None:
            if self._tokens is None:
                self._tokens = {}
            self._tokens[packet_id] = action.token

    def flush(self) -> None:
        """Write what is in the output, if there is somebody to write to."""
        transport = self._transport
        if transport is not None and (output := self._session.take_output()):
            self._write(transport, output)

    def _write(self, transport: asyncio.Transport, output: bytes) -> None:
        transport.write(output)
        self._written_s = monotonic()

    def _close(self) -> None:
        """Close once everything is written."""
        if self._transport is not None:
            self._transport.close()

    def close(self) -> None:
        """Say goodbye if the broker has accepted us, and close. Tells nothing any more."""
        self._owner = None
        if self._transport is None:
            if self._opening is not None:
                self._opening.cancel()
        elif self._session.connected:
            self._session.disconnect()
            self.flush()
            self._close()
        else:
            self._transport.abort()  # it may not even be connected in truth: do not wait for the write

    def abort(self) -> None:
        """Close without a word, and without what is not written yet. Tells nothing any more."""
        self._owner = None
        if self._transport is not None:
            self._transport.abort()
        elif self._opening is not None:
            self._opening.cancel()

    def cut(self) -> None:
        """Write what is there, then close without a word. Tells nothing any more."""
        self._owner = None
        self.flush()
        self._close()

    def stall(self, duration_s: float) -> None:
        """Read nothing for a while; what comes meanwhile waits in the kernel."""
        transport = self._transport
        if transport is not None and transport.is_reading():
            transport.pause_reading()
            self._network.loop.call_later(duration_s, _read_again, transport)

    @property
    def unacknowledged(self) -> tuple[int, ...]:
        """The tokens of what was published and is not acknowledged."""
        return () if self._tokens is None else tuple(self._tokens.values())

    def keep_alive(self, now_s: float) -> None:
        """Send PINGREQ if it is time; give a connection up whose last one was not answered until then."""
        session = self._session
        due_s = self._written_s + session.keep_alive_s * _PING_AFTER
        if not session.connected or not session.keep_alive_s or now_s < due_s:
            return
        if session.ping_outstanding:
            owner = self._owner
            self.abort()
            if owner is not None:
                owner.lost("no PINGRESP in time")
            return
        session.ping()
        self.flush()


def _read_again(transport: asyncio.Transport) -> None:
    if not transport.is_closing():
        transport.resume_reading()


def _is_alert(error: Exception | None) -> bool:
    return isinstance(error, ssl.SSLError) and "ALERT" in (error.reason or "")


def reason_of(error: Exception | None) -> str:
    """Say why a connection ended, in one of few texts: they are counted."""
    if error is None:
        return "closed by the broker"
    if isinstance(error, ssl.SSLError):
        return f"TLS: {error.reason or type(error).__name__}"
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)
    return type(error).__name__


@lru_cache(maxsize=64)
def _subscriptions(action: actions.Subscribe) -> tuple[tuple[str, int], ...]:
    return tuple([(topic_filter, action.qos) for topic_filter in action.filters])


def _connect_packet(action: actions.Connect) -> Connect:
    version, properties = _VERSIONS[action.version]
    password = None if action.password is None else action.password.encode()
    return Connect(
        action.client_id,
        version,
        True,  # clean start
        action.keep_alive_s,
        action.username,
        password,
        None,
        properties,
    )
