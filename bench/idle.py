"""Measures what idle gateways cost: KiB per connection, and the broker's CPU for one more at none and at many present.

    python bench/idle.py [--steps 1000,5000,10000] [--probe 500] [--storm 5000] [--clean-start 0]

Every gateway is a device of its own that was provisioned before, logs in by token, subscribes to one filter of its own
and stays; at last some of them connect again, all at once. KiB are those of the broker's resident memory; CPU is that
of the whole broker process, store and all.
"""

import argparse
import asyncio
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import uvloop

from clients import Login, login, opened, stay
from mqttprov_simulator.cpu import cpu_seconds
from targets import Target, know, started

WARM_UP = 200


def idle_login(token: str, *, clean_start: bool = True) -> Login:
    """Give what a gateway says that stays; its client id is its own, like the names that gateways make up."""
    return login(token, topic_filter="v1/devices/me/attributes", qos=1, client_id=token[-16:], clean_start=clean_start)


def resident_kib(pid: int) -> int:
    """Give the resident memory of a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise ValueError("no VmRSS: this measures on Linux")


async def warm_up(port: int, tokens: Sequence[str]) -> None:
    """Let some come and go before memory is looked at."""
    clients = await stay(port, [login(token, topic_filter="v1/devices/me/attributes") for token in tokens[:WARM_UP]])
    for client in clients:
        client.leave()
    await asyncio.gather(*[client.closed for client in clients])


async def _measure(
    target: Target, tokens: Sequence[str], steps: list[int], probe: int, storm: int, clean_start: bool
) -> None:
    await warm_up(target.port, tokens)
    idle = [idle_login(token, clean_start=clean_start) for token in tokens]

    async def connect(count: int) -> float:
        before_s = cpu_seconds(target.pid)
        await stay(target.port, [idle.pop() for _ in range(count)])
        return (cpu_seconds(target.pid) - before_s) / count * 1e6

    print(f"{'present':>8} {'KiB each':>9} {'us per connect':>15}")
    base_kib = resident_kib(target.pid)
    present = probe
    print(f"{0:>8} {'':>9} {await connect(probe):>15.0f}")
    for step in steps:
        cost_us = await connect(step - present)
        present = step
        print(f"{step:>8} {(resident_kib(target.pid) - base_kib) / step:>9.2f} {cost_us:>15.0f}")
    print(f"{present:>8} {'':>9} {await connect(probe):>15.0f}")
    await _storm(target, [idle_login(token, clean_start=clean_start) for token in tokens[-storm:]])


async def _storm(target: Target, logins: Sequence[Login]) -> None:
    """Let gateways that are connected connect again, all at once, and take their own sessions over."""
    before_s, cpu_s = time.perf_counter(), cpu_seconds(target.pid)
    clients = await asyncio.gather(*[opened(target.port, each) for each in logins])
    results = await asyncio.gather(*[client.ready for client in clients], return_exceptions=True)
    took_s, cost_us = time.perf_counter() - before_s, (cpu_seconds(target.pid) - cpu_s) / len(logins) * 1e6
    failed = sum(isinstance(each, BaseException) for each in results)
    print(f"{len(logins)} at once took over from themselves in {took_s:.1f} s, {cost_us:.0f} us each; {failed} failed")


def main() -> None:
    """Start a broker, fill it in steps and print what each cost."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", default="1000,5000,10000")
    parser.add_argument("--probe", type=int, default=500)
    parser.add_argument("--storm", type=int, default=5000)
    parser.add_argument("--clean-start", type=int, default=1)
    options = parser.parse_args()
    steps = [int(each) for each in options.steps.split(",")]
    with tempfile.TemporaryDirectory() as name, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        folder = Path(name)
        known = know(folder, steps[-1] + 2 * options.probe)
        with started("mqttprov", folder, known) as target:
            runner.run(_measure(target, known.tokens, steps, options.probe, options.storm, bool(options.clean_start)))


if __name__ == "__main__":
    main()
