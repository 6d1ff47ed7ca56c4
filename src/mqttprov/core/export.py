"""An export of the audit chain, a JSON object per line: `seq`, `body` and `hash`, which is all that verifying needs.

`body` is the text that was hashed, so that anybody with a JSON parser and SHA-256 can check it without us.
"""

from collections.abc import Iterable, Iterator
from typing import Final

import msgspec

from mqttprov.core.audit import BrokenChain, ChainedEvent, parse_columns

# An event holds names, labels and texts within their limits: some KiB. A longer line is not ours.
MAX_LINE_BYTES: Final = 1024 * 1024


class _Line(msgspec.Struct, gc=False):
    seq: int
    body: str
    hash: str


class TornExport(ValueError):  # noqa: N818 - it names what is wrong, like the rest of the rules
    """The last line of an export was written halfway, as when its disk was full; what is before it is whole."""


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(_Line).decode


def export_line(stored: ChainedEvent) -> str:
    """Give the line of an event, without its end."""
    return _encode(_Line(stored.seq, stored.body, stored.hash)).decode()


def read_export(lines: Iterable[bytes]) -> Iterator[ChainedEvent]:
    """Give the events of an export, to be verified.

    Raises `BrokenChain` at a line that is none, and `TornExport` after all whole lines when the last has no end.
    """
    seq = 0
    for number, line in enumerate(lines, 1):
        if not line.endswith(b"\n") and len(line) <= MAX_LINE_BYTES:
            raise TornExport(
                f"the last line of the export, {number}, is torn (not written to its end); "
                f"the {seq} events before it are whole; export again"
            )
        try:
            read = _decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise BrokenChain(seq + 1, f"line {number} of the export is not one of an export: {error}") from error
        seq = read.seq
        try:
            place = parse_columns(read.body)
        except ValueError as error:
            raise BrokenChain(seq, str(error)) from error
        yield ChainedEvent(seq, place.kind, place.at_ms, read.body, read.hash, place.device_id)
