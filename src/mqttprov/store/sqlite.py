"""The SQLite store: opening and migrations. Writing is in `sqlite_transaction`, questions are in `sqlite_reader`.

WAL with `synchronous=FULL`: what is committed survives a power loss (P2; NORMAL does not, security.md rule 5).
"""

import fcntl
import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Final

from mqttprov.store.protocol import StoreUnavailable
from mqttprov.store.sqlite_file import OpenedFile, leave_to_readers
from mqttprov.store.sqlite_reader import (
    SqliteReader,
)
from mqttprov.store.sqlite_transaction import SqliteTransaction

BUSY_TIMEOUT_MS: Final = 5000
_APPLICATION_ID: Final = 0x6D717076  # "mqpv"


def _migrations() -> list[tuple[int, str]]:
    folder = resources.files("mqttprov.store") / "migrations"
    scripts = sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".sql"))
    return [(int(name.split("_")[0]), (folder / name).read_text("utf-8")) for name in scripts]


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Keep other threads and processes that would set up the same database waiting."""
    descriptor = os.open(lock, os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turn the engine's errors into `StoreUnavailable` with what to do about it."""
    try:
        yield
    except sqlite3.IntegrityError:
        raise
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:  # a damaged file's messages may not even be text
        hint = "another process holds it; try again" if "locked" in str(error) else "restore it from a backup"
        if "full" in str(error) or "disk I/O" in str(error):
            hint = "make room on its disk"
        raise StoreUnavailable(f"the database {path} cannot be used: {error}; {hint}") from error


class SqliteStore:
    """A store in one SQLite file. `write` may be called from any thread; one transaction runs at a time."""

    def __init__(self, path: Path, *, create: bool = False) -> None:
        """Open the file and update its schema; with `create` make it (mode 0600). Raises `StoreUnavailable`."""
        self.path = path
        if create:
            os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
        elif not path.is_file():
            raise StoreUnavailable(f"there is no database at {path}; run 'mqttprov init' first")
        self._lock = threading.Lock()
        with translated(path):
            self._connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT_MS / 1000, isolation_level=None,
                                               check_same_thread=False, cached_statements=128)  # fmt: skip
            try:
                self._prepare(create=create)
                self._file = OpenedFile(path)
            except BaseException:
                self._connection.close()
                raise

    def _prepare(self, *, create: bool) -> None:
        execute = self._connection.execute
        version = self._version()  # first: with a version there is an application id, if it is ours
        application = execute("PRAGMA application_id").fetchone()[0]
        if not version and not create:
            # An interrupted `init`, or a file that was cut to nothing: never take the latter for a new database.
            raise StoreUnavailable(
                f"the database {self.path} is empty; restore it from a backup, or run 'mqttprov init' if it is new"
            )
        if version and application != _APPLICATION_ID:
            raise StoreUnavailable(f"{self.path} is a database of another program; name another state directory")
        newest = _migrations()[-1][0]
        if version > newest:
            raise StoreUnavailable(f"{self.path} was written by a newer mqttprov (schema {version}); update this one")
        if version < newest or execute("PRAGMA journal_mode").fetchone()[0] != "wal":
            # Two that change the journal mode at once can lock each other out, and SQLite waits for neither.
            with _alone(self.path.with_name(f"{self.path.name}.lock")):
                execute("PRAGMA journal_mode = WAL")
                version = self._version()
                for number, script in _migrations():
                    if number > version:
                        self._migrate(number, script)
        execute("PRAGMA synchronous = FULL")
        execute("PRAGMA foreign_keys = OFF")  # the rules keep references right; checking costs a look-up per row
        execute("PRAGMA wal_autocheckpoint = 4000")

    def _migrate(self, number: int, script: str) -> None:
        """Bring the schema to the next version, whole or not at all."""
        try:
            self._connection.executescript(
                f"BEGIN IMMEDIATE;\n{script}\nPRAGMA application_id = {_APPLICATION_ID};\n"
                f"PRAGMA user_version = {number};\nCOMMIT;"
            )
        except sqlite3.Error:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise

    def _version(self) -> int:
        return int(self._connection.execute("PRAGMA user_version").fetchone()[0])

    def check(self) -> None:
        """See that the file is still the one that was opened. Raises `StoreUnavailable`."""
        self._file.check()

    @contextmanager
    def write(self) -> Iterator["SqliteTransaction"]:
        """Begin the write transaction (`Store.write`)."""
        with self._lock, translated(self.path):
            self.check()
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield SqliteTransaction(self._connection, self.path)
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    def reader(self) -> SqliteReader:
        """Open a reader with a connection of its own (`Store.reader`)."""
        with translated(self.path):
            connection = sqlite3.connect(
                f"{self.path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None, cached_statements=64
            )
            connection.execute("PRAGMA query_only = ON")
            return SqliteReader(connection, self.path)

    def close(self) -> None:
        """Close the writer's connection, the last one of its process."""
        with self._lock:
            self._connection.close()
            leave_to_readers(self.path)
