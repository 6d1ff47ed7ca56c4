"""MQTT 3.1.1 in raw bytes over asyncio streams: as little of a client as the scenarios need, and nothing of ours."""

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator
from typing import Final, NamedTuple

QUIET_S: Final = 0.5  # so long nothing comes from a broker that has nothing more to say
CONNACK, PUBLISH, PUBACK, SUBACK, PINGRESP = 0x20, 0x30, 0x40, 0x90, 0xD0


class Login(NamedTuple):
    """A user name with its password."""

    username: str
    password: str


class Broker(NamedTuple):
    """A broker under test. All logins but the wrong one may subscribe to everything and publish to `defect/#`.

    None may publish to `forbidden`. `many` are for storms, for a broker that bounds the sessions of one principal.
    """

    host: str
    port: int
    one: Login
    other: Login
    wrong: Login
    forbidden: str
    many: tuple[Login, ...]


def text(value: str | bytes) -> bytes:
    """Write a text with its length."""
    data = value if isinstance(value, bytes) else value.encode()
    return struct.pack("!H", len(data)) + data


def packet(first: int, body: bytes) -> bytes:
    """Write a packet."""
    length, size = bytearray(), len(body)
    while True:
        size, low = divmod(size, 128)
        length.append(low | (0x80 if size else 0))
        if not size:
            return bytes([first]) + bytes(length) + body


def connect(
    login: Login, client_id: str, *, clean: bool = True, keep_alive_s: int = 60, will: tuple[str, bytes] | None = None
) -> bytes:
    """Write CONNECT with user name and password."""
    flags = 0xC0 | (0x02 if clean else 0) | (0x04 if will else 0)
    body = text("MQTT") + bytes([4, flags]) + struct.pack("!H", keep_alive_s) + text(client_id)
    if will is not None:
        body += text(will[0]) + text(will[1])
    return packet(0x10, body + text(login.username) + text(login.password))


def subscribe(*filters: str, qos: int = 0) -> bytes:
    """Write SUBSCRIBE with packet id 1."""
    return packet(0x82, b"\0\x01" + b"".join(text(each) + bytes([qos]) for each in filters))


def publish(topic: str, payload: bytes, *, packet_id: int | None = None, retain: bool = False) -> bytes:
    """Write PUBLISH of QoS 0, or of QoS 1 with a packet id."""
    number = b"" if packet_id is None else struct.pack("!H", packet_id)
    return packet(0x30 | (0x02 if number else 0) | retain, text(topic) + number + payload)


DISCONNECT: Final = b"\xe0\0"
PINGREQ: Final = b"\xc0\0"


class Message(NamedTuple):
    """A message that came in."""

    topic: str
    payload: bytes
    qos: int


class Peer:
    """One connection. QoS 1 is acknowledged by itself."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.messages: list[Message] = []
        self.acknowledged = 0

    def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        self._writer.write(data)

    async def packet(self, timeout_s: float = 10.0) -> tuple[int, bytes] | None:
        """Wait for the next packet: its first byte and its body. None at the end of the connection."""
        async with asyncio.timeout(timeout_s):
            try:
                first = (await self._reader.readexactly(1))[0]
                size = shift = 0
                while True:
                    byte = (await self._reader.readexactly(1))[0]
                    size |= (byte & 0x7F) << shift
                    shift += 7
                    if byte < 0x80:
                        break
                return first, await self._reader.readexactly(size)
            except (asyncio.IncompleteReadError, ConnectionError):
                return None

    def _note(self, first: int, body: bytes) -> None:
        if first & 0xF0 == PUBLISH:
            size = struct.unpack("!H", body[:2])[0]
            rest, qos = body[2 + size :], first >> 1 & 3
            if qos:
                self.send(packet(PUBACK, rest[:2]))
                rest = rest[2:]
            self.messages.append(Message(body[2 : 2 + size].decode(), rest, qos))
        elif first & 0xF0 == PUBACK:
            self.acknowledged += 1

    async def until(self, kind: int, timeout_s: float = 10.0) -> bytes | None:
        """Wait for a packet of this kind and give its body, None at the end; note messages that come before."""
        while (got := await self.packet(timeout_s)) is not None:
            if got[0] & 0xF0 == kind:
                return got[1]
            self._note(*got)
        return None

    async def quiet(self, quiet_s: float = QUIET_S) -> bool:
        """Take everything that comes until nothing does for a while; tell whether the connection still stands."""
        while True:
            try:
                got = await self.packet(quiet_s)
            except TimeoutError:
                return True
            if got is None:
                return False
            self._note(*got)

    async def alive(self) -> bool:
        """Tell whether the broker still answers."""
        try:
            self.send(PINGREQ)
            return await self.until(PINGRESP, 2.0) is not None
        except (TimeoutError, ConnectionError):
            return False

    async def subscribed(self, *filters: str, qos: int = 0) -> bytes:
        """Subscribe; give the return codes."""
        self.send(subscribe(*filters, qos=qos))
        return (await self.until(SUBACK) or b"")[2:]

    def cut(self) -> None:
        """End the connection without a word."""
        self._writer.transport.abort()


@contextlib.asynccontextmanager
async def peer(broker: Broker, hello: bytes = b"") -> AsyncIterator[Peer]:
    """Open a connection and say hello; close it afterwards."""
    reader, writer = await asyncio.open_connection(broker.host, broker.port)
    try:
        one = Peer(reader, writer)
        one.send(hello)
        yield one
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError, TimeoutError):
            await asyncio.wait_for(writer.wait_closed(), 2)


@contextlib.asynccontextmanager
async def client(broker: Broker, login: Login, client_id: str, **options: object) -> AsyncIterator[Peer]:
    """Log in; give the connection after CONNACK 0."""
    async with peer(broker, connect(login, client_id, **options)) as one:  # type: ignore[arg-type]  # as connect has
        body = await one.until(CONNACK)
        assert body is not None
        assert body[1] == 0, f"CONNACK {body[1]}"
        yield one
