"""What the tests of a running broker share: a small MQTT client over raw sockets, and a broker in the test's own loop.

The client is built on `mqttprov.mqtt.ClientSession` and keeps every byte it was ever sent, so that a test can assert
on what nobody may see. No test lives here.
"""

import asyncio
import contextlib
import json
import os
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Self, TypeVar, cast
from urllib.parse import urlsplit

import msgspec
from tests.brokers.tools import ACTOR, TIMEOUT_S, eventually, new_state, request_bytes

from mqttprov.brokers.broker import EmbeddedBroker
from mqttprov.brokers.embedded import EmbeddedServer
from mqttprov.brokers.responder_run import now_ms
from mqttprov.core.model import OperatorRole
from mqttprov.core.permissions import REQUEST_TOPIC, RESPONSE_TOPIC
from mqttprov.mqtt import (
    EMPTY_PROPERTIES,
    ClientEvent,
    ClientSession,
    Connect,
    Connected,
    MessageReceived,
    Properties,
    ProtocolVersion,
    Publish,
    Published,
    ReasonCode,
    Refused,
    Subscribed,
    Subscription,
    Will,
)
from mqttprov.responder.administration import Administration, IssuedToken
from mqttprov.responder.service import Responder
from mqttprov.responder.state_directory import StateDirectory

E = TypeVar("E")
# With what this module takes from `tools` for its users.
__all__ = ["ACTOR", "TIMEOUT_S", "Client", "ClosedError", "Running", "ask", "eventually", "new_state",
           "request_bytes", "running"]  # fmt: skip


class ClosedError(ConnectionError):
    """The broker ended the connection while the test waited for something else."""


