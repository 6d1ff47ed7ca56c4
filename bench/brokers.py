"""Compares brokers in one interleaved run: connects, registrations, messages, memory and CPU of each.

    python bench/brokers.py [--repeat 3] [--quick] [--json]

The brokers are in `targets`. Told are medians, as a Markdown table. No TLS; QoS 0 but for the gateways' subscription;
ours commits with full sync and audits. Stock amqtt costs more with every connection that it has, so it gets fewer. What
a broker cannot do is left out: Mosquitto provisions nobody and checks no login here; the yardstick's plugin knows
nothing but registrations.
"""

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import uvloop

from clients import AT_ONCE, FanOut, connect_for, login, stay
from idle import idle_login, resident_kib, warm_up
from mqttprov_simulator.cpu import cpu_seconds
from registration import register
from targets import Known, Target, device_name, know, know_nothing, mosquitto_program, started

Figures = dict[str, float]


class Size(msgspec.Struct, frozen=True):
    """How much is asked of a broker in one run."""

    registrations: int
    steps: tuple[int, ...]  # idle connections
    seconds: float  # of each measurement that lasts until time is up


_FULL = {
    "mqttprov": Size(3000, (1000, 5000, 10_000), 3.0),
    "amqtt plugin": Size(300, (1000, 2000), 3.0),
    "stock amqtt": Size(300, (), 3.0),
    "mosquitto": Size(0, (1000, 5000, 10_000), 3.0),
}
_QUICK = {
    "mqttprov": Size(300, (200, 1000), 0.5),
    "amqtt plugin": Size(100, (200, 400), 0.5),
    "stock amqtt": Size(100, (), 0.5),
    "mosquitto": Size(0, (200, 1000), 0.5),
}
_TITLES = {
    "mqttprov": "mqttprov",
    "amqtt plugin": "stock amqtt with our plugin",
    "stock amqtt": "stock amqtt, one commit per request",
    "mosquitto": "Mosquitto",
}


async def _connects(target: Target, known: Known, seconds: float) -> tuple[float, float]:
    """Give connects a second and the broker's CPU of one."""
    return await _rate(target, lambda: connect_for(target.port, known.tokens, seconds))


async def _publishes(target: Target, known: Known, listeners: int, seconds: float) -> tuple[float, float]:
    """Give messages a second that all of the listeners had, and the broker's CPU of one."""
    said, heard = ("v1/devices/me/telemetry", f"v1/devices/{device_name(0)}/telemetry")
    if not known.key:
        said = heard  # where nothing is provisioned `me` means nobody
    fan_out = FanOut((said, heard), window=100 if listeners == 1 else 10)
    logins = [login(*each, topic_filter="v1/devices/+/telemetry") for each in known.observers[:listeners]]
    await fan_out.open(target.port, login(known.tokens[0]), logins)
    figures = await _rate(target, lambda: fan_out.publish_for(seconds))
    await fan_out.close()
    return figures


async def _rate(target: Target, work: Callable[[], Awaitable[int]]) -> tuple[float, float]:
    cpu_s, began_s = cpu_seconds(target.pid), time.perf_counter()
    count = await work()
    took_s = time.perf_counter() - began_s
    return count / took_s, (cpu_seconds(target.pid) - cpu_s) / max(count, 1) * 1e6


async def _busy(target: Target, known: Known, size: Size) -> Figures:
    figures: Figures = {}
    await warm_up(target.port, known.tokens)
    figures["CONNECT/s"], figures["CPU us per CONNECT"] = await _connects(target, known, size.seconds)
    for name, listeners in (("1:1", 1), ("1:100", 100)):
        per_s, cpu_us = await _publishes(target, known, listeners, size.seconds)
        figures[f"messages/s published {name}"] = per_s
        figures[f"CPU us per message {name}"] = cpu_us
    return figures


