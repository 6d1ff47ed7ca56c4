"""The registration cycle as a load: many of them at once against one broker, in this process.

One cycle: connect as `provision` (MQTT 3.1.1), subscribe, request, reply, disconnect; connect with the issued token,
CONNACK. Two connections, QoS 0, which every broker compared here can serve. The same client for all of them.
"""

import asyncio
import json
import os
import time
from typing import cast

import msgspec
import uvloop

from clients import source
from mqttprov.mqtt import ClientSession, Connect, Connected, MessageReceived, Refused


class CycleResult(msgspec.Struct):
    """What a run of cycles showed. Latencies in ms from the start of a cycle; CPU of this process in us per cycle."""

    done: int
    failed: int
    per_s: float
    p50_ms: float
    p99_ms: float
    client_cpu_us: float


class _Cycle(asyncio.Protocol):
    """One connection of a cycle; a first one hands over to a second."""

    def __init__(self, load: "_Load", name: str, started_s: float, token: str | None = None) -> None:
        self._load = load
        self._name = name
        self._started_s = started_s
        self._token = token
        self._finished = False
        self._session = ClientSession(Connect("", username=token or "provision", keep_alive_s=120))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Say CONNECT."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.write(self._session.take_output())

    def data_received(self, data: bytes) -> None:
        """Take the next step of the cycle."""
        for event in self._session.receive(data):
            if isinstance(event, Connected):
                if self._token is None:
                    self._session.subscribe([("/provision/response", 0)])
                    self._session.publish("/provision/request", self._load.request(self._name), 0)
                else:
                    self._finish(ok=True)
            elif isinstance(event, MessageReceived):
                reply = json.loads(event.publish.payload)
                self._finished = True
                self._session.disconnect()
                if reply["status"] == "SUCCESS":
                    self._load.second(self._name, self._started_s, reply["credentialsValue"])
                else:
                    self._load.finished(self._started_s, ok=False)
            elif isinstance(event, Refused):
                self._finish(ok=False)
        output = self._session.take_output()
        if output:
            self._transport.write(output)
        if self._finished:
            self._transport.close()

    def _finish(self, *, ok: bool) -> None:
        self._finished = True
        self._load.finished(self._started_s, ok=ok)

    def connection_lost(self, exc: Exception | None) -> None:
        """A connection that ends before its part is done is a failure."""
        if not self._finished:
            self._finish(ok=False)


class _Load:
    def __init__(self, host: str, port: int, key: str, secret: str, cycles: int, at_once: int) -> None:
        self._address = (host, port)
        self._key, self._secret = key, secret
        self._cycles, self._at_once = cycles, at_once
        self._run = os.urandom(4).hex()
        self._next = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self.latencies_s: list[float] = []
        self.failed = 0
        self.over = asyncio.Event()

    def request(self, name: str) -> bytes:
        """Make a provision request."""
        return json.dumps(
            {"provisionDeviceKey": self._key, "provisionDeviceSecret": self._secret, "deviceName": name}
        ).encode()

    def start(self) -> None:
        """Begin as many cycles as may run at once."""
        for _ in range(min(self._at_once, self._cycles)):
            self._begin()

    def _begin(self) -> None:
        self._next += 1
        self._connect(_Cycle(self, f"{self._run}-{self._next}", time.perf_counter()))

    def second(self, name: str, started_s: float, token: str) -> None:
        """Open the second connection of a cycle."""
        self._connect(_Cycle(self, name, started_s, token))

    def _connect(self, cycle: _Cycle) -> None:
        async def connect() -> None:
            try:
                await asyncio.get_running_loop().create_connection(lambda: cycle, *self._address, local_addr=source())
            except OSError:
                cycle.connection_lost(None)

        task = asyncio.get_running_loop().create_task(connect())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def finished(self, started_s: float, *, ok: bool) -> None:
        """Count a cycle and begin the next."""
        if ok:
            self.latencies_s.append(time.perf_counter() - started_s)
        else:
            self.failed += 1
        if len(self.latencies_s) + self.failed >= self._cycles:
            self.over.set()
        elif self._next < self._cycles:
            self._begin()


def run_cycles(
    host: str, port: int, key: str, secret: str, *, cycles: int, at_once: int, timeout_s: float = 120.0
) -> CycleResult:
    """Run so many cycles, so many at once; ends by itself after `timeout_s`."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_run(_Load(host, port, key, secret, cycles, at_once), timeout_s))


async def _run(load: _Load, timeout_s: float) -> CycleResult:
    began_s, cpu_s = time.perf_counter(), time.process_time()
    load.start()
    try:
        await asyncio.wait_for(load.over.wait(), timeout_s)
    except TimeoutError:
        load.failed += 1
    took_s = time.perf_counter() - began_s
    latencies = sorted(load.latencies_s) or [float("nan")]
    done = len(load.latencies_s)
    return CycleResult(
        done,
        load.failed,
        done / took_s,
        latencies[len(latencies) // 2] * 1e3,
        latencies[min(len(latencies) - 1, int(len(latencies) * 0.99))] * 1e3,
        (time.process_time() - cpu_s) / max(done, 1) * 1e6,
    )
