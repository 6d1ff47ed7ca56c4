"""`mqttprov audit export|verify|checkpoint|key`: the record as others can check it."""

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from mqttprov.cli.errors import Exit, Failure
from mqttprov.cli.output import cell, emit, emit_fields, emit_json, escaped, iso_time, say
from mqttprov.cli.state import JsonOption, StateOption, opened, reading, state_path
from mqttprov.core.audit import BrokenChain, ChainedEvent, ChainHead, CutTail, Event, parse_body, verify
from mqttprov.core.checkpoint import BadCheckpoint, parse_verifier_key, read_checkpoints
from mqttprov.core.export import MAX_LINE_BYTES, TornExport, export_line, read_export
from mqttprov.responder.state_directory import AUDIT_PUBLIC_KEY, CHECKPOINTS
from mqttprov.store.protocol import Conflict

_LINES_PER_WRITE: Final = 500
_MAX_KEY_BYTES: Final = 1024
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
    with reading(state) as reader:
        lines = _csv_lines(reader.events()) if format_ is ExportFormat.CSV else map(export_line, reader.events())
        if output is None:
            _write(lines, sys.stdout.write)
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
    if from_ is None and checkpoints is None:
        own = state_path(state) / CHECKPOINTS
        checkpoints = own if own.exists() else None
    marks = _marks(checkpoints, key or state_path(state) / AUDIT_PUBLIC_KEY) if checkpoints else {}
    try:
        if from_ is not None:
            head = _verify_export(from_, marks)
        else:
            with reading(state) as reader:
                head = verify(reader.events(), checkpoints=marks)
    except (BrokenChain, TornExport) as error:
        if not json:
            raise
        emit_json(_bad(error))
        raise typer.Exit(Exit.FAILED) from error
    fields = {"verified": True, "events": head.seq, "head": head.hash, "checkpoints": len(marks)}
    (emit_json if json else emit_fields)(fields)


def _bad(error: BrokenChain | TornExport) -> dict[str, Any]:
    if isinstance(error, BrokenChain):
        return {"verified": False, "firstBad": error.seq, "why": str(error)}
    return {"verified": False, "torn": True, "why": str(error)}


def _verify_export(path: Path, marks: dict[int, str]) -> ChainHead:
    """Verify what of an export is whole, and only then complain about its torn end."""
    torn: list[TornExport] = []

    def whole(lines: Iterable[bytes]) -> Iterator[ChainedEvent]:
        try:
            yield from read_export(lines)
        except TornExport as error:
            torn.append(error)

    with path.open("rb") as file:
        lines = iter(partial(file.readline, MAX_LINE_BYTES + 1), b"")
        try:
            head = verify(whole(lines), checkpoints=marks)
        except CutTail:
            if not torn:
                raise
        if torn:
            raise torn[0]
        return head


def _marks(path: Path, key_path: Path) -> dict[int, str]:
    from mqttprov.pki.note_key import verify_signature  # noqa: PLC0415 - cryptography, which most verbs do without

    try:
        with key_path.open("rb") as file:
            key = parse_verifier_key(file.read(_MAX_KEY_BYTES).decode("utf-8", "replace"))
    except OSError as error:
        raise Failure(f"{key_path} cannot be read: {error.strerror}; name the audit's public key with --key") from error
    except BadCheckpoint as error:
        raise BadCheckpoint(f"{key_path}: {error}") from None
    try:
        with path.open(encoding="utf-8") as file:
            marks, torn = read_checkpoints(file, key, verify_signature)
    except (BadCheckpoint, UnicodeDecodeError) as error:
        raise BadCheckpoint(f"{path}: {error}") from error
    if torn:
        say(f"{path} ends with a torn checkpoint, which is left out")
    return marks


def checkpoint(state: StateOption = None, json: JsonOption = False) -> None:
    """Sign how many audit events there are and the last hash; appended to `checkpoints` and printed.

    Keep a copy outside this machine. `serve` writes one by itself every 1,000 events or 60 s, when there is news.
    """
    from mqttprov.responder.checkpoints import CheckpointRefused, CheckpointWriter  # noqa: PLC0415 - as above

    with opened(state) as directory:
        writer = CheckpointWriter(directory.store, directory.audit_signer(os.urandom), directory.checkpoints_path)
        try:
            note = writer.write()
        except CheckpointRefused as error:
            raise Failure(str(error)) from error
        if note is None:
            say(f"Nothing happened since the last checkpoint, of {writer.last_size()} events.")
        if json:
            emit_json({"written": note is not None, "events": writer.last_size(), "note": note})
        elif note is not None:
            for line in note.splitlines():
                emit(line)


def key(state: StateOption = None, json: JsonOption = False) -> None:
    """Print the public key that verifies checkpoints (a C2SP verifier key); it is also in `audit-key.pub`."""
    with opened(state) as directory:
        public = directory.audit_signer(os.urandom).verifier_key
    if json:
        emit_json({"name": public.name, "key": str(public)})
    else:
        emit(str(public))
