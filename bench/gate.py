"""Measures what the gate plugin costs Mosquitto at a login, and how soon a kick ends a session.

    python bench/gate.py [--devices 1000,100000,1000000] [--rounds 5] [--connects 3000] [--at-once 64] [--kicks 300]

One broker for each number of devices and one without plugin, which lets everybody in; they are measured in turn, and
medians are told. A connect is a TCP connection, CONNECT with the access token of some device, CONNACK, and its end.
The devices are written into the database in bulk, as they are after their first login.
"""

import argparse
import asyncio
import contextlib
import os
import random
import shutil
import socket
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import uvloop

from mosquitto import PASSWORD, _build, _configure, _wait_for
from mqttprov.brokers.gate_link import CONTROL_TOPIC
from mqttprov.brokers.responder_run import now_ms
from mqttprov.core.credentials import RESPONDER_LOGIN
from mqttprov.core.secrets import Keys
from mqttprov.mqtt import ClientSession, Connect, Connected, ProtocolVersion, Published, encode
from mqttprov.responder.state_directory import StateDirectory, initialise
from mqttprov_simulator.cpu import cpu_seconds
from targets import free_port, running_process

ROWS_AT_ONCE = 10_000
DEVICE = (
    "INSERT INTO device (id, name, fold, profile_id, state, labels, gateway, created_ms, last_generation, last_seen_ms)"
    " VALUES (?, ?, ?, 1, 'active', '{}', 0, ?, 1, ?)"
)
CREDENTIAL = (
    "INSERT INTO credential (device_id, generation, type, login_key, proof, supplied, issued_ms,"
    " first_login_ms) VALUES (?, 1, 'ACCESS_TOKEN', ?, '', 0, ?, ?)"
)


class Round(msgspec.Struct):
    """One measurement of one broker; CPU in us per connect."""

    per_s: float
    broker_us: float


def _token(number: int) -> str:
    return f"measured-token-{number:07d}"


def _device_id(number: int) -> str:
    return f"{number:032x}"


def _fill(state: Path, devices: int) -> None:
    """Write the devices into the database, which nobody else has open."""
    opened = StateDirectory(state)
    keys: Keys = opened.keys
    opened.close()
    now = now_ms()
    with contextlib.closing(sqlite3.connect(state / "mqttprov.db", isolation_level=None)) as database:
        database.execute("PRAGMA synchronous = OFF")
        for first in range(0, devices, ROWS_AT_ONCE):
            numbers = range(first, min(first + ROWS_AT_ONCE, devices))
            names = [(_device_id(n), f"gw-{n}", f"gw-{n}", now, now) for n in numbers]
            logins = [(_device_id(n), keys.mac("login-token", _token(n)), now, now) for n in numbers]
            database.execute("BEGIN")
            database.executemany(DEVICE, names)
            database.executemany(CREDENTIAL, logins)
            database.execute("COMMIT")
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")


class _Login(asyncio.Protocol):
    """One connection: CONNECT out, CONNACK in, the end."""

    def __init__(self, packet: bytes, done: "asyncio.Future[bool]") -> None:
        self._packet = packet
        self._done = done

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        transport.write(self._packet)

    def data_received(self, data: bytes) -> None:
        if not self._done.done():
            self._done.set_result(data[:1] == b"\x20" and data[3] == 0)
        self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._done.done():
            self._done.set_result(False)


async def _connects(port: int, tokens: list[str], at_once: int) -> float:
    """Log in with each token, so many at once; give logins per second."""
    loop = asyncio.get_running_loop()
    waiting = iter([encode(Connect("", username=token), ProtocolVersion.V311) for token in tokens])

    async def worker() -> None:
        for packet in waiting:
            done: asyncio.Future[bool] = loop.create_future()
            await loop.create_connection(lambda p=packet, d=done: _Login(p, d), "127.0.0.1", port)  # type: ignore[misc]  # one of each turn
            assert await done, "a login was refused"

    began_s = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(at_once)))
    return len(tokens) / (time.perf_counter() - began_s)


