"""Runs the coroutines of plugins as far as they go at once; a task is made only for the rest of one that waits.

Most plugins never wait, and a task for each call would cost more than all else that a broker does with a message. But a
coroutine that uses timeouts must run in a task from its beginning. So the first call of each method is a task; one that
came through without waiting is run at once from then on.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Generator
from typing import Any, Final

MAX_WAITING: Final = 10_000

_log: Final = logging.getLogger(__name__)


class _Rest:
    """What is left of a coroutine that waits for `future`; counts how often it waits."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any], future: Any = None) -> None:
        self._coroutine = coroutine
        self._future = future
        self.waits = 0

    def __await__(self) -> Generator[Any, Any, Any]:
        future = self._future
        try:
            if future is None:
                future = self._coroutine.send(None)
            while True:
                self.waits += 1
                try:
                    value = yield future
                except BaseException as error:  # noqa: BLE001 - it is the coroutine's to handle, whatever it is
                    future = self._coroutine.throw(error)
                else:
                    future = self._coroutine.send(value)
        except StopIteration as end:
            return end.value


class PluginCalls:
    """Calls plugins in one event loop. What waits at the same time is bounded (P9)."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._tasks: set[asyncio.Task[None]] = set()
        self._never_waits: set[Any] = set()

    def start(self, coroutine: Coroutine[Any, Any, Any], done: Callable[[Any], None], *, failed: Any = None) -> bool:
        """Run a coroutine; `done` gets its result, or `failed` if it raised. Tell whether that has happened already."""
        try:
            future = coroutine.send(None)
        except StopIteration as end:
            done(end.value)
            return True
        except Exception:  # noqa: BLE001 - it is somebody else's code
            _log.exception("a plugin failed")
            done(failed)
            return True
        if len(self._tasks) >= MAX_WAITING:
            coroutine.close()
            _log.error("more than %d calls of plugins wait; one is given up", MAX_WAITING)
            done(failed)
            return True
        task = self._loop.create_task(self._finish(_Rest(coroutine, future), done, failed))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return False

    async def _finish(self, rest: _Rest, done: Callable[[Any], None], failed: Any) -> None:
        try:
            result = await rest
        except Exception:  # noqa: BLE001 - the same
            _log.exception("a plugin failed")
            result = failed
        done(result)

    async def call(self, method: Callable[..., Coroutine[Any, Any, Any]], **arguments: Any) -> Any:
        """Call one method of a plugin."""
        # Bound methods are equal when object and function are, and partials by what they are.
        if method in self._never_waits:
            return await method(**arguments)
        rest = _Rest(method(**arguments))

        async def run() -> Any:
            return await rest

        result = await self._loop.create_task(run())
        if not rest.waits:
            self._never_waits.add(method)
        return result

    async def close(self) -> None:
        """Wait a moment for what still runs, then end it."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=1.0)
        for task in list(self._tasks):
            task.cancel()
