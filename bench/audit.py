"""How fast the audit is verified, exported and asked, at a size: `python bench/audit.py [EVENTS]`.

Events are like those of real registrations (two for each device), appended through the store in batches of 200.
"""

import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from mqttprov.core.audit import Event, EventKind, verify
from mqttprov.core.export import export_line, read_export
from mqttprov.core.secrets import new_id
from mqttprov.responder.report import report
from mqttprov.responder.story import find_story
from mqttprov.store.protocol import Reader
from mqttprov.store.sqlite import SqliteStore

BATCH = 200
START_MS = 1_700_000_000_000


def events_of(number: int) -> list[Event]:
    """Give what one device's enrolment leaves."""
    at_ms = START_MS + number
    device_id = new_id(at_ms, os.urandom(10))
    about: dict[str, Any] = {
        "source": "10.0.0.1", "device": f"gw-{number}", "device_id": device_id, "credentials_type": "ACCESS_TOKEN",
        "generation": 1,
    }  # fmt: skip
    return [
        Event(EventKind.PROVISIONED, at_ms, "device", ref=f"{number:016x}", profile="default", token="lot7",  # noqa: S106 - a name
              key="k5vabcdefghijklmnopqrstu", registration=number, state="provisioned", **about),
        Event(EventKind.ACTIVATED, at_ms, "device", state="active", **about),
    ]  # fmt: skip


def fill(store: SqliteStore, count: int) -> None:
    """Append events."""
    for first in range(0, count // 2, BATCH // 2):
        with store.write() as transaction:
            transaction.append([e for i in range(first, first + BATCH // 2) for e in events_of(i)])


def export(reader: Reader, path: Path) -> None:
    """Write all events as lines."""
    with path.open("w", encoding="utf-8") as file:
        file.writelines(export_line(event) + "\n" for event in reader.events())


def verify_export(path: Path) -> None:
    """Verify the lines."""
    with path.open("rb") as file:
        verify(read_export(file))


def timed(what: str, count: int, function: Callable[[], object]) -> None:
    """Say how long it took."""
    begin_s, cpu_begin_s = time.perf_counter(), time.process_time()
    function()
    took_s, cpu_s = time.perf_counter() - begin_s, time.process_time() - cpu_begin_s
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{what:<24} {took_s:9.3f} s {count / took_s:12,.0f} a second   CPU {cpu_s:8.3f} s   peak {peak_mb:.0f} MB")


def main() -> None:
    """Measure."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    with tempfile.TemporaryDirectory() as folder:
        store = SqliteStore(Path(folder) / "audit.db", create=True)
        reader = store.reader()
        lines = Path(folder) / "audit.jsonl"
        timed("append", count, partial(fill, store, count))
        timed("verify, database", count, lambda: verify(reader.events()))
        timed("export, jsonl", count, partial(export, reader, lines))
        timed("verify, export", count, partial(verify_export, lines))
        last_id = next(reader.events(count - 1)).device_id or ""
        timed("explain, by id", 1, lambda: list(find_story(reader, last_id).events))
        timed("explain, oldest ref", 1, lambda: list(find_story(reader, "0" * 16).events))
        timed("report", count, lambda: report(reader, now_ms=START_MS + count, within_ms=86_400_000))
        reader.close()
        store.close()


if __name__ == "__main__":
    main()
