"""One worker of a run: its share of the gateways, from the assignment to the recording.

As a process of its own it is `python -m mqttprov_simulator.running.worker`; how that talks is `worker_process`'s.
"""

import asyncio
import contextlib
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Any, Final, TypeVar

from mqttprov_simulator.driver import Network
from mqttprov_simulator.histogram import Buckets, count_in
from mqttprov_simulator.host import SPARE_CONNECTIONS, HostLimitError, allow_connections
from mqttprov_simulator.precise_timer import PreciseTimer
from mqttprov_simulator.rare_collections import rare_collections
from mqttprov_simulator.running.closing import look_for_absent, probe_old_credentials, standing_of, waited_for
from mqttprov_simulator.running.life import Life
from mqttprov_simulator.running.population import Population, Routes, TimedStrike, WorkerError, holdings_of
from mqttprov_simulator.running.rpc_caller import RpcCallers
from mqttprov_simulator.running.values import (
    MOMENTS_PER_S,
    Assignment,
    Failure,
    FromWorker,
    Moment,
    Ready,
    Recording,
)
from mqttprov_simulator.running.watch import Watch
from mqttprov_simulator.scenario.connections import connections
from mqttprov_simulator.scenario.drawing import life_chance, planned_end_s
from mqttprov_simulator.virtual_gateway import VirtualGateway

Tell = Callable[[FromWorker], None]
Entry = TypeVar("Entry")

_TICK_S: Final = 0.05
_SWEEP_S: Final = 5.0  # or a quarter of the keep alive: the time within which each connection is looked at
_CLOSING_TIMEOUT_S: Final = 5.0
_OPERATOR_TIMEOUT_S: Final = 10.0
_FARTHEST_START_S: Final = 3600.0


class Orders:
    """What a worker is told while it works. Made on its loop.

    `stop`: end early. `begin`: the planned start, Unix time in seconds; not waited for if the assignment says it.
    `over_at_s`: until when the plan lasts at least, if that is longer than planned.
    """

    def __init__(self) -> None:
        self.stop: Final = asyncio.Event()
        self.begin: Final[asyncio.Future[float]] = asyncio.get_running_loop().create_future()
        self.over_at_s = 0.0


async def work(assignment: Assignment, tell: Tell, orders: Orders | None = None) -> None:
    """Do a worker's part on the running loop: moments, then a Recording; or a Failure, if it cannot be done."""
    try:
        given = assignment.directory
        own = tempfile.TemporaryDirectory(prefix="mqttprov-swarm-") if given is None else contextlib.nullcontext(given)
        with own as directory:
            folder = Path(directory) / f"worker-{assignment.worker}"
            folder.mkdir(parents=True, mode=0o700)
            tell(await _Worker(assignment, tell, orders or Orders(), folder).run())
    except (WorkerError, HostLimitError, OSError) as error:
        tell(Failure(assignment.worker, str(error) or repr(error)))
    except Exception as error:  # noqa: BLE001 - whatever it is, whoever started the run must hear of it
        tell(Failure(assignment.worker, f"a mistake in the swarm itself: {type(error).__name__}: {error}"))


class _Agenda:
    """Does things when they are due, in their order."""

    def __init__(self, start_s: float, entries: list[tuple[float, Entry]], do: Callable[[Entry, float], None]) -> None:
        """`entries` ascending, in seconds after `start_s`; `do` gets the entry and when it was due (monotonic)."""
        self._start_s: Final = start_s
        self._entries: Final = entries
        self._do: Final = do
        self._next = 0
        self._timer: Final = PreciseTimer(self._act)
        self._act()

    def _act(self) -> None:
        while self._next < len(self._entries):
            at_s, entry = self._entries[self._next]
            due_s = self._start_s + at_s
            if due_s > monotonic():
                self._timer.arm(due_s)
                return
            self._next += 1
            self._do(entry, due_s)

    def end(self) -> None:
        """Do nothing more."""
        self._timer.close()


