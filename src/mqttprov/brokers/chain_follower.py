"""Follows the audit chain for a broker behind a gate: ends sessions, asks gateways to wipe or rotate, publishes events.

Of all responders of a state one does it, the holder of a lock that dies with its process. How far it is, is kept in the
store once the broker has confirmed it, so that the next one goes on there: at least once, in order (P5, P7).
"""

import asyncio
import contextlib
import fcntl
import logging
import os
from pathlib import Path
from typing import Final

from mqttprov.brokers.broker_link import LinkLost
from mqttprov.brokers.farewell import WIPE_CALL, body_of, why_not_wiped
from mqttprov.brokers.gate_desk import INTERNAL, device_principal, operator_principals
from mqttprov.brokers.gate_link import GateLink
from mqttprov.brokers.standing_link import StandingLink
from mqttprov.core.audit import ENDS_SESSIONS, ChainedEvent, Event, EventKind
from mqttprov.core.permissions import AUDIT_PREFIX, CHECKPOINT_LEVEL, topic_of_device
from mqttprov.mqtt import LimitReachedError, Publish, ReasonCode, TopicError
from mqttprov.responder.checkpoints import PeriodicCheckpoints
from mqttprov.responder.doorbell import FOLDER
from mqttprov.responder.service import Responder
from mqttprov.store.protocol import StoreUnavailable

LOCK: Final = "outbox.lock"
INTERVAL_S: Final = 0.1
MAX_PER_TURN: Final = 500
COUNT_TIMEOUT_S: Final = 2.0  # for the gate to say who listens
SETTLE_TIMEOUT_S: Final = 75.0  # whoever rings has given up by then
_FAULT_PAUSE_S: Final = 1.0
_IMPATIENT_S: Final = 0.01  # between two looks at how far another responder is, while somebody waits for it

_log = logging.getLogger(__name__)


class _Call:
    """A call of a device's procedure that is under way: on how many connections, and what the device answers."""

    def __init__(self, device: str) -> None:
        loop = asyncio.get_running_loop()
        self.topic_prefix = f"{topic_of_device(device)}rpc/response/"
        self.counts: asyncio.Future[tuple[int, int]] = loop.create_future()  # connected, listening
        self.answer: asyncio.Future[bytes] = loop.create_future()


