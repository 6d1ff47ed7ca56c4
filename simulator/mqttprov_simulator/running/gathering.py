"""Adding up what all workers say while a run lasts: seconds, what is online, what was seen broken. No clock, no I/O."""

from collections import Counter
from collections.abc import Iterable
from typing import Final

from mqttprov_simulator.histogram import Buckets, Histogram
from mqttprov_simulator.results import Progress
from mqttprov_simulator.running.values import Moment, Recording, Second
from mqttprov_simulator.scenario.model import Scenario

_RECENT_S: Final = 5
_COUNTED: Final = ("due", "started", "registered", "came_online", "refused", "lost")


class Gathering:
    """What was said so far. Times are those of the run."""

    def __init__(self, scenario: Scenario, workers: int) -> None:
        self.gateways: Final = scenario.gateways
        self.expected: Final = scenario.expected
        self.broken: Final[Counter[str]] = Counter()  # how often each promise was seen broken
        self.recordings: Final[dict[int, Recording]] = {}
        self.cpu: Final[dict[int, tuple[float, float]]] = {}  # by worker that has spoken: when it was read, what it was
        self.all_online_at_s: float | None = None
        self._closed: Final[dict[int, Second]] = {}
        self._running: Final[dict[int, Second]] = {}
        self._states_at: Final[list[dict[int, dict[str, int]]]] = [{} for _ in range(workers)]
        self._online: Final = dict.fromkeys(range(workers), 0)
        self._registered: Final = dict.fromkeys(range(workers), 0)

    @property
    def registered(self) -> int:
        """How many gateways were online at least once."""
        return sum(self._registered.values())

    @property
    def online(self) -> int:
        """How many are."""
        return sum(self._online.values())

    def take(self, moment: Moment) -> None:
        """Add a moment of a worker."""
        worker = moment.worker
        for second in moment.closed:
            self._close(worker, second)
        self._running[worker] = moment.second
        self._online[worker], self._registered[worker] = moment.online, moment.registered
        self.cpu[worker] = (moment.at_s, moment.cpu_s)
        if self.all_online_at_s is None and self.registered >= self.expected > 0:
            self.all_online_at_s = moment.at_s

    def end(self, recording: Recording) -> None:
        """Add what a worker ended with; the second that ran is over with it."""
        self.recordings[recording.worker] = recording
        self.cpu[recording.worker] = (recording.ended_at_s, recording.cpu_s)
        running = self._running.pop(recording.worker, None)
        if running is not None:
            self._close(recording.worker, running)

    def seconds(self) -> tuple[Second, ...]:
        """Give all seconds so far over all workers. One that has ended stands as it stood at its end."""
        whole = {at_s: add_up([second]) for at_s, second in self._closed.items()}
        states = [dict(known) for known in self._states_at]
        for worker, second in self._running.items():
            at_s = second.at_s
            whole[at_s] = add_up([second, *([whole[at_s]] if at_s in whole else [])])
            states[worker][at_s] = second.states
        standing: list[dict[str, int]] = [{} for _ in states]
        for at_s in sorted(whole):
            standing = [known.get(at_s, before) for known, before in zip(states, standing, strict=True)]
            total: Counter[str] = Counter()
            for part in standing:
                total.update(part)
            whole[at_s].states = dict(total)
        return tuple(whole[at_s] for at_s in sorted(whole))

    def progress(self, now_s: float, *, cpu_cores: dict[str, float], faults: tuple[str, ...], held: int) -> Progress:
        """Give the state of things for the live view. `faults`: what is going on with the target. `held`: how many
        promises are being watched and were not seen broken."""
        recent = [second for at_s, second in self._closed.items() if now_s - at_s <= _RECENT_S + 1]
        recent.extend(self._running.values())
        latency = Histogram.of(_summed(second.latency for second in recent))
        # Of a second that ended just now not all workers have told the end.
        last = [second for second in recent if now_s - 2.5 <= second.at_s <= now_s - 1.5] or recent[-1:]
        states: Counter[str] = Counter()
        for worker, known in enumerate(self._states_at):
            running = self._running.get(worker)
            states.update(running.states if running else known[max(known)] if known else {})
        strikes: Counter[str] = Counter()
        for second in recent:
            strikes.update(second.strikes)
        return Progress(
            elapsed_s=now_s,
            gateways=self.gateways,
            states={state: count for state, count in states.items() if count},
            registered=self.registered,
            failed=0,
            offered_per_s=float(sum(second.due for second in last)),
            registrations_per_s=float(sum(second.registered for second in last)),
            p50_ms=latency.percentile_ms(50),
            p99_ms=latency.percentile_ms(99),
            cpu_cores=cpu_cores,
            late=sum(second.due - second.started for second in [*self._closed.values(), *self._running.values()]),
            faults=(*faults, *(f"{name} {count}" for name, count in sorted(strikes.items()))),
            held=held,
            broken=dict(self.broken),
        )

    def _close(self, worker: int, second: Second) -> None:
        before = self._closed.get(second.at_s)
        self._closed[second.at_s] = add_up([second] if before is None else [before, second])
        self._states_at[worker][second.at_s] = second.states


def add_up(parts: Iterable[Second]) -> Second:
    """Make one second of the parts of several workers."""
    parts = list(parts)
    counts = {name: sum(getattr(part, name) for part in parts) for name in _COUNTED}
    states: Counter[str] = Counter()
    strikes: Counter[str] = Counter()
    for part in parts:
        states.update(part.states)
        strikes.update(part.strikes)
    return Second(
        at_s=parts[0].at_s,
        **counts,
        latency=_summed(part.latency for part in parts),
        login=_summed(part.login for part in parts),
        strikes=dict(strikes),
        states=dict(states),
    )


def merged(recordings: Iterable[Recording]) -> dict[str, Buckets]:
    """Give the histograms of a whole run."""
    recordings = list(recordings)
    names = ("latency", "service", "lag", "login", "telemetry", "rpc")
    return {name: _summed(getattr(recording, name) for recording in recordings) for name in names}


def counted(parts: Iterable[dict[str, int]]) -> dict[str, int]:
    """Add up counts by name, the most frequent first."""
    total: Counter[str] = Counter()
    for part in parts:
        total.update(part)
    return dict(total.most_common())


def _summed(parts: Iterable[Buckets]) -> Buckets:
    total: Counter[int] = Counter()
    for part in parts:
        total.update(part)
    return dict(total)