class Client(asyncio.Protocol):
    """One MQTT client. Events wait in `events` until a test takes them; `raw` holds every byte received."""

    def __init__(self, connect: Connect | None) -> None:
        self.session = ClientSession(connect) if connect else None
        self.raw = bytearray()
        self.events: list[ClientEvent] = []
        self.session_present = False
        self._changed = asyncio.Event()
        self._transport: asyncio.Transport | None = None
        self.gone = False

    @classmethod
    async def open(
        cls,
        port: int,
        connect: Connect | None,
        *,
        source: str = "127.0.0.1",
        tls: ssl.SSLContext | None = None,
        first: Callable[[ClientSession], object] = lambda _: None,
        receive_bytes: int | None = None,
    ) -> Self:
        """Open a connection from `source` and send CONNECT, if there is one, in one segment with what `first` does.

        `receive_bytes` makes the kernel's buffer small, so that a client that does not read is noticed soon.
        """
        sock = socket.socket()
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if receive_bytes is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        sock.bind((source, 0))
        loop = asyncio.get_running_loop()
        try:
            await loop.sock_connect(sock, ("127.0.0.1", port))
            name = "127.0.0.1" if tls else None
            _, client = await loop.create_connection(lambda: cls(connect), sock=sock, ssl=tls, server_hostname=name)
        except BaseException:
            sock.close()
            raise
        if client.session is not None:
            first(client.session)
            client._flush()
        return client

    # --- asyncio.Protocol ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Keep the bytes and what they mean; send what the session answers by itself."""
        self.raw += data
        if self.session is not None:
            self.events += self.session.receive(data)
            self._flush()
        self._changed.set()

    def connection_lost(self, exc: Exception | None) -> None:
        """Note the end."""
        self.gone = True
        self._changed.set()

    # --- sending ---

    def send(self, data: bytes) -> None:
        """Write bytes as they are."""
        assert self._transport is not None
        self._transport.write(data)

    def _flush(self) -> None:
        assert self.session is not None
        output = self.session.take_output()
        if output and not self.gone:
            self.send(output)

    def mqtt(self) -> ClientSession:
        """Give the session of a client that has one."""
        assert self.session is not None
        return self.session

    def publish_nowait(self, topic: str, payload: bytes, qos: int = 0, **options: Any) -> int | None:
        """Publish without waiting for anything."""
        packet_id = self.mqtt().publish(topic, payload, qos, **options)
        self._flush()
        return packet_id

    async def publish(self, topic: str, payload: bytes, qos: int = 1, **options: Any) -> ReasonCode:
        """Publish and wait for PUBACK, or PUBCOMP; give its reason."""
        packet_id = self.publish_nowait(topic, payload, qos, **options)
        return (await self.take(Published, lambda e: e.packet_id == packet_id)).reason_code

    async def subscribe(self, *filters: str, qos: int = 1, number: int | None = None, **more: Any) -> tuple[int, ...]:
        """Subscribe, with a subscription identifier or without, and wait for SUBACK; give its reasons."""
        wanted = [Subscription(topic_filter, qos, **more) for topic_filter in filters]
        packet_id = self.mqtt().subscribe(wanted, subscription_identifier=number)
        self._flush()
        return (await self.take(Subscribed, lambda e: e.packet_id == packet_id)).reason_codes

    async def ping(self) -> None:
        """Wait until the broker has handled all that was sent, and all that it had written for us is here."""
        session = self.mqtt()
        session.ping()
        self._flush()
        await self.until(lambda: not session.ping_outstanding)

    def disconnect(self) -> None:
        """Say goodbye and close."""
        self.mqtt().disconnect()
        self._flush()
        self.drop()

    def drop(self) -> None:
        """Close the connection without a word."""
        if self._transport is not None:
            self._transport.close()

    def end_of_input(self) -> None:
        """Tell the broker that nothing more comes, and go on reading."""
        with contextlib.suppress(OSError):  # the broker may have reset the connection
            if self._transport is not None and not self.gone:
                self._transport.write_eof()

    def abort(self) -> None:
        """Cut the connection off at once."""
        if self._transport is not None:
            self._transport.abort()

    def pause(self) -> None:
        """Stop reading."""
        assert self._transport is not None
        self._transport.pause_reading()

    def resume(self) -> None:
        """Go on reading."""
        assert self._transport is not None
        self._transport.resume_reading()

    # --- waiting ---

    async def until(self, condition: Callable[[], bool], *, or_gone: bool = False) -> None:
        """Wait for something that a read may bring. Raises `ClosedError` when the connection ends before."""
        async with asyncio.timeout(TIMEOUT_S):
            while not condition():
                if self.gone:
                    if or_gone:
                        return
                    raise ClosedError("the broker closed the connection")
                self._changed.clear()
                await self._changed.wait()

    async def take(self, kind: type[E], which: Callable[[E], bool] = lambda _: True) -> E:
        """Wait for the first event of this kind, and take it out."""

        def find() -> int | None:
            return next((i for i, e in enumerate(self.events) if isinstance(e, kind) and which(e)), None)

        await self.until(lambda: find() is not None)
        place = find()
        assert place is not None
        return cast("E", self.events.pop(place))

    async def message(self) -> Publish:
        """Wait for the next message."""
        return (await self.take(MessageReceived)).publish

    def messages(self) -> list[Publish]:
        """Give the messages that are here and not taken."""
        return [e.publish for e in self.events if isinstance(e, MessageReceived)]

    async def connack(self) -> ReasonCode:
        """Wait for CONNACK; give its reason."""
        await self.until(lambda: any(isinstance(e, Connected | Refused) for e in self.events))
        event = next(e for e in self.events if isinstance(e, Connected | Refused))
        self.events.remove(event)
        if isinstance(event, Connected):
            self.session_present = event.connack.session_present
        return event.reason_code if isinstance(event, Refused) else event.connack.reason_code

    async def wait_closed(self) -> None:
        """Wait for the end of the connection."""
        await self.until(lambda: self.gone)


