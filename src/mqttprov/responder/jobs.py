"""What the pipeline is asked to do, and how a batch of it becomes one transaction. No threads and no queue here.

A batch is decided and committed together (group commit); nothing is told before `process` returns (P2).
"""

import logging
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec

from mqttprov.core.audit import Event, EventKind
from mqttprov.core.chain import enrol
from mqttprov.core.credentials import Sign, certificate_login_key, claimed_login_keys
from mqttprov.core.factory import ChainArrival
from mqttprov.core.facts import Effect, Facts
from mqttprov.core.limits import REQUEST_ENTROPY_BYTES
from mqttprov.core.login import (
    Holder,
    Login,
    LoginAttempt,
    LoginFacts,
    LoginRefusal,
    OperatorFacts,
    activate,
    decide_login,
    login_keys,
    recognise,
)
from mqttprov.core.provisioning import Context, decide, decide_malformed, lookup_fold, proves_secret
from mqttprov.core.requests import UNPROVEN, Malformed, Outcome, ProvisionRequest, Reason, Refused, refused
from mqttprov.core.secrets import Keys
from mqttprov.pki.inspect import BadCertificate, inspect_certificate, inspect_csr
from mqttprov.responder.arrivals import by_certificate
from mqttprov.responder.limiter import Ration, turned_away
from mqttprov.store.protocol import Reader, Store, StoreUnavailable, WriteTransaction

RETRY_AFTER_FAULT_S: Final = 5

_log = logging.getLogger(__name__)


class ProvisionJob(msgspec.Struct):
    """A request to decide. `done` gets the outcome once it is durable. `ration` may have it turned away instead."""

    request: ProvisionRequest | Malformed
    source: str
    done: Callable[[Outcome], None]
    ration: Ration | None = None


class LoginJob(msgspec.Struct):
    """A login to decide. `done` gets the outcome: once it is durable when it is the first with its credential."""

    attempt: LoginAttempt
    source: str
    done: Callable[[Login], None]


class ChainJob(msgspec.Struct):
    """A certificate that a chain vouches for and no credential knows. `done` gets the login once it is durable."""

    arrival: ChainArrival
    source: str
    done: Callable[[Login], None]


class ActivationJob(msgspec.Struct):
    """The first login with a generation. `done` gets whether the login still stands; None: it could not be recorded.

    With a `device_id` the name must still be that device's.
    """

    fold: str
    generation: int
    source: str
    done: Callable[[bool | None], None]
    device_id: str | None = None


class LimitedJob(msgspec.Struct):
    """So many attempts from a source were turned away: by the limiter, or as logins. One event for all of them.

    Without a source it stands for all sources beyond those that are told apart.
    """

    source: str | None
    count: int
    kind: EventKind = EventKind.LIMITED
    reason: str = Reason.LIMITED
    holder: Holder | None = None  # whose credentials they came with, if that is known


class RecogniseJob(msgspec.Struct):
    """A login was refused and has been answered; `done` gets whose superseded credential it was, if anybody's."""

    attempt: LoginAttempt
    done: Callable[[Holder | None], None]


class SeenJob(msgspec.Struct):
    """These devices are in use now."""

    device_ids: list[str]


class PublishedJob(msgspec.Struct):
    """The outbox has published all events up to this place."""

    seq: int


class RecordJob(msgspec.Struct):
    """Something that happened outside of the rules. `done` is called when it is in the audit chain, or cannot be."""

    event: Event
    done: Callable[[None], None]


Job = (
    ProvisionJob | LoginJob | ChainJob | ActivationJob | LimitedJob | PublishedJob | RecordJob | RecogniseJob | SeenJob
)
Delivery = tuple[Callable[[Any], None], Any]


