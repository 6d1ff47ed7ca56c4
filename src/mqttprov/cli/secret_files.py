"""New files for secrets: only their owner may read them, and they hold no secret that does not work."""

import csv
import io
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from mqttprov.cli.errors import Failure
from mqttprov.responder.acting import PartlyMade
from mqttprov.store.protocol import Conflict


@contextmanager
def told_once(made: str, remedy: str) -> Iterator[None]:
    """Print or write the secret that something was made with, once; where that fails, say so and what to do."""
    try:
        yield
    except OSError as error:
        why = error.strerror or error
        raise Failure(f"{made}, which is lost, as it could not be written: {why}; {remedy}") from error


@contextmanager
def new_secret_file(path: Path) -> Iterator[IO[bytes]]:
    """Make the file before there is a secret that could be lost; remove it when there will be none."""
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    except FileExistsError as error:
        raise Conflict(f"{path} exists already; name a new file, or remove that one") from error
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
    except PartlyMade:
        raise
    except BaseException:
        path.unlink(missing_ok=True)
        raise


class SecretSheet:
    """A CSV file of secrets that grows by what is about to be committed."""

    def __init__(self, file: IO[bytes], columns: Sequence[str]) -> None:
        self._file = file
        self._rows = 0
        self._write([columns])
        self._ends = {0: file.tell()}  # bytes by rows, after each addition

    def add(self, rows: Sequence[Sequence[str]]) -> None:
        """Write rows so that they survive a power loss: what they open is committed right after."""
        self._write(rows)
        self._rows += len(rows)
        self._ends[self._rows] = self._file.tell()

    def cut(self, rows: int) -> None:
        """Keep only so many rows, where an addition ended."""
        self._file.truncate(self._ends[rows])

    def _write(self, rows: Sequence[Sequence[str]]) -> None:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(rows)
        self._file.write(text.getvalue().encode())
        self._file.flush()
        os.fsync(self._file.fileno())


@contextmanager
def secret_sheet(path: Path, columns: Sequence[str]) -> Iterator[SecretSheet]:
    """Make a new CSV file of secrets. Left by `PartlyMade`, it keeps exactly what was made; by others it is removed."""
    with new_secret_file(path) as file:
        sheet = SecretSheet(file, columns)
        try:
            yield sheet
        except PartlyMade as error:
            sheet.cut(error.made)
            why = str(error.__cause__) or "interrupted"
            raise PartlyMade(f"{error}; {path} holds the secrets of exactly those: {why}", error.made) from error
