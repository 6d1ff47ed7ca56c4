"""What the responder's tests work with: a state directory under a clock of their own, and stores that misbehave."""

import hashlib
import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from mqttprov.core.audit import ChainedEvent, verify
from mqttprov.core.credentials import Sign
from mqttprov.core.login import Holder, LoginAttempt
from mqttprov.core.requests import Malformed, Outcome, ProvisionRequest
from mqttprov.responder.administration import Administration, IssuedToken
from mqttprov.responder.jobs import BatchProcessor, ProvisionJob, RecogniseJob
from mqttprov.responder.service import Responder
from mqttprov.responder.state_directory import StateDirectory, initialise
from mqttprov.store.protocol import Reader, Store, WriteTransaction

NOW_MS = 1_700_000_000_000


class Desk:
    """A state directory with its first registration token, at a time that only the test moves."""

    def __init__(self, path: Path) -> None:
        """Initialise the directory."""
        self.now_ms = NOW_MS
        self.now_s = 1000.0
        self._draws = itertools.count(1)
        issued = initialise(path, actor="cli:test", now_ms=self.clock, entropy=self.entropy)
        assert issued is not None
        self.token: IssuedToken = issued
        self.state = StateDirectory(path)
        self.administration: Administration = self.state.administration("cli:test", self.clock, self.entropy)
        self.reader: Reader = self.state.store.reader()

    def clock(self) -> int:
        """Give the wall clock."""
        return self.now_ms

    def entropy(self, count: int) -> bytes:
        """Give bytes that never came before."""
        return hashlib.shake_256(str(next(self._draws)).encode()).digest(count)

    def close(self) -> None:
        """Let go of everything."""
        self.reader.close()
        self.state.close()

    def request(self, name: str | None, **fields: Any) -> ProvisionRequest:
        """Make a request with the first token."""
        return ProvisionRequest(self.token.key, self.token.secret, name, **fields)

    def processor(self, store: Store | None = None, sign: Sign | None = None) -> BatchProcessor:
        """Make a batch processor over this or another store."""
        return BatchProcessor(
            store or self.state.store, self.state.keys, now_ms=self.clock, entropy=self.entropy, sign=sign
        )

    def events(self) -> list[ChainedEvent]:
        """Give all audit events, whose chain holds."""
        events = list(self.reader.events())
        verify(events)
        return events

    def kinds_after(self, seq: int) -> list[str]:
        """Give the kinds of the events behind a place."""
        return [str(event.kind) for event in self.events() if event.seq > seq]


class Answers:
    """Collects outcomes of jobs, in the order in which they were told."""

    def __init__(self) -> None:
        """Begin with none."""
        self.told: list[Any] = []

    def job(self, request: ProvisionRequest | Malformed) -> ProvisionJob:
        """Make a job whose outcome is collected here."""
        return ProvisionJob(request, "10.0.0.1", self.told.append)

    def deliver(self, deliveries: Sequence[tuple[Callable[[Any], None], Any]]) -> list[Any]:
        """Tell everybody; give what was told."""
        for done, result in deliveries:
            done(result)
        return self.told


class WatchedStore:
    """A store that writes down when a transaction begins and has ended, and fails when it is told to."""

    def __init__(self, store: Store, log: list[str]) -> None:
        """Watch this store."""
        self._store = store
        self.log = log
        self.fail_with: Exception | None = None

    @contextmanager
    def write(self) -> Iterator[WriteTransaction]:
        """Begin a transaction; the failure comes at its end, as that of a disk does."""
        with self._store.write() as transaction:
            yield transaction
            if self.fail_with is not None:
                raise self.fail_with
        self.log.append("committed")

    def reader(self) -> Reader:
        """Open a reader."""
        return self._store.reader()

    def close(self) -> None:
        """Leave closing to the owner."""


class Counter:
    """A responder at a counter: what is asked and answered, as bytes."""

    def __init__(self, desk: Desk, store: Store | None = None) -> None:
        """Open it."""
        self.waiting: list[Callable[[], None]] = []
        self._handed_over = threading.Semaphore(0)
        self.replies: list[dict[str, Any]] = []
        self.outcomes: list[Outcome] = []
        self.desk = desk
        self.responder = Responder(
            store or desk.state.store,
            desk.state.keys,
            now_ms=desk.clock,
            now_s=lambda: desk.now_s,
            entropy=desk.entropy,
            call_soon=self._take,
            sign=desk.state.authority.sign_device,
        )
        self.responder.start()

    def _take(self, deliver: Callable[[], None]) -> None:
        self.waiting.append(deliver)
        self._handed_over.release()

    def ask(self, payload: bytes, source: str = "10.0.0.1") -> None:
        """Send a request."""

        def reply(content: bytes, outcome: Outcome) -> None:
            self.replies.append(msgspec.json.decode(content))
            self.outcomes.append(outcome)

        self.responder.request(payload, source, reply)

    def payload(self, name: str | None = None, **fields: Any) -> bytes:
        """Make a request with the first token."""
        token = self.desk.token
        named = {} if name is None else {"deviceName": name}
        return msgspec.json.encode(
            {"provisionDeviceKey": token.key, "provisionDeviceSecret": token.secret, **named, **fields}
        )

    def pump(self) -> None:
        """Let the writer do all that it was asked so far, and deliver the answers."""
        done: list[Holder | None] = []
        assert self.responder._pipeline.submit(RecogniseJob(LoginAttempt(""), done.append))
        while not done:
            assert self._handed_over.acquire(timeout=30)
            if self.waiting:
                self.waiting.pop(0)()

    def settle(self) -> list[dict[str, Any]]:
        """End the writer and deliver all answers; give the replies so far."""
        self.responder.close()
        assert self.responder.join(30)
        for deliver in self.waiting:
            deliver()
        self.waiting.clear()
        return self.replies
