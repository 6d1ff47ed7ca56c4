"""CPU and memory of the target's processes while a run lasts; they may be others after a restart. Measuring only."""

from pathlib import Path
from typing import Final

from mqttprov_simulator.cpu import cpu_seconds


class ProcessWatch:
    """CPU seconds and the largest memory of processes by part. A process that takes over a part adds to it."""

    def __init__(self) -> None:
        self._pids: dict[str, int] = {}
        self._base: Final[dict[int, float]] = {}  # CPU that a process had used before we looked at it
        self._last: Final[dict[int, float]] = {}
        self._of_part: Final[dict[str, list[int]]] = {}
        self._rss_bytes: Final[dict[str, int]] = {}

    def begin(self, pids: dict[str, int]) -> None:
        """Count from now on what these use."""
        for pid in pids.values():
            used_s = _used_s(pid)
            if used_s is not None:
                self._base[pid] = used_s
        self.look(pids)

    def look(self, pids: dict[str, int]) -> None:
        """Read what the processes have used that are these parts now, and those that were before."""
        for part, pid in pids.items():
            known = self._of_part.setdefault(part, [])
            if pid not in known:
                known.append(pid)
                self._base.setdefault(pid, 0.0)  # it began within the run
        for part, known in self._of_part.items():
            for pid in known[-2:]:  # one that was replaced may have used some more since the last look
                used_s = _used_s(pid)
                if used_s is not None:
                    self._last[pid] = max(self._last.get(pid, 0.0), used_s - self._base[pid])
                    self._rss_bytes[part] = max(self._rss_bytes.get(part, 0), peak_rss_bytes(pid))

    def cpu_s(self) -> dict[str, float]:
        """CPU seconds by part, as of the last look."""
        return {part: sum(self._last.get(pid, 0.0) for pid in pids) for part, pids in self._of_part.items()}

    def rss_bytes(self) -> dict[str, int]:
        """The largest resident memory of a process by part, as of the last look."""
        return dict(self._rss_bytes)


def peak_rss_bytes(pid: int) -> int:
    """Give the largest resident memory that a process had; 0 if it cannot be read."""
    try:
        for line in Path(f"/proc/{pid}/status").read_text("ascii", "replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


def _used_s(pid: int) -> float | None:
    try:
        return cpu_seconds(pid)
    except ProcessLookupError:
        return None
