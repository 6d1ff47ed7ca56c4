"""How data becomes text: columns for people, JSON for machines, and never a control character from stored data.

Columns are as wide as their content, on a terminal and off it: nothing is cut. What people read and what machines read
comes from the same records.
"""

import contextlib
import errno
import logging
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

_encode: Final = msgspec.json.Encoder().encode


def escaped(text: str) -> str:
    """Give the text with everything that a terminal would obey or hide written as `\\uXXXX`.

    The result of escaping JSON is the same JSON: such characters can only be inside its strings.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else _escape(c) for c in text)


def _escape(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[i : i + 4]}" for i in range(0, len(units), 4))


def iso_time(at_ms: int) -> str:
    """Give a time in ms since the epoch as ISO 8601 in UTC."""
    try:
        text = datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds")
    except (ValueError, OverflowError, OSError):  # beyond year 9999: a damaged value must still be shown
        return f"{at_ms} ms"
    return text.replace("+00:00", "Z")


def record(value: msgspec.Struct, *, leave_out: Sequence[str] = ()) -> dict[str, Any]:
    """Give the fields of a listed row for `--json`: camelCase, and times `..._ms` as ISO 8601 `...At`."""
    fields: dict[str, Any] = {}
    for name, content in msgspec.structs.asdict(value).items():
        if name in leave_out:
            continue
        if name.endswith("_ms"):
            name, content = f"{name[:-3]}_at", None if content is None else iso_time(content)  # noqa: PLW2901 - renamed
        first, *rest = name.split("_")
        fields[first + "".join(word.title() for word in rest)] = content
    return fields


def say(text: str) -> None:
    """Tell the person something that is not data (stderr)."""
    if sys.stderr is None:  # closed; `print` would take that for stdout
        return
    # A log on a full disk must not end a server that has just come up; what is data is another matter.
    with contextlib.suppress(OSError):
        print(escaped(text), file=sys.stderr, flush=True)  # noqa: T201 - this is where talk is printed


def write_data(text: str) -> None:
    """Write to stdout; data that nobody gets is an error. Raises `OSError`."""
    if sys.stdout is None:
        raise OSError(errno.EBADF, "standard output is closed")
    sys.stdout.write(text)


def emit(line: str) -> None:
    """Print one line of data (stdout), at once."""
    write_data(escaped(line) + "\n")
    sys.stdout.flush()


def emit_json(value: Any) -> None:
    """Print a value as one line of JSON."""
    emit(_encode(value).decode())


def emit_json_rows(rows: Iterable[Mapping[str, Any]], *, end: str = "]") -> None:
    """Print rows as one JSON array, a row per line, without holding them all."""
    lead = "["
    for row in rows:
        write_data(lead + escaped(_encode(row).decode()))
        lead = ",\n"
    emit("[" + end if lead == "[" else end)


def emit_json_object(fields: Mapping[str, Any], name: str, rows: Iterable[Mapping[str, Any]]) -> None:
    """Print one JSON object whose last field is a list of rows, a row per line, without holding them all."""
    write_data(escaped(_encode(fields).decode())[:-1] + f',"{name}":')
    emit_json_rows(rows, end="]}")


def cell(value: Any) -> str:
    """Give a value as people read it."""
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case dict():
            return ",".join(f"{k}={v}" for k, v in value.items()) or "-"
        case list() | tuple():
            return ",".join(map(cell, value)) or "-"
        case _:
            return escaped(str(value)) or "-"


def emit_columns(rows: Iterable[Mapping[str, Any]], columns: Mapping[str, str]) -> None:
    """Print rows in columns; `columns` gives the heading of each field that is shown."""
    table = [list(columns.values()), *([cell(row[name]) for name in columns] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for line in table:
        emit("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())


def emit_fields(fields: Mapping[str, Any]) -> None:
    """Print one thing, a field per line."""
    width = max(map(len, fields), default=0)
    for name, value in fields.items():
        emit(f"{name.ljust(width)}  {cell(value)}")


class _LogLine(logging.Formatter):
    """One record in one printable line; a traceback follows only for a defect of ours."""

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802 - logging's
        return iso_time(int(record.created * 1000))

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the name that logging gives it
        record.message = escaped(record.message)
        return super().formatMessage(record)


def log_to_stderr(level: int = logging.INFO) -> None:
    """Let the long-running verbs tell what happens."""
    handler = logging.StreamHandler()
    handler.setFormatter(_LogLine("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=level, handlers=[handler])
