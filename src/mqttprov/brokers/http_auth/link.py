"""The responder as an ordinary client of somebody's broker: MQTT 3.1.1, which all of them speak; reconnects by itself.

Only how to talk to it is known here; what is said is the owner's.
"""

import asyncio
import logging
import os
import random
import ssl
import time
from collections.abc import Callable, Sequence
from typing import Final, cast
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
    ProtocolVersion,
    ProtocolViolated,
    Publish,
    Refused,
    Subscribed,
)

KEEP_ALIVE_S: Final = 30
CONNECT_TIMEOUT_S: Final = 10.0
FIRST_DELAY_S: Final = 0.5
LONGEST_DELAY_S: Final = 15.0
MAX_QUEUED_MESSAGES: Final = 10_000
MAX_QUEUED_BYTES: Final = 16 * 1024 * 1024
_FAILED_FROM: Final = 0x80

_log = logging.getLogger(__name__)


class BrokerAddress(msgspec.Struct, frozen=True):
    """Where a broker listens, and how to verify it; None for plain MQTT."""

    host: str
    port: int
    tls: ssl.SSLContext | None = None


def parse_broker(url: str) -> tuple[str, int, bool]:
    """Read `mqtt://host:port` or `mqtts://host:port`: host, port, whether with TLS. Raises ValueError."""
    parts = urlsplit(url)
    if parts.scheme not in {"mqtt", "mqtts"} or not parts.hostname or parts.username or parts.path.strip("/"):
        raise ValueError(f"{url!r} names no broker; give mqtt://HOST:PORT, or mqtts://HOST:PORT for TLS")
    return parts.hostname, parts.port or (8883 if parts.scheme == "mqtts" else 1883), parts.scheme == "mqtts"


class _Connection(asyncio.Protocol):
    """One connection from CONNECT to its end."""

    def __init__(self, connect: Connect, on_event: "OnEvent") -> None:
        self.session = ClientSession(
            connect, max_queued_messages=MAX_QUEUED_MESSAGES, max_queued_bytes=MAX_QUEUED_BYTES
        )
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._on_event = on_event
        self._transport: asyncio.Transport | None = None
        self._written_s = time.monotonic()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send CONNECT."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's transports are not subclasses of it
        self.flush()

    def data_received(self, data: bytes) -> None:
        """Take a read; write what it calls for at once."""
        for event in self.session.receive(data):
            if isinstance(event, Refused):
                self._end(f"it refused the login ({event.reason_code.name})")
            elif isinstance(event, Disconnected):
                self._end(f"it ended the session ({event.reason_code.name})")
            elif isinstance(event, ProtocolViolated):
                self._end(f"it does not speak MQTT as it should: {event.error}")
            else:
                self._on_event(self, event)
        self.flush()

    def connection_lost(self, exc: Exception | None) -> None:
        """The end, if it was not known yet."""
        self._end("it closed the connection" if exc is None else f"the connection broke: {exc}")

    def flush(self) -> None:
        """Write what is in the session's output."""
        if self._transport is not None and (output := self.session.take_output()):
            self._transport.write(output)
            self._written_s = time.monotonic()

    def keep_alive(self) -> None:
        """Send PINGREQ if it is time; give the connection up when the last one was not answered."""
        if not self.session.connected or time.monotonic() - self._written_s < self.session.keep_alive_s / 2:
            return
        if self.session.ping_outstanding:
            self._end("it does not answer any more")
        else:
            self.session.ping()
            self.flush()

    def _end(self, why: str) -> None:
        if not self.ended.done():
            self.ended.set_result(why)
        self.close()

    def close(self) -> None:
        """Say goodbye and close."""
        self.session.disconnect()
        self.flush()
        if self._transport is not None:
            self._transport.close()


OnEvent = Callable[[_Connection, ClientEvent], None]


class Link:
    """Keeps up one session with the broker. `on_message` gets what comes on `filters`."""

    def __init__(
        self,
        address: BrokerAddress,
        *,
        username: str,
        password: str,
        filters: Sequence[str],
        on_message: Callable[[Publish], None],
    ) -> None:
        self._address = address
        self._login = (username, password.encode())
        self._filters = filters
        self._on_message = on_message
        self._connection: _Connection | None = None
        self.ready = asyncio.Event()  # connected, and subscribed

    async def run(self) -> None:
        """Connect, and again whenever the connection ends, until cancelled."""
        delay_s, told = FIRST_DELAY_S, ""
        while True:
            why = await self._one_connection()
            if self.ready.is_set():
                self.ready.clear()
                delay_s, told = FIRST_DELAY_S, ""
            if why != told:  # the same trouble is told once
                _log.warning("no session with the broker %s:%d: %s", self._address.host, self._address.port, why)
                told = why
            await asyncio.sleep(delay_s * random.uniform(0.5, 1.0))  # noqa: S311 - only spreads reconnections
            delay_s = min(delay_s * 2, LONGEST_DELAY_S)

    async def _one_connection(self) -> str:
        try:
            connection = await self._open(f"mqttprov-{os.urandom(16).hex()}", self._event)
        except (OSError, TimeoutError) as error:
            return str(error) or "it does not answer"
        self._connection = connection
        try:
            while True:
                done, _ = await asyncio.wait([connection.ended], timeout=KEEP_ALIVE_S / 4)
                if done:
                    return connection.ended.result()
                connection.keep_alive()
        finally:
            self._connection = None
            connection.close()

    async def _open(self, client_id: str, on_event: OnEvent) -> _Connection:
        username, password = self._login
        connect = Connect(
            client_id,
            version=ProtocolVersion.V311,
            keep_alive_s=KEEP_ALIVE_S,
            username=username,
            password=password,
        )
        address = self._address
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            _, connection = await asyncio.get_running_loop().create_connection(
                lambda: _Connection(connect, on_event),
                address.host,
                address.port,
                ssl=address.tls,
                server_hostname=address.host if address.tls else None,
            )
        return connection

    def _event(self, connection: _Connection, event: ClientEvent) -> None:
        match event:
            case Connected():
                connection.session.subscribe([(topic_filter, 1) for topic_filter in self._filters])
            case Subscribed(reason_codes=codes):
                if any(code >= _FAILED_FROM for code in codes):
                    _log.error("the broker does not let us subscribe to %s; see its how-to", ", ".join(self._filters))
                else:
                    self.ready.set()
            case MessageReceived(publish):
                self._on_message(publish)
            case _:
                pass

    def publish(self, topic: str, payload: bytes) -> bool:
        """Publish with QoS 1; False when there is no session or too much waits for the broker."""
        connection = self._connection
        if connection is None or not connection.session.connected:
            return False
        try:
            connection.session.publish(topic, payload, 1)
        except LimitReachedError:
            return False
        connection.flush()
        return True

    async def take_over(self, client_id: str) -> None:
        """End somebody's session by a connection with its client id, as every broker does. Raises `OSError`."""
        accepted = asyncio.Event()

        def on_event(_connection: _Connection, event: ClientEvent) -> None:
            if isinstance(event, Connected):
                accepted.set()

        try:
            connection = await self._open(client_id, on_event)
            connection.ended.add_done_callback(lambda _: accepted.set())
            try:
                async with asyncio.timeout(CONNECT_TIMEOUT_S):
                    await accepted.wait()
                if connection.ended.done():
                    raise ConnectionError(connection.ended.result())
            finally:
                connection.close()
        except TimeoutError as error:
            raise ConnectionError("it does not answer") from error