class Running:
    """A broker in the test's event loop, with the tools of a test: clients, an operator's hand, a hand on the clock."""

    def __init__(self, path: Path, issued: IssuedToken, *, tls: bool = False, ws: bool = False) -> None:
        self.path = path
        self.issued = issued
        self.port = 0
        self.tls_port = 0
        self.ws_port = 0
        self.wss_port = 0
        self.clients: list[Client] = []
        self.others: list[Any] = []  # clients of other kinds; each has `abort()`
        self._tls = tls
        self._ws = ws
        self._offset_s = 0.0

    async def start(self) -> None:
        """Open the state and listen."""
        self.state = StateDirectory(self.path)
        tls, ws = (0 if self._tls else None), (0 if self._ws else None)
        wss = ws if self._tls else None
        self.server = EmbeddedServer(self.state, host="127.0.0.1", port=0, tls_port=tls, ws_port=ws, wss_port=wss)
        ports = {url.scheme: url.port or 0 for url in map(urlsplit, await self.server.start())}
        self.port = ports["mqtt"]
        self.tls_port, self.ws_port, self.wss_port = (ports.get(scheme, 0) for scheme in ("mqtts", "ws", "wss"))

    async def stop(self) -> None:
        """End it as SIGTERM does."""
        await self.server.stop()
        self.state.close()

    async def restart(self) -> None:
        """Stop and start again on the same state."""
        await self.stop()
        await self.start()

    @property
    def broker(self) -> EmbeddedBroker:
        """The broker itself."""
        return self.server.broker

    @property
    def responder(self) -> Responder:
        """What answers requests."""
        return self.server._run.responder

    def cut_off(self) -> None:
        """Cut all connections off."""
        for connection in list(self.broker._connections):
            assert connection._transport is not None
            connection._transport.abort()

    @property
    def admin(self) -> Administration:
        """Operator actions, as another process would do them."""
        return self.state.administration(ACTOR, now_ms, os.urandom)

    def advance(self, seconds: float) -> None:
        """Let this much time pass for the broker's deadlines, at once."""
        self._offset_s += seconds
        loop, offset_s = asyncio.get_running_loop(), self._offset_s
        self.broker.now_s = lambda: loop.time() + offset_s
        self.broker.turn()

    async def open(self, connect: Connect | None, **options: Any) -> Client:
        """Open a client that is closed at the end of the test."""
        client = await Client.open(self.tls_port if options.get("tls") else self.port, connect, **options)
        self.clients.append(client)
        return client

    async def login(
        self,
        username: str | None,
        password: str | None = None,
        *,
        client_id: str = "",
        version: ProtocolVersion = ProtocolVersion.V5,
        will: Will | None = None,
        keep_alive_s: int = 60,
        keep_s: int | None = None,
        clean_start: bool | None = None,
        properties: Properties = EMPTY_PROPERTIES,
        **options: Any,
    ) -> Client:
        """Log in and assert that it succeeds. With `keep_s` the session is to outlive its connection."""
        secret = password.encode() if password is not None else None
        if keep_s is not None and version is ProtocolVersion.V5:
            properties = msgspec.structs.replace(properties, session_expiry_interval_s=keep_s)
        clean = keep_s is None if clean_start is None else clean_start
        connect = Connect(client_id, version, clean, keep_alive_s, username, secret, will, properties)
        client = await self.open(connect, **options)
        assert await client.connack() == ReasonCode.SUCCESS
        return client

    async def refusal(
        self,
        username: str | None,
        password: str | None = None,
        *,
        client_id: str = "",
        version: ProtocolVersion = ProtocolVersion.V5,
        **more: Any,
    ) -> ReasonCode:
        """Try to log in; give the reason of CONNACK, and see the connection closed if it is a refusal."""
        secret = password.encode() if password is not None else None
        client = await self.open(Connect(client_id, version, username=username, password=secret), **more)
        reason = await client.connack()
        if reason != ReasonCode.SUCCESS:
            await client.wait_closed()
        return reason

    async def operator(self, role: OperatorRole = OperatorRole.OPERATOR, name: str | None = None) -> Client:
        """Make an operator and log in."""
        name = name or f"{role}-{os.urandom(3).hex()}"
        return await self.login(name, self.admin.create_operator(name, role))

    async def session(self, **options: Any) -> Client:
        """Open a provisioning session."""
        return await self.login("provision", **options)

    def payload(self, device_name: str | None = None, **fields: Any) -> bytes:
        """Write a request with this state's default key and secret."""
        return request_bytes(self.issued, device_name, **fields)

    async def provision(self, device_name: str | None = None, *, source: str = "127.0.0.1", **fields: Any) -> Any:
        """Provision over a session of its own; give the reply."""
        client = await self.session(source=source)
        try:
            return await ask(client, self.payload(device_name, **fields))
        finally:
            client.disconnect()

    async def device(self, device_name: str, **options: Any) -> Client:
        """Provision a device with an access token and log it in."""
        reply = await self.provision(device_name)
        assert reply["status"] == "SUCCESS", reply
        return await self.login(reply["credentialsValue"], **options)


async def ask(client: Client, payload: bytes, qos: int = 1) -> Any:
    """Send one request over a provisioning session and give the reply."""
    client.publish_nowait(REQUEST_TOPIC, payload, qos)
    message = await client.message()
    assert message.topic == RESPONSE_TOPIC
    return json.loads(message.payload)


@contextlib.asynccontextmanager
async def running(path: Path, *, tls: bool = False, ws: bool = False) -> AsyncIterator[Running]:
    """Run a broker on a new state directory; end it and all its clients afterwards."""
    broker = Running(path, new_state(path), tls=tls, ws=ws)
    await broker.start()
    try:
        yield broker
    finally:
        for client in (*broker.clients, *broker.others):
            client.abort()
        await broker.stop()
