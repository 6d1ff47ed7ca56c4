"""Measures whole registrations beside Mosquitto, as ratios to a responder that does nothing.

    python bench/mosquitto.py [--repeat 5] [--cycles 3000] [--at-once 64]

Targets, interleaved so that a noisy machine hits all alike; medians are told:
- mqttprov: `mqttprov respond`: rules, SQLite with full sync (group commit), audit events
- do-nothing: the same broker and gate with a responder that gives every request the same reply: the broker's own limit
"""

import argparse
import asyncio
import contextlib
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgspec
import uvloop

from cycle import run_cycles
from mqttprov.brokers.broker_link import BrokerAddress
from mqttprov.brokers.gate_desk import SHARED_FILTERS
from mqttprov.brokers.gate_link import GateLink
from mqttprov.brokers.responder_run import now_ms
from mqttprov.brokers.standing_link import StandingLink
from mqttprov.core.requests import Granted, ProvisionRequest
from mqttprov.mqtt import Publish
from mqttprov.responder.administration import TokenChange
from mqttprov.responder.jobs import ActivationJob, BatchProcessor, ProvisionJob
from mqttprov.responder.state_directory import StateDirectory, initialise
from mqttprov_simulator.cpu import cpu_seconds
from targets import free_port, running_process

HERE = Path(__file__).parent
TARGETS = ("mqttprov", "do-nothing")
PASSWORD = "measured"  # noqa: S105 - of a broker that lives for seconds


class Figures(msgspec.Struct):
    """One run of one target; CPU in us per registration."""

    per_s: float
    p50_ms: float
    p99_ms: float
    broker_us: float
    responder_us: float
    client_us: float
    failed: int


async def _do_nothing(port: int, token: str) -> None:
    """Give every request the same reply, with a token that really logs in, until the process is ended."""
    reply = b'{"credentialsValue":"%b","credentialsType":"ACCESS_TOKEN","status":"SUCCESS"}' % token.encode()

    async def prepare(link: GateLink) -> None:
        await link.subscribe(*SHARED_FILTERS)

    def answer(link: GateLink, publish: Publish) -> None:
        kind, _, handle = publish.topic.removeprefix("_prov/").partition("/")
        if kind == "request":
            link.command(f"reply 0 {len(reply)} p:{handle}", reply)
        link.settle(publish.packet_id)

    address = BrokerAddress("127.0.0.1", port, tls=False)
    standing = StandingLink(address, lambda: GateLink(address, PASSWORD, answer), tls=None, prepare=prepare)
    await standing.start()
    print("ready", flush=True)
    await asyncio.Event().wait()


def _configure(folder: Path, plugin: Path) -> tuple[int, Path]:
    port, password = free_port(), folder / "password"
    password.touch(mode=0o600)
    password.write_text(PASSWORD)
    (folder / "mosquitto.conf").write_text(
        f"listener {port} 127.0.0.1\nallow_anonymous false\nset_tcp_nodelay true\nmax_queued_messages 10000\n"
        f"user {'root' if os.getuid() == 0 else 'mosquitto'}\nlog_type error\nplugin {plugin}\n"
        f"plugin_opt_database {folder}/state/mqttprov.db\nplugin_opt_pepper_file {folder}/state/keys/pepper\n"
        f"plugin_opt_responder_file {password}\n"
    )
    return port, password


def _known_token(folder: Path) -> str:
    """Make a device that has logged in already; give its token."""
    state = StateDirectory(folder / "state")
    processor = BatchProcessor(state.store, state.keys, now_ms=now_ms, entropy=os.urandom)
    issued = state.administration("bench", now_ms, os.urandom).create_token("default", "yardstick", TokenChange())
    request = ProvisionRequest(issued.key, issued.secret, device_name="yardstick")
    ((_, outcome),) = processor.process([ProvisionJob(request, "", lambda _: None)])
    processor.process([ActivationJob("yardstick", 1, "", lambda _: None)])
    state.close()
    assert isinstance(outcome, Granted)
    return str(outcome.value)


