"""Files of a state directory: read with clear errors, written whole or not at all. What they mean is not for here."""

import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class StateError(Exception):
    """The state directory cannot be used; the text says what, why and what to do."""


@contextmanager
def one_at_a_time(path: Path) -> Iterator[None]:
    """Keep other processes that make keys in the same directory waiting: two sets of keys would not fit together."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def write_once(path: Path, content: bytes) -> None:
    """Write a file that is never replaced; see `write_whole`."""
    if not path.exists():
        write_whole(path, content)


def write_whole(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Write a file that must not be half there after a crash: whole under another name, then renamed."""
    draft = path.with_name(path.name + ".new")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    draft.rename(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the name, too, must survive: what is committed later relies on these keys
    finally:
        os.close(folder)


def read(path: Path, advice: str = "restore it from a backup") -> str:
    """Read a text file; `advice` is what to do when that fails. Raises `StateError`."""
    try:
        return path.read_text("utf-8")
    except PermissionError as error:
        raise StateError(f"{path} cannot be read by this user; run this as its owner") from error
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise StateError(f"{path} cannot be read: {why}; {advice}") from error


def read_private(path: Path, advice: str = "restore it from a backup") -> str:
    """Read a secret, which must be for its owner alone (SD-22). Raises `StateError`."""
    text = read(path, advice)
    if stat.S_IMODE(path.stat().st_mode) & 0o077:
        raise StateError(f"{path} is a secret but others may read it; run: chmod 600 {path}")
    return text
