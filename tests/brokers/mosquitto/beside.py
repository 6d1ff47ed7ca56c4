"""A real Mosquitto with our gate plugin and the responder beside it, with the tools that tests of brokers have.

No test lives here.
"""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.brokers.harness import Running, new_state

from mqttprov.brokers.broker_link import BrokerAddress
from mqttprov.brokers.responder_run import now_ms
from mqttprov.brokers.sidecar import Sidecar
from mqttprov.brokers.tls import make_server_certificate
from mqttprov.core.requests import Granted, ProvisionRequest
from mqttprov.mqtt import Connect, ProtocolVersion
from mqttprov.responder.administration import IssuedToken
from mqttprov.responder.jobs import ActivationJob, BatchProcessor, ProvisionJob
from mqttprov.responder.service import Responder
from mqttprov.responder.state_directory import StateDirectory

# MQTTPROV_MOSQUITTO runs the tests with another version than the installed one.
MOSQUITTO = os.environ.get("MQTTPROV_MOSQUITTO") or shutil.which(
    "mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin"
)
GATE = Path(__file__).parents[3] / "mosquitto"
START_TIMEOUT_S = 30.0
PASSWORD = "the-responders-own-password"


def missing(why: str) -> None:
    """Skip a test for want of a program of Debian; continuous integration has all of them."""
    if os.environ.get("CI"):
        pytest.fail(why)
    pytest.skip(why)


def free_port() -> int:
    """Give a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Process:
    """A process whose output goes to a file."""

    def __init__(self, log: Path) -> None:
        self.log = log
        self._process: asyncio.subprocess.Process | None = None

    async def run(self, *command: str) -> None:
        """Start it."""
        with self.log.open("ab") as output:
            self._process = await asyncio.create_subprocess_exec(
                *command, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=output
            )

    async def line(self) -> str:
        """Give the next line that it prints; fail with its log when it ends without one."""
        assert self._process is not None
        assert self._process.stdout is not None
        async with asyncio.timeout(START_TIMEOUT_S):
            line = await self._process.stdout.readline()
        assert line, self.log.read_text()[-2000:]
        return line.decode()

    async def end(self, number: int = signal.SIGTERM) -> int:
        """Send it a signal, if it runs, and wait for its end; give its exit status."""
        assert self._process is not None
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                return await self._process.wait()
        except TimeoutError:
            self._process.kill()
            raise

    @property
    def is_running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._process is not None and self._process.returncode is None

    def signal(self, number: int) -> None:
        """Send it a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    @property
    def is_started(self) -> bool:
        """Whether it was ever started."""
        return self._process is not None

    @property
    def pid(self) -> int:
        """The process id."""
        assert self._process is not None
        return self._process.pid


class Mosquitto(Process):
    """The broker, on one port all its lives."""

    def __init__(
        self,
        folder: Path,
        state: Path,
        plugin: Path | None,
        *,
        tls: tuple[Path, Path] | None = None,
        environment: tuple[str, ...] = (),
        settings: tuple[str, ...] = (),
    ) -> None:
        """Write its configuration; without plugin it lets everybody in.

        With `tls`, files of certificate and key, there is a TLS port besides.
        `environment` (NAME=value) and `settings` (lines) are added to ours.
        """
        super().__init__(folder / "mosquitto.log")
        self._environment = environment
        self.port = free_port()
        self.tls_port = free_port() if tls is not None else 0
        self.password_file = folder / "responder-password"
        self.password_file.touch(mode=0o600)
        self.password_file.write_text(f"{PASSWORD}\n")
        self._config = folder / "mosquitto.conf"
        lines = [
            f"listener {self.port} 127.0.0.1",
            f"allow_anonymous {'false' if plugin else 'true'}",
            "set_tcp_nodelay true",
            "max_queued_messages 10000",
            f"user {'root' if os.getuid() == 0 else 'mosquitto'}",
            *settings,
        ]
        if tls is not None:
            lines[1:1] = [f"listener {self.tls_port} 127.0.0.1", f"certfile {tls[0]}", f"keyfile {tls[1]}"]
        if plugin is not None:
            lines += [
                f"plugin {plugin}",
                f"plugin_opt_database {state / 'mqttprov.db'}",
                f"plugin_opt_pepper_file {state / 'keys' / 'pepper'}",
                f"plugin_opt_responder_file {self.password_file}",
            ]
        self._config.write_text("\n".join(lines) + "\n")

    async def start(self) -> None:
        """Start it and wait until it listens."""
        assert MOSQUITTO is not None
        await self.run("env", *self._environment, MOSQUITTO, "-c", str(self._config))
        async with asyncio.timeout(START_TIMEOUT_S):
            while True:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", self.port)
                except OSError:
                    assert self._process is not None
                    assert self._process.returncode is None, self.log.read_text()
                    await asyncio.sleep(0.02)  # there is nothing else to wait for
                    continue
                writer.close()
                return


