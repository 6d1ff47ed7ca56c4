"""A responder at work beside somebody else's broker: its writer, the outbox of audit events, checkpoints, the doorbell.

Sessions and topics are the broker's affair; it is called with what was committed and is asked to act on it.
"""

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable
from typing import Final

from mqttprov.brokers.bell import Bell
from mqttprov.brokers.embedded import DRAIN_TIMEOUT_S, OUTBOX_INTERVAL_S, now_ms
from mqttprov.core.audit import ChainedEvent
from mqttprov.responder.checkpoints import CheckpointWriter, PeriodicCheckpoints
from mqttprov.responder.service import Responder
from mqttprov.responder.state_directory import StateDirectory

_log: Final = logging.getLogger(__name__)


class ResponderRun:
    """One responder from its start to its end, in the event loop that it is given."""

    def __init__(self, state: StateDirectory, loop: asyncio.AbstractEventLoop) -> None:
        """Open everything that may be missing or damaged. Raises `StateError`; nobody is served yet."""
        self._state = state
        self._loop = loop
        signer = state.audit_signer(os.urandom)
        self._writer = CheckpointWriter(state.store, signer, state.checkpoints_path)
        self.responder = Responder(
            state.store,
            state.keys,
            now_ms=now_ms,
            now_s=time.monotonic,
            entropy=os.urandom,
            call_soon=loop.call_soon_threadsafe,
            sign=state.authority.sign_device,
        )
        self._bell: Bell | None = None
        self._tick_handle: asyncio.TimerHandle | None = None

    async def start(
        self,
        publish_event: Callable[[ChainedEvent], None],
        publish_checkpoint: Callable[[str], None],
        settle: Callable[[int], Awaitable[None]],
    ) -> None:
        """Begin to answer, before the first client. Raises `OSError` and `StoreUnavailable`.

        `settle` returns when what an audit event ends has ended (P7).
        """

        async def act(seq: int) -> None:
            self.responder.catch_up(seq)
            await settle(seq)

        self._publish_checkpoint = publish_checkpoint
        self.responder.open_outbox(publish_event)
        self._checkpoints = PeriodicCheckpoints(
            self._writer,
            publish_checkpoint,
            now_s=time.monotonic,
            run_aside=lambda function: self._loop.run_in_executor(None, function),
            call_soon=self._loop.call_soon_threadsafe,
        )
        self._bell = Bell(self._state.path)
        await self._bell.open(act)
        self.responder.start()
        self._tick()

    def _tick(self) -> None:
        """Publish audit events, of this process and of others."""
        more = self.responder.tick()
        self._checkpoints.tick(self.responder.published_seq)
        self._tick_handle = self._loop.call_later(0.0 if more else OUTBOX_INTERVAL_S, self._tick)

    async def finish(self) -> None:
        """Answer every accepted request, publish and sign the last events. To be called while clients are connected."""
        if self._tick_handle is None:
            return
        self._tick_handle.cancel()
        self._tick_handle = None
        self.responder.close()
        if not await self._loop.run_in_executor(None, self.responder.join, DRAIN_TIMEOUT_S):
            _log.error("some requests could not be committed within %d s", DRAIN_TIMEOUT_S)
        await asyncio.sleep(0)  # the last answers are delivered before this goes on
        self.responder.finish()
        note = await self._loop.run_in_executor(None, self._checkpoints.write_now)
        if note is not None:
            self._publish_checkpoint(note)

    async def close(self) -> None:
        """Let go of doorbell and store, after `finish`."""
        if self._bell is not None:
            await self._bell.close()
        self.responder.release()
        self._state.close()
