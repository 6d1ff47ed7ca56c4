"""Exports: they hold what verifying needs, and what is wrong with one is told by its place (P5)."""

from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqttprov.core.audit import BrokenChain, ChainedEvent, ChainHead, Event, EventKind, chain, verify
from mqttprov.core.export import MAX_LINE_BYTES, TornExport, export_line, read_export


def written(count: int) -> list[ChainedEvent]:
    """Chain some events."""
    head, stored = ChainHead(), []
    for i in range(count):
        one, head = chain(head, Event(EventKind.REFUSED, i, "device", text="ä\u2028\U0001f600\x7f", device_id=f"{i}"))
        stored.append(one)
    return stored


STORED = written(6)
LINES = [export_line(one).encode() + b"\n" for one in STORED]


def test_an_export_reads_back_and_verifies() -> None:
    """Nothing is lost on the way, also of characters that JSON may write differently."""
    assert list(read_export(LINES)) == STORED
    assert verify(read_export(LINES)) == ChainHead(6, STORED[-1].hash)


def test_a_torn_last_line_is_told_apart() -> None:
    """Wherever the write was cut, the lines before it are given, and then it is told."""
    for cut in range(1, len(LINES[-1])):
        events = read_export([*LINES[:-1], LINES[-1][:cut]])
        assert list(islice(events, 5)) == STORED[:-1]
        with pytest.raises(TornExport, match=r"6, is torn .*the 5 events before it are whole"):
            next(events)


@pytest.mark.parametrize(
    "line",
    [b"\n", b"{}\n", b"nonsense\n", b"\xff\n", b'{"seq":3,"body":"{}","hash":""}\n',
     b'{"seq":"3","body":"","hash":""}\n', b'{"seq":3,"body":"\\ud800","hash":""}\n', b"x" * (MAX_LINE_BYTES + 1)],
)  # fmt: skip
def test_a_line_that_is_none_is_named(line: bytes) -> None:
    """In the middle nothing can be torn: it is a change, at this place."""
    with pytest.raises(BrokenChain) as broken:
        verify(read_export([*LINES[:2], line, *LINES[3:]]))
    assert broken.value.seq == 3


@given(st.data())
def test_no_changed_byte_goes_unseen(data: st.DataObject) -> None:
    """A byte that is changed is found, unless the line still means the same."""
    number = data.draw(st.integers(0, len(LINES) - 1))
    line = LINES[number]
    place = data.draw(st.integers(0, len(line) - 2))
    byte = data.draw(st.integers(0, 255).filter(lambda b: b not in {10, line[place]}))
    changed = line[:place] + bytes([byte]) + line[place + 1 :]
    try:
        events = list(read_export([*LINES[:number], changed, *LINES[number + 1 :]]))
        verify(events)
    except BrokenChain as error:
        broken = error.seq
    else:
        assert events == STORED
        return
    assert number <= broken <= number + 2
