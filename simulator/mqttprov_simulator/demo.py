"""The demo: a state directory of its own, our broker as a child process, and a swarm that registers with it.

Nothing of it is left afterwards. It prints progress only; the summary is given back.
"""

import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import msgspec
from rich.console import Console

from mqttprov.core.audit import BrokenChain, verify
from mqttprov.responder.administration import IssuedToken
from mqttprov.responder.state_directory import initialise
from mqttprov.store.sqlite import SqliteStore
from mqttprov_simulator.host import allow_connections
from mqttprov_simulator.live import LiveView
from mqttprov_simulator.plan import SwarmPlan
from mqttprov_simulator.results import Summary
from mqttprov_simulator.swarm import run_swarm

_START_TIMEOUT_S: Final = 20.0
_SWARM_TIMEOUT_S: Final = 80.0
_STOP_TIMEOUT_S: Final = 10.0
_HOLD_S: Final = 2.0
_SHOWN_CHARACTERS: Final = 2_000


class DemoError(Exception):
    """The demo's broker did not do its part; the text says how, with what it wrote."""


class _Listening(msgspec.Struct, frozen=True):
    listening: list[str]


def run_demo(*, gateways: int = 1000, console: Console, live: bool) -> Summary:
    """Run the demo, two minutes at most, and say how it went; `console` gets the progress.

    Raises DemoError, and what `run_swarm` raises.
    """
    # The broker inherits the limit of open files, and needs as many.
    allow_connections(2 * gateways)
    with tempfile.TemporaryDirectory(prefix="mqttprov-demo-") as directory:
        state = Path(directory) / "state"
        token = initialise(state, actor="demo", now_ms=_now_ms, entropy=os.urandom)
        if token is None:
            raise DemoError(f"the new state directory {state} was not empty; run the demo again")
        with _broker(state) as (process, port), LiveView(console, live=live) as view:
            result = run_swarm(_plan(gateways, port, token), on_progress=view.update, broker_pid=process.pid)
            return _with_store(result.summary, state)


def _plan(gateways: int, port: int, token: IssuedToken) -> SwarmPlan:
    return SwarmPlan(
        host="127.0.0.1",
        port=port,
        key=token.key,
        secret=token.secret,
        gateways=gateways,
        name_prefix="demo-",
        stay_connected=True,
        hold_s=_HOLD_S,
        timeout_s=_SWARM_TIMEOUT_S,
    )


def _with_store(summary: Summary, state: Path) -> Summary:
    """Add what the store has to say: devices by state, and whether the audit chain holds (P5)."""
    store = SqliteStore(state / "mqttprov.db")
    try:
        reader = store.reader()
        try:
            events, verified = verify(reader.events()).seq, True
        except BrokenChain:
            events, verified = reader.head().seq, False
        summary = msgspec.structs.replace(
            summary, devices_by_state=reader.states(), audit_events=events, audit_verified=verified
        )
        reader.close()
        return summary
    finally:
        store.close()


@contextmanager
def _broker(state: Path) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Run our broker on any free port until the context ends. Raises DemoError if it does not start or ends badly."""
    log = state.parent / "serve.log"
    command = [sys.executable, "-m", "mqttprov", "serve", "--state", str(state), "--port", "0", "--json"]
    with log.open("wb") as stderr:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=stderr)  # noqa: S603 - our own program
    try:
        yield process, _port(process, log)
    finally:
        process.terminate()
        try:
            process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()
    if process.returncode != 0:
        raise DemoError(f"the broker ended with status {process.returncode}: {_tail(log)}")


def _port(process: subprocess.Popen[bytes], log: Path) -> int:
    """Read the first line, which says where it listens."""
    assert process.stdout is not None  # noqa: S101 - for the type checker: it is a pipe
    line, deadline_s = b"", time.monotonic() + _START_TIMEOUT_S
    while not line.endswith(b"\n"):
        ready, _, _ = select.select([process.stdout], [], [], max(0.0, deadline_s - time.monotonic()))
        chunk = os.read(process.stdout.fileno(), 4096) if ready else b""
        if not chunk:
            raise DemoError(f"the broker did not start within {_START_TIMEOUT_S:.0f} s: {_tail(log)}")
        line += chunk
    try:
        urls = [urlsplit(url) for url in msgspec.json.decode(line, type=_Listening).listening]
        return next(url.port for url in urls if url.scheme == "mqtt" and url.port is not None)
    except (msgspec.DecodeError, StopIteration, ValueError) as error:
        raise DemoError(f"the broker did not say where it listens, but {line!r}: {_tail(log)}") from error


def _tail(log: Path) -> str:
    return log.read_text("utf-8", "replace").strip()[-_SHOWN_CHARACTERS:] or "it wrote nothing"


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
