"""What every interop test needs: the broker as a user starts it, an operator who listens, and the vendors' programs.

Nothing of mqttprov is imported here: broker and operator are met as users and devices meet them, by command and MQTT.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

REPOSITORY = Path(__file__).parents[2]
GATEWAY_VENV = REPOSITORY / ".venvs" / "thingsboard-gateway"
DEVICE_CLIENT_VENV = REPOSITORY / ".venvs" / "tb-mqtt-client"
COMMAND = (sys.executable, "-m", "mqttprov")
VENDOR_TLS_PORT = 8883  # the only port on which the vendor's provisioning client uses TLS (thingsboard.md 11.2)
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


class Broker:
    """`mqttprov serve` on a state directory of its own."""

    def __init__(self, directory: Path) -> None:
        self.host = _free_loopback_address()
        self._state = directory / "state"
        issued = self.command("init")
        self.token = RegistrationToken(issued["provisionDeviceKey"], issued["provisionDeviceSecret"])
        self._process = subprocess.Popen(
            [
                *(*COMMAND, "serve", "--state", str(self._state), "--json"),
                *("--host", self.host, "--port", "0", "--tls-port", str(VENDOR_TLS_PORT)),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.log = Lines(self._process.stderr)
        self._output = Lines(self._process.stdout)
        try:
            urls = json.loads(self._output.wait_for("listening"))["listening"]
        except BaseException:
            self.stop()
            raise
        self.port = int(next(url for url in urls if url.startswith("mqtt:")).rsplit(":", 1)[1])
        self.tls_port = VENDOR_TLS_PORT
        self.authority = self._state / "authority.pem"

    def command(self, *arguments: str) -> Any:
        """Run a verb beside the broker; give what it prints as JSON."""
        done = subprocess.run(
            [*COMMAND, *arguments, "--state-dir", str(self._state), "--json"],
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

    def stop(self) -> int:
        """End it as a user does; give its exit status."""
        self._process.terminate()
        try:
            return self._process.wait(PATIENCE_S)
        finally:
            self._process.kill()
            self._process.wait()
            self.log.close()
            self._output.close()


def _free_loopback_address() -> str:
    for _ in range(20):
        address = f"127.{secrets.randbelow(254) + 1}.{secrets.randbelow(254) + 1}.{secrets.randbelow(254) + 1}"
        with socket.socket() as probe:
            try:
                probe.bind((address, VENDOR_TLS_PORT))
            except OSError:
                continue
        return address
    pytest.fail(f"no loopback address has port {VENDOR_TLS_PORT} free; is 127.0.0.0/8 usable on this machine?")


class Operator:
    """An operator's MQTT session: sees what devices publish and can call their remote procedures."""

    def __init__(self, broker: Broker) -> None:
        password = broker.command("operator", "create", "interop", "--role", "operator")["password"]
        self._messages: list[paho.MQTTMessage] = []
        self._changed = threading.Condition()
        self._client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
        self._client.username_pw_set("interop", password)
        subscribed = threading.Event()
        self._client.on_connect = lambda client, *_: client.subscribe("v1/devices/#", qos=1)
        self._client.on_subscribe = lambda *_: subscribed.set()
        self._client.on_message = self._on_message
        self._client.connect(broker.host, broker.port)
        self._client.loop_start()
        assert subscribed.wait(PATIENCE_S)

    def _on_message(self, _client: paho.Client, _userdata: object, message: paho.MQTTMessage) -> None:
        with self._changed:
            self._messages.append(message)
            self._changed.notify_all()

    def wait_for(self, topic: str, accept: Callable[[Any], bool] = lambda _: True) -> Any:
        """Give the JSON of the first message on this topic that is acceptable."""

        def found() -> list[Any]:
            contents = (json.loads(m.payload) for m in self._messages if m.topic == topic)
            return [content for content in contents if accept(content)]

        with self._changed:
            assert self._changed.wait_for(found, PATIENCE_S), f"no such message on {topic}"
            return found()[0]

    def call(self, device: str, method: str, *, params: object) -> Any:
        """Call a remote procedure of a device; give its answer."""
        number = secrets.randbelow(1_000_000)
        content = json.dumps({"method": method, "params": params})
        self._client.publish(f"v1/devices/{device}/rpc/request/{number}", content, qos=1)
        return self.wait_for(f"v1/devices/{device}/rpc/response/{number}")

    def close(self) -> None:
        """End the session."""
        self._client.disconnect()
        self._client.loop_stop()


