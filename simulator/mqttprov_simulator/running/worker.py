"""One worker of a run: its share of the gateways, from the assignment to the recording.

`python -m mqttprov_simulator.running.worker` reads an assignment as a JSON line from stdin and writes what it tells as
JSON lines to stdout. It ends early, with a recording of what was, on SIGTERM and when stdin ends: its parent is gone.
"""

import asyncio
import contextlib
import gc
import os
import queue
import resource
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Any, Final, TypeVar

import msgspec
import uvloop

from mqttprov_simulator.driver import Network
from mqttprov_simulator.histogram import Buckets, count_in
from mqttprov_simulator.host import HostLimitError, allow_connections
from mqttprov_simulator.running.closing import look_for_absent, probe_old_credentials, standing_of
from mqttprov_simulator.running.life import Life
from mqttprov_simulator.running.population import Population, Routes, TimedStrike, WorkerError, holdings_of
from mqttprov_simulator.running.rpc_caller import RpcCaller
from mqttprov_simulator.running.values import MOMENTS_PER_S, Assignment, Failure, FromWorker, Moment, Recording
from mqttprov_simulator.running.watch import Watch
from mqttprov_simulator.scenario.drawing import life_chance, planned_end_s
from mqttprov_simulator.virtual_gateway import VirtualGateway

Tell = Callable[[FromWorker], None]
Entry = TypeVar("Entry")

_TICK_S: Final = 0.05
_SWEEP_S: Final = 5.0  # or a quarter of the keep alive: the time within which each connection is looked at
_CLOSING_TIMEOUT_S: Final = 5.0
_OPERATOR_TIMEOUT_S: Final = 10.0
_SPARE_CONNECTIONS: Final = 512  # probes, and those that are just closing


async def work(assignment: Assignment, tell: Tell, stop: asyncio.Event | None = None) -> None:
    """Do a worker's part on the running loop: moments, then a Recording; or a Failure, if it cannot be done.

    `stop`: when set, the run ends early.
    """
    try:
        with tempfile.TemporaryDirectory(prefix="mqttprov-swarm-") as temporary:
            folder = Path(assignment.directory or temporary) / f"worker-{assignment.worker}"
            folder.mkdir(parents=True, mode=0o700)
            tell(await _Worker(assignment, tell, stop or asyncio.Event(), folder).run())
    except (WorkerError, HostLimitError, OSError) as error:
        tell(Failure(assignment.worker, str(error)))
    except Exception as error:  # noqa: BLE001 - whatever it is, whoever started the run must hear of it
        tell(Failure(assignment.worker, f"a mistake in the swarm itself: {type(error).__name__}: {error}"))


class _Agenda:
    """Does things when they are due, in their order."""

    def __init__(self, start_s: float, entries: list[tuple[float, Entry]], do: Callable[[Entry, float], None]) -> None:
        """`entries` ascending, in seconds after `start_s`; `do` gets the entry and when it was due (monotonic)."""
        self._loop: Final = asyncio.get_running_loop()
        self._start_s: Final = start_s
        self._entries: Final = entries
        self._do: Final = do
        self._next = 0
        self._timer: asyncio.TimerHandle | None = None
        self._act()

    def _act(self) -> None:
        self._timer = None
        while self._next < len(self._entries):
            at_s, entry = self._entries[self._next]
            due_s = self._start_s + at_s
            now_s = monotonic()
            if due_s > now_s:
                self._timer = self._loop.call_later(due_s - now_s, self._act)
                return
            self._next += 1
            self._do(entry, due_s)

    def end(self) -> None:
        """Do nothing more."""
        if self._timer is not None:
            self._timer.cancel()


