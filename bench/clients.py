"""The cheapest devices that there are, MQTT 3.1.1: what they say is made beforehand, what they hear is counted.

All functions run in an event loop. Clients come from many source addresses: ports of one are used up at 14,000
connections a second.
"""

import asyncio
import itertools
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple, cast

from mqttprov.mqtt import Connect, ProtocolVersion, Subscribe, Subscription
from mqttprov.mqtt.encoder import encode, encode_publish
from mqttprov.mqtt.properties import EMPTY_PROPERTIES

AT_ONCE = 64
TIMEOUT_S = 60.0
PAYLOAD = bytes(64)
_CONNACK_BYTES = 4
_SUBACK_BYTES = 5
_DISCONNECT = b"\xe0\x00"
_sources = itertools.cycle([f"127.0.0.{n}" for n in range(2, 66)])
_names = itertools.count()


class Login(NamedTuple):
    """What a client says: CONNECT, then SUBSCRIBE if it does."""

    connect: bytes
    subscribe: bytes = b""


def login(
    username: str, password: str | None = None, *, topic_filter: str = "", qos: int = 0, client_id: str = "",
    clean_start: bool = True,
) -> Login:  # fmt: skip
    """Encode a login, and a subscription to one filter; without a client id it gets one that nobody else has."""
    secret = None if password is None else password.encode()
    version = ProtocolVersion.V311
    connect = Connect(client_id or f"bench{next(_names)}", version, clean_start, 3600, username, secret)
    subscribe = Subscribe(1, (Subscription(topic_filter, qos),))
    return Login(encode(connect, version), encode(subscribe, version) if topic_filter else b"")


def source() -> tuple[str, int]:
    """Give a source address for a connection, the next one."""
    return next(_sources), 0


class Client(asyncio.Protocol):
    """One connection; `ready` when it is let in and, if it subscribes, has its subscription."""

    def __init__(self, login: Login, heard: Callable[[int], None] | None = None) -> None:
        self._login = login
        self._heard = heard
        self._answer = b""
        self._expected = _CONNACK_BYTES + (_SUBACK_BYTES if login.subscribe else 0)
        loop = asyncio.get_running_loop()
        self.ready: asyncio.Future[None] = loop.create_future()
        self.closed: asyncio.Future[None] = loop.create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Say CONNECT."""
        self.transport = cast("asyncio.Transport", transport)
        self.transport.write(self._login.connect)

    def data_received(self, data: bytes) -> None:
        """Take the answers, then count."""
        if self.ready.done():
            if self._heard is not None:
                self._heard(len(data))
            return
        had, self._answer = len(self._answer), self._answer + data
        if had < _CONNACK_BYTES <= len(self._answer):
            if self._answer[3]:
                self.transport.close()
                return
            if self._login.subscribe:
                self.transport.write(self._login.subscribe)
        if len(self._answer) >= self._expected:
            self.ready.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        """One that ends before it is let in is a failure of the run."""
        self.closed.set_result(None)
        if not self.ready.done():
            self.ready.set_exception(ConnectionError("the broker refused or closed the connection"))

    def leave(self) -> None:
        """Say goodbye."""
        self.transport.write(_DISCONNECT)
        self.transport.close()


async def opened(port: int, login: Login, heard: Callable[[int], None] | None = None) -> Client:
    """Connect; the login has not been answered yet."""
    loop = asyncio.get_running_loop()
    _, client = await loop.create_connection(lambda: Client(login, heard), "127.0.0.1", port, local_addr=source())
    return client


async def stay(port: int, logins: Sequence[Login]) -> list[Client]:
    """Let these clients in, some at once."""
    limit = asyncio.Semaphore(AT_ONCE)

    async def one(login: Login) -> Client:
        async with limit:
            client = await opened(port, login)
            await asyncio.wait_for(client.ready, TIMEOUT_S)
            return client

    return await asyncio.gather(*[one(each) for each in logins])


async def connect_for(port: int, usernames: Sequence[str], seconds: float) -> int:
    """Connect, be let in and leave, again and again, some at once; give how often."""
    until_s = time.monotonic() + seconds
    turns = itertools.cycle(usernames)
    count = 0

    async def again() -> None:
        nonlocal count
        while time.monotonic() < until_s:
            client = await opened(port, login(next(turns)))
            await asyncio.wait_for(client.ready, TIMEOUT_S)
            client.leave()
            await client.closed
            count += 1

    await asyncio.gather(*[again() for _ in range(AT_ONCE)])
    return count


class FanOut:
    """One publisher of QoS 0 messages of 64 bytes and those who listen to it.

    `topics` are what the publisher says and what the listeners hear. At most `window` messages are under way, so that
    no broker has a reason to drop any.
    """

    def __init__(self, topics: tuple[str, str], window: int) -> None:
        self._packet, heard_as = (
            encode_publish(topic, PAYLOAD, 0, False, False, None, EMPTY_PROPERTIES, ProtocolVersion.V311)
            for topic in topics
        )
        self._bytes_each = len(heard_as)
        self._window = window
        self._until_s = 0.0
        self._published = self._heard_bytes = 0
        self._over = asyncio.Event()

    async def open(self, port: int, publisher: Login, listeners: Sequence[Login]) -> None:
        """Let all of them in."""
        self._bytes_each *= len(listeners)  # what one message comes to
        self._listeners = [await opened(port, each, self._heard) for each in listeners]
        await asyncio.gather(*[each.ready for each in self._listeners])
        [self._publisher] = await stay(port, [publisher])

    async def publish_for(self, seconds: float) -> int:
        """Publish until time is up; give how many messages all listeners have."""
        self._until_s = time.monotonic() + seconds
        self._heard(0)
        await asyncio.wait_for(self._over.wait(), seconds + TIMEOUT_S)
        return self._published

    def _heard(self, count: int) -> None:
        self._heard_bytes += count
        room = self._window - (self._published - self._heard_bytes // self._bytes_each)
        if time.monotonic() < self._until_s:
            if room >= self._window // 2:
                self._published += room
                self._publisher.transport.write(self._packet * room)
        elif self._heard_bytes == self._published * self._bytes_each:
            self._over.set()

    async def close(self) -> None:
        """Let all of them leave."""
        clients = (self._publisher, *self._listeners)
        for client in clients:
            client.leave()
        await asyncio.gather(*[client.closed for client in clients])
