"""A run of a swarm over real sockets: start gateways by the plan, watch, end in time, sum up.

What a gateway does is `virtual_gateway`'s, what is counted `tally`'s. `run_swarm` is for programs, `swarm` for those
that have a loop already.
"""

import asyncio
import contextlib
import os
import ssl
from collections.abc import Callable
from time import monotonic
from typing import Any, Final

import uvloop

from mqttprov_simulator.cpu import CpuMeter
from mqttprov_simulator.driver import Network, Route
from mqttprov_simulator.fleet import Fleet, gateways_of
from mqttprov_simulator.host import allow_connections, tcp_counters
from mqttprov_simulator.plan import SwarmPlan
from mqttprov_simulator.precise_timer import PreciseTimer
from mqttprov_simulator.rare_collections import rare_collections
from mqttprov_simulator.results import GatewayRecord, Progress, Summary, SwarmResult
from mqttprov_simulator.tally import Tally
from mqttprov_simulator.virtual_gateway import VirtualGateway

ProgressCallback = Callable[[Progress], None]

_TICK_S: Final = 0.1
_CLOSING_TIMEOUT_S: Final = 5.0
_LONGEST_SWEEP_S: Final = 5.0


class SwarmError(Exception):
    """The swarm cannot run; the text says why and what to do."""


def run_swarm(
    plan: SwarmPlan, *, on_progress: ProgressCallback | None = None, broker_pid: int | None = None
) -> SwarmResult:
    """Run a swarm on a loop of its own until it is done, `plan.timeout_s` at most, and say how it went.

    `on_progress` is called every 100 ms. `broker_pid`: a process whose CPU time is to be told as "broker".
    Raises SwarmError (host name, CA file), HostLimitError (open files), ProcessLookupError (broker_pid).
    """
    with rare_collections(), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(swarm(plan, on_progress=on_progress, broker_pid=broker_pid))


async def swarm(
    plan: SwarmPlan, *, on_progress: ProgressCallback | None = None, broker_pid: int | None = None
) -> SwarmResult:
    """Run a swarm on the running loop; as `run_swarm`, but it leaves the garbage collector alone."""
    allow_connections(plan.most_connections)
    address, tls = await _address(plan), _tls(plan)
    network = Network()
    pids = {"swarm": os.getpid()} | ({} if broker_pid is None else {"broker": broker_pid})
    run = _Run(plan, network, pids, on_progress)
    run.make_gateways(lambda source: Route(network, plan.host, address, plan.port, tls=tls, source=source))
    loop = asyncio.get_running_loop()
    previous_handler = loop.get_exception_handler()
    loop.set_exception_handler(run.note_error)
    try:
        await run.until_done()
        return run.result()
    finally:
        await run.close()
        loop.set_exception_handler(previous_handler)


async def _address(plan: SwarmPlan) -> str:
    try:
        addresses = await asyncio.get_running_loop().getaddrinfo(plan.host, plan.port, type=1)
    except OSError as error:
        raise SwarmError(f"the host {plan.host!r} is not known: {error.strerror}; give a name or an address") from error
    return str(addresses[0][4][0])


def _tls(plan: SwarmPlan) -> ssl.SSLContext | None:
    if plan.tls_ca_file is None:
        return None
    try:
        return ssl.create_default_context(cafile=plan.tls_ca_file)
    except OSError as error:  # also ssl.SSLError
        raise SwarmError(f"{plan.tls_ca_file} is no CA certificate in PEM form: {error}") from error


