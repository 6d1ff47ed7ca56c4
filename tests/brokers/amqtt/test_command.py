"""amqtt's own command with our plugin in its YAML, and what the log and the documentation say that it cannot give."""

import json
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from amqtt.broker import Broker
from tests.brokers.amqtt.harness import PLUGIN, Stock
from tests.brokers.harness import new_state

from mqttprov.brokers.amqtt_shortcomings import ALWAYS, SOMETIMES

PAGE = Path(__file__).parents[3] / "docs" / "how-to" / "amqtt.md"
START_TIMEOUT_S = 20.0


def free_port() -> int:
    """Give a port that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until_open(port: int, process: subprocess.Popen[bytes]) -> None:
    """Wait until somebody listens there."""
    until_s = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < until_s and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    pytest.fail("amqtt did not open its port")


def mqttprov(*arguments: str) -> dict[str, object]:
    """Run a command of ours; give what it prints."""
    done = subprocess.run(
        [sys.executable, "-m", "mqttprov", *arguments, "--json"], capture_output=True, text=True, timeout=30, check=True
    )
    found: dict[str, object] = json.loads(done.stdout)
    return found


def test_amqtt_s_own_command_serves_with_our_plugin_alone(tmp_path: Path) -> None:
    """`amqtt -c broker.yaml` with one plugin and its state: a device registers, and suspending it is confirmed."""
    new_state(tmp_path / "state")
    port = free_port()
    config = tmp_path / "broker.yaml"
    config.write_text(
        f"listeners:\n  default:\n    type: tcp\n    bind: 127.0.0.1:{port}\n"
        f"plugins:\n  {PLUGIN}:\n    state: {tmp_path / 'state'}\n"
    )
    secret = tmp_path / "secret.json"
    state = str(tmp_path / "state")
    mqttprov("token", "create", "--name", "factory", "--output-file", str(secret), "--state", state)
    log = tmp_path / "log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [Path(sys.executable).parent / "amqtt", "-c", config], stdout=file, stderr=subprocess.STDOUT
        )
    try:
        wait_until_open(port, process)
        reply = mqttprov(
            "request", "--secret-file", str(secret), "--device-name", "gw-1", "--port", str(port), "--timeout-s", "60"
        )
        assert "gw-1" in json.dumps(reply)
        assert mqttprov("device", "suspend", "gw-1", "--state", state)
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(START_TIMEOUT_S)
        finally:
            process.kill()
    written = log.read_text()
    assert "stock amqtt, mqtt-5:" in written
    assert json.loads(secret.read_text())["provisionDeviceSecret"] not in written
    assert "Traceback" not in written
    assert not list((tmp_path / "state" / "run").glob("*"))


async def test_what_cannot_be_given_is_told_at_the_start(broker: Stock, caplog: pytest.LogCaptureFixture) -> None:
    """Each shortcoming is one warning (caplog has those of the fixture's start)."""
    told = [
        r.getMessage() for phase in ("setup", "call") for r in caplog.get_records(phase) if r.levelname == "WARNING"
    ]
    for key in ALWAYS:
        assert sum(f"stock amqtt, {key}:" in text for text in told) == 1
    for key in SOMETIMES:
        assert not any(f"stock amqtt, {key}:" in text for text in told)
    assert broker.port


async def test_open_listeners_and_other_logins_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A listener off loopback without TLS, and plugins that decide logins beside ours."""

    new_state(tmp_path / "state")
    config = {
        "listeners": {"default": {"type": "tcp", "bind": "0.0.0.0:0"}},
        "plugins": {PLUGIN: {"state": str(tmp_path / "state")}, "amqtt.plugins.authentication.AnonymousAuthPlugin": {}},
    }
    plugin = Broker(config).plugins_manager.get_plugin("ProvisioningPlugin")
    await plugin.on_broker_pre_start()  # the broker itself need not open that listener here
    await plugin.on_broker_pre_shutdown()
    await plugin.close()
    told = caplog.text
    assert "stock amqtt, plain: listener 'default'" in told
    assert "stock amqtt, other-logins: AnonymousAuthPlugin" in told


def test_the_documentation_has_a_row_for_each() -> None:
    """The table of what a stock amqtt cannot give and the warnings are about the same things."""
    rows = re.findall(r"^\| `([\w-]+)` \|", PAGE.read_text("utf-8"), re.MULTILINE)
    assert sorted(rows) == sorted([*ALWAYS, *SOMETIMES])
