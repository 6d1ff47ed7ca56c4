"""One MQTT connection of a virtual gateway: `mqtt.ClientSession` on an asyncio transport. Bytes and time-keeping only.

What the events mean is decided by `gateway.machine`, by way of the gateway that owns the connection. A raw Protocol and
no streams, because thousands of them share a loop (reference/simulation.md section 7).
"""

import asyncio
import contextlib
import os
import ssl
from collections.abc import Callable
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
)

_MAX_PACKET_BYTES: Final = MAX_REPLY_BYTES + 1024
_MAX_QUEUED_MESSAGES: Final = 16
_VERSIONS: Final = {int(version): version for version in ProtocolVersion}
# One object for all: the session would otherwise make one for each connection to announce its limit.
_V5_PROPERTIES: Final = Properties(maximum_packet_size_bytes=_MAX_PACKET_BYTES)
_PING_AFTER: Final = 0.5  # of the keep alive; the rest is for being late


class Owner(Protocol):
    """What a connection tells the gateway that it belongs to. Nothing comes after its end was told or `close`."""

    def connected(self) -> None:
        """CONNACK 0 came."""

    def refused_login(self, reason_code: int) -> None:
        """Another CONNACK came; the connection is over."""

    def message(self, topic: str, payload: bytes) -> None:
        """A PUBLISH came and is acknowledged."""

    def acknowledged(self, token: int) -> None:
        """The PUBACK for the publish with this token came."""

    def not_connected(self, why: str) -> None:
        """No connection came about."""

    def lost(self, why: str) -> None:
        """The connection is over."""


class Network:
    """The way to the broker, shared by all connections of a swarm; knows whether any is open."""

    def __init__(self, host: str, address: str, port: int, tls: ssl.SSLContext | None) -> None:
        """`host` is what the certificate is checked against, `address` where to connect to (no name: no look-ups)."""
        self.loop: Final = asyncio.get_running_loop()
        self.idle: Final = asyncio.Event()  # no connection is open
        self.idle.set()
        self._open = 0
        self._host: Final = host if tls is not None else None
        self._address: Final = address
        self._port: Final = port
        self._tls: Final = tls

    def count(self, change: int) -> None:
        """Note that a connection begins (1) or has ended (-1)."""
        self._open += change
        if self._open:
            self.idle.clear()
        else:
            self.idle.set()

    async def connect(self, protocol: asyncio.Protocol, source: str | None) -> None:
        """Open a connection (TCP_NODELAY, as uvloop and asyncio both set it). Raises OSError."""
        await self.loop.create_connection(
            lambda: protocol,
            self._address,
            self._port,
            ssl=self._tls,
            server_hostname=self._host,
            local_addr=None if source is None else (source, 0),
        )


class Link(asyncio.Protocol):
    """A connection from the Connect action to its end; tells its owner what happens until then."""

    __slots__ = ("_network", "_opening", "_owner", "_session", "_tokens", "_transport", "_written_s")

    def __init__(self, owner: Owner, action: actions.Connect, network: Network, source: str | None) -> None:
        self._owner: Owner | None = owner
        self._network: Final = network
        self._session: Final = ClientSession(
            _connect_packet(action),
            max_packet_bytes=_MAX_PACKET_BYTES,
            max_queued_messages=_MAX_QUEUED_MESSAGES,
            max_queued_bytes=_MAX_PACKET_BYTES,
        )
        self._transport: asyncio.Transport | None = None
        self._tokens: dict[int, int] | None = None  # packet id -> token; made on first need
        self._written_s = 0.0
        self._opening: asyncio.Task[None] | None = network.loop.create_task(self._open(source))

    async def _open(self, source: str | None) -> None:
        self._network.count(1)  # here, because a task that is cancelled before it begins never gets to the end
        try:
            await self._network.connect(self, source)
        except OSError as error:
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
        self._end(lambda owner: owner.lost(reason_of(exc)))

    def _tell(self, owner: Owner, event: ClientEvent) -> None:
        if isinstance(event, MessageReceived):
            owner.message(event.publish.topic, event.publish.payload)
        elif isinstance(event, Connected):
            owner.connected()
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

    def _hang_up(self, tell: Callable[[Owner], None]) -> None:
        self.flush()
        if self._transport is not None:
            self._transport.close()
        self._end(tell)

    def _end(self, tell: Callable[[Owner], None]) -> None:
        owner, self._owner = self._owner, None
        if owner is not None:
            tell(owner)

    # --- the gateway's actions ---

    def subscribe(self, action: actions.Subscribe) -> None:
        """Put SUBSCRIBE into the output, unless the broker takes no packet of its size."""
        if not self._session.closed:
            with contextlib.suppress(LimitReachedError):
                self._session.subscribe([(topic_filter, action.qos) for topic_filter in action.filters])

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
        if self._transport is not None and (output := self._session.take_output()):
            self._transport.write(output)
            self._written_s = monotonic()

    def close(self) -> None:
        """Say goodbye if the broker has accepted us, and close. Tells nothing any more."""
        self._owner = None
        if self._transport is None:
            if self._opening is not None:
                self._opening.cancel()
        elif self._session.connected:
            self._session.disconnect()
            self.flush()
            self._transport.close()
        else:
            self._transport.abort()  # it may not even be connected in truth: do not wait for the write

    def abort(self) -> None:
        """Close without a word."""
        self._owner = None
        if self._transport is not None:
            self._transport.abort()

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


def reason_of(error: Exception | None) -> str:
    """Say why a connection ended, in one of few texts: they are counted."""
    if error is None:
        return "closed by the broker"
    if isinstance(error, ssl.SSLError):
        return f"TLS: {error.reason or type(error).__name__}"
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)
    return type(error).__name__


def _connect_packet(action: actions.Connect) -> Connect:
    version = _VERSIONS[action.version]
    return Connect(
        action.client_id,
        version,
        True,  # clean start
        action.keep_alive_s,
        action.username,
        None if action.password is None else action.password.encode(),
        None,
        _V5_PROPERTIES if version is ProtocolVersion.V5 else EMPTY_PROPERTIES,
    )
