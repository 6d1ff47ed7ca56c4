"""The responder as a broker uses it: provisioning requests in, replies out; logins in, principals out.

Everything here runs in the broker's thread and returns at once; answers come by callback after their commit (P2).
"""

import logging
from collections.abc import Callable, Iterable
from typing import Any, Final

from mqttprov.core.audit import CHANGES_LOGINS, ChainedEvent, Event, EventKind
from mqttprov.core.credentials import Sign, certificate_login_key
from mqttprov.core.factory import asked_by
from mqttprov.core.login import Holder, Login, LoginAttempt, LoginRefusal, identities_in
from mqttprov.core.model import LifecycleState
from mqttprov.core.names import fold
from mqttprov.core.requests import (
    FactoryIdentity,
    Granted,
    Outcome,
    ProvisionRequest,
    Reason,
    refused,
)
from mqttprov.core.secrets import Keys, fingerprint
from mqttprov.pki.inspect import BadCertificate, inspect_presented
from mqttprov.responder.device_life import obstacle
from mqttprov.responder.gathered import (
    FIGHT_INTERVAL_S,
    LIMITED_INTERVAL_S,
    MAX_LIMITED_SOURCES,
    SEEN_FLUSH_INTERVAL_S,
    SEEN_INTERVAL_MS,
    SEEN_PER_JOB,
    Counts,
    SeenDevices,
    Takeovers,
)
from mqttprov.responder.jobs import (
    ActivationJob,
    BatchProcessor,
    Delivery,
    Job,
    LimitedJob,
    LoginJob,
    ProvisionJob,
    PublishedJob,
    RecogniseJob,
    RecordJob,
    SeenJob,
)
from mqttprov.responder.limiter import Limiter, Ration, source_group, turned_away
from mqttprov.responder.outbox import Outbox
from mqttprov.responder.pipeline import Pipeline
from mqttprov.store.protocol import Reader, Store, StoreUnavailable
from mqttprov.wire import thingsboard

RETRY_AFTER_OVERLOAD_S: Final = 2
MAX_REVOKED: Final = 10_000  # devices that are remembered as revoked while older logins may be under way
# Refused logins that are told; when the store is not available there is nowhere to tell.
_TOLD_LOGINS: Final = frozenset(LoginRefusal) - {LoginRefusal.UNAVAILABLE}
# Refused logins that may have come with a superseded credential.
_MAYBE_SUPERSEDED: Final = frozenset({LoginRefusal.UNKNOWN, LoginRefusal.WRONG_PASSWORD})

