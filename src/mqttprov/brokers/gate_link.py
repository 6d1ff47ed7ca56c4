"""One connection of the responder to a broker that it does not own, from CONNECT to its end.

What is said over it is not known here, only how: commands to the gate are gathered and leave together, and a message
counts as settled no earlier than what was said about it.
"""

import asyncio
import logging
import os
import time
from collections.abc import Callable
from typing import Any, Final, TypeVar, cast
from urllib.parse import urlsplit

import msgspec

from mqttprov.mqtt import (
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
    Publish,
    Published,
    ReasonCode,
    Refused,
    Subscribed,
    Unsubscribed,
)

CONTROL_TOPIC: Final = "$CONTROL/provision/v1"
USERNAME: Final = "_responder"
RECEIVE_MAXIMUM: Final = 1024  # what is to be taken and not settled: two batches of the pipeline
# Mosquitto 2.0 sends more than that once some of it is settled and some is not; what is too much for the pipeline is
# refused or told again, while hanging up would lose all of it, over and over.
_MAX_UNSETTLED: Final = 65_535  # as many as there are packet ids
MAX_COMMANDS_BYTES: Final = 32_768  # in one packet: the broker does nothing else while it obeys
KEEP_ALIVE_S: Final = 30
_MAX_PACKET_BYTES: Final = 262_144
_MAX_QUEUED: Final = 4_000  # messages, and the same in KiB, that wait for the broker's receive maximum

_log = logging.getLogger(__name__)
T = TypeVar("T")


class LinkLost(Exception):  # noqa: N818 - it names what happened
    """The connection ended before the broker had confirmed; what was asked may or may not be done."""


class BrokerAddress(msgspec.Struct, frozen=True):
    """Where a broker listens."""

    host: str
    port: int
    tls: bool

    @property
    def url(self) -> str:
        """It as a URL."""
        shown = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'mqtts' if self.tls else 'mqtt'}://{shown}:{self.port}"


def parse_url(url: str) -> BrokerAddress:
    """Read `mqtt://host:port` or `mqtts://host:port`. Raises ValueError."""
    parts = urlsplit(url)
    odd = parts.username is not None or parts.path.strip("/") or parts.query or parts.fragment
    if parts.scheme not in {"mqtt", "mqtts"} or not parts.hostname or odd:
        raise ValueError("the URL names no broker: give mqtt://HOST:PORT, or mqtts://HOST:PORT for TLS, and no more")
    tls = parts.scheme == "mqtts"
    return BrokerAddress(parts.hostname, parts.port or (8883 if tls else 1883), tls)


