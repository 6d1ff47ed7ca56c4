"""Files of a database: whether it is still the one that was opened, and what readers need that may not write."""

import contextlib
import os
import stat
from pathlib import Path

from mqttprov.store.protocol import StoreUnavailable


class OpenedFile:
    """A file at the moment when it was opened: what is written to another one is lost with its process."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._status = path.stat()

    def check(self) -> None:
        """See that the same file is still at the path. Raises `StoreUnavailable`."""
        try:
            is_same = os.path.samestat(self._status, self._path.stat())
        except OSError:
            is_same = False
        if not is_same:
            raise StoreUnavailable(
                f"the database {self._path} was removed or replaced while it was open; end all that runs on it, put "
                "the right file there and start again"
            )


def leave_to_readers(path: Path) -> None:
    """Let those who may only read a database do so while nobody has it open for writing.

    Whoever closes it last removes the files of its write-ahead log (sqlite.org/wal.html section 6), and a reader who
    may not write into the directory cannot open it without them. Empty ones are enough. Nothing is done about a
    database that its owner alone may read.
    """
    with contextlib.suppress(OSError):  # it was moved away, or we may only read it as well
        status = path.stat()
        if status.st_mode & stat.S_IRGRP:
            for end in ("-wal", "-shm"):
                _put_empty(path.with_name(path.name + end), status)


def _put_empty(path: Path, like: os.stat_result) -> None:
    """Make a file with the owner and mode of the database, all at once; leave one alone that is there."""
    draft = path.with_name(f".{os.getpid()}{path.name}")
    os.close(os.open(draft, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600))
    try:
        os.chown(draft, like.st_uid if os.geteuid() == 0 else -1, like.st_gid)
        draft.chmod(stat.S_IMODE(like.st_mode))
        with contextlib.suppress(FileExistsError):
            os.link(draft, path)
    finally:
        draft.unlink()
