"""The responder as a broker uses it: provisioning requests in, replies out; logins in, principals out.

Everything here runs in the broker's thread and returns at once; answers come by callback after their commit (P2).
"""

import logging
from collections.abc import Callable
from typing import Any, Final

from mqttprov.core.audit import ENDS_SESSIONS, ChainedEvent, Event, EventKind
from mqttprov.core.credentials import Sign
from mqttprov.core.login import Login, LoginAttempt, LoginRefusal
from mqttprov.core.model import LifecycleState
from mqttprov.core.requests import UNPROVEN, Malformed, Outcome, Reason, Refused, refused
from mqttprov.core.secrets import Keys
from mqttprov.responder.device_life import obstacle
from mqttprov.responder.jobs import (
    BatchProcessor,
    Delivery,
    LimitedJob,
    LoginJob,
    ProvisionJob,
    PublishedJob,
    RecordJob,
)
from mqttprov.responder.limiter import Limiter, source_group
from mqttprov.responder.outbox import Outbox
from mqttprov.responder.pipeline import Pipeline
from mqttprov.store.protocol import Store, StoreUnavailable
from mqttprov.wire import thingsboard

MAX_LIMITED_SOURCES: Final = 1000
RETRY_AFTER_OVERLOAD_S: Final = 2
MAX_REVOKED: Final = 10_000  # devices that are remembered as revoked while older logins may be under way
LIMITED_EVENT_INTERVAL_S: Final = 10.0  # what a source was turned away with is told in one event for this long
# Refused logins that are told; when the store is not available there is nowhere to tell.
_TOLD_LOGINS: Final = frozenset(LoginRefusal) - {LoginRefusal.UNAVAILABLE}

_log = logging.getLogger(__name__)