class _Batch(msgspec.Struct):
    """What the jobs of one transaction come to: what is written, recorded and told, and who was seen."""

    effects: list[Effect] = []
    events: list[Event] = []
    deliveries: list[Delivery] = []
    seen: dict[str, None] = {}

    def add(self, effects: Sequence[Effect], event: Event | None, delivery: Delivery) -> None:
        """Take what one job comes to."""
        self.effects.extend(effects)
        if event is not None:
            self.events.append(event)
        self.deliveries.append(delivery)


class BatchProcessor:
    """Turns jobs into transactions."""

    def __init__(
        self,
        store: Store,
        keys: Keys,
        *,
        now_ms: Callable[[], int],
        entropy: Callable[[int], bytes],
        sign: Sign | None = None,
    ) -> None:
        self._store = store
        self._keys = keys
        self._now_ms = now_ms
        self._entropy = entropy
        self._sign = sign
        self._reader: Reader | None = None  # made by the first batch, in the thread that uses it

    def close(self) -> None:
        """Let go of the store; for the thread that processed."""
        if self._reader is not None:
            self._reader.close()

    def process(self, jobs: Sequence[Job]) -> list[Delivery]:
        """Do all jobs; give what to tell to whom. Never raises.

        Logins are read together first: one question to the store refreshes its cache once, not for each of them. What
        writes, first logins included, is one transaction; without it nobody waits for the write lock.
        """
        logins: list[LoginJob] = []
        asking: list[RecogniseJob] = []
        writing: list[Job] = []
        for job in jobs:
            if type(job) is LoginJob:
                logins.append(job)
            elif type(job) is RecogniseJob:
                asking.append(job)
            else:
                writing.append(job)
        deliveries: list[Delivery] = []
        for job, login in zip(logins, self._decide_logins(logins), strict=True):
            if isinstance(login, ChainArrival):
                writing.append(ChainJob(login, job.source, job.done))
            elif login.first and login.principal is not None:
                writing.append(ActivationJob(login.fold, login.principal.generation, job.source, _told(job, login)))
            else:
                deliveries.append((job.done, login))
        deliveries += self._recognise(asking)
        return deliveries + self._write(writing) if writing else deliveries

    def _recognise(self, jobs: Sequence[RecogniseJob]) -> list[Delivery]:
        """Look for superseded credentials: after the answer, so that its time says nothing about what is found."""
        if not jobs:
            return []
        wanted = list({key for job in jobs for key in login_keys(job.attempt, self._keys)})
        try:
            found = self._questions().find_superseded(wanted)
        except StoreUnavailable as error:
            _log.error("%d refused logins are not looked into: %s", len(jobs), error)
            found = {}
        return [(job.done, recognise(job.attempt, found, self._keys)) for job in jobs]

    def _questions(self) -> Reader:
        if self._reader is None:
            self._reader = self._store.reader()
        return self._reader

    def _decide_logins(self, jobs: Sequence[LoginJob]) -> list[Login | ChainArrival]:
        if not jobs:
            return []
        wanted = [login_keys(job.attempt, self._keys) for job in jobs]
        by_key: dict[str, list[LoginFacts]] = {}
        try:
            reader = self._questions()
            for facts in reader.find_logins([key for keys in wanted for key in keys]):
                by_key.setdefault(facts.credential.login_key, []).append(facts)
            operators = [_operator_of(job.attempt, reader) for job in jobs]
            return [
                self._decide_login(job.attempt, [f for key in keys for f in by_key.get(key, ())], operator, reader)
                for job, keys, operator in zip(jobs, wanted, operators, strict=True)
            ]
        except StoreUnavailable as error:
            _log.error("%d logins could not be decided: %s", len(jobs), error)
            return [Login(refusal=LoginRefusal.UNAVAILABLE)] * len(jobs)

    def _decide_login(
        self, attempt: LoginAttempt, found: Sequence[LoginFacts], operator: OperatorFacts | None, reader: Reader
    ) -> Login | ChainArrival:
        login = decide_login(attempt, found, operator, self._keys)
        if attempt.certificate_der is None or (login.principal is not None and not attempt.provisioning):
            return login
        return by_certificate(attempt, login, reader, self._keys, self._now_ms())

    def _write(self, jobs: Sequence[Job]) -> list[Delivery]:
        """Do all jobs in one transaction.

        If the batch fails for a reason that may lie in one job, each job gets a transaction of its own, so that a bad
        one never fails its batch.
        """
        try:
            return self._commit(jobs)
        except StoreUnavailable as error:
            _log.error("nothing was committed, %d requests are refused: %s", len(jobs), error)
            return self._failures(jobs)
        except Exception:  # noqa: BLE001 - whatever it is, the other jobs of the batch must not suffer
            if len(jobs) == 1:
                _log.exception("a request failed and was refused")
                return self._failures(jobs)
        return [delivery for job in jobs for delivery in self._write([job])]

    def _commit(self, jobs: Sequence[Job]) -> list[Delivery]:
        now_ms = self._now_ms()
        entropy = self._entropy(REQUEST_ENTROPY_BYTES * len(jobs))
        pieces = [entropy[i * REQUEST_ENTROPY_BYTES : (i + 1) * REQUEST_ENTROPY_BYTES] for i in range(len(jobs))]
        batch = _Batch()
        with self._store.write() as transaction:
            jobs = self._inspected(transaction, jobs, pieces, now_ms)
            facts = self._load(transaction, jobs, pieces)
            for job, piece in zip(jobs, pieces, strict=True):
                if isinstance(job, ProvisionJob):
                    self._decide(job, facts, Context(now_ms, piece, self._keys, job.source, self._sign), batch)
                elif isinstance(job, ActivationJob):
                    activation = activate(
                        job.fold, job.generation, facts, now_ms=now_ms, source=job.source, device_id=job.device_id
                    )
                    batch.add(activation.effects, activation.event, (job.done, activation.ok))
                elif isinstance(job, ChainJob):
                    enrolment = enrol(job.arrival, facts, Context(now_ms, piece, self._keys, job.source))
                    batch.add(enrolment.effects, enrolment.event, (job.done, enrolment.login))
                elif isinstance(job, LimitedJob):
                    batch.events.append(_limited(job, now_ms))
                elif isinstance(job, RecordJob):
                    batch.add((), job.event, (job.done, None))
                elif isinstance(job, PublishedJob):
                    transaction.mark_published(job.seq)
                elif isinstance(job, SeenJob):
                    batch.seen.update(dict.fromkeys(job.device_ids))
            transaction.write(facts, batch.effects)
            if batch.seen:
                transaction.mark_seen(list(batch.seen), now_ms)
            transaction.append(batch.events)
        return batch.deliveries

    @staticmethod
    def _decide(job: ProvisionJob, facts: Facts, context: Context, batch: "_Batch") -> None:
        request, ration = job.request, job.ration
        if ration is not None and (wait_s := ration.wait_s()) > 0:
            batch.add((), None, (job.done, turned_away(wait_s)))
            return
        decision = (
            decide(request, facts, context)
            if isinstance(request, ProvisionRequest)
            else decide_malformed(request, context)
        )
        outcome = decision.outcome
        if ration is not None and isinstance(outcome, Refused) and outcome.reason in UNPROVEN:
            ration.refused()
        batch.add(decision.effects, decision.event, (job.done, outcome))

    def _load(self, transaction: WriteTransaction, jobs: Sequence[Job], pieces: Sequence[bytes]) -> Facts:
        token_keys: set[str] = set()
        folds: set[str] = set()
        logins: set[str] = set()
        certificates: set[str] = set()
        for job, piece in zip(jobs, pieces, strict=True):
            if isinstance(job, ProvisionJob):
                request = job.request
                if isinstance(request, ProvisionRequest):
                    token_keys.add(request.key)
                    logins.update(claimed_login_keys(request, self._keys))
                    name = lookup_fold(request, self._keys, piece)
                    if name is not None:
                        folds.add(name)
            elif isinstance(job, ActivationJob):
                folds.add(job.fold)
            elif isinstance(job, ChainJob):
                token_keys.add(job.arrival.token_key)
                folds.add(job.arrival.fold)
                certificates.add(certificate_login_key(self._keys, job.arrival.certificate.fingerprint))
        facts = transaction.load(token_keys, folds, logins | certificates)
        if certificates:
            facts.ended.update(transaction.reader().ended_certificates(list(certificates)))
        return facts

    def _inspected(
        self, transaction: WriteTransaction, jobs: Sequence[Job], pieces: Sequence[bytes], now_ms: int
    ) -> Sequence[Job]:
        """Look into certificates and signing requests, which costs 0.1 ms: only for those who know the secret."""
        asking = [
            (job, piece)
            for job, piece in zip(jobs, pieces, strict=True)
            if isinstance(job, ProvisionJob)
            and isinstance(job.request, ProvisionRequest)
            and (job.request.certificate or job.request.csr)
        ]
        if not asking:
            return jobs
        facts = self._load(transaction, [job for job, _ in asking], [piece for _, piece in asking])
        inspected: dict[int, Job] = {}
        for job, piece in asking:
            request, context = job.request, Context(now_ms, piece, self._keys)
            if isinstance(request, ProvisionRequest) and proves_secret(request, facts, context):
                inspected[id(job)] = msgspec.structs.replace(job, request=_inspect(request, now_ms))
        return [inspected.get(id(job), job) for job in jobs]

    @staticmethod
    def _failures(jobs: Sequence[Job]) -> list[Delivery]:
        """No event, no credential (P5): what could not be committed is refused, with the advice to come back."""
        failure = refused(Reason.INTERNAL, "the service is not available now", retry_after_s=RETRY_AFTER_FAULT_S)
        deliveries: list[Delivery] = []
        for job in jobs:
            if isinstance(job, ProvisionJob):
                deliveries.append((job.done, failure))
            elif isinstance(job, ChainJob):
                deliveries.append((job.done, Login(refusal=LoginRefusal.UNAVAILABLE)))
            elif isinstance(job, ActivationJob | RecordJob):
                deliveries.append((job.done, None))
        return deliveries


