"""Measures what the load itself costs: CPU per registration and memory per idle gateway, in the generator's process.

    python bench/swarm.py [--repeat 5] [--json]

A worker of the swarm beside the gateway that ships to devices (`GatewayClient`, driven by paho-mqtt) in threads of one
process: the same machine, the same two connections, the same broker, which does nothing. A device keeps its credentials
on disk, the swarm in memory. And beside bare connections that say the same bytes (`bare_gateways`): more than what they
leave is not to be gained. Interleaved, each run in a process of its own that has warmed up; medians are told.
"""

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import msgspec
import uvloop

from bare_gateways import BareGateways
from idle import resident_kib
from mqttprov.gateway.actions import StateChanged
from mqttprov.gateway.backoff import MachineSettings
from mqttprov.gateway.client import GatewayClient
from mqttprov.gateway.settings import GatewaySettings, SecretText
from mqttprov_simulator.host import allow_connections
from mqttprov_simulator.rare_collections import rare_collections
from mqttprov_simulator.running.values import Assignment, Endpoint, FromWorker, Moment, Ready, Recording, TokenKey
from mqttprov_simulator.running.worker import Orders, work
from mqttprov_simulator.scenario.model import Constant, Group, Scenario, Stop
from targets import started

WARM_UP = 20
TIMEOUT_S = 120.0
DESCRIPTORS = 6_000  # for the largest load: in the broker two for a gateway that just leaves one connection for another


class Load(msgspec.Struct, frozen=True):
    """Who generates it, how many gateways there are, how many of them are switched on in a second."""

    generator: str
    gateways: int
    rate_per_s: int

    def __str__(self) -> str:
        return f"{_TITLES[self.generator]}, {self.gateways:,} at {self.rate_per_s:,}/s"


_TITLES = {"swarm": "swarm", "paho": "devices' client in threads", "bare": "bare connections"}
_RATES = ((300, 100), (3_000, 500), (3_000, 1_500), (3_000, 4_000))
_LOADS = (
    Load("paho", *_RATES[0]), *(Load(generator, *rate) for rate in _RATES for generator in ("bare", "swarm"))
)  # fmt: skip


class Figures(msgspec.Struct):
    """One run. Preparing: what happens before the first gateway begins; threads do all of it afterwards."""

    cpu_us: float
    preparing_us: float
    idle_kib: float


class _Meter:
    """From making the gateways until all are online."""

    def __init__(self, gateways: int) -> None:
        self._gateways = gateways
        self._kib = resident_kib(os.getpid())
        self._made_s = self._began_s = time.process_time()
        self.figures: Figures | None = None

    def begin(self) -> None:
        self._began_s = time.process_time()

    def end(self) -> None:
        """Once only: what follows is no registration."""
        if self.figures is None:
            gateways, kib = self._gateways, resident_kib(os.getpid()) - self._kib
            cpu_s, preparing_s = time.process_time() - self._began_s, self._began_s - self._made_s
            self.figures = Figures(cpu_s / gateways * 1e6, preparing_s / gateways * 1e6, kib / gateways)


async def _swarm(port: int, gateways: int, rate_per_s: int) -> Figures:
    group = Group(name="bench", gateways=gateways, arrivals=Constant(rate_per_s=rate_per_s))
    stop = Stop(hold_s=0.5, timeout_s=TIMEOUT_S)
    assignment = Assignment(
        scenario=Scenario(name="bench", summary="", groups=(group,), stop=stop),
        worker=0, workers=1, starts_at=0.0,
        endpoints=(Endpoint(host="127.0.0.1", port=port),), tokens={"default/default": TokenKey("key", "secret")},
    )  # fmt: skip
    orders, meter, said = Orders(), _Meter(gateways), list[FromWorker]()

    def tell(value: FromWorker) -> None:
        said[:] = [value]
        if isinstance(value, Ready):
            meter.begin()
            orders.begin.set_result(time.time())
        elif isinstance(value, Moment) and value.online == gateways:
            meter.end()

    await work(assignment, tell, orders)
    assert isinstance(said[-1], Recording), said[-1]
    assert meter.figures is not None
    return meter.figures


