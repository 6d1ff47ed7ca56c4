"""Measures whole registrations per second and CPU per registration, as ratios to yardsticks of the same run.

    python bench/registration.py [--repeat 5] [--cycles 3000] [--at-once 64]

The brokers are in `targets`, all but Mosquitto; interleaved so that a noisy machine hits all alike; medians are told.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import msgspec

from cycle import run_cycles
from mqttprov_simulator.cpu import cpu_seconds
from targets import PROVISIONING, Target, started


class Figures(msgspec.Struct):
    """One run of one target."""

    per_s: float
    p50_ms: float
    p99_ms: float
    broker_us: float
    client_us: float
    failed: int


def measure(name: str, cycles: int, at_once: int) -> Figures:
    """Start a target, warm it up with a tenth of the cycles, measure the rest."""
    with tempfile.TemporaryDirectory() as folder, started(name, Path(folder)) as target:
        return register(target, cycles, at_once)


def register(target: Target, cycles: int, at_once: int) -> Figures:
    """Measure so many registrations on a broker that runs, after a tenth more to warm up."""
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
    parser.add_argument("--only", choices=PROVISIONING, action="append")
    options = parser.parse_args()
    targets = options.only or list(PROVISIONING)
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
    for name in targets:
        if "mqttprov" in rate and name != "mqttprov":
            print(f"mqttprov / {name}: {rate['mqttprov'] / rate[name]:.2f}")


if __name__ == "__main__":
    main()
