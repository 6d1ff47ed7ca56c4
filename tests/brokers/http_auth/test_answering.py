"""Who is let in to provision: those whose request would be answered, as the link to the broker is at that moment."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any
from urllib.parse import urlencode
from urllib.request import Request, urlopen

import pytest
from tests.brokers.harness import request_bytes
from tests.brokers.http_auth.conftest import Front
from tests.brokers.stub_broker import Server
from tests.cli.command import start
from tests.ports import free_port

from mqttprov.brokers import standing_link
from mqttprov.brokers.broker_link import BrokerAddress
from mqttprov.brokers.http_auth.answering import Answering
from mqttprov.brokers.http_auth.app import ADAPTERS
from mqttprov.brokers.http_auth.desk import Desk
from mqttprov.brokers.http_auth.routed_responder import RoutedResponder
from mqttprov.brokers.http_auth.server import path_secret
from mqttprov.core.login import LoginAttempt
from mqttprov.core.routed import Guest
from mqttprov.mqtt import Message, ReasonCode

GUEST_ID = "an-id-that-nobody-guesses-1"


class Joined:
    """A desk, and its responder as the client of a stub."""

    def __init__(self, front: Front, answering: Answering, port: int, connections: list[Server]) -> None:
        self.connections = connections
        self.desk = Desk(front.responder, front.reader, front.state.keys, now_s=front.now_s, answering=answering.now)
        address = BrokerAddress("127.0.0.1", port, tls=False)
        self.routed = RoutedResponder(front.responder, self.desk, answering, address, None)

    async def lets_in(self) -> bool:
        """Tell whether a provisioning session is let in."""
        return isinstance(await self.desk.authenticate(LoginAttempt(GUEST_ID, "provision", ""), ""), Guest)


Serve = Callable[[type[Server]], Any]


@pytest.fixture
async def join(front: Front, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Serve]:
    """Give a function that makes both, not connected yet."""
    monkeypatch.setattr(standing_link, "backoff_delay_s", lambda *_: 0.0)
    made: list[tuple[Joined, Answering, asyncio.Server]] = []

    async def make(kind: type[Server]) -> Joined:
        connections: list[Server] = []
        server = await asyncio.get_running_loop().create_server(lambda: kind(connections), "127.0.0.1", 0)
        answering = Answering(front.state.path, is_ours=True)
        joined = Joined(front, answering, server.sockets[0].getsockname()[1], connections)
        made.append((joined, answering, server))
        return joined

    yield make
    for joined, answering, server in made:
        await joined.routed.link.close()
        await asyncio.sleep(0)  # its end is told
        answering.close()
        server.close()


async def test_guests_are_let_in_while_the_link_stands(front: Front, join: Serve) -> None:
    """Before it is subscribed and after it is lost they are refused, and come again (P10); else they are answered."""
    joined = await join(Server)
    others = Answering(front.state.path, is_ours=False)
    assert not await joined.lets_in()
    assert not others.now()
    await joined.routed.link.start()
    assert await joined.lets_in()
    assert others.now()
    (server,) = joined.connections
    server.session.publish(Message(f"provision/request/{GUEST_ID}", request_bytes(front.issued, "gw-1")), 1)
    server.flush()
    seen = await server.until(2)
    reply = next(payload for topic, payload in seen if topic == f"provision/response/{GUEST_ID}")
    assert json.loads(reply)["status"] == "SUCCESS"
    link = await joined.routed.link.up()
    server.transport.abort()
    await link.ended
    assert not await joined.lets_in()
    assert not others.now()
    async with asyncio.timeout(30):
        while await joined.routed.link.up() is link:  # noqa: ASYNC110 - it learns of the end in one of the next turns
            await asyncio.sleep(0)
    assert await joined.lets_in()
    others.close()


async def test_an_operator_s_sessions_end_by_their_client_ids(front: Front, join: Serve) -> None:
    """A new password ends what stands under the old one, by a connection with its client id (P7)."""
    joined = await join(Server)
    await joined.desk.authenticate(LoginAttempt("desk-1", "ops", front.operator("ops")), "")
    front.responder.open_outbox(joined.routed.publish_event)
    front.administration.rotate_operator("ops")
    await joined.routed.act(front.reader.head().seq)
    (ending,) = joined.connections
    assert ending.client_id == "desk-1"


@pytest.mark.parametrize("name", ["emqx", "vernemq", "rabbitmq"])
async def test_each_broker_is_told_in_its_own_form(front: Front, name: str) -> None:
    """An explicit refusal while nobody would answer, and none afterwards: it is not remembered (P10)."""
    guest = {"clientid": GUEST_ID, "client_id": GUEST_ID, "username": "provision", "password": ""}
    path = {"emqx": "authenticate", "vernemq": "", "rabbitmq": "user"}[name]
    body = (urlencode(guest) if name == "rabbitmq" else json.dumps(guest)).encode()
    for answered in (False, True):
        front.is_answered = answered
        verdict = await front.ask(ADAPTERS[name], path, body, vernemq_hook="auth_on_register")
        assert (verdict == ADAPTERS[name].deny) is not answered


class Unwilling(Server):
    """A broker whose rights are not set up yet: the first connection may not subscribe."""

    def __init__(self, connections: list[Server]) -> None:
        super().__init__(connections)
        if len(connections) == 1:
            self.grants = ReasonCode.UNSPECIFIED_ERROR


async def test_a_link_that_may_not_subscribe_answers_nobody(join: Serve, expected_errors: list[str]) -> None:
    """It tries again until it may: rights that are repaired on the broker need no restart here."""
    expected_errors.append("does not let us subscribe")
    joined = await join(Unwilling)
    async with asyncio.timeout(30):
        await joined.routed.link.start()
    assert len(joined.connections) == 2
    assert await joined.lets_in()


async def test_the_command_tells_when_it_answers(front: Front) -> None:
    """Whoever starts it with --json can wait for that line; before it provisioning logins are refused."""
    port = free_port()
    options = ("--state", str(front.state.path), "--listen", "127.0.0.1:0", "--broker", f"mqtt://127.0.0.1:{port}")
    form = urlencode({"username": "provision", "password": "", "client_id": GUEST_ID}).encode()

    with start("http-auth", *options, "--json") as process:
        assert process.stdout is not None
        told = json.loads(await asyncio.to_thread(process.stdout.readline))
        question = f"{told['listening']}/{path_secret(front.state.path)}/rabbitmq/user"

        def ask() -> bytes:
            with urlopen(Request(question, form), timeout=30) as answer:  # noqa: S310 - ours
                return bytes(answer.read())

        assert await asyncio.to_thread(ask) == b"deny"
        server = await asyncio.get_running_loop().create_server(lambda: Server([]), "127.0.0.1", port)
        told = json.loads(await asyncio.to_thread(process.stdout.readline))
        assert told == {"connected": f"mqtt://127.0.0.1:{port}"}
        assert await asyncio.to_thread(ask) == b"allow"
        process.terminate()
        await asyncio.to_thread(process.communicate)
        server.close()
    assert process.returncode == 0