class Link(asyncio.Protocol):
    """One connection, from CONNECT to its end."""

    def __init__(self, password: str, on_message: Callable[["Link", Publish], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._on_message = on_message
        connect = Connect(
            f"{USERNAME}-{os.urandom(6).hex()}",
            version=ProtocolVersion.V5,
            keep_alive_s=KEEP_ALIVE_S,
            username=USERNAME,
            password=password.encode(),
            properties=Properties(receive_maximum=RECEIVE_MAXIMUM),
        )
        self._session = ClientSession(
            connect,
            max_packet_bytes=_MAX_PACKET_BYTES,
            manual_ack=True,
            max_unsettled=_MAX_UNSETTLED,
            max_queued_messages=_MAX_QUEUED,
            max_queued_bytes=_MAX_QUEUED * 1024,
        )
        self._transport: asyncio.Transport | None = None
        self._commands: list[bytes] = []
        self._settled: list[int] = []
        self._flush_scheduled = False
        self._written_s = 0.0
        self._published: dict[int, asyncio.Future[ReasonCode]] = {}
        self._granted: dict[int, asyncio.Future[tuple[ReasonCode, ...]]] = {}
        self.accepted: asyncio.Future[ReasonCode] = self._loop.create_future()
        self.ended: asyncio.Future[str] = self._loop.create_future()  # gets the reason

    # --- asyncio.Protocol ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send CONNECT."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's transports are not subclasses of it
        self._flush()

    def data_received(self, data: bytes) -> None:
        """Take a read, which may hold many packets."""
        for event in self._session.receive(data):
            self._take(event)
        self.flush_soon()

    def connection_lost(self, exc: Exception | None) -> None:
        """Whoever waits for the broker learns that it will not answer."""
        self._end("the broker closed the connection" if exc is None else f"the connection broke: {exc}")

    def _take(self, event: ClientEvent) -> None:
        if isinstance(event, MessageReceived):
            self._on_message(self, event.publish)
        elif isinstance(event, Published):
            _answer(self._published.pop(event.packet_id, None), event.reason_code)
        elif isinstance(event, Subscribed | Unsubscribed):
            _answer(self._granted.pop(event.packet_id, None), event.reason_codes)
        elif isinstance(event, Connected):
            _answer(self.accepted, ReasonCode.SUCCESS)
        elif isinstance(event, Refused):
            _answer(self.accepted, event.reason_code)
        elif isinstance(event, Disconnected):
            self._end(f"the broker ended the session: {event.reason_code.name}")
        elif isinstance(event, ProtocolViolated):
            self._end(f"the broker broke the protocol: {event.error}")

    def _end(self, why: str) -> None:
        self._session.detach()
        if self._transport is not None:
            self._transport.close()
        _answer(self.ended, why)
        waiting: list[asyncio.Future[Any]] = [self.accepted, *self._published.values(), *self._granted.values()]
        for future in waiting:
            if not future.done():
                future.set_exception(LinkLost(why))
                future.exception()  # not everybody looks at it, which is no mistake
        self._published.clear()
        self._granted.clear()

    # --- what is said ---

    def command(self, line: str, payload: bytes = b"") -> None:
        """Tell the gate something with the next write, unless the connection has ended."""
        if not self._session.closed:
            self._commands.append(b"%b\n%b" % (line.encode(), payload))
            self.flush_soon()

    def execute(self, line: str) -> "asyncio.Future[ReasonCode]":
        """Tell the gate something at once; the answer comes when it is done. Raises `LinkLost`."""
        self._gather()
        return self.publish(CONTROL_TOPIC, line.encode())

    def publish(self, topic: str, payload: bytes) -> "asyncio.Future[ReasonCode]":
        """Publish with QoS 1; give the broker's answer. Raises `LinkLost`, LimitReachedError if it takes no more."""
        self._require_open()
        packet_id = self._session.publish(topic, payload, 1)
        assert packet_id is not None  # noqa: S101 - QoS 1 has one
        return self._wait(self._published, packet_id)

    def subscribe(self, *filters: str) -> "asyncio.Future[tuple[ReasonCode, ...]]":
        """Subscribe with QoS 1; the answer holds a code for each filter. Raises `LinkLost`."""
        self._require_open()
        return self._wait(self._granted, self._session.subscribe([(each, 1) for each in filters]))

    def unsubscribe(self, *filters: str) -> "asyncio.Future[tuple[ReasonCode, ...]]":
        """End subscriptions. Raises `LinkLost`."""
        self._require_open()
        return self._wait(self._granted, self._session.unsubscribe(filters))

    def settle(self, packet_id: int | None) -> None:
        """Acknowledge a message behind all commands that were given until now."""
        if packet_id is not None and not self._session.closed:
            self._settled.append(packet_id)
            self.flush_soon()

    def _require_open(self) -> None:
        if self._session.closed:
            raise LinkLost("the connection has ended")

    def _wait(self, waiting: "dict[int, asyncio.Future[T]]", packet_id: int) -> "asyncio.Future[T]":
        future: asyncio.Future[T] = self._loop.create_future()
        waiting[packet_id] = future
        self.flush_soon()
        return future

    def flush_soon(self) -> None:
        """Write once, after everything that is said in this turn of the loop."""
        if not self._flush_scheduled:
            self._flush_scheduled = True
            self._loop.call_soon(self._flush)

    def _gather(self) -> None:
        """Put commands into the output, as few packets as there can be: the broker reads one at a time."""
        commands, self._commands = self._commands, []
        packet: list[bytes] = []
        size = 0
        for command in commands:
            if packet and size + len(command) > MAX_COMMANDS_BYTES:
                self._session.publish(CONTROL_TOPIC, b"".join(packet), 0)
                packet, size = [], 0
            packet.append(command)
            size += len(command)
        if packet:
            self._session.publish(CONTROL_TOPIC, b"".join(packet), 0)

    def _flush(self) -> None:
        self._flush_scheduled = False
        if self._transport is None or self._transport.is_closing():
            return
        if not self._session.closed:
            try:
                self._gather()
            except LimitReachedError as error:
                _log.error("the broker does not take a reply: %s", error)
            settled, self._settled = self._settled, []
            for packet_id in settled:
                self._session.acknowledge(packet_id)
        if output := self._session.take_output():
            self._transport.write(output)
            self._written_s = time.monotonic()

    def keep_alive(self) -> None:
        """Send PINGREQ if it is time; give the connection up when the last one was not answered until then."""
        session = self._session
        if session.closed or not session.keep_alive_s or time.monotonic() < self._written_s + session.keep_alive_s / 2:
            return
        if session.ping_outstanding:
            self.abort("the broker does not answer")
            return
        session.ping()
        self._flush()

    def close(self) -> None:
        """Say goodbye."""
        if not self._session.closed:
            self._flush()
            self._session.disconnect()
            self._flush()
        self._end("closed by us")

    def abort(self, why: str) -> None:
        """Close without a word."""
        self._end(why)
        if self._transport is not None:
            self._transport.abort()


def _answer(waiting: "asyncio.Future[T] | None", value: T) -> None:
    if waiting is not None and not waiting.done():
        waiting.set_result(value)
