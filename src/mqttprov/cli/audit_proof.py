"""`mqttprov audit export|verify|checkpoint|key`: the record as others can check it."""

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from mqttprov.admin import BrokenChain, Checkpoints, Conflict, TornExport, kept_checkpoints, verify_export
from mqttprov.cli.errors import Exit, Failure
from mqttprov.cli.output import cell, emit, emit_fields, emit_json, escaped, iso_time, say, write_data
from mqttprov.cli.state import JsonOption, StateOption, administering, state_path
from mqttprov.core.audit import ChainedEvent, Event, parse_body
from mqttprov.responder.state_directory import AUDIT_PUBLIC_KEY

_LINES_PER_WRITE: Final = 500
# What a spreadsheet takes for the beginning of a formula (security.md SD-15).
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r", "\n")
_FIELDS: Final = tuple(name for name in Event.__struct_fields__ if name not in {"kind", "at_ms"})


class ExportFormat(StrEnum):
    """What `audit export` writes."""

    JSONL = "jsonl"
    CSV = "csv"


def export(
    format_: Annotated[
        ExportFormat, typer.Option("--format", help="jsonl can be verified; csv is for spreadsheets.")
    ] = ExportFormat.JSONL,
    output: Annotated[
        Path | None,
        typer.Option(metavar="F", help="Write into this new file (mode 0600).", show_default="standard output"),
    ] = None,
    state: StateOption = None,
) -> None:
    """Write all audit events, oldest first. jsonl lines hold seq, body and hash: all that verifying needs."""
    with administering(state) as admin:
        lines = _csv_lines(admin.events()) if format_ is ExportFormat.CSV else admin.export_audit()
        if output is None:
            _write(lines, write_data)
            sys.stdout.flush()
            return
        with _new_file(output) as write:
            count = _write(lines, write)
    say(f"Wrote {count} lines into {output}.")


def _write(lines: Iterable[str], write: Callable[[str], object]) -> int:
    """Write lines some hundreds at a time; give how many they were."""
    count, waiting = 0, []
    for line in lines:
        waiting.append(escaped(line) + "\n")
        count += 1
        if len(waiting) == _LINES_PER_WRITE:
            write("".join(waiting))
            waiting.clear()
    write("".join(waiting))
    return count


def _csv_lines(events: Iterable[ChainedEvent]) -> Iterator[str]:
    yield _csv_line(["seq", "at", "kind", *_FIELDS, "hash"])
    for stored in events:
        event = _parsed(stored)
        values = (getattr(event, name) for name in _FIELDS)
        yield _csv_line([stored.seq, iso_time(event.at_ms), event.kind, *values, stored.hash])


def _parsed(stored: ChainedEvent) -> Event:
    try:
        return parse_body(stored.body)[1]
    except ValueError as error:
        raise BrokenChain(stored.seq, str(error)) from error


def _csv_line(values: Iterable[Any]) -> str:
    return ",".join(map(_csv_cell, values))


def _csv_cell(value: Any) -> str:
    """Quote a value, and take from it what a spreadsheet would run (security.md SD-15)."""
    text = "" if value is None else cell(value) if isinstance(value, dict) else str(value)
    if text.startswith(_FORMULA):
        text = "'" + text
    return '"' + escaped(text).replace('"', '""') + '"'


@contextmanager
def _new_file(path: Path) -> Iterator[Callable[[str], object]]:
    """Open a new file for text, on disk when this ends; without its end there is no file."""
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    except FileExistsError as error:
        raise Conflict(f"{path} exists already; name a new file, or remove that one") from error
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            yield file.write
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def verify_(
    from_: Annotated[
        Path | None,
        typer.Option("--from", metavar="EXPORT", help="Check an export (jsonl).", show_default="the database"),
    ] = None,
    checkpoints: Annotated[
        Path | None,
        typer.Option(
            metavar="F",
            help="Check against these checkpoints, best a copy kept elsewhere.",
            show_default="those of the state directory; with --from none",
        ),
    ] = None,
    key: Annotated[
        Path | None,
        typer.Option(metavar="PUB", help="Public key of the checkpoints.", show_default="audit-key.pub of the state"),
    ] = None,
    state: StateOption = None,
    json: JsonOption = False,
) -> None:
    """Check that no audit event was changed, removed, inserted or moved; names the first bad place.

    Says how many there are and the last hash. A cut-off end, or a record that was written anew, shows only against
    checkpoints.
    """
    try:
        if from_ is None:
            with administering(state) as admin:
                against = _told(admin.checkpoints(checkpoints, key))
                head = admin.verify_audit(against)
        else:
            against = Checkpoints()
            if checkpoints is not None:
                against = _told(kept_checkpoints(checkpoints, key or state_path(state) / AUDIT_PUBLIC_KEY))
            head = verify_export(from_, against)
    except (BrokenChain, TornExport) as error:
        if not json:
            raise
        emit_json(_bad(error))
        raise typer.Exit(Exit.FAILED) from error
    fields = {"verified": True, "events": head.seq, "head": head.hash, "checkpoints": len(against.heads)}
    (emit_json if json else emit_fields)(fields)


def _told(checkpoints: Checkpoints) -> Checkpoints:
    if checkpoints.torn:
        say("The checkpoints end with a torn checkpoint (written halfway), which is left out.")
    return checkpoints


def _bad(error: BrokenChain | TornExport) -> dict[str, Any]:
    if isinstance(error, BrokenChain):
        return {"verified": False, "firstBad": error.seq, "why": str(error)}
    return {"verified": False, "torn": True, "why": str(error)}


def checkpoint(state: StateOption = None, json: JsonOption = False) -> None:
    """Sign how many audit events there are and the last hash; appended to `checkpoints` and printed.

    Keep a copy outside this machine. `serve` writes one by itself every 1,000 events or 60 s, when there is news.
    """
    from mqttprov.responder.checkpoints import CheckpointRefused

    with administering(state) as admin:
        try:
            events, note = admin.write_checkpoint()
        except CheckpointRefused as error:
            raise Failure(str(error)) from error
    if note is None:
        say(f"Nothing happened since the last checkpoint, of {events} events.")
    if json:
        emit_json({"written": note is not None, "events": events, "note": note})
    elif note is not None:
        for line in note.splitlines():
            emit(line)


def key(state: StateOption = None, json: JsonOption = False) -> None:
    """Print the public key that verifies checkpoints (a C2SP verifier key); it is also in `audit-key.pub`."""
    with administering(state) as admin:
        public = admin.audit_key()
    if json:
        emit_json({"name": public.name, "key": str(public)})
    else:
        emit(str(public))
