"""A temporary folder, and processes, that do not outlive this process, however it ends: by SIGKILL too.

Who is killed cannot tidy up. So a small process beside it waits for the end of a pipe that only this process writes to,
then kills what it holds and removes the folder. This file is its program too, and uses the standard library alone.
"""

import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

_LEFT_AFTER_S: Final = 10.0


class Leash:
    """Holds processes, and the folder that they work in. Any thread may call. `close` it once they have ended.

    Only its user may look into the folder. Raises OSError when there is no room for it or the process.
    """

    def __init__(self) -> None:
        self._directory: Final = tempfile.TemporaryDirectory(prefix="mqttprov-swarm-")
        self.folder: Final = Path(self._directory.name)
        try:
            self._holder: Final = subprocess.Popen(  # noqa: S603 - our own program
                [sys.executable, "-I", "-S", __file__, str(self.folder)],
                stdin=subprocess.PIPE,
                start_new_session=True,  # neither Ctrl-C nor a terminal that closes ends it before us
            )
        except OSError:
            self._directory.cleanup()
            raise

    def hold(self, pid: int) -> None:
        """Hold a process that has just been started."""
        assert self._holder.stdin is not None  # noqa: S101 - for the type checker: it is a pipe
        with contextlib.suppress(BrokenPipeError):  # somebody ended the holder, which harms no run
            os.write(self._holder.stdin.fileno(), b"%d\n" % pid)

    def close(self) -> None:
        """Remove the folder, and kill what is still held."""
        assert self._holder.stdin is not None  # noqa: S101 - for the type checker: it is a pipe
        self._holder.stdin.close()
        self._holder.wait()
        self._directory.cleanup()


def _hold_until_the_end(folder: str) -> None:
    """Take process ids as lines of stdin; when it ends, kill them and remove the folder."""
    held: list[int] = []  # a descriptor stays that process', whoever gets its number later
    for line in iter(sys.stdin.buffer.readline, b""):
        with contextlib.suppress(ProcessLookupError):
            held.append(os.pidfd_open(int(line)))
    for process in held:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(process, signal.SIGKILL)
    until_s = time.monotonic() + _LEFT_AFTER_S
    for process in held:  # readable once it has ended, and writes no more
        select.select([process], [], [], max(0.0, until_s - time.monotonic()))
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    _hold_until_the_end(sys.argv[1])