class _Worker:
    """One share of a run, from its making to its end."""

    def __init__(self, assignment: Assignment, tell: Tell, orders: Orders, folder: Path) -> None:
        self._assignment: Final = assignment
        self._scenario: Final = assignment.scenario
        self._tell: Final = tell
        self._orders: Final = orders
        self._stop: Final = orders.stop
        self._loop: Final = asyncio.get_running_loop()
        self._start_s = 0.0  # the planned start, by the monotonic clock
        self._cpu_before_s: Final = time.process_time()
        self._planned_end_s: Final = planned_end_s(assignment.scenario)
        self._holdings: Final = holdings_of(assignment)
        self._watch: Final = Watch(self._holdings, assignment.scenario.warm_up_s)
        self._network: Final = Network()
        self._folder: Final = folder
        self._caller: RpcCallers | None = None
        self._agendas: list[_Agenda] = []
        self._error: Exception | None = None
        self._swept = 0
        self._timed_out = False

    async def run(self) -> Recording:
        """Do it all. Raises WorkerError, HostLimitError, OSError, and what a callback raised."""
        most = connections(self._scenario, self._assignment.worker, self._assignment.workers).open
        allow_connections(most + SPARE_CONNECTIONS, len(self._holdings) - most)
        previous_handler = self._loop.get_exception_handler()
        self._loop.set_exception_handler(self._note_error)
        try:
            return await self._run()
        finally:
            self._loop.set_exception_handler(previous_handler)

    async def _run(self) -> Recording:
        endpoints = self._assignment.endpoints
        addresses = [await self._address(endpoint.host) for endpoint in endpoints]
        routes = Routes(self._network, endpoints, addresses, self._scenario.gateways)
        population = Population(self._assignment, self._holdings, routes, self._folder)
        try:
            population.make(self._watch)
            await self._begin_life(routes)
            with rare_collections():
                prepared_cpu_s = time.process_time() - self._cpu_before_s
                await self._wait_for_the_start()
                self._begin(population)
                await self._until_done(population.gateways)
                recording = self._recording(population.gateways, prepared_cpu_s)
                if not self._stop.is_set():
                    recording.probed = await probe_old_credentials(
                        self._holdings, population.gateways, self._watch.promises, routes, recording.ended_at_s
                    )
            self._tell_moment()
            if self._error is not None:
                raise self._error
            return recording
        finally:
            await self._close(population)

    async def _address(self, host: str) -> str:
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
            if self._assignment.endpoints[0].own_topics:
                raise WorkerError(
                    "a group's life has rpc_every_s, and this broker does not bring calls to the topics of a device; "
                    "leave rpc_every_s out"
                )
            login = self._assignment.operator
            if login is None:
                raise WorkerError("a group's life has rpc_every_s, and the target gives no operator to call devices")
            ways = [routes.operator(broker) for broker in range(routes.brokers)]
            self._caller = RpcCallers(ways, login, self._assignment.worker)
            with contextlib.suppress(TimeoutError):  # its calls will say so
                await asyncio.wait_for(self._caller.ready(), _OPERATOR_TIMEOUT_S)
        if any(life != type(life)() for life in lives):
            self._watch.life = Life(lambda holding: life_chance(self._scenario, holding.drawn), self._caller)

    def _begin(self, population: Population) -> None:
        arrivals = [
            (holding.drawn.planned_s, population.gateways[number]) for number, holding in enumerate(self._holdings)
        ]
        strikes = [(strike.at_s, strike) for strike in population.strikes]
        # Strikes first: one at the moment of an arrival is there when the gateway is switched on.
        self._agendas.append(_Agenda(self._start_s, strikes, _strike))
        self._agendas.append(_Agenda(self._start_s, arrivals, self._switch_on))

    def _switch_on(self, gateway: VirtualGateway, due_s: float) -> None:
        now_s = monotonic()
        self._watch.started(gateway, now_s - due_s, now_s)
        gateway.start(due_s, now_s)

    async def _wait_for_the_start(self) -> None:
        starts_at, orders = self._assignment.starts_at, self._orders
        if not starts_at:
            self._tell(Ready(self._assignment.worker))
            stopped = asyncio.ensure_future(orders.stop.wait())
            await asyncio.wait((orders.begin, stopped), return_when=asyncio.FIRST_COMPLETED)
            stopped.cancel()
            starts_at = orders.begin.result() if orders.begin.done() else time.time()
        away_s = starts_at - time.time()
        if abs(away_s) > _FARTHEST_START_S:
            raise WorkerError(f"the start is {away_s:.0f} s from now by this machine's clock; set the clocks right")
        self._start_s = monotonic() + away_s
        self._watch.begin(self._start_s)
        if self._caller is not None:
            self._caller.begin(self._start_s + self._scenario.warm_up_s)
        await self._sleep_until(self._start_s)

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
            if self._watch.missing or at_s < self._plan_over_s:
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

    @property
    def _plan_over_s(self) -> float:
        return max(self._planned_end_s, self._orders.over_at_s)

    def _has_time(self, at_s: float) -> bool:
        """Whether gateways need not be online yet."""
        return not self._timed_out and at_s < self._plan_over_s + self._scenario.stop.online_within_s

    def _look_for_absent(self, gateways: list[VirtualGateway], at_s: float) -> None:
        if self._watch.missing and not self._has_time(at_s):
            look_for_absent(
                self._holdings,
                gateways,
                self._watch.promises,
                at_s=at_s,
                planned_end_s=self._plan_over_s,
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
            watch.overdue(gateway, ended_at_s + self._start_s)
            due = self._scenario.warm_up_s <= drawn.planned_s < ended_at_s
            if due and not (gateway.registered or expected.ended or holding.misled) and expected.entry == "online":
                count_in(watch.latency, round((ended_at_s - drawn.planned_s) * 1e6))
        if watch.life is not None:
            watch.life.end()
        rpc: Buckets = {}
        if self._caller is not None:
            self._caller.close()
            rpc = self._caller.latency()
            watch.lost_connections.update(self._caller.failed())
        return Recording(
            worker=self._assignment.worker,
            gateways=len(gateways),
            latency=dict(watch.latency),
            service=dict(watch.service),
            lag=dict(watch.lag),
            login=dict(watch.login),
            telemetry=dict(watch.telemetry),
            rpc=rpc,
            refusals=dict(watch.refusals),
            lost_connections=dict(watch.lost_connections),
            strikes=dict(watch.strikes),
            standings=[standing_of(*pair) for pair in zip(self._holdings, gateways, strict=True)],
            cpu_s=time.process_time() - self._cpu_before_s,
            rss_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            ended_at_s=round(ended_at_s, 3),
            prepared_cpu_s=prepared_cpu_s,
            repeated=watch.promises.repeated,
            unjudged=waited_for(self._holdings) if self._has_time(ended_at_s) else 0,
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


if __name__ == "__main__":
    from mqttprov_simulator.running.worker_process import main

    raise SystemExit(main())