async def _filled(target: Target, known: Known, size: Size) -> Figures:
    """Fill a broker that has just begun, in steps."""
    figures: Figures = {}
    await warm_up(target.port, known.tokens)
    base_kib, idle, present = resident_kib(target.pid), iter(known.tokens), 0
    figures["CPU us per CONNECT, 0 present"] = (await _connects(target, known, size.seconds / 2))[1]
    for step in size.steps:
        await stay(target.port, [idle_login(next(idle)) for _ in range(step - present)])
        present = step
        figures[f"KiB per connection, {step:,} present"] = (resident_kib(target.pid) - base_kib) / step
        figures[f"CPU us per CONNECT, {step:,} present"] = (await _connects(target, known, size.seconds / 2))[1]
    return figures


def _measure(name: str, folder: Path, known: Known | None, size: Size) -> Figures:
    """Run one broker twice: once busy, once idle, so that no work before is taken for memory of connections."""
    figures: Figures = {}
    with started(name, folder, known) as target:
        if size.registrations:
            registered = register(target, size.registrations, AT_ONCE)
            assert not registered.failed
            figures["registrations/s"] = registered.per_s
            figures["registration p50 ms"] = registered.p50_ms
            figures["registration p99 ms"] = registered.p99_ms
            figures["CPU us per registration"] = registered.broker_us
        if known is not None:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                figures.update(runner.run(_busy(target, known, size)))
    if known is not None:
        with (
            started(name, folder, known) as target,
            asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
        ):
            figures.update(runner.run(_filled(target, known, size)))
    return figures


def _known(name: str, folder: Path, size: Size) -> Known | None:
    if name == "stock amqtt":
        return None
    return know_nothing(size.steps[-1]) if name == "mosquitto" else know(folder, size.steps[-1])


def _run(sizes: dict[str, Size], repeat: int) -> dict[str, list[Figures]]:
    """Measure all brokers in turn, several times."""
    runs: dict[str, list[Figures]] = {name: [] for name in sizes}
    with tempfile.TemporaryDirectory() as base:
        folders = {name: Path(base) / name.replace(" ", "-") for name in sizes}
        known = {}
        for name, folder in folders.items():
            folder.mkdir()
            known[name] = _known(name, folder, sizes[name])
        for turn in range(repeat):
            for name, size in sizes.items():
                print(f"run {turn + 1} of {repeat}: {name}", file=sys.stderr)
                (folders[name] / "a.db").unlink(missing_ok=True)
                runs[name].append(_measure(name, folders[name], known[name], size))
    return runs


def _medians(runs: list[Figures]) -> Figures:
    return {figure: statistics.median(run[figure] for run in runs) for figure in runs[0]}


def _order(figures: dict[str, Figures]) -> list[str]:
    """Give all figures, those of the idle ones by how many are present."""
    names = list(dict.fromkeys(figure for each in figures.values() for figure in each))
    present = [name for name in names if name.endswith(" present")]
    present.sort(key=lambda name: (name.split(",")[0], int(name.split(", ")[1].split()[0].replace(",", ""))))
    return [name for name in names if name not in present] + present


def _table(figures: dict[str, Figures]) -> str:
    lines = [
        "| | " + " | ".join(_TITLES[name] for name in figures) + " |",
        "|---|" + "---|" * len(figures),
    ]
    for figure in _order(figures):
        cells = [_number(each[figure]) if figure in each else "" for each in figures.values()]
        lines.append(f"| {figure} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 20 else f"{value:.1f}"


def main() -> None:
    """Measure, and tell medians."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one short run")
    parser.add_argument("--json", action="store_true", help="medians and all runs as JSON")
    options = parser.parse_args()
    sizes = dict(_QUICK if options.quick else _FULL)
    if mosquitto_program() is None:
        print("Mosquitto is not installed: left out", file=sys.stderr)
        del sizes["mosquitto"]
    runs = _run(sizes, 1 if options.quick else options.repeat)
    figures = {name: _medians(each) for name, each in runs.items()}
    if options.json:
        told: dict[str, Any] = {"date": time.strftime("%Y-%m-%d"), "medians": figures, "runs": runs}
        print(json.dumps(told, indent=1))
        return
    print(_table(figures))
    rates = {name: each["registrations/s"] for name, each in figures.items() if "registrations/s" in each}
    for name in list(rates)[1:]:
        print(f"registrations/s, mqttprov / {_TITLES[name]}: {rates['mqttprov'] / rates[name]:.1f}")


if __name__ == "__main__":
    main()