class _Worker:
    """One share of a run, from its making to its end."""

    def __init__(self, assignment: Assignment, tell: Tell, stop: asyncio.Event, folder: Path) -> None:
        self._assignment: Final = assignment
        self._scenario: Final = assignment.scenario
        self._tell: Final = tell
        self._stop: Final = stop
        self._loop: Final = asyncio.get_running_loop()
        self._start_s: Final = monotonic() + assignment.starts_at - time.time()
        self._cpu_before_s: Final = time.process_time()
        self._planned_end_s: Final = planned_end_s(assignment.scenario)
        self._holdings: Final = holdings_of(assignment)
        self._watch: Final = Watch(self._holdings, self._start_s, assignment.scenario.warm_up_s)
        self._network: Final = Network()
        self._folder: Final = folder
        self._caller: RpcCaller | None = None
        self._agendas: list[_Agenda] = []
        self._error: Exception | None = None
        self._swept = 0
        self._timed_out = False

    async def run(self) -> Recording:
        """Do it all. Raises WorkerError, HostLimitError, OSError, and what a callback raised."""
        allow_connections(len(self._holdings) + _SPARE_CONNECTIONS)
        previous_handler = self._loop.get_exception_handler()
        self._loop.set_exception_handler(self._note_error)
        try:
            return await self._run()
        finally:
            gc.unfreeze()
            self._loop.set_exception_handler(previous_handler)

    async def _run(self) -> Recording:
        routes = Routes(self._network, self._assignment.endpoint, await self._address(), self._scenario.gateways)
        population = Population(self._assignment, self._holdings, routes, self._folder)
        try:
            population.make(self._watch)
            await self._begin_life(routes)
            gc.collect()
            gc.freeze()  # what is there now stays: a collection that walks over all of it would stop every gateway
            prepared_cpu_s = time.process_time() - self._cpu_before_s
            await self._sleep_until(self._start_s)
            self._begin(population)
            await self._until_done(population.gateways)
            recording = self._recording(population.gateways, prepared_cpu_s)
            if not self._stop.is_set():
                await probe_old_credentials(
                    self._holdings, population.gateways, self._watch.promises, routes, recording.ended_at_s
                )
            self._tell_moment()
            return recording
        finally:
            await self._close(population)

    async def _address(self) -> str:
        host = self._assignment.endpoint.host
        try:
            addresses = await self._loop.getaddrinfo(host, None, type=1)
        except OSError as error:
            raise WorkerError(f"the host {host!r} is not known: {error.strerror}; give a name or an address") from error
        return str(addresses[0][4][0])

    def _note_error(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Keep the first exception of a callback: our mistakes must end the run, not pass for lost connections."""
        if self._error is None:
            error = context.get("exception")
            self._error = error if isinstance(error, Exception) else RuntimeError(context.get("message"))

    async def _begin_life(self, routes: Routes) -> None:
        lives = [group.life for group in self._scenario.groups]
        if any(life.rpc_every_s is not None for life in lives):
            login = self._assignment.operator
            if login is None:
                raise WorkerError("a group's life has rpc_every_s, and the target gives no operator to call devices")
            measured_from_s = self._start_s + self._scenario.warm_up_s
            self._caller = RpcCaller(routes.operator(), login, self._assignment.worker, measured_from_s)
            with contextlib.suppress(TimeoutError):  # its calls will say so
                await asyncio.wait_for(self._caller.ready.wait(), _OPERATOR_TIMEOUT_S)
        if any(life != type(life)() for life in lives):
            self._watch.life = Life(lambda holding: life_chance(self._scenario, holding.drawn), self._caller)

    def _begin(self, population: Population) -> None:
        planned = [gateway.spec.number for gateway in population.gateways]
        arrivals = [(self._holdings[number].drawn.planned_s, population.gateways[number]) for number in planned]
        strikes = [(strike.at_s, strike) for strike in population.strikes]
        self._agendas.append(_Agenda(self._start_s, arrivals, self._switch_on))
        self._agendas.append(_Agenda(self._start_s, strikes, _strike))

    def _switch_on(self, gateway: VirtualGateway, due_s: float) -> None:
        now_s = monotonic()
        self._watch.started(gateway, now_s - due_s, now_s)
        gateway.start(due_s, now_s)

    async def _sleep_until(self, due_s: float) -> None:
        """Sleep; shorter if the run is to end."""
        timeout_s = due_s - monotonic()
        if timeout_s > 0 and not self._stop.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), timeout_s)

    async def _until_done(self, gateways: list[VirtualGateway]) -> None:
        next_moment_s = next_look_s = self._start_s
        complete_since_s: float | None = None
        stop = self._scenario.stop
        while not self._stop.is_set():
            now_s = monotonic()
            at_s = now_s - self._start_s
            if self._error is not None:
                raise self._error
            if self._watch.missing or at_s < self._planned_end_s:
                complete_since_s = None
            elif complete_since_s is None:
                complete_since_s = now_s
            if stop.after_s is not None and at_s >= stop.after_s:
                break
            if stop.after_s is None and complete_since_s is not None and now_s >= complete_since_s + stop.hold_s:
                break
            if at_s >= stop.timeout_s:
                self._timed_out = True
                break
            if now_s >= next_look_s:
                next_look_s = now_s + 1.0
                self._look_for_absent(gateways, at_s)
            if now_s >= next_moment_s:
                next_moment_s = now_s + 1 / MOMENTS_PER_S
                self._tell_moment()
            self._sweep(gateways, now_s)
            await self._sleep_until(now_s + _TICK_S)

    def _look_for_absent(self, gateways: list[VirtualGateway], at_s: float) -> None:
        if self._watch.missing:
            look_for_absent(
                self._holdings,
                gateways,
                self._watch.promises,
                at_s=at_s,
                planned_end_s=self._planned_end_s,
                within_s=self._scenario.stop.online_within_s,
                timed_out=self._timed_out,
            )

    def _sweep(self, gateways: list[VirtualGateway], now_s: float) -> None:
        """Let some of the connections look at the time: a tick's share, so that no tick is long."""
        sweep_s = min(_SWEEP_S, self._scenario.gateway.machine_settings().keep_alive_s / 4)
        for _ in range(1 + int(len(gateways) * _TICK_S / sweep_s)):
            gateways[self._swept % len(gateways)].keep_alive(now_s)
            self._swept += 1
        if self._caller is not None:
            self._caller.look(now_s)

    def _tell_moment(self) -> None:
        watch, at_s = self._watch, monotonic() - self._start_s
        watch.seconds.roll(at_s)
        self._tell(
            Moment(
                worker=self._assignment.worker,
                at_s=round(at_s, 3),
                second=watch.seconds.snapshot(at_s),
                closed=watch.seconds.take_closed(),
                told=watch.promises.take_told(),
                broken=watch.promises.take_broken(),
                online=watch.online,
                registered=watch.registered,
                cpu_s=time.process_time() - self._cpu_before_s,
            )
        )

    def _recording(self, gateways: list[VirtualGateway], prepared_cpu_s: float) -> Recording:
        """Sum up, before the gateways are stopped. What has not registered counts with the time that has passed."""
        watch, ended_at_s = self._watch, monotonic() - self._start_s
        self._look_for_absent(gateways, ended_at_s)
        for holding, gateway in zip(self._holdings, gateways, strict=True):
            drawn, expected = holding.drawn, holding.expected
            due = self._scenario.warm_up_s <= drawn.planned_s < ended_at_s
            if due and not (gateway.registered or expected.ended or holding.misled) and expected.entry == "online":
                count_in(watch.latency, round((ended_at_s - drawn.planned_s) * 1e6))
        if watch.life is not None:
            watch.life.end()
        rpc: Buckets = {}
        if self._caller is not None:
            self._caller.close()
            rpc = self._caller.latency
            watch.lost_connections.update(self._caller.failed)
        return Recording(
            worker=self._assignment.worker,
            gateways=len(gateways),
            latency=watch.latency,
            service=watch.service,
            lag=watch.lag,
            login=watch.login,
            telemetry=watch.telemetry,
            rpc=rpc,
            refusals=dict(watch.refusals),
            lost_connections=dict(watch.lost_connections),
            strikes=dict(watch.strikes),
            standings=[standing_of(*pair) for pair in zip(self._holdings, gateways, strict=True)],
            cpu_s=time.process_time() - self._cpu_before_s,
            rss_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            ended_at_s=round(ended_at_s, 3),
            prepared_cpu_s=prepared_cpu_s,
        )

    async def _close(self, population: Population) -> None:
        """Stop all gateways and wait for their connections to close, not for long."""
        for agenda in self._agendas:
            agenda.end()
        if self._watch.life is not None:
            self._watch.life.end()
        if self._caller is not None:
            self._caller.close()
        for gateway in population.gateways:
            gateway.stop()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._network.idle.wait(), _CLOSING_TIMEOUT_S)
        if population.disk is not None:
            population.disk.close()


