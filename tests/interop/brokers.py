"""The brokers that the vendors' programs meet, as a user starts them: `serve`, and Mosquitto with responders beside it.

Nothing of mqttprov is imported here: what there is to know about a broker is asked by command. No test lives here.
"""

from __future__ import annotations

import json
import re
import secrets
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from tests.ports import free_port

COMMAND = (sys.executable, "-m", "mqttprov")
VENDOR_TLS_PORT = 8883  # the only port on which the vendor's provisioning client uses TLS (thingsboard.md 11.2)
MOSQUITTO = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")
PATIENCE_S = 30.0


class RegistrationToken(NamedTuple):
    """What a device leaves the factory with."""

    key: str
    secret: str


class Lines:
    """What a child process prints, read by a thread, so that a test can wait for a line of it."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._lines: list[str] = []
        self._ended = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        for line in self._stream:
            with self._changed:
                self._lines.append(line.rstrip("\n"))
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    @property
    def text(self) -> str:
        """Everything so far."""
        with self._changed:
            return "\n".join(self._lines)

    def wait_for(self, part: str, timeout_s: float = PATIENCE_S) -> str:
        """Give the first line that holds this text; fail with everything printed when there is none in time."""
        with self._changed:
            found = self._changed.wait_for(lambda: self._ended or self._find(part) is not None, timeout_s)
            line = self._find(part)
            assert line is not None, f"{'ended' if found else f'{timeout_s} s'} without {part!r}:\n" + "\n".join(
                self._lines
            )
            return line

    def _find(self, part: str) -> str | None:
        return next((line for line in self._lines if part in line), None)

    def close(self) -> None:
        """Read what is left of a process that has ended."""
        self._thread.join(PATIENCE_S)
        self._stream.close()


class Program:
    """A process whose lines are read as they come."""

    def __init__(self, *command: str) -> None:
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.output, self.log = Lines(self._process.stdout), Lines(self._process.stderr)

    @property
    def has_ended(self) -> bool:
        """Whether it runs no more."""
        return self._process.poll() is not None

    def stop(self) -> int:
        """End it as a user does; give its exit status."""
        self._process.terminate()
        try:
            return self._process.wait(PATIENCE_S)
        finally:
            self._process.kill()
            self._process.wait()
            self.log.close()
            self.output.close()


class Broker:
    """A broker on a state directory of its own."""

    def __init__(self, directory: Path) -> None:
        self.host = _free_loopback_address()
        self.state = directory / "state"
        issued = self.command("init")
        self.token = RegistrationToken(issued["provisionDeviceKey"], issued["provisionDeviceSecret"])
        self.authority = self.state / "authority.pem"  # who verifies the broker needs this
        self.port = 0
        self.tls_port = VENDOR_TLS_PORT
        self._programs: list[Program] = []
        try:
            self._start(directory)
        except BaseException:
            self.stop()
            raise

    def _start(self, directory: Path) -> None:
        raise NotImplementedError

    def _run(self, *command: str) -> Program:
        self._programs.append(Program(*command))
        return self._programs[-1]

    def command(self, *arguments: str) -> Any:
        """Run a verb beside the broker; give what it prints as JSON."""
        done = subprocess.run(
            [*COMMAND, *arguments, "--state-dir", str(self.state), "--json"],
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def new_token(self, name: str, *options: str) -> RegistrationToken:
        """Make a registration token."""
        issued = self.command("token", "create", "--name", name, *options)
        return RegistrationToken(issued["provisionDeviceKey"], issued["provisionDeviceSecret"])

    def device(self, name: str) -> dict[str, Any]:
        """Give a device's row in `device list`."""
        rows: list[dict[str, Any]] = self.command("device", "list")
        return next(row for row in rows if row["name"] == name)

    def events(self, device: str) -> list[str]:
        """Give the kinds of all audit events about a device, oldest first."""
        return [e["kind"] for e in self.command("audit", "tail", "-n", "10000") if e.get("device") == device]

    def stop(self) -> list[int]:
        """End its programs, the last one first; give their exit statuses."""
        return [program.stop() for program in reversed(self._programs)]

    @property
    def log(self) -> str:
        """What its programs said."""
        return "\n".join(program.log.text for program in self._programs)