def make_devices(state: StateDirectory, issued: IssuedToken, *names: str) -> list[str]:
    """Provision devices without any broker, and log them in once; give their access tokens."""
    processor = BatchProcessor(state.store, state.keys, now_ms=now_ms, entropy=os.urandom)
    tokens = []
    for name in names:
        request = ProvisionRequest(issued.key, issued.secret, device_name=name)
        ((_, outcome),) = processor.process([ProvisionJob(request, "", lambda _: None)])
        assert isinstance(outcome, Granted), outcome
        processor.process([ActivationJob(name.casefold(), 1, "", lambda _: None)])
        tokens.append(str(outcome.value))
    return tokens


class Respond(Process):
    """`mqttprov respond` as a process of its own, to be killed at any moment."""

    def __init__(self, folder: Path, state: Path, mosquitto: Mosquitto) -> None:
        super().__init__(folder / "respond.log")
        self._state = state
        self._mosquitto = mosquitto

    async def begin(self, *options: str) -> None:
        """Start it, with these options or with those that it needs."""
        usual = (
            *("--broker", f"mqtt://127.0.0.1:{self._mosquitto.port}", "--state", str(self._state)),
            *("--password-file", str(self._mosquitto.password_file)),
        )
        await self.run(sys.executable, "-m", "mqttprov", "respond", "--json", *(options or usual))

    async def connected(self) -> str:
        """Wait until it answers requests; give the broker's URL as it tells it."""
        return str(json.loads(await self.line())["connected"])

    async def start(self) -> None:
        """Start it and wait until it answers requests."""
        await self.begin()
        assert await self.connected() == f"mqtt://127.0.0.1:{self._mosquitto.port}"


class Beside(Running):
    """Mosquitto, and the responder in the test's own loop."""

    def __init__(self, path: Path, issued: IssuedToken, plugin: Path, *, tls: bool = False) -> None:
        """With `tls` there is a port for it, too."""
        super().__init__(path, issued)
        self._plugin = plugin
        self._with_tls = tls
        self.others: list[Respond] = []
        self._responding = False
        self._set_up()

    def _set_up(self) -> None:
        files = None
        if self._with_tls:
            with contextlib.closing(StateDirectory(self.path)) as state:
                files = make_server_certificate(state.authority, "127.0.0.1", self.path, now_ms())
        self.mosquitto = Mosquitto(self.path.parent, self.path, self._plugin, tls=files)
        self.port, self.tls_port = self.mosquitto.port, self.mosquitto.tls_port

    async def start(self) -> None:
        """Start both."""
        self.state = StateDirectory(self.path)
        await self.mosquitto.start()
        await self.respond()

    async def respond(self) -> None:
        """Start the responder of this loop."""
        address = BrokerAddress("127.0.0.1", self.port, tls=False)
        self.sidecar = Sidecar(self.state, address, PASSWORD)
        await self.sidecar.start()
        self._responding = True

    @property
    def responder(self) -> Responder:
        """What answers requests."""
        return self.sidecar._run.responder

    def cut_off(self) -> None:
        """Cut all clients off."""
        for client in self.clients:
            client.abort()

    async def fall_silent(self) -> None:
        """Stop the responder of this loop as SIGTERM does."""
        if self._responding:
            self._responding = False
            await self.sidecar.stop()

    async def another(self) -> Respond:
        """Start a responder in a process of its own."""
        other = Respond(self.path.parent, self.path, self.mosquitto)
        self.others.append(other)
        await other.start()
        return other

    async def stop(self) -> None:
        """End all of it."""
        for other in self.others:
            await other.end()
        await self.fall_silent()
        await self.mosquitto.end()
        self.state.close()

    async def refuses(self, username: str, client_id: str = "") -> bool:
        """Tell whether the broker refuses this login."""
        client = await self.open(Connect(client_id, version=ProtocolVersion.V5, username=username))
        refused = await client.connack() >= 0x80
        client.abort()
        return refused


@contextlib.asynccontextmanager
async def running_beside(path: Path, plugin: Path, *, tls: bool = False) -> AsyncIterator[Beside]:
    """Run it on a new state directory; end it and all its clients afterwards."""
    one = Beside(path, new_state(path), plugin, tls=tls)
    try:
        await one.start()
        yield one
    finally:
        for client in one.clients:
            client.abort()
        await one.stop()
