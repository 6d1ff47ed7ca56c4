"""Files that are replaced all or nothing, also when power fails in between (P10). Nothing about their content.

A new file is written beside the old one, flushed to the disk, renamed over it, and the directory is flushed: at every
instant the name leads to the whole old or the whole new content. Files are readable by their owner alone.
"""

import contextlib
import os
import secrets
from pathlib import Path
from typing import Protocol

_SUFFIX = ".tmp"


class FileLayer(Protocol):
    """The operations of the operating system that are needed, so that a test can let each of them fail."""

    def create(self, path: Path) -> int:
        """Open a new file for writing, mode 0600; FileExistsError if there is one."""

    def write(self, descriptor: int, content: bytes) -> int:
        """Write some of it; gives the number of bytes written."""

    def flush(self, descriptor: int) -> None:
        """Bring the content to the disk."""

    def close(self, descriptor: int) -> None:
        """Close the file."""

    def rename(self, source: Path, target: Path) -> None:
        """Give the file another name in the same directory, replacing what has it."""

    def unlink(self, path: Path) -> None:
        """Remove a name; FileNotFoundError if there is none."""

    def flush_directory(self, directory: Path) -> None:
        """Bring the names in the directory to the disk."""

    def read(self, path: Path, max_bytes: int) -> bytes:
        """Give the first `max_bytes` of a file; FileNotFoundError if there is none."""

    def names(self, directory: Path) -> list[str]:
        """List a directory."""


class _OperatingSystem:
    """The real thing; see FileLayer."""

    def create(self, path: Path) -> int:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)

    def write(self, descriptor: int, content: bytes) -> int:
        return os.write(descriptor, content)

    def flush(self, descriptor: int) -> None:
        os.fsync(descriptor)

    def close(self, descriptor: int) -> None:
        os.close(descriptor)

    def rename(self, source: Path, target: Path) -> None:
        source.replace(target)

    def unlink(self, path: Path) -> None:
        path.unlink()

    def flush_directory(self, directory: Path) -> None:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def read(self, path: Path, max_bytes: int) -> bytes:
        with path.open("rb") as file:
            return file.read(max_bytes)

    def names(self, directory: Path) -> list[str]:
        return [entry.name for entry in directory.iterdir()]


OPERATING_SYSTEM: FileLayer = _OperatingSystem()


def write_file(path: Path, content: bytes, files: FileLayer = OPERATING_SYSTEM) -> None:
    """Replace `path` by `content`, all or nothing. After it returns the content survives a power cut.

    Raises OSError; then `path` holds the whole old content or, if only flushing the directory failed, the new one.
    """
    # A random name, because two processes with a fixed one could rename each other's half-written file.
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}{_SUFFIX}")
    descriptor = files.create(temporary)
    try:
        try:
            rest = content
            while rest:
                rest = rest[files.write(descriptor, rest) :]
            files.flush(descriptor)
        finally:
            files.close(descriptor)
        files.rename(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):  # the reason of the failure matters, the leftover is removed at next start
            files.unlink(temporary)
        raise
    files.flush_directory(path.parent)


def remove_file(path: Path, files: FileLayer = OPERATING_SYSTEM) -> None:
    """Remove `path`, if it is there, so that it stays removed after a power cut. Raises OSError."""
    with contextlib.suppress(FileNotFoundError):
        files.unlink(path)
    files.flush_directory(path.parent)


def move_file(source: Path, target: Path, files: FileLayer = OPERATING_SYSTEM) -> None:
    """Let `source` replace `target` in the same directory, also after a power cut. Raises OSError."""
    files.rename(source, target)
    files.flush_directory(target.parent)


def set_aside(path: Path, files: FileLayer = OPERATING_SYSTEM) -> Path:
    """Rename `path` to `path` + '.bad', for people to look at, and give the new name. Raises OSError."""
    bad = path.with_name(path.name + ".bad")
    files.rename(path, bad)
    files.flush_directory(path.parent)
    return bad


def remove_leftovers(path: Path, files: FileLayer = OPERATING_SYSTEM) -> None:
    """Remove the temporary files that power cuts during write_file(path) left behind. Raises OSError."""
    for name in files.names(path.parent):
        if name.startswith(path.name + ".") and name.endswith(_SUFFIX):
            with contextlib.suppress(FileNotFoundError):
                files.unlink(path.with_name(name))
