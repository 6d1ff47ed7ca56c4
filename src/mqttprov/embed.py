"""Broker and responder inside somebody's asyncio program: start and stop, operator actions, what happens.

Works in any asyncio loop, as often as one likes in one process, and changes nothing of the process: no signal handlers,
no limits, no settings of the interpreter. What `mqttprov serve` does beyond this is in `brokers.embedded.serve`.
"""

import asyncio
import inspect
import logging
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self, TypeVar

from mqttprov.admin import Admin
from mqttprov.brokers.embedded import BrokerError, EmbeddedServer
from mqttprov.brokers.outcomes import LoginRefused, Outcome, Recorded, SessionBegun, SessionEnded
from mqttprov.core.audit import Event, EventKind
from mqttprov.core.login import LoginRefusal, Principal, Role
from mqttprov.responder.state_directory import StateDirectory, StateError

__all__ = [
    "Broker",
    "BrokerError",
    "Event",
    "EventKind",
    "LoginRefusal",
    "LoginRefused",
    "Outcome",
    "Principal",
    "Recorded",
    "Role",
    "SessionBegun",
    "SessionEnded",
    "StateError",
]

_R = TypeVar("_R")
_log = logging.getLogger(__name__)


class Broker:
    """A broker with its responder on a state directory; use it as an asynchronous context manager, or start and stop.

    Port 0 takes any free one, None opens no such listener; what the listeners became is in `urls`. TLS is set up as for
    `serve`, by `[tls]` in mqttprov.toml. `actor` is who acts in the audit events of `administer`, by default
    `api:<system account>`. Off loopback give TLS ports only: keys and secrets can be read on the others.
    """

    def __init__(
        self,
        state: str | os.PathLike[str],
        *,
        host: str = "127.0.0.1",
        port: int | None = 1883,
        tls_port: int | None = None,
        ws_port: int | None = None,
        wss_port: int | None = None,
        actor: str | None = None,
    ) -> None:
        self.urls: list[str] = []
        self._path = Path(state)
        self._host = host
        self._ports = {"port": port, "tls_port": tls_port, "ws_port": ws_port, "wss_port": wss_port}
        self._actor = actor
        self._handlers: list[Callable[[Outcome], object]] = []
        self._running: tuple[StateDirectory, EmbeddedServer] | None = None
        self._thread: ThreadPoolExecutor | None = None
        self._admin: Admin | None = None  # made and used in that thread

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Open the state directory and listen. Raises `StateError`, `BrokerError`; `RuntimeError` when it runs."""
        if self._running is not None:
            raise RuntimeError("this broker runs already")
        state = StateDirectory(self._path)
        server = EmbeddedServer(state, host=self._host, on_outcome=self._tell, **self._ports)
        try:
            self.urls = await server.start()
        except BaseException:
            state.close()
            raise
        self._running = state, server
        self._thread = ThreadPoolExecutor(1, "mqttprov-admin")

    async def stop(self) -> None:
        """Let nobody in any more, answer what was accepted, say goodbye and let go of everything.

        Operator actions under way are finished first. Without effect when it does not run.
        """
        if self._running is None or self._thread is None:
            return
        (state, server), self._running = self._running, None
        thread, self._thread = self._thread, None
        await asyncio.get_running_loop().run_in_executor(thread, self._close_admin)
        thread.shutdown(wait=False)
        await server.stop()
        state.close()
        self.urls = []

    async def administer(self, action: Callable[[Admin], _R]) -> _R:
        """Act as an operator: `action` gets an `mqttprov.admin.Admin` in a thread, while the loop goes on.

        Actions come one after the other. The `Admin` is for that thread: let an action return lists, not iterators.
        Never call an `Admin` in the loop's own thread: some verbs wait for this very broker to end sessions.
        Raises what the action raises, and `RuntimeError` when the broker does not run.
        """
        if self._thread is None:
            raise RuntimeError("this broker does not run")
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._act, action)

    def _act(self, action: Callable[[Admin], _R]) -> _R:
        if self._admin is None:
            self._admin = Admin(self._path, actor=self._actor)
        return action(self._admin)

    def _close_admin(self) -> None:
        if self._admin is not None:
            self._admin.close()
            self._admin = None

    def on_outcome(self, handler: Callable[[Outcome], object]) -> None:
        """Call `handler` with everything that happens: `Recorded`, `LoginRefused`, `SessionBegun`, `SessionEnded`.

        It is called in the loop, after the commit, and must not wait: it holds all clients up. An exception in it is
        logged and nothing else. Raises `TypeError` for a coroutine function; let a handler make a task.
        """
        if inspect.iscoroutinefunction(handler):
            raise TypeError("a handler of outcomes is no coroutine function; let it make a task or fill a queue")
        self._handlers.append(handler)

    def _tell(self, outcome: Outcome) -> None:
        for handler in self._handlers:
            try:
                handler(outcome)
            except Exception:  # noqa: BLE001 - whatever it is, the broker must not suffer
                _log.exception("a handler of outcomes failed")
