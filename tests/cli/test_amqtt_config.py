"""`mqttprov serve --amqtt-config`: listeners and plugins of amqtt's configuration, the state of `--state`."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.cli.command import mqttprov

PLUGIN = "mqttprov.brokers.amqtt_plugin.ProvisioningPlugin"
YAML = """\
listeners:
  default:
    type: tcp
    bind: {bind}
plugins:
  amqtt.plugins.logging_amqtt.EventLoggerPlugin:
"""


def written(folder: Path, text: str) -> Path:
    """Write a configuration."""
    path = folder / "broker.yaml"
    path.write_text(text)
    return path


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """Make a state directory."""
    path = tmp_path / "state"
    assert mqttprov("init", "--state", str(path)).status == 0
    return path


def test_it_serves_what_the_file_says(state: Path, tmp_path: Path) -> None:
    """One command, one file: the listener is told as ever, a device registers, SIGTERM ends it."""
    config = written(tmp_path, YAML.format(bind="127.0.0.1:0"))
    secret = tmp_path / "secret.json"
    mqttprov("token", "create", "--name", "line", "--output-file", str(secret), "--state", str(state))
    command = [
        sys.executable,
        "-m",
        "mqttprov",
        "serve",
        "--state",
        str(state),
        "--amqtt-config",
        str(config),
        "--json",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        (url,) = json.loads(process.stdout.readline())["listening"]
        try:
            asked = ["request", "--secret-file", str(secret), "--device-name", "gw-1", "--json", "--timeout-s", "60"]
            assert mqttprov(*asked, "--port", url.rsplit(":", 1)[1]).data["status"] == "SUCCESS"
            assert mqttprov("device", "suspend", "gw-1", "--state", str(state)).status == 0
            process.terminate()
            assert process.wait(30) == 0
            assert "Traceback" not in process.stderr.read()
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (YAML.format(bind="0.0.0.0:0"), "not on loopback"),
        (YAML.format(bind="127.0.0.1:0") + "nonsense: 1\n", "nonsense"),
        ("- a list\n", "cannot be served"),
        ("a: [\n", "cannot be served"),
        (YAML.format(bind="127.0.0.1:0") + "  no.such.Plugin: {}\n", "no.such"),
        (YAML.format(bind="127.0.0.1:0") + f"  {PLUGIN}:\n    state: elsewhere\n", "elsewhere"),
    ],
    ids=["open", "unknown", "list", "yaml", "plugin", "state"],
)
def test_what_cannot_be_served_is_told_in_a_line(state: Path, tmp_path: Path, text: str, why: str) -> None:
    """Exit status 6, what and why; nothing listens."""
    config = written(tmp_path, text)
    result = mqttprov("serve", "--state", str(state), "--amqtt-config", str(config))
    assert (result.status, result.out) == (6, "")
    assert why in result.err
    assert "Traceback" not in result.err


def test_other_listener_options_are_a_contradiction(state: Path, tmp_path: Path) -> None:
    """The file says where to listen."""
    config = written(tmp_path, YAML.format(bind="127.0.0.1:0"))
    result = mqttprov("serve", "--state", str(state), "--amqtt-config", str(config), "--port", "0")
    assert result.status == 2
    assert "--amqtt-config" in result.err


def test_without_the_extra_it_says_what_to_install(state: Path, tmp_path: Path) -> None:
    """A name that cannot be imported stands for amqtt that is not installed."""
    (tmp_path / "without").mkdir()
    (tmp_path / "without" / "sitecustomize.py").write_text("import sys\nsys.modules['amqtt'] = None\n")
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path / 'without'}:{os.environ.get('PYTHONPATH', '')}"}
    config = written(tmp_path, YAML.format(bind="127.0.0.1:0"))
    command = [sys.executable, "-m", "mqttprov", "serve", "--state", str(state), "--amqtt-config", str(config)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "pip install 'mqttprov[amqtt]'" in done.stderr
