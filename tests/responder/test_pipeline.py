"""The queue and the writer thread: bounded, grouped, drained, and no reply before its commit."""

import threading
from collections.abc import Sequence
from typing import cast

from tests.responder.desk import Answers, Counter, Desk, WatchedStore

from mqttprov.responder.jobs import BatchProcessor, Delivery, Job, LimitedJob
from mqttprov.responder.pipeline import MAX_BATCH, MAX_QUEUED, Pipeline


class Gate:
    """A processor that holds its first batch until the gate is opened, and remembers all batches."""

    def __init__(self) -> None:
        """Begin closed."""
        self.entered, self.open = threading.Event(), threading.Event()
        self.batches: list[list[Job]] = []

    def process(self, jobs: Sequence[Job]) -> list[Delivery]:
        """Wait for the gate."""
        self.batches.append(list(jobs))
        self.entered.set()
        assert self.open.wait(30)
        return []

    def close(self) -> None:
        """Nothing to let go of."""

    def pipeline(self) -> Pipeline:
        """Put a running pipeline before the gate."""
        made = Pipeline(cast("BatchProcessor", self), lambda deliveries: None)
        made.start()
        return made


def test_the_queue_is_bounded_and_says_so_at_once() -> None:
    """Past its bound the pipeline takes nothing more, and everything that it took is processed (P9)."""
    gate = Gate()
    pipeline = gate.pipeline()
    job = LimitedJob("10.0.0.1", 1)
    assert pipeline.submit(job)
    assert gate.entered.wait(30)
    taken = sum(pipeline.submit(job) for _ in range(MAX_QUEUED + 100))
    assert taken == MAX_QUEUED
    gate.open.set()
    pipeline.close()
    assert pipeline.join(30)
    assert sum(map(len, gate.batches)) == MAX_QUEUED + 1


def test_what_arrives_during_a_commit_becomes_one_batch() -> None:
    """Group commit: batches grow with the load, to 512 at most, and keep the order of arrival (DESIGN 5.7)."""
    gate = Gate()
    pipeline = gate.pipeline()
    pipeline.submit(LimitedJob("first", 0))
    assert gate.entered.wait(30)
    for i in range(MAX_BATCH + 88):
        pipeline.submit(LimitedJob("more", i))
    gate.open.set()
    pipeline.close()
    assert pipeline.join(30)
    assert [len(batch) for batch in gate.batches] == [1, MAX_BATCH, 88]
    counts = [job.count for batch in gate.batches[1:] for job in batch if isinstance(job, LimitedJob)]
    assert counts == list(range(MAX_BATCH + 88))


def test_closing_takes_nothing_new_and_drains_the_rest() -> None:
    """What was accepted before the end is still done; what comes later is refused."""
    gate = Gate()
    pipeline = gate.pipeline()
    for i in range(3):
        assert pipeline.submit(LimitedJob("10.0.0.1", i))
    pipeline.close()
    pipeline.close()
    assert not pipeline.submit(LimitedJob("10.0.0.1", 9))
    gate.open.set()
    assert pipeline.join(30)
    assert sum(map(len, gate.batches)) == 3


def test_no_reply_leaves_before_its_commit(desk: Desk) -> None:
    """Each answer is handed over after the transaction that it tells of has ended (P2)."""
    log: list[str] = []
    store, answers = WatchedStore(desk.state.store, log), Answers()

    def hand_over(deliveries: list[Delivery]) -> None:
        answers.deliver(deliveries)
        log.extend("told" for _ in deliveries)

    pipeline = Pipeline(desk.processor(store), hand_over)
    pipeline.start()
    for i in range(50):
        assert pipeline.submit(answers.job(desk.request(f"gw-{i}")))
    pipeline.close()
    assert pipeline.join(30)
    assert log.count("told") == 50
    assert log[0] == "committed"
    assert "committed" in log[: log.index("told")]
    assert len({told.device_id for told in answers.told}) == 50


def test_answers_arrive_in_the_order_of_their_requests(desk: Desk) -> None:
    """One connection's requests are answered in order, across batches."""
    counter = Counter(desk)
    for i in range(600):
        counter.ask(counter.payload(f"gw-{i}"))
    assert [reply["deviceName"] for reply in counter.settle()] == [f"gw-{i}" for i in range(600)]
    counter.responder.release()
