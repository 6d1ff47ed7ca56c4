"""The brokers that are compared, each as a process of its own, and what they know beforehand.

- mqttprov: `mqttprov serve`: rules, SQLite with full sync (group commit), audit events; no TLS
- do-nothing: the same broker with a responder that answers at once and stores nothing: the engine's own limit
- stock amqtt: amqtt 0.12.1 with the smallest provisioning plugin, one commit per request, no audit: the yardstick
- amqtt plugin: the same stock amqtt with our plugin: rules, group commit, audit events, permissions, private replies
- mosquitto: Mosquitto as the system has it, an anonymous listener: no login is checked and nothing is provisioned
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from mqttprov.admin import OperatorRole
from mqttprov.brokers.responder_run import now_ms
from mqttprov.core.login import LoginAttempt
from mqttprov.core.requests import Granted, ProvisionRequest
from mqttprov.responder.jobs import BatchProcessor, LoginJob, ProvisionJob
from mqttprov.responder.state_directory import StateDirectory, initialise

HERE = Path(__file__).parent
PROVISIONING = ("mqttprov", "do-nothing", "stock amqtt", "amqtt plugin")
OBSERVERS = 100
_BATCH = 200
_START_S = 20.0
_MOSQUITTO = """\
listener {port} 127.0.0.1
allow_anonymous true
set_tcp_nodelay true
max_connections -1
persistence false
log_dest none
"""


class Target(msgspec.Struct):
    """A broker that runs and how to provision with it."""

    port: int
    pid: int
    key: str = "key"
    secret: str = "secret"  # noqa: S105 - brokers that check none


class Known(msgspec.Struct):
    """Who a state directory, or a broker that checks nothing, lets in."""

    key: str
    secret: str
    tokens: list[str]  # of the devices `bench-00000`, `bench-00001`, ...; each has logged in before
    observers: list[tuple[str, str]]  # name and password; a name may have few sessions at once


@contextmanager
def started(name: str, folder: Path, known: Known | None = None) -> Iterator[Target]:
    """Start a broker in this folder, with the state that `know` made there or a new one; end it afterwards."""
    if name in {"mqttprov", "amqtt plugin"}:
        known = known or know(folder, 0)
    if name == "mqttprov":
        command = [sys.executable, "-m", "mqttprov", "serve", "--state", str(folder / "state"), "--port", "0", "--json"]
    elif name == "do-nothing":
        command = [sys.executable, str(HERE / "do_nothing.py")]
    elif name == "stock amqtt":
        command = [sys.executable, str(HERE / "stock_amqtt.py"), str(free_port()), str(folder / "a.db")]
    elif name == "amqtt plugin":
        command = [sys.executable, str(HERE / "amqtt_with_plugin.py"), str(free_port()), str(folder / "state")]
    else:
        with _mosquitto(folder) as target:
            yield target
        return
    with running_process(command) as process:
        assert process.stdout is not None
        line = process.stdout.readline().strip()
        url = json.loads(line)["listening"][0] if name == "mqttprov" else line
        port = int(url.rsplit(":", 1)[1])
        yield Target(port, process.pid, known.key, known.secret) if known else Target(port, process.pid)


def mosquitto_program() -> str | None:
    """Give the path of Mosquitto's broker, which distributions keep where only administrators look."""
    return shutil.which("mosquitto", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")


@contextmanager
def _mosquitto(folder: Path) -> Iterator[Target]:
    program, port = mosquitto_program(), free_port()
    assert program is not None
    configuration = folder / "mosquitto.conf"
    configuration.write_text(_MOSQUITTO.format(port=port))
    with running_process([program, "-c", str(configuration)]) as process:
        give_up_s = time.monotonic() + _START_S
        while True:  # it does not tell when it listens
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except ConnectionRefusedError:
                assert process.poll() is None
                assert time.monotonic() < give_up_s
                time.sleep(0.02)
        yield Target(port, process.pid)


@contextmanager
def running_process(command: list[str]) -> Iterator[subprocess.Popen[str]]:
    """Run a program until the context ends; what it prints is there to be read."""
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdin.close()
        process.stdout.close()


def free_port() -> int:
    """Give a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def know(folder: Path, devices: int) -> Known:
    """Make a state directory `state` in the folder, with so many devices that have logged in and with observers."""
    path = folder / "state"
    issued = initialise(path, actor="bench", now_ms=now_ms, entropy=os.urandom)
    assert issued is not None
    state = StateDirectory(path)
    admin = state.administration("bench", now_ms, os.urandom)
    names = [f"observer-{number:03}" for number in range(OBSERVERS)]
    observers = [(name, admin.create_operator(name, OperatorRole.OBSERVER)) for name in names]
    processor = BatchProcessor(state.store, state.keys, now_ms=now_ms, entropy=os.urandom)
    tokens: list[str] = []
    for first in range(0, devices, _BATCH):
        requests = [ProvisionRequest(issued.key, issued.secret, device_name(n)) for n in range(first, first + _BATCH)]
        outcomes = [each for _, each in processor.process([ProvisionJob(r, "bench", _untold) for r in requests])]
        granted = [outcome.value for outcome in outcomes if isinstance(outcome, Granted)]
        # The first login with a credential is a commit; what is measured are those that follow.
        processor.process([LoginJob(LoginAttempt("", token, None, None), "bench", _untold) for token in granted])
        tokens += granted
    processor.close()
    state.close()
    return Known(issued.key, issued.secret, tokens[:devices], observers)


def know_nothing(devices: int) -> Known:
    """Give what to log in with where nothing is checked, as long as what `know` makes."""
    return Known("", "", [f"mqp_at_{number:027}" for number in range(devices)], [("", "")] * OBSERVERS)


def device_name(number: int) -> str:
    """Give the name of a device that is known beforehand."""
    return f"bench-{number:05}"


def _untold(_: object) -> None:
    """Nobody waits for this."""
