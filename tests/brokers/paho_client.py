"""paho, an unmodified client of the market, as tests drive it; and a line that breaks at a packet that a test names.

paho runs in its own thread, so a test calls what waits by `asyncio.to_thread`. No test lives here.
"""

import asyncio
import contextlib
import queue
import ssl
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any, Self

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from tests.brokers.tools import TIMEOUT_S

V311, V5 = MQTTProtocolVersion.MQTTv311, MQTTProtocolVersion.MQTTv5
TO_BROKER, TO_CLIENT = "to the broker", "to the client"


def told(kind: int, **values: Any) -> Properties:
    """Give properties of a packet of MQTT 5."""
    properties = Properties(kind)  # type: ignore[no-untyped-call] # paho's
    for name, value in values.items():
        setattr(properties, name, value)
    return properties


class Paho:
    """One client. `messages` are those that came; `begun` has a row for each CONNACK, `ended` one for each end."""

    def __init__(
        self,
        port: int,
        version: MQTTProtocolVersion,
        login: tuple[str, str | None],
        *,
        client_id: str = "",
        keep_s: int = 0,
        transport: str = "tcp",
        tls: ssl.SSLContext | None = None,
        connect: Mapping[str, Any] | None = None,
    ) -> None:
        self.messages: queue.Queue[Any] = queue.Queue()  # paho's MQTTMessage
        self.begun: queue.Queue[tuple[bool, str, Any]] = queue.Queue()  # session present, reason, properties
        self.ended: queue.Queue[str] = queue.Queue()
        self._granted: queue.Queue[tuple[str, ...]] = queue.Queue()
        self._port = port
        self._options: dict[str, Any] = {}
        clean: dict[str, Any] = {}
        if version is V5:
            wishes = {**({"SessionExpiryInterval": keep_s} if keep_s else {}), **(connect or {})}
            self._options = {"clean_start": not keep_s, "properties": told(PacketTypes.CONNECT, **wishes)}
        else:
            clean = {"clean_session": not keep_s}
        self.client = client = paho.Client(
            CallbackAPIVersion.VERSION2, client_id, protocol=version, transport=transport, **clean  # type: ignore[arg-type] # a word
        )  # fmt: skip
        client.username_pw_set(*login)
        client.reconnect_delay_set(0, 1)
        if tls is not None:
            client.tls_set_context(tls)
        client.on_connect = lambda _c, _u, flags, reason, more: self.begun.put(
            (flags.session_present, str(reason), more)
        )
        client.on_disconnect = lambda _c, _u, _f, reason, _p: self.ended.put(str(reason))
        client.on_subscribe = lambda _c, _u, _m, reasons, _p: self._granted.put(tuple(map(str, reasons)))
        client.on_message = lambda _c, _u, message: self.messages.put(message)

    def open(self) -> Self:
        """Connect and be accepted."""
        self.start()
        self.present, reason, self.connack = self.begun.get(timeout=TIMEOUT_S)
        assert reason == "Success"
        return self

    def start(self) -> None:
        """Connect, whatever the answer."""
        self.client.connect("127.0.0.1", self._port, 60, **self._options)
        self.client.loop_start()

    def close(self) -> None:
        """Say goodbye."""
        self.client.disconnect()
        self.client.loop_stop()

    def __enter__(self) -> Self:
        """Connect and be accepted."""
        return self.open()

    def __exit__(self, *_: object) -> None:
        """Say goodbye."""
        self.close()

    def subscribe(self, *arguments: Any, **options: Any) -> tuple[str, ...]:
        """Subscribe; give what was granted, in words."""
        self.client.subscribe(*arguments, **options)
        return self._granted.get(timeout=TIMEOUT_S)

    def publish(self, topic: str, payload: bytes, qos: int = 1, **options: Any) -> None:
        """Publish, and wait for the end of the exchange."""
        self.client.publish(topic, payload, qos, **options).wait_for_publish(TIMEOUT_S)

    def message(self) -> Any:
        """Wait for the next message."""
        return self.messages.get(timeout=TIMEOUT_S)

    def all_until(self, last: bytes) -> list[bytes]:
        """Wait for a message with this payload; give all payloads up to it."""
        payloads: list[bytes] = []
        end_s = time.monotonic() + TIMEOUT_S
        while not payloads or payloads[-1] != last:
            payloads.append(self.messages.get(timeout=max(end_s - time.monotonic(), 0.01)).payload)
        return payloads


class BreakingLine:
    """A line between client and broker that passes packet after packet, and breaks instead of one that is named."""

    def __init__(self) -> None:
        self.port = 0
        self.breaks_at: tuple[str, int] | None = None  # direction and packet type; once
        self.broken = 0

    async def _pass(self, name: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                packet = await reader.readexactly(2)
                size, shift = packet[1] & 0x7F, 7
                while packet[-1] & 0x80:
                    packet += await reader.readexactly(1)
                    size |= (packet[-1] & 0x7F) << shift
                    shift += 7
                if self.breaks_at == (name, packet[0] >> 4):
                    self.breaks_at = None
                    self.broken += 1
                    return
                writer.write(packet + await reader.readexactly(size))

    async def join(self, broker_port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry one connection to its end."""
        from_broker, to_broker = await asyncio.open_connection("127.0.0.1", broker_port)
        ways = ((TO_BROKER, reader, to_broker), (TO_CLIENT, from_broker, writer))
        passing = [asyncio.create_task(self._pass(*way)) for way in ways]
        try:
            await asyncio.wait(passing, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in passing:
                task.cancel()
            for end in (writer, to_broker):
                if self.broken:
                    end.transport.abort()
                end.close()
                with contextlib.suppress(ConnectionError):
                    await end.wait_closed()
            await asyncio.gather(*passing, return_exceptions=True)


@contextlib.asynccontextmanager
async def breaking_line(broker_port: int) -> AsyncIterator[BreakingLine]:
    """Open a line to a broker. All who use it are gone at its end."""
    line = BreakingLine()
    joined: list[asyncio.Task[None]] = []

    def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        joined.append(asyncio.create_task(line.join(broker_port, reader, writer)))

    server = await asyncio.start_server(accepted, "127.0.0.1", 0)
    line.port = server.sockets[0].getsockname()[1]
    try:
        yield line
    finally:
        server.close()
        await asyncio.wait_for(asyncio.gather(*joined), TIMEOUT_S)
