"""One run of a scenario, from the first worker's start to the result: it joins workers, target, plan and checks.

The calling thread listens, samples and shows; faults and actions have threads of their own (`interventions`).
"""

import queue
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import Final, get_args

import msgspec

from mqttprov_simulator.checks.ledger import Ledger
from mqttprov_simulator.checks.store import StoreWatch
from mqttprov_simulator.host import tcp_counters
from mqttprov_simulator.report.result import RunResult, Sample, Verdict
from mqttprov_simulator.report.verdict import verdict
from mqttprov_simulator.results import Progress
from mqttprov_simulator.running.crew import Crew
from mqttprov_simulator.running.environment import Host, environment, host
from mqttprov_simulator.running.gathering import Gathering, counted, merged
from mqttprov_simulator.running.interventions import Interventions, timed_marks
from mqttprov_simulator.running.processes import ProcessWatch
from mqttprov_simulator.running.values import Assignment, Failure, FromWorker, Moment, Promise, Ready, Recording
from mqttprov_simulator.scenario.drawing import plan_digest, planned_end_s
from mqttprov_simulator.scenario.model import Scenario
from mqttprov_simulator.targets.target import Target

_READY_TIMEOUT_S: Final = 300.0
_STOP_TIMEOUT_S: Final = 60.0
_CLOSING_S: Final = 120.0  # beyond the scenario's own time-out: probes and the recording
_LEAD_S: Final = 0.25  # until the word that the run begins has come to all workers
_TICK_S: Final = 0.25
_SAMPLE_S: Final = 1.0
_PROMISES: Final = len(get_args(Promise))

Watch = Callable[[Progress], None]


class RunError(Exception):
    """The run could not be carried through; the text says why and what to do."""


def conduct(
    scenario: Scenario,
    target: Target,
    crew: Crew,
    *,
    workers: int = 1,
    command: str = "",
    warnings: tuple[str, ...] = (),
    watch: Watch | None = None,
    stop: threading.Event | None = None,
) -> RunResult:
    """Run the scenario against a target that runs, and give the whole result with its verdict.

    `command` repeats it; `warnings` of the preflight go to the result. `watch` gets four looks per second. `stop`: when
    it is set the run ends early, with a result of what was. Raises RunError, CrewError.
    """
    return _Run(scenario, target, crew, workers, watch, stop or threading.Event()).run(command, warnings)


