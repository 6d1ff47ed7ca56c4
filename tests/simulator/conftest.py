"""A broker for tests of the swarm: `mqtt.ServerSession` on real sockets, obliging or not, as ordered."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from typing import Any, cast

import msgspec
import pytest

from mqttprov.mqtt import (
    ConnectReceived,
    Message,
    PublishReceived,
    ReasonCode,
    ServerEvent,
    ServerLimits,
    ServerSession,
    SubscribeReceived,
)
from mqttprov_simulator.plan import SwarmPlan

_LIMITS = ServerLimits()
_PINGREQ = bytes((0xC0, 0))
Reply = Callable[[dict[str, Any]], dict[str, Any] | None]


class StubBroker:
    """Gives every device name its own token and knows them again at login."""

    def __init__(self) -> None:
        self.reply: Reply = self.grant
        self.refuse_login: Callable[[str], ReasonCode | None] = lambda _token: None
        self.requests: list[bytes] = []
        self.logins: list[str] = []
        self.sources: set[str] = set()
        self.pings = 0
        self.answers_pings = True
        self.connections: set[StubConnection] = set()
        self.empty = asyncio.Event()  # nobody is connected
        self.empty.set()
        self.port = 0
        self._server: asyncio.Server | None = None

    async def start(self, tls: ssl.SSLContext | None = None) -> None:
        """Listen, on the port of the last time if there was one."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: StubConnection(self), "127.0.0.1", self.port, backlog=4096, reuse_address=True, ssl=tls
        )
        self.port = self._server.sockets[0].getsockname()[1]

    def stop(self) -> None:
        """Drop every connection and listen no more, as a killed process does."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for connection in list(self.connections):
            connection.transport.abort()

    def grant(self, request: dict[str, Any]) -> dict[str, Any] | None:
        """Issue a token made of the name."""
        return {"credentialsType": "ACCESS_TOKEN", "credentialsValue": _token(request), "status": "SUCCESS"}


def _token(request: dict[str, Any]) -> str:
    return f"token-of-{request['deviceName']}"


class StubConnection(asyncio.Protocol):
    """One connection to the stub."""

    transport: asyncio.Transport

    def __init__(self, broker: StubBroker) -> None:
        self._broker = broker
        self._session = ServerSession(_LIMITS)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self.transport = cast("asyncio.Transport", transport)
        broker = self._broker
        broker.connections.add(self)
        broker.empty.clear()
        broker.sources.add(transport.get_extra_info("peername")[0])

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        self._broker.connections.discard(self)
        if not self._broker.connections:
            self._broker.empty.set()

    def data_received(self, data: bytes) -> None:
        """Answer."""
        if data == _PINGREQ:
            self._broker.pings += 1
            if not self._broker.answers_pings:
                return
        for event in self._session.receive(data):
            self._answer(event)
        self.transport.write(self._session.take_output())
        if self._session.closed:
            self.transport.close()

    def _answer(self, event: ServerEvent) -> None:
        if isinstance(event, ConnectReceived):
            self._answer_connect(event.connect.username or "", event.connect.client_id)
        elif isinstance(event, SubscribeReceived):
            granted = (ReasonCode.GRANTED_QOS_1,) * len(event.subscribe.subscriptions)
            self._session.suback(event.subscribe.packet_id, granted)
        elif isinstance(event, PublishReceived):
            publish = event.publish
            if publish.packet_id is not None:
                self._session.acknowledge(publish.packet_id)
            if publish.topic == "/provision/request":
                self._broker.requests.append(publish.payload)
                reply = self._broker.reply(msgspec.json.decode(publish.payload))
                if reply is not None:
                    self._session.publish(Message("/provision/response", msgspec.json.encode(reply)), 1)

    def _answer_connect(self, username: str, client_id: str) -> None:
        refusal = None if username == "provision" else self._broker.refuse_login(username)
        if refusal is not None:
            self._session.refuse(refusal)
            return
        if username != "provision":
            self._broker.logins.append(username)
        for event in self._session.accept(assigned_client_id=None if client_id else "assigned"):
            self._answer(event)


@pytest.fixture
async def stub() -> AsyncIterator[StubBroker]:
    """A stub broker that listens."""
    broker = StubBroker()
    await broker.start()
    yield broker
    broker.stop()
    await asyncio.wait_for(broker.empty.wait(), 30)


@pytest.fixture
def plan(stub: StubBroker) -> SwarmPlan:
    """Ten gateways for the stub, impatient ones."""
    base = SwarmPlan(host="127.0.0.1", port=stub.port, key="key", secret="hidden-secret", gateways=10, timeout_s=20)
    return msgspec.structs.replace(
        base, machine=msgspec.structs.replace(base.machine, backoff_base_s=0.02, backoff_cap_s=0.1)
    )
