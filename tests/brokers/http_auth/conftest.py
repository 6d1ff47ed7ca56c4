"""A desk over a state directory of its own, without HTTP."""

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.brokers.harness import ACTOR, new_state, request_bytes

from mqttprov.brokers.http_auth.adapter import Adapter, Question
from mqttprov.brokers.http_auth.desk import Desk
from mqttprov.brokers.responder_run import now_ms
from mqttprov.core.model import OperatorRole
from mqttprov.responder.administration import Administration
from mqttprov.responder.service import Responder
from mqttprov.responder.state_directory import StateDirectory


class Front:
    """A desk with an operator's hand, and a clock that tests may advance."""

    def __init__(self, path: Path) -> None:
        self.issued = new_state(path)
        self.state = StateDirectory(path)
        self.offset_s = 0.0
        self.is_answered = True
        self.reader = self.state.store.reader()
        self.responder = Responder(
            self.state.store,
            self.state.keys,
            now_ms=now_ms,
            now_s=self.now_s,
            entropy=os.urandom,
            call_soon=asyncio.get_running_loop().call_soon_threadsafe,
        )
        self.desk = self.new_desk()
        self.responder.start()

    def now_s(self) -> float:
        """Give the monotonic clock."""
        return time.monotonic() + self.offset_s

    def new_desk(self) -> Desk:
        """Give a desk that remembers nothing, as after a restart."""
        return Desk(self.responder, self.reader, self.state.keys, now_s=self.now_s, answering=lambda: self.is_answered)

    async def provision(self, name: str, **fields: Any) -> str:
        """Provision a device; give its access token."""
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self.responder.request(
            request_bytes(self.issued, name, **fields), "192.0.2.1", lambda payload, _: answer.set_result(payload)
        )
        reply = json.loads(await answer)
        assert reply["status"] == "SUCCESS", reply
        return str(reply["credentialsValue"])

    def operator(self, name: str) -> str:
        """Make an operator; give the password."""
        return self.administration.create_operator(name, OperatorRole.OPERATOR)

    @property
    def administration(self) -> Administration:
        """Operator actions, as another process does them."""
        return self.state.administration(ACTOR, now_ms, os.urandom)

    def suspend(self, name: str) -> None:
        """Suspend a device, as another process does."""
        self.state.device_life(ACTOR, now_ms).suspend(name)

    def resume(self, name: str) -> None:
        """Resume it."""
        self.state.device_life(ACTOR, now_ms).resume(name)

    async def ask(self, adapter: Adapter, path: str, body: bytes, **headers: str) -> bytes:
        """Ask as a broker does, past HTTP."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await adapter.answer(self.desk, Question(path, named, body))

    def close(self) -> None:
        """Let go of everything."""
        self.responder.close()
        self.responder.join(10)
        self.responder.release()
        self.reader.close()
        self.state.close()


@pytest.fixture
async def front(tmp_path: Path) -> AsyncIterator[Front]:
    """Give a desk on a new state directory."""
    one = Front(tmp_path / "state")
    yield one
    one.close()
