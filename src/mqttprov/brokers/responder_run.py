"""A responder at work: its writer, checkpoints and the doorbell; within a broker also the outbox of audit events, lists
of ended certificates and the authorities that sign.

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
from mqttprov.core.credentials import Sign, SignedCertificate
from mqttprov.responder.authorities import Authorities
from mqttprov.responder.certificate_lists import PeriodicLists
from mqttprov.responder.checkpoints import CheckpointWriter, PeriodicCheckpoints
from mqttprov.responder.service import Responder
from mqttprov.responder.state_directory import StateDirectory
from mqttprov.responder.state_files import StateError
from mqttprov.store.protocol import StoreUnavailable

TICK_S: Final = 0.1
DRAIN_TIMEOUT_S: Final = 15.0
_log: Final = logging.getLogger(__name__)


def now_ms() -> int:
    """Give the wall clock in ms since the epoch."""
    return time.time_ns() // 1_000_000


def new_responder(state: StateDirectory, loop: asyncio.AbstractEventLoop, sign: Sign) -> Responder:
    """Make a responder that answers in this event loop."""
    return Responder(
        state.store,
        state.keys,
        now_ms=now_ms,
        now_s=time.monotonic,
        entropy=os.urandom,
        call_soon=loop.call_soon_threadsafe,
        sign=sign,
    )


async def drain(responder: Responder) -> None:
    """Take no more, answer every accepted request, publish the last events of the outbox."""
    responder.close()
    if not await asyncio.get_running_loop().run_in_executor(None, responder.join, DRAIN_TIMEOUT_S):
        _log.error("some requests could not be committed within %d s", DRAIN_TIMEOUT_S)
    await asyncio.sleep(0)  # the last answers are delivered before this goes on
    responder.finish()


class ResponderRun:
    """One responder from its start to its end, in the event loop that it is given. The state stays the caller's.

    Who follows the audit chain tells `checkpoints` how far it is. `verb` is the command that runs here.
    """

    checkpoints: PeriodicCheckpoints

    def __init__(
        self, state: StateDirectory, loop: asyncio.AbstractEventLoop, sign: Sign, *, verb: str = "serve"
    ) -> None:
        """Open everything that may be missing or damaged. Raises `StateError`; nobody is served yet."""
        self._state = state
        self._loop = loop
        self._verb = verb
        self._writer = CheckpointWriter(state.store, state.audit_signer(os.urandom), state.checkpoints_path)
        self.responder = new_responder(state, loop, sign)
        self._bell: Bell | None = None
        self._tick_handle: asyncio.TimerHandle | None = None

    async def hear(self, publish_checkpoint: Callable[[str], None], act: Callable[[int], Awaitable[None]]) -> None:
        """Hear commands, before the first session that one may have to end. Raises `OSError`.

        `act` returns when the audit chain up to a place had its effect (P7).
        """
        self._publish_checkpoint = publish_checkpoint
        self.checkpoints = PeriodicCheckpoints(
            self._writer,
            publish_checkpoint,
            now_s=time.monotonic,
            run_aside=lambda function: self._loop.run_in_executor(None, function),
            call_soon=self._loop.call_soon_threadsafe,
        )
        self._bell = Bell(self._state.path, self._verb)
        await self._bell.open(act)

    def keep_ticking(self, turn: Callable[[], bool]) -> None:
        """Call this again and again until `drain`: at once when there is more to do, as it says."""
        more = turn()
        self._tick_handle = self._loop.call_later(0.0 if more else TICK_S, self.keep_ticking, turn)

    async def drain(self) -> None:
        """Answer every accepted request. To be called while clients are connected."""
        if self._tick_handle is not None:
            self._tick_handle.cancel()
            self._tick_handle = None
        await drain(self.responder)

    async def sign_off(self) -> None:
        """Sign the last events, and publish that."""
        note = await self._loop.run_in_executor(None, self.checkpoints.write_now)
        if note is not None:
            self._publish_checkpoint(note)

    async def close(self) -> None:
        """Let go of doorbell and store."""
        if self._bell is not None:
            await self._bell.close()
        self.responder.release()


class BrokerRun(ResponderRun):
    """A responder in the broker's own process, where it follows the audit chain by itself.

    `authorities` are those that sign and are trusted now.
    """

    def __init__(self, state: StateDirectory, loop: asyncio.AbstractEventLoop) -> None:
        """Open everything that may be missing or damaged. Raises `StateError`; nobody is served yet."""
        state.settle_authorities()
        self.authorities = state.authorities()
        super().__init__(state, loop, self._sign)

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
        self._settle = settle
        self._trust = trust
        self.responder.open_outbox(self._publish)
        self._lists = PeriodicLists(
            self._state.certificate_lists(now_ms),
            now_s=time.monotonic,
            run_aside=lambda function: self._loop.run_in_executor(None, function),
            call_soon=self._loop.call_soon_threadsafe,
        )
        await self.hear(publish_checkpoint, self.act)

    def start(self) -> None:
        """Begin to answer."""
        self.responder.start()
        self.keep_ticking(self._turn)

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

    def _turn(self) -> bool:
        """Publish audit events, of this process and of others."""
        more = self.responder.tick()
        self.checkpoints.tick(self.responder.published_seq)
        self._lists.tick()
        return more

    async def finish(self) -> None:
        """Answer every accepted request, publish and sign the last events. To be called while clients are connected."""
        if self._tick_handle is not None:
            await self.drain()
            await self._loop.run_in_executor(None, self._lists.write_now)
            await self.sign_off()
