"""What can be seen on this machine: versions, and the state directory's files."""

import platform
import re
import shutil
import sqlite3
import ssl
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from mqttprov import __version__
from mqttprov.brokers.doctor.finding import Finding, right, unknown, wrong

_OLDEST_MOSQUITTO: Final = (2, 0, 11)
_VERSION: Final = re.compile(r"mosquitto version (\d+)\.(\d+)\.(\d+)")
_FREE_BYTES: Final = 100 * 1024 * 1024
_SBIN: Final = ":/usr/sbin:/usr/local/sbin"  # not in the PATH of Debian's ordinary users


def examine_machine(state: Path | None) -> Iterator[Finding]:
    """Look at versions and files; without a state directory only at versions."""
    yield _versions()
    if state is None:
        yield unknown("file modes", "there is no state directory here; name it with --state")
        return
    yield _file_modes(state)
    yield _room(state)


def _versions() -> Finding:
    openssl = ssl.OPENSSL_VERSION.split()[1]
    python, sqlite = platform.python_version(), sqlite3.sqlite_version
    text = f"mqttprov {__version__}, Python {python}, SQLite {sqlite}, OpenSSL {openssl}"
    mosquitto = _mosquitto()
    if mosquitto is None:
        return right("versions", f"{text}; no Mosquitto on this machine")
    text += f", Mosquitto {'.'.join(map(str, mosquitto))} on this machine"
    return right("versions", text) if mosquitto >= _OLDEST_MOSQUITTO else wrong("versions", f"{text}: 2.0.11 is needed")


def _mosquitto() -> tuple[int, ...] | None:
    program = shutil.which("mosquitto") or shutil.which("mosquitto", path=_SBIN)
    if program is None:
        return None
    try:
        told = subprocess.run([program, "-h"], capture_output=True, text=True, timeout=5, check=False)  # noqa: S603 - as found
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = _VERSION.search(told.stdout)
    return tuple(map(int, found.groups())) if found else None


def _file_modes(state: Path) -> Finding:
    bad = [f"chmod {right_mode:o} {path}" for path, right_mode in _too_open(state)]
    if bad:
        return wrong("file modes", f"others may read or change what they must not; run: {'; '.join(bad)}")
    return right("file modes", "keys are for their owner alone, the database is for nobody else to change")


def _too_open(state: Path) -> Iterator[tuple[Path, int]]:
    """Give what is too open, with the mode it should have. The group may read the database: it is the broker's."""
    for path in (state, *sorted(state.glob("mqttprov.db*"))):
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & 0o027:
            yield path, mode & ~0o027
    for path in (state / "keys", *sorted((state / "keys").iterdir())):
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & 0o077:
            yield path, mode & ~0o077


def _room(state: Path) -> Finding:
    usage = shutil.disk_usage(state)
    text = f"{usage.free // 2**20} MiB are free for the database"
    return right("disk", text) if usage.free >= _FREE_BYTES else wrong("disk", f"{text}; make room on its disk")