def _strike(strike: TimedStrike, _due_s: float) -> None:
    strike.gateway.strike(strike.fault)


class _Writer:
    """Writes lines in a thread: a parent that is busy must not stop the gateways."""

    def __init__(self) -> None:
        self.last: FromWorker | None = None
        self._lines: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._thread: Final = threading.Thread(target=self._write, name="stdout")
        self._thread.start()

    def tell(self, value: FromWorker) -> None:
        """Write a value as a line, soon."""
        self.last = value
        self._lines.put(msgspec.json.encode(value) + b"\n")

    def _write(self) -> None:
        # Without a parent that reads there is nothing to write for.
        with contextlib.suppress(BrokenPipeError):
            while (line := self._lines.get()) is not None:
                sys.stdout.buffer.write(line)
                sys.stdout.buffer.flush()

    def close(self) -> None:
        """Wait until all is written."""
        self._lines.put(None)
        self._thread.join()


def main() -> int:
    """Run a worker as a process; 0 after a Recording, 1 after a Failure."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends its workers itself
    line = sys.stdin.buffer.readline()
    writer = _Writer()
    try:
        try:
            assignment = msgspec.json.decode(line, type=Assignment)
        except msgspec.DecodeError as error:
            writer.tell(Failure(0, f"no assignment: {error}; a worker is started by a run, not by hand"))
            return 1
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_work_until_told(assignment, writer.tell))
        return 0 if isinstance(writer.last, Recording) else 1
    finally:
        writer.close()


async def _work_until_told(assignment: Assignment, tell: Tell) -> None:
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)

    def watch_parent() -> None:
        while os.read(sys.stdin.fileno(), 4096):
            pass
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(stop.set)

    threading.Thread(target=watch_parent, name="stdin", daemon=True).start()
    await work(assignment, tell, stop)


if __name__ == "__main__":
    sys.exit(main())
