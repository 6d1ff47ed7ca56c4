"""Ten thousand random tampers of a chain of a hundred thousand events: all are found, at the right place (P5).

Verifying goes on from any place with the same result (test_audit.py), so that each tamper is verified from a little
before it; what lies further ahead is the unchanged chain, whose heads are known.
"""

import random
from collections.abc import Callable, Iterator
from itertools import islice

import msgspec
import pytest

from mqttprov.core.audit import BrokenChain, ChainedEvent, ChainHead, CutTail, Event, EventKind, chain, verify

EVENTS = 100_000
TAMPERS = 10_000
REWRITES = 300  # of the tampers: each makes hundreds of hashes anew
EVERY = 1000  # events between two checkpoints

Tampered = tuple[Iterator[ChainedEvent], int, int]
"""The events from where verifying begins, where that is, and the first place that was changed."""


def made(i: int) -> Event:
    """Make the event of place i."""
    return Event(
        EventKind.PROVISIONED, 1_700_000_000_000 + i, "device", source="10.0.0.1", device=f"gw-{i % 500}",
        device_id=f"{i % 500:032x}", generation=i // 500 + 1,
    )  # fmt: skip


@pytest.fixture(scope="module")
def stored() -> list[ChainedEvent]:
    """Chain all events once; place 1 is at index 0."""
    head, events = ChainHead(), []
    for i in range(EVENTS):
        one, head = chain(head, made(i))
        events.append(one)
    return events


class Tamperer:
    """Somebody with a hand on the stored events."""

    def __init__(self, stored: list[ChainedEvent], rng: random.Random) -> None:
        """Know the whole chain."""
        self.stored = stored
        self.rng = rng

    def head(self, i: int) -> ChainHead:
        """Give the head before index i."""
        return ChainHead(i, self.stored[i - 1].hash) if i else ChainHead()

    def rest(self, i: int) -> Iterator[ChainedEvent]:
        """Give the events from index i on, without a copy of them."""
        return (self.stored[j] for j in range(i, EVENTS))

    def spliced(self, i: int, new: list[ChainedEvent], go_on: int, changed: int) -> Tampered:
        """Put new events at index i and go on with the old ones from `go_on`."""

        def events() -> Iterator[ChainedEvent]:
            begin = max(0, i - 2)
            yield from self.stored[begin:i]
            yield from new
            yield from self.rest(go_on)

        return events(), max(0, i - 2), changed

    def change(self) -> Tampered:
        """Change one character of a body."""
        i = self.rng.randrange(EVENTS)
        old = self.stored[i]
        at = self.rng.randrange(len(old.body))
        body = old.body[:at] + chr(ord(old.body[at]) ^ 1) + old.body[at + 1 :]
        return self.spliced(i, [msgspec.structs.replace(old, body=body)], i + 1, i + 1)

    def change_column(self) -> Tampered:
        """Change what is stored beside the body."""
        i = self.rng.randrange(EVENTS)
        field, value = self.rng.choice([("at_ms", 1), ("kind", "refused"), ("device_id", None), ("hash", "0" * 64)])
        return self.spliced(i, [msgspec.structs.replace(self.stored[i], **{field: value})], i + 1, i + 1)

    def forge(self) -> Tampered:
        """Change an event and make its own hash anew."""
        i = self.rng.randrange(EVENTS - 1)
        new, _ = chain(self.head(i), msgspec.structs.replace(made(i), actor="nobody"))
        return self.spliced(i, [new], i + 1, i + 1)

    def remove(self) -> Tampered:
        """Take some events out."""
        i = self.rng.randrange(EVENTS - 20)
        return self.spliced(i, [], i + self.rng.randint(1, 10), i + 1)

    def insert(self) -> Tampered:
        """Put an event between, with a hash that fits."""
        i = self.rng.randrange(EVENTS)
        new, _ = chain(self.head(i), Event(EventKind.REFUSED, 1, "nobody"))
        return self.spliced(i, [new], i, i + 1)

    def swap(self) -> Tampered:
        """Let two events change places; half of the time they also swap their numbers."""
        i = self.rng.randrange(EVENTS - 50)
        j = i + self.rng.randint(1, 40)
        first, second = self.stored[i], self.stored[j]
        if self.rng.random() < 0.5:
            first, second = msgspec.structs.replace(first, seq=j + 1), msgspec.structs.replace(second, seq=i + 1)
        return self.spliced(i, [second, *self.stored[i + 1 : j], first], j + 1, i + 1)

    def cut(self) -> Tampered:
        """Cut the tail off; what is verified is the last piece of what is left."""
        end = self.rng.randrange(EVENTS)
        begin = max(0, end - 5)
        return iter(self.stored[begin:end]), begin, end + 1

    def rewrite(self) -> Tampered:
        """Change an event and write the chain anew from there on, as who owns the machine can."""
        i = self.rng.randrange(EVENTS)
        head, new = self.head(i), []
        for j in range(i, min(EVENTS, (i // EVERY + 1) * EVERY)):
            one, head = chain(head, msgspec.structs.replace(made(j), actor="nobody") if j == i else made(j))
            new.append(one)
        return self.spliced(i, new, i + len(new), i + 1)


def test_ten_thousand_random_tampers_are_all_found(stored: list[ChainedEvent]) -> None:
    """Changed, removed, inserted, swapped, cut and rewritten: none goes unseen, and the place is told (P5)."""
    checkpoints = {n: stored[n - 1].hash for n in range(EVERY, EVENTS + 1, EVERY)}
    assert verify(stored, checkpoints=checkpoints) == ChainHead(EVENTS, stored[-1].hash)
    tamperer = Tamperer(stored, random.Random(20_231_114))  # noqa: S311 - a test that can be repeated
    quick: list[Callable[[], Tampered]] = [
        tamperer.change, tamperer.change_column, tamperer.forge, tamperer.remove, tamperer.insert, tamperer.swap,
        tamperer.cut,
    ]  # fmt: skip
    missed: list[tuple[str, int]] = []
    for number in range(TAMPERS):
        how = tamperer.rewrite if number < REWRITES else quick[number % len(quick)]
        events, begin, changed = how()
        try:
            verify(events, after=tamperer.head(begin), checkpoints=checkpoints)
        except BrokenChain as broken:
            # Forged with a hash that fits, an event shows one place later; written anew, at the next checkpoint.
            latest = (changed - 1) // EVERY * EVERY + EVERY if how == tamperer.rewrite else changed + 1
            if not changed <= broken.seq <= latest or isinstance(broken, CutTail) != (how == tamperer.cut):
                missed.append((how.__name__, changed))
        else:
            missed.append((how.__name__, changed))
    assert missed == []


def test_without_checkpoints_only_the_tail_can_be_cut_or_written_anew(stored: list[ChainedEvent]) -> None:
    """This is what checkpoints are for: without them these two verify."""
    tamperer = Tamperer(stored, random.Random(1))  # noqa: S311 - the same
    for how in (tamperer.cut, tamperer.rewrite):
        events, begin, _ = how()
        verify(islice(events, 3), after=tamperer.head(begin))
