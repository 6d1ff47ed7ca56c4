"""Yardstick: the embedded broker with a responder that does nothing. It answers at once and lets everybody in.

What it reaches is the limit of the broker's own engine: no rules, no store, no commit, no audit.
"""

import asyncio
import os
import sys
from collections.abc import Callable
from itertools import count
from typing import Any

import uvloop

from mqttprov.brokers.broker import EmbeddedBroker
from mqttprov.brokers.connection import Connection
from mqttprov.core.login import Login, LoginAttempt, Principal, Role
from mqttprov.core.model import CredentialsType
from mqttprov.core.requests import FactoryIdentity, Granted, Outcome
from mqttprov.responder.service import Responder


class DoNothing(Responder):
    """Stands where `Responder` stands: a subclass, so that the type checker tells when a method changes."""

    def __init__(self) -> None:
        self._numbers = count(1)

    def request(
        self,
        payload: bytes,
        source: str,
        reply: Callable[[bytes, Outcome], None],
        factory: FactoryIdentity | None = None,
    ) -> None:
        """Answer with a token that is the device's number."""
        token = f"token-{next(self._numbers)}"
        body = b'{"credentialsValue":"%b","credentialsType":"ACCESS_TOKEN","status":"SUCCESS"}' % token.encode()
        reply(body, Granted("", "", CredentialsType.ACCESS_TOKEN, token, ""))

    def login(self, attempt: LoginAttempt, source: str, done: Callable[[Login], None]) -> None:
        """Let everybody in, as the device that its token names."""
        name = attempt.username or ""
        done(Login(Principal(Role.DEVICE, name, name, 1)))


async def _main() -> None:
    loop: Any = asyncio.get_running_loop()
    broker = EmbeddedBroker(DoNothing(), loop, new_client_id=lambda: os.urandom(10).hex(), max_connections=50_000)
    server = await loop.create_server(lambda: Connection(broker), "127.0.0.1", 0, backlog=4096)
    print(f"mqtt://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await loop.run_in_executor(None, sys.stdin.read)  # ends with the process that started it


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_main())
