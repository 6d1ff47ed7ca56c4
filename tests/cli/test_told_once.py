"""A secret that could not be told is never lost without a word."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.cli.command import Result, command, mqttprov

from mqttprov.cli import output
from mqttprov.cli.main import run

Cli = Callable[..., Result]
FULL = Path("/dev/full")


@pytest.mark.parametrize(
    ("arguments", "remedy"),
    [
        (("token", "create", "--name", "line"), "mqttprov token rotate"),
        (("token", "create", "--name", "line", "--json"), "mqttprov token rotate"),
        (("token", "rotate", "default", "--yes"), "mqttprov token rotate"),
        (("profile", "create", "line"), "mqttprov token rotate"),
        (("operator", "create", "anna"), "mqttprov operator rotate anna --yes"),
        (("operator", "rotate", "ops", "--yes"), "mqttprov operator rotate ops --yes"),
        (("device", "transfer", "gw-1", "--to", "acme"), "take it back with --cancel"),
        (("device", "transfer", "gw-1", "--to", "acme", "--json"), "take it back with --cancel"),
    ],
)
def test_a_secret_that_cannot_be_printed_is_told_to_be_lost(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], remedy: str
) -> None:
    """What was made exists, its secret is on no disk: the error says both, and what to do."""
    cli("device", "create", "gw-1", "--profile", "default")
    cli("operator", "create", "ops")

    def full(_: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(output, "write_data", full)
    result = cli(*arguments)
    assert result.status == 1
    told = result.err.splitlines()[-1]
    assert ", which is lost, as it could not be written: No space left on device; " in told
    assert remedy in told


def test_init_on_a_full_disk_says_how_to_get_a_secret(tmp_path: Path) -> None:
    """Run again it tells none, so the first run must say what to do."""
    with FULL.open("w") as full:
        command_line = command("init", "--state", str(tmp_path / "s"), "--json")
        made = subprocess.run(command_line, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert made.returncode == 1
    remedy = made.stderr.rstrip().rpartition(": mqttprov ")[2]
    assert "provisionDeviceSecret" in mqttprov(*remedy.split()).out


@pytest.mark.parametrize("verb", ["token create", "token list", "token list --json", "audit export"])
def test_a_closed_standard_output_is_an_error(
    state: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], verb: str
) -> None:
    """`mqttprov ... >&-`: nobody gets the data, and that is no success."""
    monkeypatch.setattr("sys.stdout", None)
    status = run(["--state", str(state), *verb.split()])
    monkeypatch.undo()
    assert status == 1
    assert "standard output is closed" in capsys.readouterr().err


def test_talk_never_becomes_data(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """`mqttprov ... 2>&-`: `print` would write what is said to stdout."""
    monkeypatch.setattr("sys.stderr", None)
    output.say("this is talk")
    monkeypatch.undo()
    assert capsys.readouterr().out == ""
