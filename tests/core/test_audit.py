"""The audit chain: every change to what was written shows (P5)."""

import hashlib
from collections.abc import Callable

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mqttprov.core.audit import (
    GENESIS,
    BrokenChain,
    ChainedEvent,
    ChainHead,
    Event,
    EventKind,
    chain,
    parse_body,
    verify,
)

texts = st.none() | st.text(max_size=12)
events = st.builds(
    Event,
    kind=st.sampled_from(EventKind),
    at_ms=st.integers(0, 2**53),
    actor=st.text(max_size=8),
    source=texts,
    device=texts,
    device_id=texts,
    generation=st.none() | st.integers(0, 2**31),
    text=texts,
)
histories = st.lists(events, min_size=1, max_size=8)


def write(history: list[Event]) -> tuple[list[ChainedEvent], ChainHead]:
    """Chain events from the beginning."""
    head, stored = ChainHead(), []
    for event in history:
        one, head = chain(head, event)
        stored.append(one)
    return stored, head


def test_the_stored_form_is_fixed() -> None:
    """An export can be verified by anybody with SHA-256: hash = SHA-256(previous hash, body)."""
    stored, head = chain(ChainHead(), Event(EventKind.REFUSED, 7, "device", reason="expired"))
    assert stored.body == '{"seq":1,"event":{"kind":"refused","atMs":7,"actor":"device","reason":"expired"}}'
    assert stored.hash == hashlib.sha256(b"0" * 64 + stored.body.encode()).hexdigest()
    assert head == ChainHead(1, stored.hash)
    assert ChainHead().hash == GENESIS


@given(histories)
def test_what_was_written_verifies_and_reads_back(history: list[Event]) -> None:
    """No loss, and the head is the one that was handed out."""
    stored, head = write(history)
    assert verify(stored) == head
    assert [parse_body(one.body) for one in stored] == list(enumerate(history, 1))


@given(histories, st.data())
def test_verifying_can_go_on_from_any_place(history: list[Event], data: st.DataObject) -> None:
    """A part of the chain verifies against the head before it."""
    stored, head = write(history)
    cut = data.draw(st.integers(0, len(stored)))
    assert verify(stored[cut:], after=verify(stored[:cut])) == head


def _change_body(stored: list[ChainedEvent], i: int) -> None:
    stored[i] = msgspec.structs.replace(stored[i], body=stored[i].body.replace("}}", ',"x":1}}'))


def _change_body_and_hash(stored: list[ChainedEvent], i: int) -> None:
    before = ChainHead(stored[i].seq - 1, stored[i - 1].hash if i else GENESIS)
    _, event = parse_body(stored[i].body)
    stored[i], _ = chain(before, msgspec.structs.replace(event, actor=event.actor + "!"))


def _change_column(stored: list[ChainedEvent], i: int) -> None:
    stored[i] = msgspec.structs.replace(stored[i], at_ms=stored[i].at_ms + 1)


def _change_device_column(stored: list[ChainedEvent], i: int) -> None:
    stored[i] = msgspec.structs.replace(stored[i], device_id=(stored[i].device_id or "") + "x")


def _remove(stored: list[ChainedEvent], i: int) -> None:
    del stored[i]


def _insert(stored: list[ChainedEvent], i: int) -> None:
    before = ChainHead(stored[i].seq - 1, stored[i - 1].hash if i else GENESIS)
    stored.insert(i, chain(before, Event(EventKind.REFUSED, 1, "forged"))[0])


def _duplicate(stored: list[ChainedEvent], i: int) -> None:
    stored.insert(i, stored[i])


def _swap(stored: list[ChainedEvent], i: int) -> None:
    stored[i], stored[i - 1] = stored[i - 1], stored[i]


def _swap_places_too(stored: list[ChainedEvent], i: int) -> None:
    a, b = stored[i - 1], stored[i]
    stored[i - 1] = msgspec.structs.replace(b, seq=a.seq)
    stored[i] = msgspec.structs.replace(a, seq=b.seq)


CHANGES = [_change_body, _change_body_and_hash, _change_column, _change_device_column, _remove, _insert, _duplicate,
           _swap, _swap_places_too]  # fmt: skip


def bad_place(stored: list[ChainedEvent], head: ChainHead) -> int | None:
    """Give the place that verifying complains of; None when only the head that was written down shows the change."""
    try:
        assert verify(stored) != head
    except BrokenChain as broken:
        return broken.seq
    return None


@pytest.mark.parametrize("change", CHANGES)
@settings(max_examples=40)
@given(history=st.lists(events, min_size=2, max_size=5), data=st.data())
def test_every_single_change_is_found(
    change: Callable[[list[ChainedEvent], int], None], history: list[Event], data: st.DataObject
) -> None:
    """Changed, removed, inserted, swapped and reordered events show, also with a hash made anew (P5).

    Only the last event can be made anew or cut off without a trace in the chain itself; that shows against the head.
    """
    stored, head = write(history)
    change(stored, data.draw(st.integers(1, len(stored) - 1)))
    bad = bad_place(stored, head)
    if bad is None:
        assert change in {_change_body_and_hash, _remove}
    else:
        assert 1 <= bad <= len(history) + 1


def test_the_first_bad_place_is_told() -> None:
    """The operator learns where to look."""
    stored, _ = write([Event(EventKind.REFUSED, i, "device") for i in range(5)])
    del stored[2]
    with pytest.raises(BrokenChain, match="audit event 3: it is missing; the next one stored is 4"):
        verify(stored)


def test_a_hash_that_fits_a_body_that_is_no_event_is_found() -> None:
    """The content is checked too, not only the chain."""
    body = '{"seq":1}'
    forged = hashlib.sha256((GENESIS + body).encode()).hexdigest()
    with pytest.raises(BrokenChain, match="not an audit event"):
        verify([ChainedEvent(1, EventKind.REFUSED, 1, body, forged)])


@pytest.mark.parametrize("body", ["", "{}", "[]", '{"seq":"1","event":{}}', '{"seq":1,"event":{"kind":"x"}}', "\ufeff"])
def test_what_is_no_event_is_a_clear_error(body: str) -> None:
    """Reading a damaged row does not fail in another way."""
    with pytest.raises(ValueError, match="not an audit event"):
        parse_body(body)
