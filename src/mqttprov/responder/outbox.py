"""Publishes committed audit events, in order and at least once (P5). It follows the chain in the store.

So it also sees what other processes did beside a running broker (an operator's command line). Where it stands is kept
in the store; after a crash the events behind that place are published again.
"""

from collections.abc import Callable
from typing import Final

from mqttprov.core.audit import ChainedEvent
from mqttprov.store.protocol import Reader

MAX_PER_POLL: Final = 500


class Outbox:
    """`publish` gets each event; `mark` is told up to which place that was done."""

    def __init__(self, reader: Reader, publish: Callable[[ChainedEvent], None], mark: Callable[[int], None]) -> None:
        self._reader = reader
        self._publish = publish
        self._mark = mark
        self.seq = reader.published_seq()

    def poll(self) -> bool:
        """Publish what is new, at most 500 events; tell whether there may be more at once."""
        count = 0
        for event in self._reader.events(self.seq, MAX_PER_POLL):
            self._publish(event)
            self.seq = event.seq
            count += 1
        if count:
            self._mark(self.seq)
        return count == MAX_PER_POLL