class _Run:
    """One run, from the making of its gateways to their end."""

    def __init__(
        self, plan: SwarmPlan, network: Network, pids: dict[str, int], on_progress: ProgressCallback | None
    ) -> None:
        self._plan: Final = plan
        self._network: Final = network
        self._on_progress: Final = on_progress
        self._tcp_before: Final = tcp_counters()
        self._tally: Final = Tally(plan.gateways, plan.rate_per_s, CpuMeter(pids))
        self._fleet: Final = Fleet(plan, self._tally, self._one_settled)
        self._gateways: list[VirtualGateway] = []
        self._next = 0
        self._start_s = 0.0
        self._timer: Final = PreciseTimer(self._start_due)
        self._error: Exception | None = None
        self._sweep_s: Final = min(_LONGEST_SWEEP_S, plan.machine.keep_alive_s / 4)

    def make_gateways(self, route_from: Callable[[str | None], Route]) -> None:
        """Make all gateways of the plan; none begins."""
        self._gateways = gateways_of(self._plan, self._fleet, route_from)

    def note_error(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Keep the first exception of a callback: our mistakes must end the run, not pass for lost connections."""
        if self._error is None:
            error = context.get("exception")
            self._error = error if isinstance(error, Exception) else RuntimeError(context.get("message"))
            self._fleet.changed.set()

    async def until_done(self) -> None:
        """Start the gateways; wait until the plan is fulfilled or its time is over. Raises what a callback raised."""
        self._start_s = monotonic()
        self._tally.start()
        self._start_due()
        deadline_s = self._start_s + self._plan.timeout_s
        next_tick_s = next_sweep_s = self._start_s
        complete_since_s: float | None = None
        while (now_s := monotonic()) < deadline_s and self._error is None:
            if not self._fleet.complete:
                complete_since_s = None
            elif complete_since_s is None:
                complete_since_s = now_s
            held_until_s = deadline_s if complete_since_s is None else complete_since_s + self._hold_s
            if now_s >= held_until_s:
                break
            if now_s >= next_sweep_s:
                next_sweep_s = now_s + self._sweep_s
                self._keep_alive(now_s)
            if now_s >= next_tick_s:
                next_tick_s = now_s + _TICK_S
                self._report(now_s)
            await self._wait(min(next_tick_s, held_until_s, deadline_s) - now_s)
        if self._error is not None:
            raise self._error
        self._report(monotonic())

    @property
    def _hold_s(self) -> float:
        return self._plan.hold_s if self._plan.stay_connected else 0.0

    async def _wait(self, timeout_s: float) -> None:
        """Sleep for a while, or until the fleet is complete or a callback has failed."""
        changed = self._fleet.changed
        waker = asyncio.get_running_loop().call_later(max(timeout_s, 0.0), changed.set)
        try:
            await changed.wait()
        finally:
            waker.cancel()
            changed.clear()

    def _one_settled(self) -> None:
        if self._plan.rate_per_s is None:
            self._start_due()

    def _start_due(self) -> None:
        """Start what is due: by the clock with a rate, else as much as may be in flight."""
        plan, now_s = self._plan, monotonic()
        while self._next < plan.gateways:
            planned_s = now_s
            if plan.rate_per_s is not None:
                planned_s = self._start_s + plan.planned_s(self._next)
                if planned_s > now_s:
                    self._timer.arm(planned_s)
                    return
                now_s = monotonic()
                self._tally.lag.record(round((now_s - planned_s) * 1e6))
            elif self._next - self._fleet.settled >= plan.concurrency:
                return
            self._gateways[self._next].start(planned_s, now_s)
            self._next += 1

    def _keep_alive(self, now_s: float) -> None:
        for gateway in self._gateways[: self._next]:
            gateway.keep_alive(now_s)

    def _report(self, now_s: float) -> None:
        if self._on_progress is not None:
            self._on_progress(self._tally.progress(self._start_s, now_s))

    def result(self) -> SwarmResult:
        """Sum up, before the gateways are stopped."""
        tally, plan = self._tally, self._plan
        tally.finish(plan.gateways - self._fleet.settled, plan.timeout_s)
        last_s = tally.last_registration_s
        duration_s = monotonic() - self._start_s
        summary = Summary(
            gateways=plan.gateways,
            registered=tally.registered,
            failed=plan.gateways - tally.registered,
            duration_s=duration_s,
            registrations_per_s=0.0 if last_s is None else tally.registered / max(last_s - self._start_s, 1e-6),
            p50_ms=tally.latency.percentile_ms(50),
            p99_ms=tally.latency.percentile_ms(99),
            max_ms=tally.latency.max_ms,
            service_p50_ms=tally.service.percentile_ms(50),
            service_p99_ms=tally.service.percentile_ms(99),
            lag_p99_ms=tally.lag.percentile_ms(99),
            cpu_us_per_registration={name: s * 1e6 / max(tally.registered, 1) for name, s in tally.cpu_s.items()},
            refusals=dict(tally.refusals),
            lost_connections=dict(tally.lost_connections),
            states={state: count for state, count in tally.states.items() if count},
            tcp_counters={name: value - self._tcp_before.get(name, 0) for name, value in tcp_counters().items()},
            seed=plan.seed,
            plan=plan.public(),
        )
        records = [
            GatewayRecord(each.spec.device, each.state, each.registered, each.stored, each.refused)
            for each in self._gateways
        ]
        return SwarmResult(summary, records, tally.latency, tally.service, tally.lag)

    async def close(self) -> None:
        """Stop all gateways and wait for their connections to close, not for long."""
        self._timer.close()
        for gateway in self._gateways[: self._next]:
            gateway.stop()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._network.idle.wait(), _CLOSING_TIMEOUT_S)
