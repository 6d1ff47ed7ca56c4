"""One connection of the responder to a broker that it does not own, from CONNECT to its end.

What is said over it is not known here, only how: what is said in one turn of the loop leaves together. A kind of broker
adds what is particular to it by a subclass (`gate_link`).
"""

import asyncio
import ssl
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
    MessageReceived,
    ProtocolViolated,
    Publish,
    Published,
    ReasonCode,
    Refused,
    Subscribed,
    Unsubscribed,
)

KEEP_ALIVE_S: Final = 30
_MAX_QUEUED_MESSAGES: Final = 10_000  # that wait for the broker's receive maximum
_MAX_QUEUED_BYTES: Final = 16 * 1024 * 1024

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
    """One connection. Messages are acknowledged as they come, or with `manual_ack` by a subclass."""

    def __init__(
        self,
        connect: Connect,
        on_message: Callable[[Publish], None] | None = None,
        *,
        manual_ack: bool = False,
        max_unsettled: int | None = None,
    ) -> None:
        """`max_unsettled` replaces the Receive Maximum in `connect`, for a broker that does not keep to it."""
        self._loop = asyncio.get_running_loop()
        self._on_message = on_message
        self._session = ClientSession(
            connect,
            manual_ack=manual_ack,
            max_unsettled=max_unsettled,
            max_queued_messages=_MAX_QUEUED_MESSAGES,
            max_queued_bytes=_MAX_QUEUED_BYTES,
        )
        self._transport: asyncio.Transport | None = None
        self._flush_scheduled = False
        self._written_s = 0.0
        self._published: dict[int, asyncio.Future[ReasonCode]] = {}
        self._granted: dict[int, asyncio.Future[tuple[ReasonCode, ...]]] = {}
        self._accepted: asyncio.Future[None] = self._loop.create_future()
        self.ended: asyncio.Future[str] = self._loop.create_future()  # gets the reason

    async def open(self, address: BrokerAddress, tls: ssl.SSLContext | None) -> None:
        """Connect and log in. Raises `OSError`, `LinkLost`, and what `refusal` gives."""
        name = address.host if tls else None
        await self._loop.create_connection(lambda: self, address.host, address.port, ssl=tls, server_hostname=name)
        await self._accepted

    def refusal(self, reason: ReasonCode) -> Exception:
        """Give what is raised when the broker refuses the login."""
        return LinkLost(f"the broker refuses the login: {reason.name}")

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
            if self._on_message is not None:
                self._on_message(event.publish)
        elif isinstance(event, Published):
            _answer(self._published.pop(event.packet_id, None), event.reason_code)
        elif isinstance(event, Subscribed | Unsubscribed):
            _answer(self._granted.pop(event.packet_id, None), event.reason_codes)
        elif isinstance(event, Connected):
            _answer(self._accepted, None)
        elif isinstance(event, Refused):
            _fail(self._accepted, self.refusal(event.reason_code))
        elif isinstance(event, Disconnected):
            self._end(f"the broker ended the session: {event.reason_code.name}")
        elif isinstance(event, ProtocolViolated):
            self._end(f"the broker broke the protocol: {event.error}")

    def _end(self, why: str) -> None:
        self._session.detach()
        if self._transport is not None:
            self._transport.close()
        _answer(self.ended, why)
        waiting: list[asyncio.Future[Any]] = [self._accepted, *self._published.values(), *self._granted.values()]
        for future in waiting:
            _fail(future, LinkLost(why))
        self._published.clear()
        self._granted.clear()

    # --- what is said ---

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

    def _complete(self) -> None:
        """Put into the output what a subclass gathered for this write."""

    def _flush(self) -> None:
        self._flush_scheduled = False
        if self._transport is None or self._transport.is_closing():
            return
        if not self._session.closed:
            self._complete()
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


def _fail(waiting: "asyncio.Future[Any]", error: Exception) -> None:
    if not waiting.done():
        waiting.set_exception(error)
        waiting.exception()  # not everybody looks at it, which is no mistake
