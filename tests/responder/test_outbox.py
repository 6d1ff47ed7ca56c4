"""Publishing audit events: in order, at least once, whoever wrote them."""

import pytest
from tests.responder.desk import Counter, Desk

from mqttprov.core.audit import ChainedEvent
from mqttprov.core.model import Profile
from mqttprov.responder.outbox import MAX_PER_POLL, Outbox
from mqttprov.store.sqlite import SqliteStore


def test_events_are_published_in_order_and_once_while_it_runs(desk: Desk) -> None:
    """Each poll publishes what is new and marks how far it came (P5)."""
    published: list[int] = []
    marks: list[int] = []
    outbox = Outbox(desk.reader, lambda event: published.append(event.seq), marks.append)
    assert not outbox.poll()
    desk.administration.create_profile(Profile(0, "plant"))
    assert not outbox.poll()
    assert not outbox.poll()
    assert published == [1, 2, 3, 4, 5]
    assert marks == [3, 5]


def test_events_of_other_processes_are_published_too(desk: Desk) -> None:
    """An operator's command line beside a running broker writes through a store of its own (P5)."""
    published: list[str] = []
    outbox = Outbox(desk.reader, lambda event: published.append(str(event.kind)), lambda seq: None)
    outbox.poll()
    published.clear()
    other = SqliteStore(desk.state.path / "mqttprov.db")
    administration = type(desk.administration)(
        other, desk.state.keys, actor="cli:other", now_ms=desk.clock, entropy=desk.entropy
    )
    administration.create_device("default", "gw-1", None, {})
    other.close()
    outbox.poll()
    assert published == ["device-created"]


def test_many_events_are_published_in_bounded_pieces(desk: Desk) -> None:
    """A poll does a bounded amount of work and says that there is more (P9)."""
    counter = Counter(desk)
    for i in range(MAX_PER_POLL):
        counter.ask(counter.payload(f"gw-{i}"))
    counter.settle()
    counter.responder.release()
    published: list[ChainedEvent] = []
    outbox = Outbox(desk.reader, published.append, lambda seq: None)
    assert outbox.poll()
    assert len(published) == MAX_PER_POLL
    assert not outbox.poll()
    assert [event.seq for event in published] == list(range(1, len(published) + 1))


def test_after_a_crash_unmarked_events_are_published_again(desk: Desk) -> None:
    """Where it stood is in the store: what lies behind is published again, nothing before it (P5)."""
    published: list[int] = []

    def crash(event: ChainedEvent) -> None:
        if event.seq == 3:
            raise RuntimeError("power")
        published.append(event.seq)

    first = Counter(desk)
    first.responder.open_outbox(crash)
    with pytest.raises(RuntimeError, match="power"):
        first.responder.tick()
    first.settle()
    first.responder.release()
    assert published == [1, 2]

    second = Counter(desk)
    second.responder.open_outbox(lambda event: published.append(event.seq))
    second.responder.tick()
    second.settle()
    second.responder.finish()
    second.responder.release()
    assert published == [1, 2, 1, 2, 3]

    third = Counter(desk)
    third.responder.open_outbox(lambda event: published.append(event.seq))
    third.responder.tick()
    third.settle()
    third.responder.release()
    assert published == [1, 2, 1, 2, 3]