def _limited(job: LimitedJob, now_ms: int) -> Event:
    event = Event(job.kind, now_ms, "device", source=job.source, count=job.count, reason=job.reason)
    if job.holder is None:
        return event
    device, device_id, generation = job.holder.device, job.holder.device_id, job.holder.generation
    return msgspec.structs.replace(event, device=device, device_id=device_id, generation=generation)


def _operator_of(attempt: LoginAttempt, reader: Reader) -> OperatorFacts | None:
    """Look for an operator, also when a device was found: one that took his name as its token must not keep him out."""
    if not attempt.username or attempt.password is None:
        return None
    return reader.find_operator(attempt.username)


def _told(job: LoginJob, login: Login) -> Callable[[bool | None], None]:
    """Give what to call with the outcome of a first login's activation."""

    def told(ok: bool | None) -> None:
        failed = LoginRefusal.UNAVAILABLE if ok is None else LoginRefusal.UNKNOWN
        job.done(login if ok else Login(refusal=failed))

    return told


def _inspect(request: ProvisionRequest, now_ms: int) -> ProvisionRequest:
    certificate, csr = request.certificate, request.csr
    if certificate is not None:
        try:
            certificate = inspect_certificate(certificate.pem, now_ms)
        except BadCertificate as error:
            certificate = msgspec.structs.replace(certificate, fault=str(error))
    if csr is not None:
        try:
            csr = inspect_csr(csr.pem)
        except BadCertificate as error:
            csr = msgspec.structs.replace(csr, fault=str(error))
    return msgspec.structs.replace(request, certificate=certificate, csr=csr)
