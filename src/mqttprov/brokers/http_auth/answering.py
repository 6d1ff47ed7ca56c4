"""Whether requests are answered now, for all processes of one state: by a lock that ends with whoever holds it.

A request is lost where nobody is subscribed to its topic, and its gateway would wait for nothing. So provisioning
sessions are let in only while it is otherwise, and a gateway that is refused comes again (P10).
"""

import fcntl
import os
from pathlib import Path
from typing import Final

from mqttprov.responder.doorbell import FOLDER

LOCK: Final = "answering.lock"


class Answering:
    """`is_ours` tells that this process is one that answers; others only look whether there is one."""

    def __init__(self, state: Path, *, is_ours: bool) -> None:
        """Raises `OSError`."""
        (state / FOLDER).mkdir(mode=0o700, exist_ok=True)
        self._lock = os.open(state / FOLDER / LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        self._is_ours = is_ours
        self._has_begun = False

    def begin(self) -> None:
        """We are subscribed."""
        fcntl.flock(self._lock, fcntl.LOCK_SH)  # who looks holds it for a moment
        self._has_begun = True

    def end(self) -> None:
        """We are not any more."""
        fcntl.flock(self._lock, fcntl.LOCK_UN)
        self._has_begun = False

    def now(self) -> bool:
        """Tell whether a request would be answered; where it is ours to answer, by this process."""
        if self._is_ours:
            return self._has_begun
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        fcntl.flock(self._lock, fcntl.LOCK_UN)
        return False

    def close(self) -> None:
        """Let go of the lock."""
        os.close(self._lock)