class Serve(Broker):
    """`mqttprov serve`."""

    def _start(self, directory: Path) -> None:
        places = ("--host", self.host, "--port", "0", "--tls-port", str(VENDOR_TLS_PORT))
        serve = self._run(*COMMAND, "serve", "--state", str(self.state), "--json", *places)
        urls = json.loads(serve.output.wait_for("listening"))["listening"]
        self.port = int(next(url for url in urls if url.startswith("mqtt:")).rsplit(":", 1)[1])


class Mosquitto(Broker):
    """Mosquitto as `mqttprov mosquitto install` sets it up, with two responders beside it.

    Its listeners get an address of their own, and a certificate that names it, so that others may use 8883 meanwhile.
    """

    def _start(self, directory: Path) -> None:
        assert MOSQUITTO is not None
        self.port = free_port()
        self.authority = _use_own_certificate(self.state, self.host)
        ports = ("--port", str(self.port), "--tls-port", str(VENDOR_TLS_PORT))
        self.command("mosquitto", "install", "--prefix", str(directory / "broker"), *ports)
        broker, responder = (directory / "broker" / name for name in ("mosquitto.conf", "responder.toml"))
        listeners = re.sub(r"^listener (\d+).*$", rf"listener \1 {self.host}", broker.read_text(), flags=re.MULTILINE)
        broker.write_text(listeners)
        responder.write_text(responder.read_text().replace("127.0.0.1", self.host))
        mosquitto = self._run(MOSQUITTO, "-c", str(broker))
        self._wait_until_it_listens(mosquitto)
        self._respond = (*COMMAND, "respond", "--config", str(responder), "--json")
        self.start_responders()

    def start_responders(self) -> None:
        """Let two answer requests."""
        self._responders = [self._run(*self._respond) for _ in range(2)]
        for responder in self._responders:
            responder.output.wait_for("connected")

    def stop_responders(self) -> None:
        """Let nobody answer requests."""
        for responder in self._responders:
            responder.stop()

    def _wait_until_it_listens(self, mosquitto: Program) -> None:
        deadline_s = time.monotonic() + PATIENCE_S
        while True:
            try:
                socket.create_connection((self.host, self.port)).close()
            except ConnectionRefusedError:
                assert not mosquitto.has_ended, mosquitto.log.text
                assert time.monotonic() < deadline_s
                time.sleep(0.02)  # it tells nobody
                continue
            return


BROKERS = {"serve": Serve, "mosquitto": Mosquitto}


def _use_own_certificate(state: Path, host: str) -> Path:
    """Make a self-signed server certificate and name it in the settings, as operators with their own do."""
    command = ("openssl", "req", "-x509", "-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
               "-days", "2", "-subj", "/CN=broker", "-addext", f"subjectAltName=IP:{host}")  # fmt: skip
    files = ("-keyout", str(state / "own-key.pem"), "-out", str(state / "own.pem"))
    subprocess.run([*command, *files], check=True, capture_output=True, timeout=PATIENCE_S)
    settings = state / "mqttprov.toml"
    text, found = re.subn(
        r"^\[tls\]$",
        '[tls]\ncertificate = "own.pem"\nprivate_key = "own-key.pem"',
        settings.read_text(),
        flags=re.MULTILINE,
    )
    assert found == 1
    settings.write_text(text)
    return state / "own.pem"


def _free_loopback_address() -> str:
    for _ in range(20):
        address = f"127.{secrets.randbelow(254) + 1}.{secrets.randbelow(254) + 1}.{secrets.randbelow(254) + 1}"
        try:
            with socket.socket() as probe:
                probe.bind((address, VENDOR_TLS_PORT))
        except OSError:
            continue
        return address
    pytest.fail(f"no loopback address has port {VENDOR_TLS_PORT} free; is 127.0.0.0/8 usable on this machine?")