class VendorGateway:
    """Unmodified `thingsboard-gateway` in a directory of its own, configured as its manual says: by environment."""

    def __init__(
        self,
        directory: Path,
        broker: Broker,
        token: RegistrationToken,
        *,
        tls: bool,
        provisioning: dict[str, str],
    ) -> None:
        self.config = directory / "config"
        self.config.mkdir(parents=True)
        (directory / "logs").mkdir()
        packaged = next(GATEWAY_VENV.glob("lib/*/site-packages/thingsboard_gateway/config"))
        for name in ("tb_gateway.json", "logs.json"):
            shutil.copy(packaged / name, self.config)
        shutil.copy(broker.authority, self.config / "authority.pem")
        self._directory = directory
        self._environment = {
            "PATH": os.environ["PATH"],
            "HTTPS_PROXY": "http://127.0.0.1:9",  # nobody there: it must not ask its vendor for updates from a test
            "TB_GW_CONFIG_DIR": f"{self.config}/",
            "TB_GW_HOST": broker.host,
            "TB_GW_PORT": str(VENDOR_TLS_PORT if tls else broker.port),
            **{f"TB_GW_PROVISIONING_DEVICE_{name}": value for name, value in provisioning.items()},
        }
        self.configure(token)
        self.start()

    def configure(self, token: RegistrationToken) -> None:
        """Give it other provisioning settings for its next start."""
        names = ("TB_GW_PROVISIONING_DEVICE_KEY", "TB_GW_PROVISIONING_DEVICE_SECRET")
        self._environment.update(zip(names, token, strict=True))

    def start(self) -> None:
        """Start it, or start it again."""
        self._process = subprocess.Popen(
            [GATEWAY_VENV / "bin/thingsboard-gateway"],
            cwd=self._directory,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.log = Lines(self._process.stdout)

    def exit_status(self) -> int:
        """Wait until it gives up by itself."""
        return self._process.wait(PATIENCE_S)

    def cut_power(self) -> None:
        """Kill it: SIGINT can hang it for ever (thingsboard.md 11.1)."""
        self._process.kill()
        self._process.wait()
        self.log.close()

    @property
    def credentials(self) -> dict[str, Any]:
        """What it has saved."""
        content: dict[str, Any] = json.loads((self.config / ".credentials").read_text())
        return content


class SharedIdClient:
    """A client that opens its provisioning session by the client id `provision` alone, like the vendor's other SDKs."""

    def __init__(self, broker: Broker, protocol: MQTTProtocolVersion) -> None:
        self.replies: list[dict[str, Any]] = []
        self.disconnected = False
        self._changed = threading.Condition()
        self._subscribed = threading.Event()
        self._client = paho.Client(CallbackAPIVersion.VERSION2, client_id="provision", protocol=protocol)
        self._client.on_connect = lambda client, *_: client.subscribe("/provision/response")
        self._client.on_subscribe = lambda *_: self._subscribed.set()
        self._client.on_message = self._on_message
        self._client.on_disconnect = self._on_disconnect
        self._client.connect(broker.host, broker.port)
        self._client.loop_start()

    def wait_until_subscribed(self) -> None:
        """Wait for SUBACK."""
        assert self._subscribed.wait(PATIENCE_S)

    def _on_message(self, _client: paho.Client, _userdata: object, message: paho.MQTTMessage) -> None:
        with self._changed:
            self.replies.append(json.loads(message.payload))
            self._changed.notify_all()

    def _on_disconnect(
        self,
        _client: paho.Client,
        _userdata: object,
        _flags: object,
        _reason: ReasonCode,
        _properties: Properties | None,
    ) -> None:
        self.disconnected = True

    def request(self, token: RegistrationToken, **fields: str) -> None:
        """Send a request; do not wait."""
        content = {"provisionDeviceKey": token.key, "provisionDeviceSecret": token.secret, **fields}
        self._client.publish("/provision/request", json.dumps(content), qos=1)

    def wait_for_replies(self, count: int) -> list[dict[str, Any]]:
        """Wait until so many replies have come; give all that have."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.replies) >= count, PATIENCE_S)
            return list(self.replies)

    def close(self) -> None:
        """End the session."""
        self._client.disconnect()
        self._client.loop_stop()


def _require(venv: Path) -> None:
    """Skip without this program; fail where CI is set."""
    if not (venv / ".installed").is_file():
        reason = f"{venv.name} is not installed; run tools/vendor-venvs.sh with the package index in reach"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """One broker for all of these tests; it must end cleanly."""
    broker = Broker(tmp_path_factory.mktemp("broker"))
    try:
        yield broker
    finally:
        status = broker.stop()
    assert status == 0
    assert "Traceback" not in broker.log.text


@pytest.fixture(scope="session")
def operator(broker: Broker) -> Iterator[Operator]:
    """An operator who was there before every gateway."""
    operator = Operator(broker)
    yield operator
    operator.close()


class StartGateway(Protocol):
    """Starts a vendor's gateway; provisioning settings are named without `TB_GW_PROVISIONING_DEVICE_`."""

    def __call__(self, token: RegistrationToken, *, tls: bool = False, **provisioning: str) -> VendorGateway:
        """Start one in a new directory."""


@pytest.fixture(scope="module")
def start_gateway(
    broker: Broker, operator: Operator, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[StartGateway]:
    """Start gateways before the eyes of the operator; all are killed at the end."""
    _require(GATEWAY_VENV)
    started: list[VendorGateway] = []

    def start(token: RegistrationToken, *, tls: bool = False, **provisioning: str) -> VendorGateway:
        directory = tmp_path_factory.mktemp("gateway")
        started.append(VendorGateway(directory, broker, token, tls=tls, provisioning=provisioning))
        return started[-1]

    yield start
    for gateway in started:
        gateway.cut_power()


@pytest.fixture(scope="session")
def device_client_python() -> Path:
    """Give the interpreter that has the vendor's device client."""
    _require(DEVICE_CLIENT_VENV)
    return DEVICE_CLIENT_VENV / "bin" / "python"


@pytest.fixture
def open_shared_id_client(broker: Broker) -> Iterator[Callable[[MQTTProtocolVersion], SharedIdClient]]:
    """Open provisioning sessions with client id `provision`, of the given MQTT version."""
    opened: list[SharedIdClient] = []

    def open_(protocol: MQTTProtocolVersion) -> SharedIdClient:
        opened.append(SharedIdClient(broker, protocol))
        return opened[-1]

    yield open_
    for client in opened:
        client.close()