def _wait_for(port: int) -> None:
    until_s = time.monotonic() + 10
    while time.monotonic() < until_s:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return
        time.sleep(0.02)
    raise SystemExit("Mosquitto does not listen")


def measure(target: str, plugin: Path, cycles: int, at_once: int) -> Figures:
    """Start broker and responder, warm them up with a tenth of the cycles, measure the rest."""
    broker = shutil.which("mosquitto", path=f"{os.environ['PATH']}:/usr/sbin") or sys.exit("there is no mosquitto")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        issued = initialise(folder / "state", actor="bench", now_ms=now_ms, entropy=os.urandom)
        assert issued is not None
        port, password = _configure(folder, plugin)
        if target == "mqttprov":
            command = [sys.executable, "-m", "mqttprov", "respond", "--state", f"{folder}/state", "--json",
                       "--broker", f"mqtt://127.0.0.1:{port}", "--password-file", str(password)]  # fmt: skip
        else:
            command = [sys.executable, __file__, "--do-nothing", str(port), _known_token(folder)]
        with running_process([broker, "-c", f"{folder}/mosquitto.conf"]) as broker_process:
            _wait_for(port)
            with running_process(command) as responder:
                assert responder.stdout is not None
                assert responder.stdout.readline(), f"{command} ended"
                pids = broker_process.pid, responder.pid
                address = ("127.0.0.1", port, issued.key, issued.secret)
                run_cycles(*address, cycles=max(cycles // 10, at_once), at_once=at_once)
                before = [cpu_seconds(pid) for pid in pids]
                result = run_cycles(*address, cycles=cycles, at_once=at_once)
                broker_us, responder_us = (
                    (cpu_seconds(pid) - was) / max(result.done, 1) * 1e6 for pid, was in zip(pids, before, strict=True)
                )
        return Figures(
            result.per_s, result.p50_ms, result.p99_ms, broker_us, responder_us, result.client_cpu_us, result.failed
        )


def _build(folder: str) -> Path:
    subprocess.run(
        ["make", "-C", str(HERE.parent / "mosquitto"), f"BUILD={folder}"], check=True, stdout=subprocess.DEVNULL
    )
    return Path(folder) / "mqttprov_gate.so"


def main() -> None:
    """Measure both targets in turn, several times, and print medians and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--cycles", type=int, default=3000)
    parser.add_argument("--at-once", type=int, default=64)
    parser.add_argument("--do-nothing", nargs=2, metavar=("PORT", "TOKEN"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.do_nothing:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_do_nothing(int(options.do_nothing[0]), options.do_nothing[1]))
    runs: dict[str, list[Figures]] = {name: [] for name in TARGETS}
    with tempfile.TemporaryDirectory() as folder:
        plugin = _build(folder)
        for _ in range(options.repeat):
            for name in TARGETS:
                runs[name].append(measure(name, plugin, options.cycles, options.at_once))
    print(f"medians of {options.repeat} interleaved runs, {options.at_once} at once, {time.strftime('%Y-%m-%d')}")
    names = ("reg/s", "p50 ms", "p99 ms", "broker us", "resp. us", "client us", "failed")
    print(f"{'target':<12}" + "".join(f" {name:>10}" for name in names))
    rate = {}
    for target in TARGETS:
        m = [statistics.median(getattr(f, field) for f in runs[target]) for field in Figures.__struct_fields__]
        rate[target] = m[0]
        print(
            f"{target:<12}"
            + "".join(f" {value:>10.{digits}f}" for value, digits in zip(m, (0, 1, 1, 0, 0, 0, 0), strict=True))
        )
    print(f"mqttprov / do-nothing: {rate['mqttprov'] / rate['do-nothing']:.2f}")


if __name__ == "__main__":
    main()
