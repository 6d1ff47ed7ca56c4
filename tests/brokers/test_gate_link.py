"""The responder's connection to Mosquitto, against a server session of our own: order, gathering, loss, back-off."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest
from tests.brokers.stub_broker import Server

from mqttprov.brokers import standing_link
from mqttprov.brokers.broker_link import BrokerAddress, LinkLost
from mqttprov.brokers.gate_desk import GateDesk
from mqttprov.brokers.gate_link import CONTROL_TOPIC, MAX_COMMANDS_BYTES, RECEIVE_MAXIMUM, GateLink
from mqttprov.brokers.standing_link import StandingLink
from mqttprov.mqtt import Message, Properties, ProtocolVersion, Publish, ReasonCode, encode
from mqttprov.responder.pipeline import MAX_QUEUED

Connecting = Callable[[], Awaitable[tuple[StandingLink[GateLink], Server]]]


@pytest.fixture
def connections() -> list[Server]:
    """Give all connections that a test makes."""
    return []


@pytest.fixture
async def connect(connections: list[Server], monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Connecting]:
    """Give a function that makes a standing connection to a server."""
    monkeypatch.setattr(standing_link, "backoff_delay_s", lambda *_: 0.0)
    server = await asyncio.get_running_loop().create_server(lambda: Server(connections), "127.0.0.1", 0)
    made: list[StandingLink[GateLink]] = []
    got: list[Publish] = []

    async def make() -> tuple[StandingLink[GateLink], Server]:
        async def prepare(link: GateLink) -> None:
            await link.subscribe("x")

        address = BrokerAddress("127.0.0.1", server.sockets[0].getsockname()[1], tls=False)
        standing = StandingLink(
            address,
            lambda: GateLink(address, "secret", lambda _, publish: got.append(publish)),
            tls=None,
            prepare=prepare,
        )
        made.append(standing)
        async with asyncio.timeout(30):
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
    async with asyncio.timeout(30):
        while not link._session._inbound_window():  # noqa: ASYNC110 - the link tells nobody of it but its owner
            await asyncio.sleep(0.01)
    link.settle(1)
    link.command("reply 0 2 p:a", b"ok")
    link.command("recorded 1 0 d:b")
    assert (await server.until(2))[:2] == [(CONTROL_TOPIC, b"reply 0 2 p:a\nokrecorded 1 0 d:b\n"), ("PUBACK", b"")]


async def test_a_packet_of_commands_is_bounded(connect: Connecting) -> None:
    """More than fits into one go into several, none of them cut (P9)."""
    standing, server = await connect()
    link = await standing.up()
    for number in range(40):
        link.command(f"reply 0 4000 p:{number:04}", b"x" * 4000)
    await link.execute("kick 0 0 d:a")
    packets = [payload for _, payload in server.seen]
    assert len(packets) == 6
    assert all(len(packet) <= MAX_COMMANDS_BYTES for packet in packets)
    assert b"".join(packets).count(b"reply ") == 40
    assert packets[-1] == b"kick 0 0 d:a"


def test_the_pipeline_is_full_before_the_broker_drops_anything() -> None:
    """So it is us who tell a device at once that it is too much; Mosquitto drops its request without a word (P9)."""
    assert RECEIVE_MAXIMUM > MAX_QUEUED


async def test_a_broker_that_sends_too_much_is_borne_with(connect: Connecting) -> None:
    """Mosquitto 2.0 exceeds our Receive Maximum; hanging up would make a storm worse (P10)."""
    standing, server = await connect()
    link = await standing.up()
    for number in range(1, RECEIVE_MAXIMUM + 100):
        server.transport.write(encode(Publish("x", b"request", 1, packet_id=number), ProtocolVersion.V5))
    async with asyncio.timeout(30):
        while len(link._session._inbound_window()) < RECEIVE_MAXIMUM + 99:  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0.01)
    assert await link.execute("kick 0 0 d:a") == ReasonCode.SUCCESS


async def test_a_lost_connection_is_told_and_made_again(connect: Connecting, connections: list[Server]) -> None:
    """Who waits for the broker learns that it will not answer; the next connection is up by itself (P10)."""
    standing, server = await connect()
    link = await standing.up()
    server.acknowledges = False
    waiting = link.execute("kick 0 0 d:a")
    await server.until(1)
    server.transport.abort()
    with pytest.raises(LinkLost):
        await waiting
    with pytest.raises(LinkLost):
        link.execute("kick 0 0 d:a")
    link.command("reply 0 0 p:a")  # for nobody, and no error
    link.settle(1)
    async with asyncio.timeout(30):
        while len(connections) < 2 or standing.link is link:  # noqa: ASYNC110 - it tells nobody before it is up
            await asyncio.sleep(0.01)
        again = await standing.up()
    assert again is not link
    assert await again.execute("kick 0 0 d:a") == ReasonCode.SUCCESS


def test_a_request_is_settled_behind_its_reply() -> None:
    """What is said names the connection that asked; the broker may forget the request no earlier (P2, P3)."""
    asked: list[Any] = []
    said: list[str | int | None] = []
    link = cast("GateLink", SimpleNamespace(settle=said.append, command=lambda line, _: said.append(line)))
    responder: Any = SimpleNamespace(request=lambda *request: asked.append(request))
    properties = Properties(user_properties=(("source", "10.0.0.1"),))
    request = Publish("_prov/request/00ff", b"{}", 1, packet_id=1, properties=properties)
    GateDesk(responder, lambda: link).message(link, request)
    assert (len(asked), said) == (1, [])
    asked[0][2](json.dumps({}).encode(), None)
    assert said == ["reply 0 2 p:00ff", 1]


def test_refused_logins_are_added_up_by_source() -> None:
    """The gate tells each with its source, and beyond its bound a number without (P9)."""
    counted: list[Any] = []
    link = cast("GateLink", SimpleNamespace(settle=lambda _: None))
    responder: Any = SimpleNamespace(count=lambda *what, times: counted.append((*what[1:], times)))
    desk = GateDesk(responder, lambda: link)
    told = Properties(user_properties=(("source", "10.0.0.1"),))
    desk.message(link, Publish("_prov/refused/unknown", b"1", 1, packet_id=1, properties=told))
    desk.message(link, Publish("_prov/refused/state", b"70", 1, packet_id=2))
    assert counted == [("10.0.0.1", "unknown", 1), (None, "state", 70)]


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
    link = cast("GateLink", SimpleNamespace(settle=settled.append))
    GateDesk(cast("Any", SimpleNamespace(request=None)), lambda: link).message(link, publish)
    assert settled == [7]