class Responder:
    """Answers provisioning requests and decides logins over one store.

    `now_ms` is the wall clock, `now_s` a monotonic one, `entropy` gives random bytes and `call_soon` runs a function in
    the broker's thread from any thread.
    """

    def __init__(
        self,
        store: Store,
        keys: Keys,
        *,
        now_ms: Callable[[], int],
        now_s: Callable[[], float],
        entropy: Callable[[int], bytes],
        call_soon: Callable[[Callable[[], None]], Any],
        sign: Sign | None = None,
    ) -> None:
        self._keys = keys
        self._now_ms = now_ms
        self._now_s = now_s
        self._call_soon = call_soon
        self._reader = store.reader()
        self._limiter = Limiter()
        self._turned_away: dict[tuple[EventKind, str | None, str], int] = {}
        self._flush_limited_s = now_s() + LIMITED_EVENT_INTERVAL_S
        self._processor = BatchProcessor(store, keys, now_ms=now_ms, entropy=entropy, sign=sign)
        self._pipeline = Pipeline(self._processor, self._hand_over)
        self._outbox: Outbox | None = None
        self._revocations = 0
        self._revoked: dict[str, int] = {}  # device id -> number of the revocation, the last ones

    def start(self) -> None:
        """Start the writer."""
        self._pipeline.start()

    def close(self) -> None:
        """Take no more requests; those accepted are still answered."""
        self._flush_limited()
        self._pipeline.close()

    def join(self, timeout_s: float | None = None) -> bool:
        """Wait for the writer's end; the last answers are then on their way through `call_soon`."""
        return self._pipeline.join(timeout_s)

    def finish(self) -> None:
        """Publish the last audit events and record it, after the writer's end."""
        outbox = self._outbox
        last = self._take_turned_away()
        if last:
            self._processor.process(last)
        if outbox is not None:
            try:
                while outbox.poll():
                    pass
            except StoreUnavailable as error:
                _log.error("the last audit events are published after the next start: %s", error)
                return
            self._processor.process([PublishedJob(outbox.seq)])

    def release(self) -> None:
        """Let go of the store."""
        self._reader.close()

    def request(self, payload: bytes, source: str, reply: Callable[[bytes, Outcome], None]) -> None:
        """Answer one provisioning request: `reply` gets the bytes for that connection alone, and what they say (P3)."""
        now_s = self._now_s()
        wait_s = self._limiter.wait_s(source, "", now_s)
        if wait_s > 0:
            encoding = thingsboard.encoding_of(payload)
            self._turn_away(source, wait_s, lambda outcome: reply(self._encode(outcome, encoding), outcome))
            return
        request, encoding = thingsboard.decode(payload)
        key = "" if isinstance(request, Malformed) else request.key

        def done(outcome: Outcome) -> None:
            if isinstance(outcome, Refused) and outcome.reason in UNPROVEN:
                self._limiter.refused(source, key, self._now_s())
            reply(self._encode(outcome, encoding), outcome)

        if key:
            wait_s = self._limiter.wait_s(source, key, now_s)
        if wait_s > 0:
            self._turn_away(source, wait_s, done)
        elif not self._pipeline.submit(ProvisionJob(request, source, done)):
            done(refused(Reason.OVERLOADED, "too many requests", retry_after_s=RETRY_AFTER_OVERLOAD_S))

    def _encode(self, outcome: Outcome, encoding: thingsboard.Encoding) -> bytes:
        return thingsboard.encode(outcome, encoding, server_time_ms=self._now_ms())

    def _turn_away(self, source: str, wait_s: float, done: Callable[[Outcome], None]) -> None:
        self._count(EventKind.LIMITED, source, Reason.LIMITED)
        done(refused(Reason.LIMITED, "too many refused attempts", retry_after_s=int(wait_s) + 1))

    def login(self, attempt: LoginAttempt, source: str, done: Callable[[Login], None]) -> None:
        """Decide a login; `done` is called when it stands: the first with a credential after its commit."""
        if not attempt.username and not attempt.certificate:
            self._tell_login(Login(refusal=LoginRefusal.ANONYMOUS), source, done)
        elif not self._pipeline.submit(LoginJob(attempt, source, self._unless_revoked(attempt, source, done))):
            done(Login(refusal=LoginRefusal.UNAVAILABLE))

    def _tell_login(self, login: Login, source: str, done: Callable[[Login], None]) -> None:
        if login.refusal in _TOLD_LOGINS:
            self._count(EventKind.LOGIN_REFUSED, source, login.refusal)
        done(login)

    def _count(self, kind: EventKind, source: str, reason: str) -> None:
        """Count what is told in one event for all of it; sources beyond the bound are told together (P9)."""
        place: tuple[EventKind, str | None, str] = (kind, source_group(source), reason)
        if place not in self._turned_away and len(self._turned_away) >= MAX_LIMITED_SOURCES:
            place = (kind, None, reason)
        self._turned_away[place] = self._turned_away.get(place, 0) + 1

    def _unless_revoked(
        self, attempt: LoginAttempt, source: str, done: Callable[[Login], None]
    ) -> Callable[[Login], None]:
        """Decide a login again when its device was revoked between the decision and now (P7).

        Whoever ends the sessions of a device does not find the one that is about to begin; so it must not begin.
        """
        mark = self._revocations

        def decided(login: Login) -> None:
            if mark != self._revocations and login.principal is not None:
                forgotten = self._revocations - mark > MAX_REVOKED
                if forgotten or self._revoked.get(login.principal.device_id, 0) > mark:
                    self.login(attempt, source, done)
                    return
            self._tell_login(login, source, done)

        return decided

    def _note_revoked(self, device_id: str) -> None:
        self._revocations += 1
        self._revoked.pop(device_id, None)
        self._revoked[device_id] = self._revocations
        if len(self._revoked) > MAX_REVOKED:
            del self._revoked[next(iter(self._revoked))]

    def record_wipe(
        self, name: str, device_id: str, why_not: str | None, source: str | None, done: Callable[[], None]
    ) -> None:
        """Record that a retired gateway wiped its credentials, or why that is not known; `done` follows in any case."""
        event = Event(
            EventKind.WIPED if why_not is None else EventKind.NOT_WIPED,
            self._now_ms(),
            "device",
            source=source,
            device=name,
            device_id=device_id,
            state=LifecycleState.DECOMMISSIONED,
            text=why_not,
        )
        if not self._pipeline.submit(RecordJob(event, lambda _: done())):
            _log.warning("it could not be recorded what became of the credentials of device %s", name)
            done()

    def can_rotate(self, name: str) -> bool:
        """Tell whether a device with a due rotation would be given new credentials if it gave up those that it has."""
        try:
            row = next(self._reader.devices(name), None)
            return row is not None and row.rotation_due and obstacle(self._reader, row, self._now_ms()) is None
        except StoreUnavailable as error:
            _log.error("device %s is not told to rotate: %s", name, error)
            return False

    def open_outbox(self, publish: Callable[[ChainedEvent], None]) -> None:
        """Publish audit events from where the store says; `tick` does the work."""

        def take(event: ChainedEvent) -> None:
            if event.kind in ENDS_SESSIONS and event.device_id:
                self._note_revoked(event.device_id)
            publish(event)

        self._outbox = Outbox(self._reader, take, lambda seq: (self._pipeline.submit(PublishedJob(seq)), None)[1])

    def tick(self) -> bool:
        """Publish new audit events and record what was turned away; tell whether there is more to do at once."""
        if self._now_s() >= self._flush_limited_s:
            self._flush_limited()
        try:
            return self._outbox.poll() if self._outbox else False
        except StoreUnavailable as error:
            _log.error("audit events wait to be published: %s", error)
            return False

    def catch_up(self, seq: int) -> None:
        """Publish audit events until the one at this place is among them. Raises `StoreUnavailable`."""
        while self._outbox is not None and self._outbox.seq < seq:
            before = self._outbox.seq
            self._outbox.poll()
            if self._outbox.seq == before:
                raise StoreUnavailable(f"the audit event {seq} is not there")

    @property
    def published_seq(self) -> int:
        """How far the audit events are published."""
        return self._outbox.seq if self._outbox else 0

    def certificates(self, device_id: str | None = None) -> list[str]:
        """Give the PEM certificates with which devices, or one, may log in. Raises `StoreUnavailable`."""
        return self._reader.certificates(device_id)

    def _flush_limited(self) -> None:
        self._flush_limited_s = self._now_s() + LIMITED_EVENT_INTERVAL_S
        for job in self._take_turned_away():
            self._pipeline.submit(job)

    def _take_turned_away(self) -> list[LimitedJob]:
        counted, self._turned_away = self._turned_away, {}
        return [LimitedJob(source, count, kind, reason) for (kind, source, reason), count in counted.items()]

    def _hand_over(self, deliveries: list[Delivery]) -> None:
        def deliver() -> None:
            for done, result in deliveries:
                try:
                    done(result)
                except Exception:  # noqa: BLE001 - the next answer must still go out
                    _log.exception("an answer could not be delivered")

        self._call_soon(deliver)
