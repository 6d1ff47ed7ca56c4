"""`mqttprov audit`: what happened, and whether the record of it is whole."""

import time
from collections.abc import Iterator
from typing import Annotated, Any, Final

import typer

from mqttprov.cli import audit_answers, audit_proof
from mqttprov.cli.output import cell, emit, emit_json, emit_json_rows, iso_time, record
from mqttprov.cli.state import JsonOption, StateOption, reading
from mqttprov.core.audit import ChainedEvent, parse_body
from mqttprov.store.protocol import Reader

app = typer.Typer(help="Audit events: what happened, and whether the record of it is whole.")

app.command("export")(audit_proof.export)
app.command("verify")(audit_proof.verify_)
app.command("checkpoint")(audit_proof.checkpoint)
app.command("key")(audit_proof.key)
app.command("explain")(audit_answers.explain)
app.command("report")(audit_answers.report)

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
