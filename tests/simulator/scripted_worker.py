"""A worker that carries no gateways: it says what a real one would, or what none should, as its first argument tells.

`well`: ends after a few moments. `breaks`: saw a promise broken. `until-stopped`: ends when asked. `dies`, `fails`,
`babbles`, `silent`, `deaf`: ways of not doing it.
"""

import os
import signal
import sys
import time
from typing import Any

import msgspec

from mqttprov_simulator.running.values import (
    Assignment,
    Begin,
    Broken,
    Failure,
    Moment,
    Ready,
    Recording,
    Second,
    Standing,
    Told,
)

_MOMENT_S = 0.05


def say(value: Any) -> None:
    """Print one line of JSON."""
    sys.stdout.buffer.write(msgspec.json.encode(value) + b"\n")
    sys.stdout.flush()


def main() -> None:
    """Do what the first argument says."""
    mode = sys.argv[1]
    orders = msgspec.json.decode(sys.stdin.readline(), type=Assignment)
    stopped: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _frame: stopped.append(number))
    if mode == "dies":
        print("no bread left", file=sys.stderr)  # noqa: T201 - what a person would read
        os._exit(3)
    if mode == "fails":
        say(Failure(orders.worker, "this host allows 1 open file; raise the limit"))
        sys.exit(1)
    say(Ready(orders.worker))
    begin = msgspec.json.decode(sys.stdin.readline(), type=Begin)
    time.sleep(max(0.0, begin.starts_at - time.time()))
    if mode == "babbles":
        sys.stdout.write("Good morning\n")
        sys.stdout.flush()
    if mode == "silent":
        sys.exit(0)
    while mode == "deaf":
        time.sleep(10)
    play(orders, mode, stopped)


def play(orders: Assignment, mode: str, stopped: list[int]) -> None:
    """Tell of gateways of which one came online with each moment, and end with them or when asked."""
    names = [f"fleet/{number:06}" for number in range(orders.worker, orders.scenario.gateways, orders.workers)]
    at_s, online = 0.0, 0
    while (online < len(names) or mode == "until-stopped") and not stopped:
        online = min(online + 1, len(names))
        second = Second(
            at_s=int(at_s), due=online, started=online, registered=online, latency={100: online},
            states={"online": online, "new": len(names) - online}, strikes={"power-loss": 1},
        )  # fmt: skip
        told = (Told(names[online - 1], names[online - 1], f"{orders.worker}-{online:012}", at_s),)
        broken: tuple[Broken, ...] = ()
        if mode == "breaks" and online == 1:
            broken = (Broken(promise="echoed", gateways=(names[0],), at_s=at_s, seen="its own telemetry"),)
        say(
            Moment(
                worker=orders.worker, at_s=at_s, second=second, told=told, broken=broken, online=online,
                registered=online, cpu_s=at_s / 2,
            )
        )  # fmt: skip
        time.sleep(_MOMENT_S)
        at_s += _MOMENT_S
    standings = [
        Standing(
            gateway=name, device=name, group="fleet", state="online" if place < online else "new",
            registered=place < online, fingerprints=(f"{orders.worker}-{place + 1:012}",) if place < online else (),
            stored=None, online_at_s=0.1 if place < online else None, refused=None,
        )
        for place, name in enumerate(names)
    ]  # fmt: skip
    each = {100: online} if online else {}
    say(
        Recording(
            worker=orders.worker, gateways=len(names), latency=each, service=each, lag={1: online} if online else {},
            login=each, telemetry={}, rpc={}, refusals={"NOT_FOUND": 1}, lost_connections={},
            strikes={"power-loss": 1}, standings=standings, cpu_s=at_s / 2, rss_bytes=1 << 20, ended_at_s=at_s,
        )
    )  # fmt: skip


if __name__ == "__main__":
    main()
