"""The responder's connection to Mosquitto, against a server session of our own: order, gathering, loss, back-off."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from mqttprov.brokers import standing_link
from mqttprov.brokers.gate_desk import GateDesk
from mqttprov.brokers.gate_link import CONTROL_TOPIC, MAX_COMMANDS_BYTES, BrokerAddress, Link, LinkLost
from mqttprov.brokers.standing_link import StandingLink
from mqttprov.mqtt import (
    ConnectReceived,
    Message,
    MessageDelivered,
    Properties,
    Publish,
    PublishReceived,
    ReasonCode,
    ServerLimits,
    ServerSession,
    SubscribeReceived,
)
from mqttprov.mqtt.events import ServerEvent


class Server(asyncio.Protocol):
    """The other end: accepts everybody, acknowledges what it is told to, and notes what comes in which order."""

    connections: "list[Server]"

    def __init__(self, connections: "list[Server]") -> None:
        connections.append(self)
        self.session = ServerSession(ServerLimits())
        self.seen: list[tuple[str, bytes]] = []
        self.acknowledges = True
        self.changed = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Note what comes, and answer."""
        for event in self.session.receive(data):
            self._take(event)
        self.flush()
        self.changed.set()

    def _take(self, event: ServerEvent) -> None:
        match event:
            case ConnectReceived():
                self.session.accept()
            case SubscribeReceived(subscribe):
                self.session.suback(subscribe.packet_id, (ReasonCode.GRANTED_QOS_1,) * len(subscribe.subscriptions))
            case PublishReceived(publish):
                self.seen.append((publish.topic, publish.payload))
                if publish.packet_id is not None and self.acknowledges:
                    self.session.acknowledge(publish.packet_id)
            case MessageDelivered():
                self.seen.append(("PUBACK", b""))

    def flush(self) -> None:
        """Write."""
        self.transport.write(self.session.take_output())

    async def until(self, number: int) -> list[tuple[str, bytes]]:
        """Wait until so much has come."""
        async with asyncio.timeout(10):
            while len(self.seen) < number:
                self.changed.clear()
                await self.changed.wait()
        return self.seen


Connecting = Callable[[], Awaitable[tuple[StandingLink, Server]]]


@pytest.fixture
def connections() -> list[Server]:
    """Give all connections that a test makes."""
    return []


@pytest.fixture
async def connect(connections: list[Server], monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Connecting]:
    """Give a function that makes a standing connection to a server."""
    monkeypatch.setattr(standing_link, "backoff_delay_s", lambda *_: 0.0)
    server = await asyncio.get_running_loop().create_server(lambda: Server(connections), "127.0.0.1", 0)
    made: list[StandingLink] = []
    got: list[Publish] = []

    async def make() -> tuple[StandingLink, Server]:
        async def prepare(link: Link) -> None:
            await link.subscribe("x")

        address = BrokerAddress("127.0.0.1", server.sockets[0].getsockname()[1], tls=False)
        standing = StandingLink(
            address, "secret", tls=None, prepare=prepare, on_message=lambda _, publish: got.append(publish)
        )
        made.append(standing)
        async with asyncio.timeout(10):
            await standing.start()
        return standing, connections[-1]

    yield make
    for standing in made:
        await standing.close()
    server.close()


async def test_commands_leave_together_and_acknowledgements_behind_them(connect: Connecting) -> None:
    """Replies of a batch are one packet; a request is settled no earlier than its reply was written (P2)."""
    standing, server = await connect()
    link = await standing.up()
    server.session.publish(Message("x", b"request"), 1)
    server.flush()
    async with asyncio.timeout(10):
        while not link._session._inbound_window():  # noqa: ASYNC110 - the link tells nobody of it but its owner
            await asyncio.sleep(0.01)
    link.settle(1)
    link.command("reply a 2", b"ok")
    link.command("recorded b 1")
    assert (await server.until(2))[:2] == [(CONTROL_TOPIC, b"reply a 2\nokrecorded b 1\n"), ("PUBACK", b"")]


async def test_a_packet_of_commands_is_bounded(connect: Connecting) -> None:
    """More than fits into one go into several, none of them cut (P9)."""
    standing, server = await connect()
    link = await standing.up()
    for number in range(40):
        link.command(f"reply {number:04} 4000", b"x" * 4000)
    await link.execute("hello - 0")
    packets = [payload for _, payload in server.seen]
    assert len(packets) == 6
    assert all(len(packet) <= MAX_COMMANDS_BYTES for packet in packets)
    assert b"".join(packets).count(b"reply ") == 40
    assert packets[-1] == b"hello - 0"


async def test_a_lost_connection_is_told_and_made_again(connect: Connecting, connections: list[Server]) -> None:
    """Who waits for the broker learns that it will not answer; the next connection is up by itself (P10)."""
    standing, server = await connect()
    link = await standing.up()
    server.acknowledges = False
    waiting = link.execute("kick a 0")
    await server.until(1)
    server.transport.abort()
    with pytest.raises(LinkLost):
        await waiting
    with pytest.raises(LinkLost):
        link.execute("kick a 0")
    link.command("reply a 0")  # for nobody, and no error
    link.settle(1)
    async with asyncio.timeout(10):
        while len(connections) < 2 or standing.link is link:  # noqa: ASYNC110 - it tells nobody before it is up
            await asyncio.sleep(0.01)
        again = await standing.up()
    assert again is not link
    assert await again.execute("hello") == ReasonCode.SUCCESS


def test_a_request_that_is_told_twice_is_decided_once() -> None:
    """The gate asks again when a responder comes or goes; the one who is at it answers, and acknowledges both."""
    asked: list[Any] = []
    said: list[str] = []
    settled: list[int | None] = []
    link = cast("Link", SimpleNamespace(settle=settled.append, command=lambda line, _: said.append(line)))
    responder: Any = SimpleNamespace(request=lambda *request: asked.append(request))
    desk = GateDesk(responder, lambda: link)
    properties = Properties(user_properties=(("source", "10.0.0.1"),))
    for packet_id in (1, 2):
        desk.message(link, Publish("_prov/request/00ff", b"{}", 1, packet_id=packet_id, properties=properties))
    assert (len(asked), settled) == (1, [2])
    asked[0][2](json.dumps({}).encode(), None)
    assert (said, settled) == (["reply 00ff 2"], [2, 1])


@pytest.mark.parametrize(
    "publish",
    [
        Publish("_prov/request/00ff", b"{}", 1, packet_id=7),
        Publish("_prov/first/00", b"x", 1, packet_id=7),
        Publish("_prov/refused/nonsense", b"1", 1, packet_id=7),
        Publish("_prov/unheard-of/1", b"", 1, packet_id=7),
    ],
    ids=lambda publish: publish.topic,
)
def test_what_cannot_be_read_does_not_stay_in_the_way(publish: Publish, expected_errors: list[str]) -> None:
    """A gate of another release: it is logged, and settled so that the window does not fill (P9)."""
    expected_errors.append("could not be read")
    settled: list[int | None] = []
    link = cast("Link", SimpleNamespace(settle=settled.append))
    GateDesk(cast("Any", SimpleNamespace(request=None)), lambda: link).message(link, publish)
    assert settled == [7]
