"""Counting while a swarm runs: states, registrations, refusals, latencies. It measures; it neither starts nor ends."""

from collections import Counter, deque
from typing import Final

from mqttprov_simulator.cpu import CpuMeter
from mqttprov_simulator.histogram import Histogram
from mqttprov_simulator.results import Progress

_RECENT_S: Final = 5
_RATE_WINDOW_S: Final = 1.0


class Tally:
    """The counts of one run. Times are seconds of one clock that never goes back."""

    def __init__(self, gateways: int, offered_per_s: float | None, meter: CpuMeter) -> None:
        self.gateways: Final = gateways
        self.states: Final[Counter[str]] = Counter()
        self.refusals: Final[Counter[str]] = Counter()
        self.lost_connections: Final[Counter[str]] = Counter()
        self.latency: Final = Histogram()
        self.service: Final = Histogram()
        self.lag: Final = Histogram()
        self.registered = 0
        self.gave_up = 0
        self.last_registration_s: float | None = None
        self.cpu_s: dict[str, float] = {}  # at the last registration
        self._offered_per_s: Final = offered_per_s
        self._meter: Final = meter
        self._recent: deque[tuple[int, Histogram]] = deque(maxlen=_RECENT_S)
        self._marks: deque[tuple[float, int, dict[str, float]]] = deque()  # time, registered, CPU seconds

    def start(self) -> None:
        """Count CPU time from now on. Raises ProcessLookupError when a process has ended."""
        self._meter.restart()

    def register(self, planned_s: float, started_s: float, now_s: float) -> None:
        """Count a gateway that is online for the first time."""
        latency_us = round((now_s - planned_s) * 1e6)
        self.registered += 1
        self.last_registration_s = now_s
        self.latency.record(latency_us)
        self.service.record(round((now_s - started_s) * 1e6))
        second = int(now_s)
        if not self._recent or self._recent[-1][0] != second:
            self._recent.append((second, Histogram()))
        self._recent[-1][1].record(latency_us)
        if self.registered == self.gateways:
            self.cpu_s = self._meter.read()

    def finish(self, unregistered: int, timeout_s: float) -> None:
        """Close the books: registrations that did not happen in time enter the latencies with the time-out."""
        for _ in range(unregistered):
            self.latency.record(round(timeout_s * 1e6))
        if not self.cpu_s:
            self.cpu_s = self._meter.read()

    def progress(self, start_s: float, now_s: float) -> Progress:
        """Give the state of things, with rates since the last look that is a second old."""
        cpu_s = self._meter.read()
        marks = self._marks
        if not marks:
            marks.append((start_s, 0, dict.fromkeys(cpu_s, 0.0)))
        marks.append((now_s, self.registered, cpu_s))
        while len(marks) > 2 and now_s - marks[1][0] >= _RATE_WINDOW_S:
            marks.popleft()
        since_s, registered, cpu_before_s = marks[0]
        window_s = max(now_s - since_s, 1e-3)
        recent = Histogram.merged(part for second, part in self._recent if now_s - second <= _RECENT_S)
        return Progress(
            elapsed_s=now_s - start_s,
            gateways=self.gateways,
            states={state: count for state, count in self.states.items() if count},
            registered=self.registered,
            failed=self.gave_up,
            offered_per_s=self._offered_per_s,
            registrations_per_s=(self.registered - registered) / window_s,
            p50_ms=recent.percentile_ms(50),
            p99_ms=recent.percentile_ms(99),
            cpu_cores={name: (used_s - cpu_before_s[name]) / window_s for name, used_s in cpu_s.items()},
        )
