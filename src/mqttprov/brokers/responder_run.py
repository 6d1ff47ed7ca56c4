"""A responder at work in a broker: its writer, the outbox of audit events, checkpoints, lists of ended certificates,
the doorbell and the authorities that sign.

Sessions, topics and listeners are the broker's affair; it is called with what was committed and is asked to act on it.
Time and randomness come from here; the parts below are given them.
"""

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable
from typing import Final

from mqttprov.brokers.bell import Bell
from mqttprov.brokers.tls import CHANGES_AUTHORITIES
from mqttprov.core.audit import ChainedEvent
from mqttprov.core.credentials import SignedCertificate
from mqttprov.responder.authorities import Authorities
from mqttprov.responder.certificate_lists import PeriodicLists
from mqttprov.responder.checkpoints import CheckpointWriter, PeriodicCheckpoints
from mqttprov.responder.service import Responder
from mqttprov.responder.state_directory import StateDirectory
from mqttprov.responder.state_files import StateError
from mqttprov.store.protocol import StoreUnavailable

OUTBOX_INTERVAL_S: Final = 0.1
DRAIN_TIMEOUT_S: Final = 15.0
_log: Final = logging.getLogger(__name__)


def now_ms() -> int:
    """Give the wall clock in ms since the epoch."""
    return time.time_ns() // 1_000_000


class ResponderRun:
    """One responder from its start to its end, in the event loop that it is given. The state stays the caller's.

    `authorities` are those that sign and are trusted now.
    """

    def __init__(self, state: StateDirectory, loop: asyncio.AbstractEventLoop) -> None:
        """Open everything that may be missing or damaged. Raises `StateError`; nobody is served yet."""
        self._state = state
        self._loop = loop
        signer = state.audit_signer(os.urandom)
        state.settle_authorities()
        self.authorities = state.authorities()
        self._writer = CheckpointWriter(state.store, signer, state.checkpoints_path)
        self.responder = Responder(
            state.store,
            state.keys,
            now_ms=now_ms,
            now_s=time.monotonic,
            entropy=os.urandom,
            call_soon=loop.call_soon_threadsafe,
            sign=self._sign,
        )
        self._bell: Bell | None = None
        self._tick_handle: asyncio.TimerHandle | None = None

    async def open(
        self,
        publish_event: Callable[[ChainedEvent], None],
        publish_checkpoint: Callable[[str], None],
        settle: Callable[[int], Awaitable[None]],
        trust: Callable[[Authorities], None],
    ) -> None:
        """Follow the audit chain and hear commands, before listeners open. Raises `OSError` and `StoreUnavailable`.

        `settle` returns when what an audit event ends has ended (P7). `trust` takes up authorities that have changed;
        raising `OSError` or `ValueError` leaves all as it was.
        """
        self._publish_event = publish_event
        self._publish_checkpoint = publish_checkpoint
        self._settle = settle
        self._trust = trust
        self.responder.open_outbox(self._publish)
        self._lists = PeriodicLists(
            self._state.certificate_lists(now_ms),
            now_s=time.monotonic,
            run_aside=lambda function: self._loop.run_in_executor(None, function),
            call_soon=self._loop.call_soon_threadsafe,
        )
        self._checkpoints = PeriodicCheckpoints(
            self._writer,
            publish_checkpoint,
            now_s=time.monotonic,
            run_aside=lambda function: self._loop.run_in_executor(None, function),
            call_soon=self._loop.call_soon_threadsafe,
        )
        self._bell = Bell(self._state.path)  # before the first client, so that a command finds every session
        await self._bell.open(self.act)

    def start(self) -> None:
        """Begin to answer."""
        self.responder.start()
        self._tick()

    async def act(self, seq: int) -> None:
        """Act on the audit chain up to this place; return when it had its effect. Raises `StoreUnavailable`."""
        self.responder.catch_up(seq)
        await self._settle(seq)

    def _sign(
        self, csr_pem: str, device_id: str, device_name: str, serial_entropy: bytes, at_ms: int
    ) -> SignedCertificate:
        """Have a device's certificate issued by the authority that is active now."""
        return self.authorities.active.sign_device(csr_pem, device_id, device_name, serial_entropy, at_ms)

    def _publish(self, event: ChainedEvent) -> None:
        if event.kind in CHANGES_AUTHORITIES:
            self.take_up_authorities()
        self._lists.note(event)
        self._publish_event(event)

    def take_up_authorities(self) -> None:
        """Sign and trust as the store says now, without a restart; what cannot be taken up leaves all as it was."""
        try:
            authorities = self._state.authorities()
            self._trust(authorities)
            self.authorities = authorities
        except (StateError, StoreUnavailable, OSError, ValueError) as error:
            _log.error("the certificate authorities were not taken up; restart after this is repaired: %s", error)

    def _tick(self) -> None:
        """Publish audit events, of this process and of others."""
        more = self.responder.tick()
        self._checkpoints.tick(self.responder.published_seq)
        self._lists.tick()
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
        await self._loop.run_in_executor(None, self._lists.write_now)
        if note is not None:
            self._publish_checkpoint(note)

    async def close(self) -> None:
        """Let go of doorbell and store, after `finish`."""
        if self._bell is not None:
            await self._bell.close()
        self.responder.release()
