"""Planted bug: replies leave before the commit that makes their credentials durable (P2)."""

import time
from collections.abc import Callable, Sequence
from typing import Any

from mqttprov.cli.main import main
from mqttprov.core.audit import ChainedEvent, Event
from mqttprov.responder.jobs import BatchProcessor, Delivery
from mqttprov.responder.pipeline import Pipeline
from mqttprov.store.sqlite_transaction import SqliteTransaction

COMMIT_S = 0.4  # a slow disk, so that a kill meets it
_decide, _make, _append = BatchProcessor._decide, Pipeline.__init__, SqliteTransaction.append
_hand_over: list[Callable[[list[Delivery]], None]] = []
_early: list[Delivery] = []


def make(self: Pipeline, processor: BatchProcessor, hand_over: Callable[[list[Delivery]], None]) -> None:
    """Remember how results leave."""
    _hand_over[:] = [hand_over]
    _make(self, processor, hand_over)


def decide(job: Any, facts: Any, context: Any, batch: Any) -> None:
    """Decide, and do not keep the reply for after the commit."""
    _decide(job, facts, context, batch)
    _early.append(batch.deliveries.pop())


def append(self: SqliteTransaction, events: Sequence[Event]) -> list[ChainedEvent]:
    """Let the replies leave, and the commit take its time."""
    if _early and _hand_over:
        _hand_over[0](list(_early))
        _early.clear()
        time.sleep(COMMIT_S)
    return _append(self, events)


if __name__ == "__main__":
    Pipeline.__init__ = make  # type: ignore[method-assign] # the planted bug
    BatchProcessor._decide = staticmethod(decide)  # type: ignore[method-assign] # the planted bug
    SqliteTransaction.append = append  # type: ignore[method-assign] # the planted bug
    main()
