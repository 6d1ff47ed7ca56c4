"""The broker's end of the doorbell (`mqttprov.responder.doorbell`): act up to a place in the chain, then say so."""

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from mqttprov.responder import doorbell
from mqttprov.store.protocol import StoreUnavailable

MAX_CALLERS: Final = 64
_LINE_TIMEOUT_S: Final = 5.0

_log = logging.getLogger(__name__)


class Bell:
    """Listens from before the first client may connect until the last one is gone, so that no session is missed."""

    def __init__(self, state: Path, verb: str = "serve") -> None:
        """Take a place among the doorbells of this state, under the verb that runs here. Raises `OSError`."""
        self._state = state
        self._name = f"{verb}-{os.getpid()}-{os.urandom(4).hex()}"
        self._socket: socket.socket | None = doorbell.bind(state, self._name)
        self._server: asyncio.Server | None = None
        self._callers: set[asyncio.Task[None]] = set()

    async def open(self, act: Callable[[int], Awaitable[None]]) -> None:
        """Answer callers; `act` returns when everything up to a place has had its effect."""

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None  # noqa: S101 - for the type checker: this runs as one
            self._callers.add(task)
            try:
                writer.write(await self._answer(reader, act))
                await writer.drain()
            except OSError:
                _log.debug("somebody rang and did not wait for the answer")
            finally:
                self._callers.discard(task)
                writer.close()

        self._server = await asyncio.start_unix_server(answer, sock=self._socket, limit=doorbell.MAX_LINE_BYTES)
        self._socket = None

    async def _answer(self, reader: asyncio.StreamReader, act: Callable[[int], Awaitable[None]]) -> bytes:
        # A caller takes a closed connection for a broker that has ended, so every other end is said.
        if len(self._callers) > MAX_CALLERS:
            return doorbell.FAILED
        try:
            async with asyncio.timeout(_LINE_TIMEOUT_S):
                seq = int(await reader.readline())
            await act(seq)
        except StoreUnavailable as error:
            _log.error("an operator's command waits in vain: %s", error)
            return doorbell.FAILED
        except (ValueError, TimeoutError):
            return doorbell.FAILED
        return doorbell.DONE

    async def close(self) -> None:
        """Answer nobody any more; those who wait learn that this broker has ended."""
        doorbell.unbind(self._state, self._name)
        if self._socket is not None:
            self._socket.close()
        if self._server is not None:
            self._server.close()
        for task in list(self._callers):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
