"""The responder as a broker uses it: provisioning requests in, replies out; logins in, principals out.

Everything here runs in the broker's thread and returns at once; answers come by callback after their commit (P2).
"""

import logging
from collections.abc import Callable
from typing import Any, Final

from mqttprov.core.audit import ChainedEvent, EventKind
from mqttprov.core.credentials import Sign
from mqttprov.core.login import Login, LoginAttempt, LoginRefusal
from mqttprov.core.requests import UNPROVEN, Malformed, Outcome, Reason, Refused, refused
from mqttprov.core.secrets import Keys
from mqttprov.responder.jobs import BatchProcessor, Delivery, LimitedJob, LoginJob, ProvisionJob, PublishedJob
from mqttprov.responder.limiter import Limiter, source_group
from mqttprov.responder.outbox import Outbox
from mqttprov.responder.pipeline import Pipeline
from mqttprov.store.protocol import Store, StoreUnavailable
from mqttprov.wire import thingsboard

MAX_LIMITED_SOURCES: Final = 1000
RETRY_AFTER_OVERLOAD_S: Final = 2
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

        def decided(login: Login) -> None:
            if login.refusal in _TOLD_LOGINS:
                self._count(EventKind.LOGIN_REFUSED, source, login.refusal)
            done(login)

        if not attempt.username and not attempt.certificate:
            decided(Login(refusal=LoginRefusal.ANONYMOUS))
        elif not self._pipeline.submit(LoginJob(attempt, source, decided)):
            done(Login(refusal=LoginRefusal.UNAVAILABLE))

    def _count(self, kind: EventKind, source: str, reason: str) -> None:
        """Count what is told in one event for all of it; sources beyond the bound are told together (P9)."""
        place: tuple[EventKind, str | None, str] = (kind, source_group(source), reason)
        if place not in self._turned_away and len(self._turned_away) >= MAX_LIMITED_SOURCES:
            place = (kind, None, reason)
        self._turned_away[place] = self._turned_away.get(place, 0) + 1

    def open_outbox(self, publish: Callable[[ChainedEvent], None]) -> None:
        """Publish audit events from where the store says; `tick` does the work."""
        self._outbox = Outbox(self._reader, publish, lambda seq: (self._pipeline.submit(PublishedJob(seq)), None)[1])

    def tick(self) -> bool:
        """Publish new audit events and record what was turned away; tell whether there is more to do at once."""
        if self._now_s() >= self._flush_limited_s:
            self._flush_limited()
        try:
            return self._outbox.poll() if self._outbox else False
        except StoreUnavailable as error:
            _log.error("audit events wait to be published: %s", error)
            return False

    @property
    def published_seq(self) -> int:
        """How far the audit events are published."""
        return self._outbox.seq if self._outbox else 0

    def certificates(self) -> list[str]:
        """Give the PEM certificates with which devices may log in."""
        return self._reader.certificates()

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
