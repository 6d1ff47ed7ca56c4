"""The doorbell: how an operator's command makes running brokers act at once, and learns that they have (P7).

Each broker listens on a Unix socket of its own in the state directory. A command that has committed writes the place of
its audit event there; the broker follows the chain up to it and answers `done` when no session is left that this event
ends. Nothing else goes over it: what to do is in the chain alone, which the broker follows anyway, only a little later.
"""

import errno
import fcntl
import os
import select
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

FOLDER: Final = "run"
DONE: Final = b"done\n"
FAILED: Final = b"failed\n"
MAX_LINE_BYTES: Final = 32
_SUFFIX: Final = ".doorbell"


class BrokerSilent(Exception):  # noqa: N818 - it names what is wrong
    """What was asked is committed, but a running broker did not confirm that it acts on it."""


class NewPasswordUnconfirmed(BrokerSilent):
    """An operator's new password stands, but sessions under the old one are not known to have ended.

    `password` is the new one, told this once.
    """

    def __init__(self, text: str, password: str) -> None:
        super().__init__(text)
        self.password = password


def bind(state: Path, name: str) -> socket.socket:
    """Make this broker's doorbell and remove those of brokers that are gone. Raises `OSError`."""
    folder = state / FOLDER
    folder.mkdir(mode=0o700, exist_ok=True)
    bell = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with _short(folder) as short, _alone(folder):
            for path in folder.glob(f"*{_SUFFIX}"):
                caller = _connect(path)
                if caller is None:
                    path.unlink(missing_ok=True)
                else:
                    caller.close()
            bell.bind(f"{short}/{name}{_SUFFIX}")
            bell.listen()
    except OSError:
        bell.close()
        raise
    return bell


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep other brokers from taking one that is bound but does not listen yet for one that is gone."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def unbind(state: Path, name: str) -> None:
    """Remove this broker's doorbell."""
    (state / FOLDER / f"{name}{_SUFFIX}").unlink(missing_ok=True)


def ring(state: Path, seq: int, timeout_s: float) -> int:
    """Make all brokers on this state act on the chain up to `seq`; give how many have confirmed.

    To be called after the commit: a broker that is not here yet reads the committed state at every login. One that ends
    meanwhile ends its sessions with it. Raises `BrokerSilent`.
    """
    callers = [(path, caller) for path in (state / FOLDER).glob(f"*{_SUFFIX}") if (caller := _connect(path))]
    until_s = time.monotonic() + timeout_s
    try:
        for _, caller in callers:
            try:
                caller.send(b"%d\n" % seq)
            except OSError:  # it ended just now: reading will show it
                continue
        return sum(_confirmed(path, caller, until_s) for path, caller in callers)
    finally:
        for _, caller in callers:
            caller.close()


def _confirmed(path: Path, caller: socket.socket, until_s: float) -> bool:
    """Wait for the answer; False when the broker has ended. Raises `BrokerSilent`."""
    answer = b""
    while not answer.endswith(b"\n"):
        if not select.select([caller], [], [], max(0.0, until_s - time.monotonic()))[0]:
            raise BrokerSilent(
                f"it is committed, but the running broker ({path.stem}) did not confirm in time that the "
                "sessions have ended; new logins are refused. Look at its log, or restart it"
            )
        try:
            chunk = caller.recv(MAX_LINE_BYTES)
        except OSError:
            return False
        if not chunk:
            return False
        answer += chunk
    if answer != DONE:
        raise BrokerSilent(
            f"it is committed, but the running broker ({path.stem}) cannot read the database; new logins are refused. "
            "Look at its log, or restart it"
        )
    return True


def _connect(path: Path) -> socket.socket | None:
    """Connect to a broker's doorbell; None when that broker is gone."""
    caller = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with _short(path.parent) as short:
            caller.connect(f"{short}/{path.name}")
    except OSError as error:
        caller.close()
        if error.errno in {errno.ECONNREFUSED, errno.ENOENT}:
            return None
        raise
    return caller


@contextmanager
def _short(folder: Path) -> Iterator[str]:
    """Give a short path to a folder: the address of a Unix socket holds no more than 107 bytes (unix(7))."""
    descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)
