"""CPU time of processes on this machine, by pid. Measuring only; what to make of it is the report's business."""

import time
from typing import Final

# Linux names the CPU clock of another process ~pid << 3 | CPUCLOCK_SCHED, as clock_getcpuclockid(3) does. Unlike
# /proc/<pid>/stat it counts nanoseconds, not ticks of 10 ms.
_CPUCLOCK_SCHED: Final = 2


def cpu_seconds(pid: int) -> float:
    """Give the CPU seconds that a process has used, all its threads together, ended ones too.

    Raises ProcessLookupError when there is no such process (any more).
    """
    try:
        return time.clock_gettime(~pid << 3 | _CPUCLOCK_SCHED)
    except OSError as error:
        raise ProcessLookupError(f"process {pid} does not run: its CPU time cannot be read") from error


class CpuMeter:
    """CPU seconds of named processes since the meter was made or restarted.

    A process that has ended keeps its last reading.
    """

    def __init__(self, pids: dict[str, int]) -> None:
        self._pids: Final = pids
        self._last = dict.fromkeys(pids, 0.0)
        self._base = self._last
        self.restart()

    def restart(self) -> None:
        """Count from now on. Raises ProcessLookupError when one of the processes has ended."""
        self._base = {name: cpu_seconds(pid) for name, pid in self._pids.items()}

    def read(self) -> dict[str, float]:
        """Give the CPU seconds used so far, by name."""
        for name, pid in self._pids.items():
            try:
                self._last[name] = cpu_seconds(pid) - self._base[name]
            except ProcessLookupError:
                continue
        return dict(self._last)