class _Run:
    def __init__(
        self, scenario: Scenario, target: Target, crew: Crew, workers: int, watch: Watch | None, stop: threading.Event
    ) -> None:
        self._scenario: Final = scenario
        self._target: Final = target
        self._crew: Final = crew
        self._workers: Final = workers
        self._watch: Final = watch
        self._stop: Final = stop
        self._said: Final[queue.SimpleQueue[FromWorker]] = queue.SimpleQueue()
        self._gathered: Final = Gathering(scenario, workers)
        self._store: Final = None if target.state is None else StoreWatch(target.state, target.tokens)
        self._interventions: Final = Interventions(scenario, target)
        self._ledger: Final = Ledger(scenario, self._interventions.excuse)
        self._processes: Final = ProcessWatch()
        self._samples: Final[list[Sample]] = []
        self._errors: Final[list[str]] = []
        self._failures: Final[dict[int, str]] = {}
        self._planned_end_s: Final = planned_end_s(scenario)
        self._told_over_at_s = 0.0
        self._starts_at = 0.0
        self._sampled: dict[str, tuple[float, float]] = {}  # by part: when, and CPU seconds so far
        self._next_sample_s = 0.0
        self._stopped_at_s: float | None = None
        self._is_target_lost = False

    def run(self, command: str, warnings: tuple[str, ...]) -> RunResult:
        here = host()
        with ExitStack() as undo:
            undo.callback(self._crew.end)
            self._crew.start([self._assignment(worker) for worker in range(self._workers)], self._said.put)
            self._await_ready()
            counters = tcp_counters()
            self._processes.begin(self._target.pids())
            self._starts_at = time.time() + _LEAD_S
            self._crew.begin(self._starts_at)
            undo.callback(self._interventions.end)
            self._interventions.begin(self._starts_at)
            self._listen()
            counters = {name: value - counters.get(name, 0) for name, value in tcp_counters().items()}
            self._interventions.end()
            self._processes.look(self._target.pids())
            return self._result(here, command, warnings, counters)

    def _assignment(self, worker: int) -> Assignment:
        target = self._target
        return Assignment(
            scenario=self._scenario,
            worker=worker,
            workers=self._workers,
            starts_at=0.0,
            endpoints=target.endpoints,
            tokens=target.tokens,
            operator=target.operator,
        )

    def _await_ready(self) -> None:
        waiting = set(range(self._workers))
        until_s = time.monotonic() + _READY_TIMEOUT_S
        while waiting:
            if self._stop.is_set():
                raise KeyboardInterrupt
            if time.monotonic() > until_s:
                raise RunError(f"{len(waiting)} of {self._workers} workers were not ready within 5 minutes")
            said = self._next(_TICK_S)
            if isinstance(said, Ready):
                waiting.discard(said.worker)
            elif isinstance(said, Failure):
                raise RunError(said.text)

    def _listen(self) -> None:
        """Take what the workers say until all have ended, and look around meanwhile."""
        give_up_s = self._scenario.stop.timeout_s + _CLOSING_S
        next_look_s = 0.0
        while len(self._gathered.recordings) + len(self._failures) < self._workers:
            now_s = time.time() - self._starts_at
            if now_s >= next_look_s:
                next_look_s = now_s + _TICK_S
                self._look(now_s)
            if self._stopped_at_s is None and (self._stop.is_set() or self._failures or self._is_target_lost):
                self._stopped_at_s, give_up_s = now_s, now_s + _STOP_TIMEOUT_S
                self._crew.stop()
            if now_s > give_up_s:
                silent = self._workers - len(self._gathered.recordings) - len(self._failures)
                raise RunError(f"{silent} of {self._workers} workers did not come to an end; the machine is overloaded")
            self._take(self._next(max(0.0, next_look_s - now_s)))
        if self._failures:
            raise RunError(next(iter(self._failures.values())))
        self._look(time.time() - self._starts_at)

    def _next(self, timeout_s: float) -> FromWorker | None:
        try:
            return self._said.get(timeout=timeout_s)
        except queue.Empty:
            return None

    def _take(self, said: FromWorker | None) -> None:
        if isinstance(said, Moment):
            self._gathered.take(said)
            self._gathered.broken.update(one.promise for one in self._ledger.take(said))
        elif isinstance(said, Recording):
            self._gathered.end(said)
            self._errors.extend(said.errors)
        elif isinstance(said, Failure):
            self._failures[said.worker] = said.text

    def _look(self, now_s: float) -> None:
        if now_s >= self._next_sample_s:
            self._next_sample_s = now_s + _SAMPLE_S
            self._sample(now_s)
            if self._store is not None:
                found = self._store.look(now_s)
                self._ledger.note(found)
                self._gathered.broken.update(one.promise for one in found)
            self._tell_of_delay(now_s)
            self._is_target_lost = self._target.trouble() is not None  # which the result says
        if self._watch is not None:
            held = _PROMISES - len(self._gathered.broken)
            cores = self._samples[-1].cores if self._samples else {}
            faults = self._interventions.going_on()
            self._watch(self._gathered.progress(max(now_s, 0.0), cpu_cores=cores, faults=faults, held=held))

    def _tell_of_delay(self, now_s: float) -> None:
        """Tell workers that the plan is not over when it should be: gateways have their time from its end on."""
        over_at_s = self._interventions.over_at_s(now_s)
        if over_at_s > max(self._planned_end_s, self._told_over_at_s):
            self._told_over_at_s = over_at_s
            self._crew.begin(self._starts_at, over_at_s)

    def _sample(self, now_s: float) -> None:
        """Read CPU times. Those of workers are what they told, as of then; they may be on other machines."""
        self._processes.look(self._target.pids())
        read = {part: (now_s, used_s) for part, used_s in self._processes.cpu_s().items()}
        read.update({f"swarm-{worker}": cpu for worker, cpu in self._gathered.cpu.items()})
        cores = {}
        for part, (at_s, used_s) in read.items():
            # A worker's first word counts what it had used before the run: it is where counting begins.
            before_s, before_used_s = self._sampled.get(part, (at_s, used_s))
            if at_s > before_s:
                cores[part] = max(0.0, used_s - before_used_s) / (at_s - before_s)
        self._sampled = read
        if now_s > 0 and cores:
            self._samples.append(Sample(now_s, cores))

    def _result(self, here: Host, command: str, warnings: tuple[str, ...], counters: dict[str, int]) -> RunResult:
        scenario, target, gathered = self._scenario, self._target, self._gathered
        recordings = list(gathered.recordings.values())
        duration_s = max(recording.ended_at_s for recording in recordings)
        of_store = [] if self._store is None else self._store.close(self._ledger.devices, duration_s)
        standings = [standing for recording in recordings for standing in recording.standings]
        if self._stopped_at_s is not None:
            self._errors.append(f"it was ended early, {self._stopped_at_s:.1f} s after its start")
        trouble = target.trouble()
        result = RunResult(
            scenario=msgspec.json.decode(msgspec.json.encode(scenario)),
            seed=scenario.seed,
            plan_digest=plan_digest(scenario),
            target=target.name,
            command=command,
            began_at=datetime.fromtimestamp(self._starts_at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            duration_s=duration_s,
            workers=self._workers,
            gateways=scenario.gateways,
            expected=scenario.expected,
            registered=sum(standing.registered for standing in standings),
            online_at_end=sum(standing.online_at_s is not None for standing in standings),
            all_online_at_s=gathered.all_online_at_s,
            seconds=gathered.seconds(),
            samples=tuple(self._samples),
            marks=tuple(sorted([*self._interventions.marks(), *timed_marks(scenario)], key=lambda mark: mark.at_s)),
            histograms=merged(recordings),
            refusals=counted(recording.refusals for recording in recordings),
            lost_connections=counted(recording.lost_connections for recording in recordings),
            strikes=counted(recording.strikes for recording in recordings),
            cpu_s={
                **self._processes.cpu_s(),
                **{f"swarm-{one.worker}": one.cpu_s - one.prepared_cpu_s for one in recordings},
            },
            rss_bytes={**self._processes.rss_bytes(), **{f"swarm-{one.worker}": one.rss_bytes for one in recordings}},
            tcp_counters=counters,
            checks=tuple(self._ledger.close(recordings, of_store)),
            verdict=Verdict(state="passed"),
            environment=environment(here, target.about),
            errors=(*self._errors, *self._interventions.errors(), *([trouble] if trouble else [])),
            warnings=warnings,
        )
        return msgspec.structs.replace(result, verdict=verdict(result, scenario))