_log = logging.getLogger(__name__)
_Place = tuple[EventKind, str | None, str, Holder | None]


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
        self._turned_away: Counts[_Place] = Counts(MAX_LIMITED_SOURCES, lambda place: (place[0], None, place[2], None))
        self._takeovers = Takeovers()
        self._seen = SeenDevices()
        self._flush_limited_s = now_s() + LIMITED_INTERVAL_S
        self._flush_takeovers_s = now_s() + FIGHT_INTERVAL_S
        self._flush_seen_s = now_s() + SEEN_FLUSH_INTERVAL_S
        self._processor = BatchProcessor(store, keys, now_ms=now_ms, entropy=entropy, sign=sign)
        self._pipeline = Pipeline(self._processor, self._hand_over)
        self._outbox: Outbox | None = None
        self._revocations = 0
        self._revoked: dict[str, int] = {}  # identity -> number of the revocation, the last ones

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
        last: list[Job] = [*self._take_turned_away(), *self._take_takeovers()]
        while some := self._seen.take():
            last.append(SeenJob(some))
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

    def request(
        self,
        payload: bytes,
        source: str,
        reply: Callable[[bytes, Outcome], None],
        factory: FactoryIdentity | None = None,
    ) -> None:
        """Answer one provisioning request: `reply` gets the bytes for that connection alone, and what they say (P3).

        `factory` is which device the session has shown to be.
        """
        now_s = self._now_s()
        # Who is locked out is turned away before anything is read; of those that come at once the writer sees it.
        wait_s = self._limiter.wait_s(source, "", now_s)
        if wait_s > 0:
            self.count(EventKind.LIMITED, source, Reason.LIMITED)
            outcome = turned_away(wait_s)
            reply(self._encode(outcome, thingsboard.encoding_of(payload)), outcome)
            return
        request, encoding = thingsboard.decode(payload, keyless=factory is not None and factory.suffices)
        if factory is not None and isinstance(request, ProvisionRequest):
            request = asked_by(factory, request)
        key = request.key if isinstance(request, ProvisionRequest) else ""

        def done(outcome: Outcome) -> None:
            if not isinstance(outcome, Granted) and outcome.reason is Reason.LIMITED:
                self.count(EventKind.LIMITED, source, Reason.LIMITED)
            reply(self._encode(outcome, encoding), outcome)

        ration = Ration(self._limiter, source, key, now_s)
        wait_s = ration.wait_s()
        if wait_s > 0:
            done(turned_away(wait_s))
        elif not self._pipeline.submit(ProvisionJob(request, source, done, ration)):
            done(refused(Reason.OVERLOADED, "too many requests", retry_after_s=RETRY_AFTER_OVERLOAD_S))

    def _encode(self, outcome: Outcome, encoding: thingsboard.Encoding) -> bytes:
        return thingsboard.encode(outcome, encoding, server_time_ms=self._now_ms())

    def login(self, attempt: LoginAttempt, source: str, done: Callable[[Login], None]) -> None:
        """Decide a login; `done` is called when it stands: the first with a credential after its commit."""
        if not attempt.username and not attempt.certificate and not attempt.provisioning:
            self._tell_login(attempt, Login(refusal=LoginRefusal.ANONYMOUS), source, done)
        elif not self._pipeline.submit(LoginJob(attempt, source, self._unless_revoked(attempt, source, done))):
            done(Login(refusal=LoginRefusal.UNAVAILABLE))

    def _tell_login(self, attempt: LoginAttempt, login: Login, source: str, done: Callable[[Login], None]) -> None:
        done(login)
        refusal = login.refusal
        if refusal in _TOLD_LOGINS:

            def recognised(holder: Holder | None) -> None:
                reason = login.reason or str(refusal) if holder is None else str(LoginRefusal.SUPERSEDED)
                self.count(EventKind.LOGIN_REFUSED, source, reason, holder)

            # Asked behind the answer: whatever is found, nobody can tell it from the time that a refusal takes.
            if refusal not in _MAYBE_SUPERSEDED or not self._pipeline.submit(RecogniseJob(attempt, recognised)):
                recognised(None)
        elif login.principal is not None and login.principal.device_id and self._is_seen_anew(login):
            self._seen.add((login.principal.device_id,))

    def _is_seen_anew(self, login: Login) -> bool:
        """Tell whether the device is to be marked; a first login has done so by itself."""
        last_ms = login.last_seen_ms
        return not login.first and (last_ms is None or self._now_ms() - last_ms >= SEEN_INTERVAL_MS)

    def seen(self, device_ids: Iterable[str]) -> None:
        """Take note that these devices are connected; to be called for all of them about once an hour."""
        self._seen.add(device_ids)

    def taken_over(self, holder: Holder, source: str) -> None:
        """Take note that a session of a device was ended by one from this source, with the same client id."""
        self._takeovers.add(holder, source_group(source))

    def count(
        self, kind: EventKind, source: str | None, reason: str, holder: Holder | None = None, *, times: int = 1
    ) -> None:
        """Count what is told in one event for all of it; sources beyond the bound (None) are told together (P9)."""
        group = None if source is None else source_group(source)
        self._turned_away.add((kind, group, reason, holder), times)

    def first_login(self, holder: Holder, source: str, done: Callable[[bool | None], None]) -> None:
        """Record the first login with a generation, where a broker has decided it by itself.

        `done` gets whether the login still stands; None: it could not be recorded now.
        """
        job = ActivationJob(fold(holder.device), holder.generation, source, done, holder.device_id)
        if not self._pipeline.submit(job):
            done(None)

    def _unless_revoked(
        self, attempt: LoginAttempt, source: str, done: Callable[[Login], None]
    ) -> Callable[[Login], None]:
        """Decide a login again when its device was revoked or changed between the decision and now (P7).

        Whoever ends the sessions of a device does not find the one that is about to begin; so it must not begin.
        """
        mark = self._revocations

        def decided(login: Login) -> None:
            if mark != self._revocations and login.principal is not None:
                forgotten = self._revocations - mark > MAX_REVOKED
                if forgotten or self._revoked.get(login.principal.identity, 0) > mark:
                    self.login(attempt, source, done)
                    return
            self._tell_login(attempt, login, source, done)

        return decided

    def _note_revoked(self, identity: str) -> None:
        self._revocations += 1
        self._revoked.pop(identity, None)
        self._revoked[identity] = self._revocations
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
            if event.kind in CHANGES_LOGINS:
                for identity in identities_in(event):
                    self._note_revoked(identity)
            publish(event)

        self._outbox = Outbox(self._reader, take, lambda seq: (self._pipeline.submit(PublishedJob(seq)), None)[1])

    def record_published(self, seq: int) -> None:
        """Take note that who follows the chain instead of `open_outbox` has published it up to this place."""
        job = PublishedJob(seq)
        if not self._pipeline.submit(job) and self._pipeline.has_ended:
            self._processor.process([job])

    def chain(self) -> Reader:
        """Give the questions to the store, for the broker's thread."""
        return self._reader

    def tick(self, *, publish: bool = True) -> bool:
        """Publish new audit events and write what was gathered; tell whether there is more to do at once.

        Without `publish` the events wait: there is nobody to take them now.
        """
        now_s = self._now_s()
        if now_s >= self._flush_limited_s:
            self._flush_limited()
        if now_s >= self._flush_takeovers_s:
            self._flush_takeovers_s = now_s + FIGHT_INTERVAL_S
            for job in self._take_takeovers():
                self._pipeline.submit(job)
        self._flush_seen(now_s)
        try:
            return self._outbox.poll() if self._outbox and publish else False
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

    def knows_certificate(self, der: bytes) -> bool:
        """Tell whether a certificate stands for itself in TLS: a device registered it, or was imported with its key.

        Also when that has ended: at CONNECT it is refused, and the audit told of it.
        """
        try:
            if self._reader.knows_certificate(certificate_login_key(self._keys, fingerprint(der))):
                return True
            return bool(self._reader.factory_devices(public_key=inspect_presented(der).public_key))
        except BadCertificate:
            return False
        except StoreUnavailable as error:
            _log.error("a client certificate is not known in TLS: %s", error)
            return False

    def chain_authorities(self) -> list[str]:
        """Give the authorities (PEM) whose certificates make devices, one text for each profile."""
        return [facts.chain.authorities for facts in self._reader.chains()]

    def _flush_limited(self) -> None:
        self._flush_limited_s = self._now_s() + LIMITED_INTERVAL_S
        for job in self._take_turned_away():
            self._pipeline.submit(job)

    def _flush_seen(self, now_s: float) -> None:
        """Mark devices in use, a batch at each tick while there are many: a storm of logins is not made worse."""
        if now_s >= self._flush_seen_s:
            some = self._seen.take()
            if len(some) < SEEN_PER_JOB:
                self._flush_seen_s = now_s + SEEN_FLUSH_INTERVAL_S
            if some and not self._pipeline.submit(SeenJob(some)):
                self._seen.add(some)

    def _take_turned_away(self) -> list[LimitedJob]:
        counted = self._turned_away.take().items()
        return [LimitedJob(source, count, kind, reason, holder) for (kind, source, reason, holder), count in counted]

    def _take_takeovers(self) -> list[RecordJob]:
        return [RecordJob(event, lambda _: None) for event in self._takeovers.take(self._now_ms())]

    def _hand_over(self, deliveries: list[Delivery]) -> None:
        def deliver() -> None:
            for done, result in deliveries:
                try:
                    done(result)
                except Exception:  # noqa: BLE001 - the next answer must still go out
                    _log.exception("an answer could not be delivered")

        self._call_soon(deliver)