def _measure(port: int, pid: int, devices: int, connects: int, at_once: int) -> Round:
    tokens = [_token(random.randrange(devices)) for _ in range(connects)]  # noqa: S311 - which ones does not matter
    before_s = cpu_seconds(pid)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        per_s = runner.run(_connects(port, tokens, at_once))
    return Round(per_s, (cpu_seconds(pid) - before_s) / connects * 1e6)


def _login(port: int, connect: Connect) -> tuple[socket.socket, ClientSession]:
    session = ClientSession(connect)
    sock = socket.create_connection(("127.0.0.1", port))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.sendall(session.take_output())
    while not any(isinstance(event, Connected) for event in session.receive(sock.recv(4096))):
        pass
    return sock, session


def _kicks(port: int, devices: int, rounds: int) -> list[float]:
    """Kick device after device; give the ms from the command to the end of the device's connection."""
    responder, session = _login(port, Connect("", username=RESPONDER_LOGIN, password=PASSWORD.encode()))
    took_ms = []
    for number in range(rounds):
        device, _ = _login(port, Connect("", username=_token(number % devices)))
        session.publish(CONTROL_TOPIC, f"kick 0 0 d:gw-{number % devices}".encode(), 1)
        began_s = time.perf_counter()
        responder.sendall(session.take_output())
        while device.recv(4096):
            pass
        took_ms.append((time.perf_counter() - began_s) * 1e3)
        device.close()
        while not any(isinstance(event, Published) for event in session.receive(responder.recv(4096))):
            pass
    responder.close()
    return sorted(took_ms)


def _resident_mib(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text("ascii").splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1024


@contextlib.contextmanager
def _broker(folder: Path, plugin: Path | None, devices: int) -> Iterator[tuple[int, int]]:
    """Run Mosquitto on so many devices, or without plugin; give its port and process id."""
    broker = shutil.which("mosquitto", path=f"{os.environ['PATH']}:/usr/sbin")
    assert broker, "there is no mosquitto"
    folder.mkdir()
    if plugin is None:
        port = free_port()
        (folder / "mosquitto.conf").write_text(
            f"listener {port} 127.0.0.1\nallow_anonymous true\nset_tcp_nodelay true\nlog_type error\n"
        )
    else:
        initialise(folder / "state", actor="bench", now_ms=now_ms, entropy=os.urandom)
        _fill(folder / "state", devices)
        port, _ = _configure(folder, plugin)
    with running_process([broker, "-c", f"{folder}/mosquitto.conf"]) as process:
        _wait_for(port)
        yield port, process.pid


def main() -> None:
    """Measure all brokers in turn and print medians."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--devices", default="1000,100000,1000000")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--connects", type=int, default=3000)
    parser.add_argument("--at-once", type=int, default=64)
    parser.add_argument("--kicks", type=int, default=300)
    options = parser.parse_args()
    sizes = [int(size) for size in options.devices.split(",")]
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        plugin = _build(str(folder / "plugin"))
        brokers = {0: stack.enter_context(_broker(folder / "none", None, 0))}
        for size in sizes:
            brokers[size] = stack.enter_context(_broker(folder / str(size), plugin, size))
        runs: dict[int, list[Round]] = {size: [] for size in brokers}
        for number in range(options.rounds + 1):
            for size, (port, pid) in brokers.items():
                measured = _measure(port, pid, size or 1000, options.connects, options.at_once)
                if number:  # the first one warms up
                    runs[size].append(measured)
        print(f"medians of {options.rounds} interleaved rounds of {options.connects}, {options.at_once} at once")
        print(f"{'devices':<12}" + "".join(f" {title:>12}" for title in ("connects/s", "broker us", "kick p50 ms",
                                                                         "kick p99 ms", "RSS MiB")))  # fmt: skip
        for size, (port, pid) in brokers.items():
            per_s, broker_us = (statistics.median(getattr(r, f) for r in runs[size]) for f in ("per_s", "broker_us"))
            resident = _resident_mib(pid)
            kicks = _kicks(port, size, options.kicks) if size else []
            told = f"{kicks[len(kicks) // 2]:>12.2f} {kicks[len(kicks) * 99 // 100]:>12.2f}" if kicks else f"{'':>25}"
            print(f"{size or 'no gate':<12} {per_s:>12.0f} {broker_us:>12.1f} {told} {resident:>12.1f}")


if __name__ == "__main__":
    main()
