"""Measures what idle gateways cost: KiB per connection, and the broker's CPU for one more at none and at many present.

    python bench/idle.py [--steps 1000,5000,10000] [--probe 500] [--storm 5000] [--clean-start 0]

Every gateway is a device of its own that was provisioned before, logs in by token, subscribes to one filter of its own
and stays; at last some of them connect again, all at once. KiB are those of the broker's resident memory; CPU is that
of the whole broker process, store and all.
"""

import argparse
import asyncio
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import uvloop

from mqttprov.mqtt import ClientSession, Connect, Connected, MessageReceived, ProtocolVersion, Subscribed
from mqttprov_simulator.cpu import cpu_seconds
from registration import Target, started

AT_ONCE = 64


class _Gateway(asyncio.Protocol):
    """A connection that provisions (without a token) and ends, or logs in with one, subscribes and stays."""

    def __init__(self, connect: Connect, request: bytes | None, done: "asyncio.Future[str]") -> None:
        self._session = ClientSession(connect)
        self._request = request
        self._done = done

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Say CONNECT."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.write(self._session.take_output())

    def data_received(self, data: bytes) -> None:
        """Take the next step."""
        for event in self._session.receive(data):
            if isinstance(event, Connected) and self._request is not None:
                self._session.publish("/provision/request", self._request, 0)
            elif isinstance(event, Connected):
                self._session.subscribe([("v1/devices/me/attributes", 1)])
            elif isinstance(event, MessageReceived):
                self._done.set_result(json.loads(event.publish.payload)["credentialsValue"])
                self._session.disconnect()
            elif isinstance(event, Subscribed):
                self._done.set_result("")
        self._transport.write(self._session.take_output())

    def connection_lost(self, exc: Exception | None) -> None:
        """One that ends too early is a failure of the run."""
        if not self._done.done():
            self._done.set_exception(ConnectionError("the broker closed the connection"))


async def _open(port: int, connect: Connect, request: bytes | None) -> "tuple[asyncio.Transport, asyncio.Future[str]]":
    loop = asyncio.get_running_loop()
    done: asyncio.Future[str] = loop.create_future()
    transport, _ = await loop.create_connection(lambda: _Gateway(connect, request, done), "127.0.0.1", port)
    return transport, done


async def _all(port: int, wishes: Sequence[tuple[Connect, bytes | None]]) -> list[str]:
    """Open these connections, some at once; give what each brought."""
    limit = asyncio.Semaphore(AT_ONCE)

    async def one(connect: Connect, request: bytes | None) -> str:
        async with limit:
            _, done = await _open(port, connect, request)
            return await asyncio.wait_for(done, 60)

    return await asyncio.gather(*[one(*wish) for wish in wishes])


def _login(token: str, clean_start: bool) -> tuple[Connect, None]:
    client_id = token[:12]  # like the names that gateways make up
    return Connect(client_id, ProtocolVersion.V311, clean_start, keep_alive_s=3600, username=token), None


def _resident_kib(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise ValueError("no VmRSS: this measures on Linux")


async def _measure(target: Target, steps: list[int], probe: int, storm: int, clean_start: bool) -> None:
    def request(number: int) -> bytes:
        fields = {"provisionDeviceKey": target.key, "provisionDeviceSecret": target.secret}
        return json.dumps({**fields, "deviceName": f"Gateway {number:05}"}).encode()

    asked = [(Connect("", username="provision"), request(n)) for n in range(steps[-1] + 2 * probe)]
    tokens = await _all(target.port, asked)
    # The first login with a credential is a commit; what is measured are those that follow.
    await _warm_up(target.port, tokens)
    idle = [_login(token, clean_start) for token in tokens]

    async def connect(count: int) -> float:
        before_s = cpu_seconds(target.pid)
        await _all(target.port, [idle.pop() for _ in range(count)])
        return (cpu_seconds(target.pid) - before_s) / count * 1e6

    print(f"{'present':>8} {'KiB each':>9} {'us per connect':>15}")
    base_kib = _resident_kib(target.pid)
    present = probe
    print(f"{0:>8} {'':>9} {await connect(probe):>15.0f}")
    for step in steps:
        cost_us = await connect(step - present)
        present = step
        print(f"{step:>8} {(_resident_kib(target.pid) - base_kib) / step:>9.2f} {cost_us:>15.0f}")
    print(f"{present:>8} {'':>9} {await connect(probe):>15.0f}")
    await _storm(target, [_login(token, clean_start) for token in tokens[-storm:]])


async def _storm(target: Target, logins: Sequence[tuple[Connect, None]]) -> None:
    """Let gateways that are connected connect again, all at once, and take their own sessions over."""
    before_s, cpu_s = time.perf_counter(), cpu_seconds(target.pid)
    opened = await asyncio.gather(*[_open(target.port, *login) for login in logins])
    results = await asyncio.gather(*[done for _, done in opened], return_exceptions=True)
    took_s, cost_us = time.perf_counter() - before_s, (cpu_seconds(target.pid) - cpu_s) / len(logins) * 1e6
    failed = sum(isinstance(each, BaseException) for each in results)
    print(f"{len(logins)} at once took over from themselves in {took_s:.1f} s, {cost_us:.0f} us each; {failed} failed")


async def _warm_up(port: int, tokens: list[str]) -> None:
    for start in range(0, len(tokens), AT_ONCE):
        logins = [_login(token, clean_start=True) for token in tokens[start : start + AT_ONCE]]
        opened = [await _open(port, *login) for login in logins]
        await asyncio.gather(*[done for _, done in opened])
        for transport, _ in opened:
            transport.close()


def main() -> None:
    """Start a broker, fill it in steps and print what each cost."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", default="1000,5000,10000")
    parser.add_argument("--probe", type=int, default=500)
    parser.add_argument("--storm", type=int, default=5000)
    parser.add_argument("--clean-start", type=int, default=1)
    options = parser.parse_args()
    steps = [int(each) for each in options.steps.split(",")]
    with (
        tempfile.TemporaryDirectory() as folder,
        started("mqttprov", Path(folder)) as target,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        runner.run(_measure(target, steps, options.probe, options.storm, bool(options.clean_start)))


if __name__ == "__main__":
    main()
