"""The HTTP side, as a broker meets it: a real listener, and requests that are too large, too slow or not for us."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from urllib.parse import urlencode

import pytest
import uvicorn
from tests.brokers.http_auth.conftest import Front

from mqttprov.brokers.http_auth import app as app_module
from mqttprov.brokers.http_auth.app import MAX_BODY_BYTES
from mqttprov.brokers.http_auth.server import listener_settings

SECRET = "the-secret-in-the-path-0123"
LOGIN = urlencode({"username": "provision", "password": "", "vhost": "/", "client_id": "an-id-that-nobody-guesses-1"})


class Site:
    """A listener, and what came back from it."""

    def __init__(self, port: int) -> None:
        self.port = port

    async def send(self, data: bytes) -> bytes:
        """Send bytes and give all that comes until the end."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            with contextlib.suppress(ConnectionError):
                writer.write(data)
                await writer.drain()
            async with asyncio.timeout(30):
                return await reader.read()
        finally:
            writer.close()

    async def post(self, path: str, body: str = LOGIN, method: str = "POST") -> tuple[int, str]:
        """Ask; give status and body."""
        head = f"{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {len(body)}\r\n\r\n"
        answer = (await self.send(head.encode() + body.encode())).decode()
        return int(answer.split()[1]), answer.partition("\r\n\r\n")[2]


@pytest.fixture
async def site(front: Front) -> AsyncIterator[Site]:
    """Serve the application on a free port."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(listener_settings(front.desk, SECRET, None))
    task = asyncio.create_task(server._serve([listener]))  # without its signal handlers, which are the test runner's
    while not server.started:  # noqa: ASYNC110 - it has no event to wait for
        await asyncio.sleep(0)
    yield Site(listener.getsockname()[1])
    server.should_exit = True
    await task
    listener.close()


async def test_a_question_is_answered(site: Site) -> None:
    """With status 200 and the verdict as text."""
    assert await site.post(f"/{SECRET}/rabbitmq/user") == (200, "allow")


@pytest.mark.parametrize(
    ("path", "denial"),
    [
        ("/wrong/rabbitmq/user", "deny"),
        (f"/{SECRET}x/rabbitmq/user", "deny"),
        ("/wrong/emqx/authenticate", '{"result":"deny"}'),
        ("/wrong/vernemq", '{"result":{"error":"not_allowed"}}'),
        (f"/{SECRET}/vernemq", '{"result":{"error":"not_allowed"}}'),
        (f"/{SECRET}/rabbitmq/elsewhere", "deny"),
    ],
)
async def test_a_refusal_is_explicit(site: Site, path: str, denial: str) -> None:
    """Status 200 in the broker's own words, also for those without the secret: no broker takes it for an error."""
    assert await site.post(path) == (200, denial)


async def test_other_paths_are_not_there(site: Site) -> None:
    """Nothing is told about what is."""
    for path in ("/", f"/{SECRET}", f"/{SECRET}/nats/user"):
        assert (await site.post(path))[0] == 404


async def test_passwords_do_not_come_in_addresses(site: Site) -> None:
    """GET, which is RabbitMQ's default, is refused."""
    assert await site.post(f"/{SECRET}/rabbitmq/user?{LOGIN}", "", "GET") == (200, "deny")


async def test_a_body_is_bounded(site: Site) -> None:
    """However it is announced (P9)."""
    assert await site.post(f"/{SECRET}/rabbitmq/user", "a" * (MAX_BODY_BYTES + 1)) == (200, "deny")
    chunk = f"{MAX_BODY_BYTES:x}\r\n{'a' * MAX_BODY_BYTES}\r\n" * 2
    head = (
        f"POST /{SECRET}/rabbitmq/user HTTP/1.1\r\nhost: x\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n"
    )
    assert b"deny" in await site.send(f"{head}{chunk}0\r\n\r\n".encode())


async def test_who_is_slow_is_refused(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A question that does not come to its end takes no place for long (P9)."""
    monkeypatch.setattr(app_module, "BODY_TIMEOUT_S", 0.05)
    head = f"POST /{SECRET}/rabbitmq/user HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\nconnection: close\r\n\r\n"
    assert (await site.send(head.encode())).endswith(b"deny")


async def test_too_many_at_once_are_refused_at_once(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits in a queue without a bound (P9)."""
    monkeypatch.setattr(app_module, "MAX_AT_ONCE", 0)
    assert await site.post(f"/{SECRET}/rabbitmq/user") == (200, "deny")


async def test_a_fault_is_a_refusal(
    site: Site, front: Front, monkeypatch: pytest.MonkeyPatch, expected_errors: list[str]
) -> None:
    """Whatever goes wrong opens no door, and is told in the log."""
    expected_errors.append("could not be answered")

    def broken(*_: object) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(front.responder, "login", broken)
    body = LOGIN.replace("provision", "somebody")
    assert await site.post(f"/{SECRET}/rabbitmq/user", body) == (200, "deny")


async def test_the_log_holds_no_secret(site: Site, front: Front, caplog: pytest.LogCaptureFixture) -> None:
    """Neither that of the path nor a device's, whether it is let in or not (P6)."""
    token = await front.provision("gw-1")
    for path in (f"/{SECRET}/rabbitmq/user", "/wrong-but-near/rabbitmq/user"):
        for client_id in ("c-1", ""):
            await site.post(
                path, urlencode({"username": token, "password": "pa55", "vhost": "/", "client_id": client_id})
            )
    told = "\n".join(record.getMessage() for record in caplog.records)
    assert not any(secret in told for secret in (SECRET, token, "pa55", "wrong-but-near"))