class _Devices:
    """Gateways as they ship, a thread each."""

    def __init__(self, port: int, gateways: int, folder: Path) -> None:
        self._online = threading.Semaphore(0)
        machine = MachineSettings(heartbeat_s=None)
        self._clients = [
            GatewayClient(
                GatewaySettings(
                    host="127.0.0.1", port=port, directory=folder / f"{number}", provision_key="key",
                    provision_secret=SecretText("secret"), device_name=f"device-{number}",
                ),
                machine_settings=machine, on_state=self._note,
            )
            for number in range(gateways)
        ]  # fmt: skip
        self._threads = [threading.Thread(target=client.run) for client in self._clients]

    def _note(self, change: StateChanged) -> None:
        if change.new == "online":
            self._online.release()

    def start(self, rate_per_s: int) -> None:
        """Switch all of them on, and wait until they are online."""
        start_s = time.monotonic()
        for number, thread in enumerate(self._threads):
            time.sleep(max(0.0, start_s + number / rate_per_s - time.monotonic()))
            thread.start()
        for _ in self._threads:
            assert self._online.acquire(timeout=TIMEOUT_S)

    def stop(self) -> None:
        """Switch them off."""
        for client in self._clients:
            client.stop()
        for thread in self._threads:
            thread.join()


def _paho(port: int, gateways: int, rate_per_s: int) -> Figures:
    with tempfile.TemporaryDirectory() as folder:
        meter = _Meter(gateways)
        devices = _Devices(port, gateways, Path(folder))
        meter.begin()
        devices.start(rate_per_s)
        meter.end()
        devices.stop()
    assert meter.figures is not None
    return meter.figures


async def _bare(port: int, gateways: int, rate_per_s: int) -> Figures:
    meter = _Meter(gateways)
    bare = BareGateways(port, gateways)
    with rare_collections():
        meter.begin()
        await asyncio.wait_for(bare.start(rate_per_s), TIMEOUT_S)
        meter.end()
    bare.stop()
    assert meter.figures is not None
    return meter.figures


def _generate(load: Load, port: int) -> Figures:
    """Be a generator: warm up, then measure."""
    if load.generator == "paho":
        _paho(port, WARM_UP, WARM_UP)
        return _paho(port, load.gateways, load.rate_per_s)
    generate = _swarm if load.generator == "swarm" else _bare
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(generate(port, WARM_UP, 10 * WARM_UP))
        return runner.run(generate(port, load.gateways, load.rate_per_s))


def _measure(load: Load, port: int) -> Figures:
    """Run a generator as a process of its own."""
    command = [sys.executable, __file__, "--generate", json.dumps(msgspec.to_builtins(load)), "--port", str(port)]
    result = subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=3 * TIMEOUT_S)
    return msgspec.json.decode(result.stdout, type=Figures)


def _medians(runs: list[Figures]) -> Figures:
    return Figures(*[statistics.median([getattr(run, name) for run in runs]) for name in Figures.__struct_fields__])


def _table(medians: dict[Load, Figures]) -> str:
    lines = [
        "| generator | CPU us per registration | CPU us before it begins | KiB per idle gateway |",
        "|---|---|---|---|",
    ]
    for load, each in medians.items():
        lines.append(f"| {load} | {each.cpu_us:,.0f} | {each.preparing_us:,.0f} | {each.idle_kib:,.1f} |")
    return "\n".join(lines)


def main() -> None:
    """Measure all loads in turn, several times, and tell medians."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="medians and all runs as JSON")
    parser.add_argument("--generate", help=argparse.SUPPRESS)  # how it calls itself
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.generate is not None:
        load = msgspec.json.decode(options.generate, type=Load)
        print(msgspec.json.encode(_generate(load, options.port)).decode())
        return
    allow_connections(DESCRIPTORS)  # the processes below inherit it
    runs: dict[Load, list[Figures]] = {load: [] for load in _LOADS}
    with tempfile.TemporaryDirectory() as folder, started("do-nothing", Path(folder)) as target:
        for turn in range(options.repeat):
            for load in _LOADS:
                print(f"run {turn + 1} of {options.repeat}: {load}", file=sys.stderr)
                runs[load].append(_measure(load, target.port))
    medians = {load: _medians(each) for load, each in runs.items()}
    if options.json:
        rows = [{"load": load, "median": medians[load], "runs": runs[load]} for load in _LOADS]
        print(json.dumps({"date": time.strftime("%Y-%m-%d"), "rows": msgspec.to_builtins(rows)}, indent=1))
        return
    print(_table(medians))
    for load in _LOADS:
        if load.generator != "swarm":
            swarm, other = medians[msgspec.structs.replace(load, generator="swarm")], medians[load]
            cpu, memory = other.cpu_us / swarm.cpu_us, other.idle_kib / swarm.idle_kib
            print(f"{load} / swarm: CPU {cpu:.2f}, memory {memory:.2f}")


if __name__ == "__main__":
    main()
