"""Who carries the gateways of a run: workers, as processes of this machine. Starting, hearing and ending them, no more.

What they say is for `conduct` to judge. Their processes are groups of their own, so that Ctrl-C on a terminal reaches
this program alone, which then ends the run in order.
"""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from typing import IO, Final, Protocol

import msgspec

from mqttprov_simulator.host import SPARE_CONNECTIONS, SPARE_DESCRIPTORS
from mqttprov_simulator.leash import Leash
from mqttprov_simulator.running.values import Assignment, Begin, Failure, FromWorker, Recording

GATEWAYS_PER_PROCESS: Final = 10_000

_WORKER: Final = (sys.executable, "-m", "mqttprov_simulator.running.worker")
_END_TIMEOUT_S: Final = 10.0
_SHOWN_CHARACTERS: Final = 2_000

Tell = Callable[[FromWorker], None]


class CrewError(Exception):
    """The workers cannot be had; the text says why and what to do."""


class Crew(Protocol):
    """The workers of one run; a context manager that leaves none of them behind."""

    def start(self, assignments: Sequence[Assignment], tell: Tell) -> None:
        """Start a worker for each. `tell` gets all that they say, from any thread; each ends with a recording or a
        failure, also when it dies. Raises CrewError."""
        ...

    def begin(self, starts_at: float, over_at_s: float = 0.0) -> None:
        """Tell all workers, once they are ready, when the run starts; again, when its plan is over later (`Begin`)."""
        ...

    def stop(self) -> None:
        """Ask the workers to end early, with a recording of what was; returns at once."""
        ...

    def end(self) -> None:
        """End what is left, at the latest after some seconds."""
        ...


def processes_for(gateways: int, cores: int, connections: int, open_files: int) -> int:
    """Give how many processes carry a fleet: one as long as it can, else as the fleet needs and the cores allow.

    More than there are cores only where the `connections` of fewer do not fit into the `open_files` of a process.
    """
    room = open_files - SPARE_DESCRIPTORS - SPARE_CONNECTIONS
    needed = -(-connections // room) if room > 0 else 1  # without room for any, more processes help nothing
    return max(1, min(cores, -(-gateways // GATEWAYS_PER_PROCESS)), needed)


class LocalCrew:
    """Workers as processes of this machine. One is a process too: the view's work is not the generator's."""

    def __init__(self, command: Sequence[str] = _WORKER) -> None:
        self._command: Final = list(command)
        self._workers: list[_Process] = []
        self._leash: Leash | None = None

    def start(self, assignments: Sequence[Assignment], tell: Tell) -> None:
        """Start a process for each. Raises CrewError."""
        try:
            self._leash = Leash()
            for assignment in assignments:
                directory = self._leash.folder / str(assignment.worker)
                directory.mkdir(mode=0o700)
                own = msgspec.structs.replace(assignment, directory=str(directory))
                self._workers.append(_Process(self._command, own, tell))
                self._leash.hold(self._workers[-1].pid)
        except OSError as error:
            raise CrewError(f"no worker can be started: {error}; ask for fewer with --processes") from error

    def begin(self, starts_at: float, over_at_s: float = 0.0) -> None:
        """Tell all of them when the run starts."""
        for worker in self._workers:
            worker.write(msgspec.json.encode(Begin(starts_at, over_at_s)))

    def stop(self) -> None:
        """Ask them to end early."""
        for worker in self._workers:
            worker.stop()

    def end(self) -> None:
        """End what is left, by force if it does not listen."""
        self.stop()
        for worker in self._workers:
            worker.end()
        if self._leash is not None:
            self._leash.close()
            self._leash = None


class _Process:
    """One worker: its assignment over stdin, what it says from stdout, its errors kept."""

    def __init__(self, command: list[str], assignment: Assignment, tell: Tell) -> None:
        self._worker: Final = assignment.worker
        self._tell: Final = tell
        self._errors: Final[IO[bytes]] = tempfile.TemporaryFile()  # noqa: SIM115 - `end` closes it
        self._process: Final = subprocess.Popen(  # noqa: S603 - our own program
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, process_group=0
        )
        self.pid: Final = self._process.pid
        self._stopped = False
        self._reader: Final = threading.Thread(target=self._listen, name=f"worker-{self._worker}", daemon=True)
        self._reader.start()
        self.write(msgspec.json.encode(assignment))

    def write(self, line: bytes) -> None:
        """Say something to it; one that has ended hears nothing, which its reader tells."""
        assert self._process.stdin is not None  # noqa: S101 - for the type checker: it is a pipe
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(line + b"\n")
            self._process.stdin.flush()

    def stop(self) -> None:
        """Ask it to end; more than once is no command to hurry."""
        if not self._stopped and self._process.poll() is None:
            self._stopped = True
            self._process.send_signal(signal.SIGTERM)

    def end(self) -> None:
        try:
            self._process.wait(_END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join()
        for pipe in (self._process.stdin, self._process.stdout, self._errors):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()

    def _listen(self) -> None:
        """Pass on what it says until it ends; if that was no proper end, say so in its place."""
        assert self._process.stdout is not None  # noqa: S101 - for the type checker: it is a pipe
        decoder = msgspec.json.Decoder(FromWorker)
        ended = False
        for line in self._process.stdout:
            try:
                said = decoder.decode(line)
            except msgspec.DecodeError as error:
                shown = line[:200].decode("utf-8", "replace").strip()
                said = Failure(self._worker, f"worker {self._worker} said {shown!r}, which is nothing of ours: {error}")
            if not ended:
                self._tell(said)
            ended = ended or isinstance(said, Recording | Failure)
        status = self._process.wait()
        if not ended:
            self._tell(Failure(self._worker, f"worker {self._worker} ended {_how(status)}: {self._last_words()}"))

    def _last_words(self) -> str:
        size = self._errors.seek(0, os.SEEK_END)
        self._errors.seek(max(0, size - _SHOWN_CHARACTERS))
        return self._errors.read().decode("utf-8", "replace").strip() or "it wrote nothing"


def _how(status: int) -> str:
    if status >= 0:
        return f"with status {status}"
    return f"by {signal.Signals(-status).name}" + (" (out of memory?)" if status == -signal.SIGKILL else "")