class ChainFollower:
    """`run` follows until it is cancelled; `settled` waits until everything up to a place had its effect."""

    def __init__(self, state: Path, responder: Responder, gate: StandingLink[GateLink]) -> None:
        self._lock_path = state / FOLDER / LOCK
        self._responder = responder
        self._reader = responder.chain()
        self._gate = gate
        self._lock: int | None = None
        self._heard_on: GateLink | None = None  # where the answers of devices are subscribed to
        self._seq = 0
        self._marked = 0
        self._calls: dict[int, _Call] = {}
        self._farewells: dict[int, asyncio.Task[None]] = {}  # by the place of their event
        self._waiters: list[tuple[int, asyncio.Future[None]]] = []
        self._wake = asyncio.Event()
        self._complained = False

    @property
    def leads(self) -> bool:
        """Whether this responder is the one that follows the chain."""
        return self._lock is not None

    async def run(self, checkpoints: PeriodicCheckpoints) -> None:
        """Follow the chain."""
        while True:
            pause_s = INTERVAL_S
            try:
                if await self._turn():
                    pause_s = 0.0
                self._complained = False
                if self.leads:
                    checkpoints.tick(self._seq)
            except LinkLost:
                _log.info("audit events wait for the broker")
            except (StoreUnavailable, OSError) as error:
                self._fault(error)
                pause_s = _FAULT_PAUSE_S
            if self._waiters and not self.leads:
                pause_s = _IMPATIENT_S
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._wake.wait()
            self._wake.clear()

    async def settled(self, seq: int) -> None:
        """Return when nothing up to this place is left to do. Raises `StoreUnavailable` and TimeoutError."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append((seq, waiter))
        self._wake.set()
        async with asyncio.timeout(SETTLE_TIMEOUT_S):
            await waiter

    async def finish(self) -> None:
        """Publish what is left, once nothing new comes, and let another responder go on."""
        for task in self._farewells.values():
            task.cancel()  # not marked: the next one says farewell again
        try:
            while await self._turn():
                pass
        except (LinkLost, StoreUnavailable, OSError) as error:
            _log.error("the last audit events are published after the next start: %s", error)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def publish_checkpoint(self, note: str) -> None:
        """Publish a signed checkpoint of the audit; it is in its file anyway."""
        link = self._gate.link
        if link is not None:
            with contextlib.suppress(LinkLost, LimitReachedError):
                link.publish(AUDIT_PREFIX + CHECKPOINT_LEVEL, note.encode())

    # --- from the gate ---

    def heard(self, publish: Publish) -> bool:
        """Take a message that is about a call; False when it is another one."""
        kind, _, rest = publish.topic.removeprefix(INTERNAL).partition("/")
        if kind == "called":
            call = self._calls.get(int(rest)) if rest.isascii() and rest.isdigit() else None
            connected, _, listening = publish.payload.partition(b" ")
            if call is not None and not call.counts.done():
                call.counts.set_result((int(connected), int(listening)))
            return True
        if kind == "told":
            topic = dict(publish.properties.user_properties).get("topic", "")
            head, _, number = topic.rpartition("/")
            call = self._calls.get(int(number)) if number.isascii() and number.isdigit() else None
            # The number is no secret; but only the device itself has this topic.
            if call is not None and f"{head}/" == call.topic_prefix and not call.answer.done():
                call.answer.set_result(publish.payload)
            return True
        return False

    # --- the chain ---

    async def _turn(self) -> bool:
        """Act on the next events, if that is ours to do; tell whether there may be more at once."""
        if not self._leads_now():
            self._release_waiters(self._reader.published_seq() if self._waiters else 0)
            return False
        events = list(self._reader.events(self._seq, MAX_PER_TURN))
        if events:
            link = await self._gate.up()
            if link is not self._heard_on:
                await link.subscribe(f"{INTERNAL}called/+", f"{INTERNAL}told/+")
                self._heard_on = link
            acted = [link.execute(command) for event in events if (command := self._command(event))]
            await self._publish(link, events)
            for done in acted:
                await done
            self._seq = events[-1].seq
        self._mark()
        self._release_waiters(self._seq)
        return len(events) == MAX_PER_TURN

    def _leads_now(self) -> bool:
        if self._lock is None:
            descriptor = os.open(self._lock_path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._seq = self._marked = self._reader.published_seq()
            except BlockingIOError:
                os.close(descriptor)
                return False
            except BaseException:
                os.close(descriptor)
                raise
            self._lock = descriptor
        return True

    def _command(self, event: ChainedEvent) -> str | None:
        """Give what the gate is to do because of an event."""
        body = body_of(event) if event.kind in _ACTED_ON else None
        if event.kind == EventKind.ROTATION_REQUESTED and body is not None:
            return _wipe_call(body.device or "", event.seq)
        if event.kind in ENDS_SESSIONS and body is not None and body.operator:
            return "\n".join(f"kick 0 0 {principal}" for principal in operator_principals(body.operator))
        if event.kind not in ENDS_SESSIONS or not event.device_id:
            return None
        name = self._name(event.device_id, body)
        if event.kind == EventKind.DECOMMISSIONED and body is not None and body.wait_s:
            if event.seq not in self._farewells:
                farewell = self._farewell(event.seq, event.device_id, name, body.wait_s)
                self._farewells[event.seq] = asyncio.create_task(farewell)
            return None
        # A device that completes its transfer may have logged in with its new credentials before we meet the event.
        below = body.generation if event.kind == EventKind.TRANSFER_COMPLETED and body is not None else None
        return f"kick {below or 0} 0 {device_principal(name)}"

    def _name(self, device_id: str, body: Event | None) -> str:
        """Give the device's name; if the event that should say it was damaged, as the store has it."""
        if body is not None and body.device:
            return body.device
        return next((row.name for row in self._reader.devices() if row.id == device_id), "")

    async def _publish(self, link: GateLink, events: list[ChainedEvent]) -> None:
        """Publish events, of which the broker must take one of each kind before the next of that kind follows.

        It says when nobody listens; the others of that kind are then spared it. Whoever subscribes meanwhile hears
        what is committed from then on, as on every broker.
        """
        heard: dict[str, bool] = {}
        taken: list[asyncio.Future[ReasonCode]] = []
        for event in events:
            if not heard.get(event.kind, True):
                continue
            try:
                done = link.publish(AUDIT_PREFIX + event.kind, f'{event.body[:-1]},"hash":"{event.hash}"}}'.encode())
            except (LimitReachedError, TopicError) as error:
                _log.error("audit event %d cannot be published: %s", event.seq, error)
                continue
            if event.kind in heard:
                taken.append(done)
            else:
                heard[event.kind] = await done is not ReasonCode.NO_MATCHING_SUBSCRIBERS
        for done in taken:
            await done

    def _mark(self) -> None:
        """Keep how far we are: never beyond a farewell that is not over."""
        seq = min(self._seq, min(self._farewells, default=self._seq + 1) - 1)
        if seq > self._marked:
            self._marked = seq
            self._responder.record_published(seq)

    def _release_waiters(self, seq: int) -> None:
        waiting = []
        for place, waiter in self._waiters:
            if place > seq or place in self._farewells:
                waiting.append((place, waiter))
            elif not waiter.done():
                waiter.set_result(None)
        self._waiters = [entry for entry in waiting if not entry[1].done()]

    def _fault(self, error: Exception) -> None:
        if not self._complained:
            _log.error("audit events wait to be published: %s", error)
        self._complained = True
        waiters, self._waiters = self._waiters, []
        for _, waiter in waiters:
            if not waiter.done():
                waiter.set_exception(StoreUnavailable(str(error)))

    # --- farewells ---

    async def _farewell(self, seq: int, device_id: str, name: str, wait_s: float) -> None:
        """Ask a retired gateway to wipe its credentials, end its sessions in any case, and record what came of it."""
        call = self._calls[seq] = _Call(name)
        try:
            connected, why_not = await self._ask_to_wipe(call, seq, name, wait_s)
        finally:
            del self._calls[seq]
        while True:
            try:
                await (await self._gate.up()).execute(f"kick 0 0 {device_principal(name)}")
                break
            except LinkLost:
                continue
        if connected:
            recorded = asyncio.Event()
            self._responder.record_wipe(name, device_id, why_not, None, recorded.set)
            await recorded.wait()
        del self._farewells[seq]
        self._wake.set()

    async def _ask_to_wipe(self, call: _Call, seq: int, name: str, wait_s: float) -> tuple[bool, str | None]:
        """Give whether the device is connected, and why its credentials are not known to be wiped."""
        try:
            async with asyncio.timeout(COUNT_TIMEOUT_S):
                link = await self._gate.up()
                await link.execute(_wipe_call(name, seq))
                connected, listening = await call.counts
        except (TimeoutError, LinkLost):
            return True, "it could not be asked: the connection to the broker was lost"
        if not connected or not listening:
            return connected > 0, "it does not listen to remote calls"
        try:
            async with asyncio.timeout(wait_s):
                return True, why_not_wiped(await call.answer)
        except TimeoutError:
            return True, f"it did not answer within {wait_s:g} s"


def _wipe_call(name: str, number: int) -> str:
    return f"call {number} {len(WIPE_CALL)} {device_principal(name)}\n{WIPE_CALL.decode()}"


_ACTED_ON: Final = ENDS_SESSIONS | {EventKind.ROTATION_REQUESTED}
