"""The bounded queue and the one writer thread: group commit (DESIGN 5.7). What a batch means is in `jobs`.

A batch is what arrived while the last commit ran and, when there is company, for a millisecond more; at most 512 jobs.
"""

import queue
import threading
import time
from collections.abc import Callable
from typing import Final

from mqttprov.responder.jobs import BatchProcessor, Delivery, Job

MAX_QUEUED: Final = 8192
MAX_BATCH: Final = 512
LINGER_S: Final = 0.001


class Pipeline:
    """Feeds jobs to a `BatchProcessor` in a thread of its own and hands the results back to the caller's thread.

    `hand_over` is called in the writer thread after each commit and must pass the deliveries on to where replies are
    written, for instance by `loop.call_soon_threadsafe`.
    """

    def __init__(self, processor: BatchProcessor, hand_over: Callable[[list[Delivery]], None]) -> None:
        self._processor = processor
        self._hand_over = hand_over
        self._queue: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="mqttprov-writer", daemon=True)
        self._stopping = False
        self._lingers = False

    def start(self) -> None:
        """Start the writer."""
        self._thread.start()

    def submit(self, job: Job) -> bool:
        """Queue a job; False when the queue is full or closing, which is to be told at once (P9)."""
        if self._stopping or self._queue.qsize() >= MAX_QUEUED:
            return False
        self._queue.put(job)
        return True

    def close(self) -> None:
        """Take no more jobs; the writer ends after those that it has. Returns at once: see `join`."""
        if not self._stopping:
            self._stopping = True
            self._queue.put(None)

    def join(self, timeout_s: float | None = None) -> bool:
        """Wait until everything that was accepted is committed and handed over; False if it takes longer."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    @property
    def has_ended(self) -> bool:
        """Whether the writer has done everything that it was given, and is gone."""
        return self._stopping and not self._thread.is_alive()

    def _run(self) -> None:
        while True:
            batch, last = self._collect()
            if batch:
                self._hand_over(self._processor.process(batch))
            if last:
                self._processor.close()
                return

    def _collect(self) -> tuple[list[Job], bool]:
        """Wait for work; give a batch and whether it is the last."""
        first = self._queue.get()
        if first is None:
            return [], True
        batch = [first]
        if self._lingers:
            # Asleep, not waiting for the queue: each arrival would wake this thread, only to find one more job.
            time.sleep(LINGER_S)
        while len(batch) < MAX_BATCH:
            try:
                job = self._queue.get_nowait()
            except queue.Empty:
                break
            if job is None:
                return batch, True
            batch.append(job)
        # Who comes alone need not wait for company.
        self._lingers = len(batch) > 1
        return batch, False
