"""What every interop test needs: the broker as a user starts it, an operator who listens, and the vendors' programs.

Nothing of mqttprov is imported here: broker and operator are met as users and devices meet them, by command and MQTT.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from tests.interop.brokers import BROKERS, MOSQUITTO, PATIENCE_S, Broker, Lines, RegistrationToken

REPOSITORY = Path(__file__).parents[2]
GATEWAY_VENV = REPOSITORY / ".venvs" / "thingsboard-gateway"
DEVICE_CLIENT_VENV = REPOSITORY / ".venvs" / "tb-mqtt-client"


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
            "TB_GW_PORT": str(broker.tls_port if tls else broker.port),
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
        self._subscribed, self._refused = threading.Event(), threading.Event()
        self._client = paho.Client(CallbackAPIVersion.VERSION2, client_id="provision", protocol=protocol)
        self._client.on_connect = self._on_connect
        self._client.on_subscribe = lambda *_: self._subscribed.set()
        self._client.on_message = self._on_message
        self._client.on_disconnect = self._on_disconnect
        self._client.connect(broker.host, broker.port)
        self._client.loop_start()

    def wait_until_subscribed(self) -> None:
        """Wait for SUBACK."""
        assert self._subscribed.wait(PATIENCE_S)

    def wait_until_refused(self) -> None:
        """Wait for the broker's refusal to let it in; it goes on trying."""
        assert self._refused.wait(PATIENCE_S)

    def _on_connect(
        self, client: paho.Client, _userdata: object, _flags: object, reason: ReasonCode, _properties: object
    ) -> None:
        if reason.is_failure:
            self._refused.set()
        else:
            client.subscribe("/provision/response")

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


def _missing(reason: str) -> None:
    """Skip for want of a program; fail where CI is set."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def _require(venv: Path) -> None:
    if not (venv / ".installed").is_file():
        _missing(f"{venv.name} is not installed; run tools/vendor-venvs.sh with the package index in reach")


@pytest.fixture(scope="session", params=list(BROKERS))
def broker(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """One broker of each kind for all of these tests; it must end cleanly."""
    if request.param == "mosquitto" and MOSQUITTO is None:
        _missing("no Mosquitto to test with; run tools/test-programs.sh as root")
    broker = BROKERS[request.param](tmp_path_factory.mktemp("broker"))
    try:
        yield broker
    finally:
        statuses = broker.stop()
    assert set(statuses) == {0}
    assert "Traceback" not in broker.log


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
