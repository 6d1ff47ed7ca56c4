"""Garbage collection that does not get in the way: what walks over a whole fleet stops every gateway meanwhile."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

# Connections are freed by their reference counts; those with TLS are cycles and must not pile up for ever. Python's own
# thresholds (700, 10, 10) cost a fifth of a swarm's CPU time, and pauses that grow with the fleet.
_THRESHOLDS: Final = (50_000, 20, 20)


@contextmanager
def rare_collections() -> Iterator[None]:
    """Collect now, leave alone what is there, and collect seldom until the context ends."""
    thresholds = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_THRESHOLDS)
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
        gc.unfreeze()
