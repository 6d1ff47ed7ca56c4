"""One process of a target: started, ended, killed, frozen, kept from writing, and started again as it was.

What the process is, and which faults are its own, is the target's business.
"""

import os
import resource
import select
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from mqttprov.mqtt import Connect, ProtocolVersion, encode
from mqttprov_simulator.leash import Leash
from mqttprov_simulator.scenario.model import TargetFault
from mqttprov_simulator.targets.target import TargetError

START_TIMEOUT_S: Final = 30.0
_END_TIMEOUT_S: Final = 20.0
_POLL_S: Final = 0.02
_SHOWN_CHARACTERS: Final = 2_000
_ENDS: Final = {"restart": signal.SIGTERM, "stop": signal.SIGTERM, "kill": signal.SIGKILL}
_ENDED_WELL: Final = (0, -signal.SIGTERM, -signal.SIGKILL)  # the last: killed by a fault, and not started again
_FREEZE: Final = "freeze"
_FULL: Final = "full"


class Part:
    """A process, of which there is one at a time. Any thread may call.

    `command` starts it, and `leash` holds it; what it writes to stderr is kept in `log`. `says`: it prints a first line
    on stdout when it works. `port`: it answers logins there when it works. `grown`: how large its files may
    be at most when its disk is full (bytes).
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        log: Path,
        leash: Leash,
        *,
        says: bool,
        port: int | None = None,
        grown: Callable[[], int] = lambda: 0,
    ) -> None:
        self.name: Final = name
        self._command: Final = list(command)
        self._log: Final = log
        self._leash: Final = leash
        self._says: Final = says
        self._port: Final = port
        self._grown: Final = grown
        self._lock: Final = threading.RLock()
        self._faults: list[TargetFault] = []
        self._process: subprocess.Popen[bytes] | None = None
        self._trouble: str | None = None
        self._room: tuple[int, int] = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)

    @property
    def pid(self) -> int | None:
        """Its process id, None while there is none."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    def start(self) -> None:
        """Start it and wait until it works. Raises TargetError, with what it wrote, if it does not in time."""
        with self._lock:
            self._let_go()
            with self._log.open("ab") as stderr:
                try:
                    self._process = subprocess.Popen(  # noqa: S603 - a program of ours, or one that the target looked up
                        self._command,
                        stdin=subprocess.DEVNULL,
                        stdout=subprocess.PIPE,
                        stderr=stderr,
                        start_new_session=True,  # Ctrl-C in a terminal is for the run, which ends its target in order
                    )
                except OSError as error:
                    raise TargetError(f"the {self.name} cannot be started: {error}") from error
            self._leash.hold(self._process.pid)
            self._room = resource.prlimit(self._process.pid, resource.RLIMIT_FSIZE)
            until_s = time.monotonic() + START_TIMEOUT_S
            if self._says:
                self._await_line(until_s)
            self.await_logins(until_s)
            if self._has(_FULL):
                self._fill()

    def end(self) -> None:
        """End it for good, whatever state it is in. If it does not end well, `trouble` says so."""
        with self._lock:
            if self._process is None:
                return
            self._trouble = self.trouble()
            self._faults.clear()
            try:
                self._await_end(signal.SIGTERM)
            except TargetError as error:
                self._trouble = str(error)
            if self._trouble is None and self._process.returncode not in _ENDED_WELL:
                self._trouble = f"the {self.name} ended with status {self._process.returncode}: {self._tail()}"
            self._let_go()
            self._process = None

    def trouble(self) -> str | None:
        """Say what is wrong if it ended by itself, or badly; None when all is as it was made to be."""
        if not self._lock.acquire(blocking=False):
            return None  # it is just being struck, healed or ended
        try:
            return self._what_is_wrong()
        finally:
            self._lock.release()

    def _what_is_wrong(self) -> str | None:
        process = self._process
        if process is None:
            return self._trouble
        if process.poll() is None or self._has(*_ENDS):
            return None
        return f"the {self.name} ended by itself with status {process.returncode}: {self._tail()}"

    def strike(self, fault: TargetFault) -> None:
        """Begin what the last word of the fault's kind says; returns at once."""
        with self._lock:
            self._faults.append(fault)
            what = _what(fault)
            if what == _FREEZE:
                self._send(signal.SIGSTOP)
            elif what == _FULL:
                self._fill()
            else:
                self._send(_ENDS[what])

    def heal(self, fault: TargetFault) -> None:
        """End it, and wait until the process works. A fault that lasts longer goes on. Raises TargetError."""
        with self._lock:
            self._faults.remove(fault)
            what = _what(fault)
            if self._has(*_ENDS):
                return  # it is started by the last of them
            if what in _ENDS:
                try:
                    self._await_end(_ENDS[what])
                finally:
                    self.start()
                return
            if what == _FREEZE and not self._has(_FREEZE):
                self._send(signal.SIGCONT)
            elif what == _FULL and not self._has(_FULL) and (pid := self.pid) is not None:
                resource.prlimit(pid, resource.RLIMIT_FSIZE, self._room)
            if not self._has(_FREEZE):
                self.await_logins(time.monotonic() + START_TIMEOUT_S)

    def await_logins(self, until_s: float) -> None:
        """Wait until it answers logins. Raises TargetError if it ends or does not in time."""
        if self._port is None:
            return
        while not _answers(self._port, until_s):
            if self.pid is None:
                raise TargetError(self.trouble() or f"the {self.name} has ended: {self._tail()}")
            if time.monotonic() >= until_s:
                raise TargetError(
                    f"the {self.name} answers no logins on port {self._port} within {START_TIMEOUT_S:.0f} s: "
                    f"{self._tail()}"
                )
            time.sleep(_POLL_S)  # there is nothing else to wait for

    def _has(self, *whats: str) -> bool:
        return any(_what(fault) in whats for fault in self._faults)

    def _send(self, number: int) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)

    def _fill(self) -> None:
        if (pid := self.pid) is not None:
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (self._grown(), self._room[1]))

    def _await_end(self, number: int) -> None:
        if self._process is None:
            return
        self._send(number)
        self._send(signal.SIGCONT)  # who stands still ends only then
        try:
            self._process.wait(_END_TIMEOUT_S)
        except subprocess.TimeoutExpired as error:
            self._process.kill()
            self._process.wait()
            raise TargetError(f"the {self.name} did not end within {_END_TIMEOUT_S:.0f} s: {self._tail()}") from error

    def _let_go(self) -> None:
        process = self._process
        if process is not None and process.stdout is not None:
            process.stdout.close()

    def _await_line(self, until_s: float) -> None:
        assert self._process is not None  # noqa: S101 - for the type checker: it was started above
        assert self._process.stdout is not None  # noqa: S101 - the same: it is a pipe
        line, stdout = b"", self._process.stdout.fileno()
        while not line.endswith(b"\n"):
            ready, _, _ = select.select([stdout], [], [], max(0.0, until_s - time.monotonic()))
            chunk = os.read(stdout, 4096) if ready else b""
            if not chunk:
                how = f"did not start within {START_TIMEOUT_S:.0f} s" if not ready else "ended while it started"
                raise TargetError(f"the {self.name} {how}: {self._tail()}")
            line += chunk

    def _tail(self) -> str:
        try:
            text = self._log.read_text("utf-8", "replace").strip()
        except OSError:
            text = ""
        return text[-_SHOWN_CHARACTERS:] or "it wrote nothing"


def _what(fault: TargetFault) -> str:
    return fault.kind.rpartition("-")[2]


def _answers(port: int, until_s: float) -> bool:
    """Log in as a device that wants to provision, and out; False if that is not answered.

    A refusal is an answer, too: the gate in Mosquitto refuses such logins until there is a responder.
    """
    timeout_s = max(0.1, until_s - time.monotonic())
    packet = encode(Connect("", version=ProtocolVersion.V311, username="provision"), ProtocolVersion.V311)
    try:
        with socket.create_connection(("127.0.0.1", port), timeout_s) as connection:
            connection.sendall(packet)
            connection.settimeout(timeout_s)
            return connection.recv(4).startswith(b"\x20\x02")
    except OSError:
        return False
