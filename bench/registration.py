"""Measures whole registrations per second and CPU per registration, as ratios to yardsticks of the same run.

    python bench/registration.py [--repeat 5] [--cycles 3000] [--at-once 64]

Targets, interleaved so that a noisy machine hits all alike; medians are told:
- mqttprov: `mqttprov serve`: rules, SQLite with full sync (group commit), audit events; no TLS
- do-nothing: the same broker with a responder that answers at once and stores nothing: the engine's own limit
- stock amqtt: amqtt 0.12.1 with the smallest provisioning plugin, one commit per request, no audit: the yardstick
- amqtt plugin: the same stock amqtt with our plugin: rules, group commit, audit events, permissions, private replies
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from cycle import run_cycles
from mqttprov.brokers.embedded import now_ms
from mqttprov.responder.state_directory import initialise
from mqttprov_simulator.cpu import cpu_seconds

HERE = Path(__file__).parent
TARGETS = ("mqttprov", "do-nothing", "stock amqtt", "amqtt plugin")


class Target(msgspec.Struct):
    """A broker that runs and how to provision with it."""

    port: int
    pid: int
    key: str = "key"
    secret: str = "secret"  # noqa: S105 - brokers that check none


class Figures(msgspec.Struct):
    """One run of one target."""

    per_s: float
    p50_ms: float
    p99_ms: float
    broker_us: float
    client_us: float
    failed: int


@contextmanager
def _process(command: list[str]) -> Iterator[tuple[subprocess.Popen[str], str]]:
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield process, process.stdout.readline().strip()
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdin.close()
        process.stdout.close()


@contextmanager
def started(target: str, folder: Path) -> Iterator[Target]:
    """Start a target in this folder; end it afterwards."""
    if target == "mqttprov":
        issued = initialise(folder / "state", actor="bench", now_ms=now_ms, entropy=os.urandom)
        assert issued is not None
        command = [sys.executable, "-m", "mqttprov", "serve", "--state", str(folder / "state"), "--port", "0", "--json"]
        with _process(command) as (process, line):
            url = json.loads(line)["listening"][0]
            yield Target(_port(url), process.pid, issued.key, issued.secret)
    elif target == "do-nothing":
        with _process([sys.executable, str(HERE / "do_nothing.py")]) as (process, url):
            yield Target(_port(url), process.pid)
    elif target == "stock amqtt":
        command = [sys.executable, str(HERE / "stock_amqtt.py"), str(free_port()), str(folder / "a.db")]
        with _process(command) as (process, url):
            yield Target(_port(url), process.pid)
    else:
        issued = initialise(folder / "state", actor="bench", now_ms=now_ms, entropy=os.urandom)
        assert issued is not None
        command = [sys.executable, str(HERE / "amqtt_with_plugin.py"), str(free_port()), str(folder / "state")]
        with _process(command) as (process, url):
            yield Target(_port(url), process.pid, issued.key, issued.secret)


def _port(url: str) -> int:
    return int(url.rsplit(":", 1)[1])


def free_port() -> int:
    """Give a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def measure(name: str, cycles: int, at_once: int) -> Figures:
    """Start a target, warm it up with a tenth of the cycles, measure the rest."""
    with tempfile.TemporaryDirectory() as folder, started(name, Path(folder)) as target:
        address = ("127.0.0.1", target.port, target.key, target.secret)
        run_cycles(*address, cycles=max(cycles // 10, at_once), at_once=at_once)
        cpu_s = cpu_seconds(target.pid)
        result = run_cycles(*address, cycles=cycles, at_once=at_once)
        broker_us = (cpu_seconds(target.pid) - cpu_s) / max(result.done, 1) * 1e6
        return Figures(result.per_s, result.p50_ms, result.p99_ms, broker_us, result.client_cpu_us, result.failed)


def main() -> None:
    """Measure all targets in turn, several times, and print medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--cycles", type=int, default=3000)
    parser.add_argument("--at-once", type=int, default=64)
    parser.add_argument("--only", choices=TARGETS, action="append")
    options = parser.parse_args()
    targets = options.only or list(TARGETS)
    runs: dict[str, list[Figures]] = {name: [] for name in targets}
    for _ in range(options.repeat):
        for name in targets:
            # amqtt's engine is an order of magnitude slower: fewer cycles keep the run short.
            cycles = options.cycles if "amqtt" not in name else max(options.cycles // 10, 100)
            runs[name].append(measure(name, cycles, options.at_once))
    print(f"medians of {options.repeat} interleaved runs, {options.at_once} at once, {time.strftime('%Y-%m-%d')}")
    print(f"{'target':<12} {'reg/s':>8} {'p50 ms':>8} {'p99 ms':>8} {'broker us':>10} {'client us':>10} {'failed':>7}")
    rate = {}
    for name in targets:
        m = {field: statistics.median(getattr(f, field) for f in runs[name]) for field in Figures.__struct_fields__}
        rate[name] = m["per_s"]
        print(
            f"{name:<12} {m['per_s']:>8.0f} {m['p50_ms']:>8.1f} {m['p99_ms']:>8.1f} "
            f"{m['broker_us']:>10.0f} {m['client_us']:>10.0f} {m['failed']:>7.0f}"
        )
    for name in targets[1:]:
        if "mqttprov" in rate:
            print(f"mqttprov / {name}: {rate['mqttprov'] / rate[name]:.2f}")


if __name__ == "__main__":
    main()
