"""`mqttprov audit`: what happened, and whether the record of it is whole."""

import time
from collections.abc import Iterator
from typing import Annotated, Any, Final

import typer

from mqttprov.cli.errors import Exit
from mqttprov.cli.output import cell, emit, emit_fields, emit_json, emit_json_rows, iso_time, record
from mqttprov.cli.state import JsonOption, StateOption, reading
from mqttprov.core.audit import BrokenChain, ChainedEvent, parse_body, verify
from mqttprov.store.protocol import Reader

app = typer.Typer(help="Audit events: what happened, and whether the record of it is whole.")

_POLL_S: Final = 0.2
_SHOWN_FIRST: Final = ("seq", "at", "kind", "hash")


def _record(stored: ChainedEvent) -> dict[str, Any]:
    fields: dict[str, Any] = {"seq": stored.seq, "at": iso_time(stored.at_ms), "kind": str(stored.kind)}
    try:
        _, event = parse_body(stored.body)
    except ValueError as error:
        fields["text"] = f"unreadable: {error}; run 'mqttprov audit verify'"
    else:
        fields |= {n: v for n, v in record(event).items() if v is not None and n not in {"atAt", *_SHOWN_FIRST}}
    return fields | {"hash": stored.hash}


def _line(fields: dict[str, Any]) -> str:
    details = " ".join(f"{name}={cell(value)}" for name, value in fields.items() if name not in _SHOWN_FIRST)
    return f"{fields['at']}  #{fields['seq']}  {fields['kind']}  {details}"


def _following(reader: Reader, after_seq: int) -> Iterator[ChainedEvent]:
    """Give events as they come, until the person interrupts."""
    while True:
        for event in reader.events(after_seq):
            after_seq = event.seq
            yield event
        time.sleep(_POLL_S)


@app.command()
def tail(
    number: Annotated[int, typer.Option("-n", metavar="N", min=0, help="How many of the last events.")] = 10,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with new events until interrupted.")] = False,
    state: StateOption = None,
    json: JsonOption = False,
) -> None:
    """Print the last audit events, one per line; with --json an array, or with --follow an object per line."""
    with reading(state) as reader:
        after_seq = max(0, reader.head().seq - number)
        events = _following(reader, after_seq) if follow else reader.events(after_seq)
        records = map(_record, events)
        if json and not follow:
            emit_json_rows(records)
            return
        for fields in records:
            if json:
                emit_json(fields)
            else:
                emit(_line(fields))


@app.command("verify")
def verify_(state: StateOption = None, json: JsonOption = False) -> None:
    """Check that no audit event was changed, removed, inserted or moved; says how many there are and the last hash.

    Keep number and hash elsewhere: only against them a cut-off end shows.
    """
    with reading(state) as reader:
        try:
            head = verify(reader.events())
        except BrokenChain as error:
            if not json:
                raise
            emit_json({"verified": False, "firstBad": error.seq, "why": str(error)})
            raise typer.Exit(Exit.FAILED) from error
    fields = {"verified": True, "events": head.seq, "head": head.hash}
    (emit_json if json else emit_fields)(fields)
