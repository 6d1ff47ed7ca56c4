"""How long it takes until a suspended device is gone: `python bench/suspend.py [rounds]`.

A broker in a process of its own, one device that is suspended again and again beside two hundred others, the verb in
this process. Each round asserts that a login is refused once the verb has returned. The device's own view of the end is
taken by a thread of this process, so it holds that thread's wake-up too.
"""

import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import msgspec

from mqttprov.core.requests import ProvisionRequest
from mqttprov.mqtt import ClientSession, Connect, Connected, ProtocolVersion, Refused
from mqttprov.responder import doorbell
from mqttprov.responder.device_life import DeviceLife
from mqttprov.responder.jobs import BatchProcessor, ProvisionJob
from mqttprov.responder.state_directory import StateDirectory, initialise

OTHERS = 200


def now_ms() -> int:
    """Give the wall clock."""
    return time.time_ns() // 1_000_000


def login(port: int, token: str) -> tuple[socket.socket, bool]:
    """Log in; give the connection and whether it was let in."""
    session = ClientSession(Connect("", version=ProtocolVersion.V5, username=token))
    sock = socket.create_connection(("127.0.0.1", port))
    sock.sendall(session.take_output())
    while True:
        for event in session.receive(sock.recv(4096)):
            if isinstance(event, Connected | Refused):
                return sock, isinstance(event, Connected)


def closed_at(sock: socket.socket, times: list[float]) -> threading.Thread:
    """Note when the broker ends a connection."""

    def run() -> None:
        while sock.recv(4096):
            pass
        times.append(time.perf_counter())
        sock.close()

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def told(name: str, values_ms: list[float]) -> None:
    """Print p50, p99 and the worst."""
    ordered = sorted(values_ms)
    p99 = ordered[max(0, -(-len(ordered) * 99 // 100) - 1)]
    print(f"{name:32} p50 {statistics.median(ordered):8.2f}  p99 {p99:8.2f}  max {ordered[-1]:8.2f} ms")


def main() -> None:
    """Measure."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 300
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "state"
        issued = initialise(path, actor="bench", now_ms=now_ms, entropy=os.urandom)
        assert issued is not None
        state = StateDirectory(path)
        processor = BatchProcessor(state.store, state.keys, now_ms=now_ms, entropy=os.urandom)
        jobs = [
            ProvisionJob(ProvisionRequest(issued.key, issued.secret, f"gw-{n}"), "bench", lambda _: None)
            for n in range(OTHERS)
        ]
        tokens = [outcome.value for _, outcome in processor.process(jobs)]
        command = [sys.executable, "-m", "mqttprov", "serve", "--state", str(path), "--port", "0", "--json"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as serve:
            assert serve.stdout is not None
            port = int(msgspec.json.decode(serve.stdout.readline())["listening"][0].rsplit(":", 1)[1])
            try:
                measure(path, state, port, tokens, rounds)
            finally:
                serve.terminate()
        state.close()


def measure(path: Path, state: StateDirectory, port: int, tokens: list[str], rounds: int) -> None:
    """Suspend and resume one device again and again, beside the others."""
    others = [login(port, token)[0] for token in tokens[1:]]
    committed = [0.0]

    def ring(seq: int, timeout_s: float) -> int:
        committed[0] = time.perf_counter()
        return doorbell.ring(path, seq, timeout_s)

    life = DeviceLife(state.store, state.keys, actor="bench", now_ms=now_ms, entropy=os.urandom, ring=ring)
    to_return, to_kick, after_return, commands = [], [], [], []
    for number in range(rounds + max(1, rounds // 10)):
        sock, let_in = login(port, tokens[0])
        assert let_in
        times: list[float] = []
        thread = closed_at(sock, times)
        begun = time.perf_counter()
        if number < rounds:
            life.suspend("gw-0")
            returned = time.perf_counter()
        else:
            verb = ["device", "suspend", "gw-0", "--state", str(path), "--json"]
            subprocess.run([sys.executable, "-m", "mqttprov", *verb], check=True, stdout=subprocess.DEVNULL)
            returned = time.perf_counter()
            commands.append((returned - begun) * 1000)
        refused, let_in = login(port, tokens[0])
        refused.close()
        assert not let_in
        thread.join()
        if number < rounds:
            to_return.append((returned - committed[0]) * 1000)
            to_kick.append((times[0] - committed[0]) * 1000)
        after_return.append(max(0.0, (times[0] - returned) * 1000))
        life.resume("gw-0")
    told("commit -> return", to_return)
    told("commit -> device sees the end", to_kick)
    told("return -> device sees the end", after_return)
    told("whole command", commands)
    for sock in others:
        sock.close()


if __name__ == "__main__":
    main()
