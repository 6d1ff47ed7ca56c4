"""How far a verb is: a bar on a terminal, and nothing that would disturb a program or a log."""

import os
import pty
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.cli.command import Result, command

from mqttprov.cli.progress import progress

Cli = Callable[..., Result]


def on_a_terminal(*arguments: str) -> str:
    """Run the command with a terminal as its stderr; give what was drawn there."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    with os.fdopen(ours, "rb", buffering=0) as screen:
        with subprocess.Popen(command(*arguments), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=theirs,
                              env=environment) as process:  # fmt: skip
            os.close(theirs)
            drawn = b""
            try:
                while chunk := screen.read(4096):
                    drawn += chunk
            except OSError:  # so Linux tells that the other end is closed (EIO)
                pass
        assert process.returncode == 0, drawn
    return drawn.decode()


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["token", "create", "--count", "3", "--name", "lot", "--out", "lot.csv"], "making"),
        (["device", "import", "devices.csv", "--profile", "default"], "lines"),
        (["device", "label", "--label", "type=a", "site=b", "--yes"], "labelling"),
        (["token", "revoke", "default", "--cascade", "--yes"], "suspending"),
    ],
)
def test_verbs_over_many_things_show_a_bar_on_a_terminal_only(
    cli: Cli, state: Path, arguments: list[str], word: str
) -> None:
    """Off a terminal and with --json not a word of it."""
    Path("devices.csv").write_text("name\ngw-1\n")
    assert cli("device", "create", "gw-0", "--profile", "default", "--label", "type=a").status == 0
    quiet = on_a_terminal(*arguments, "--state", str(state), "--json")
    assert (word in quiet, "\x1b" in quiet) == (False, False)
    if "lot.csv" in arguments:
        Path("lot.csv").rename("first.csv")
        arguments[5] = "lot-b"
    again = cli(*arguments)
    assert (again.status, word in again.err, "\x1b" in again.err) == (0, False, False)
    if "lot.csv" in arguments:
        Path("lot.csv").rename("second.csv")
        arguments[5] = "lot-c"
    assert word in on_a_terminal(*arguments, "--state", str(state))


def test_without_a_terminal_telling_does_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever the total."""
    for total in (None, 0, 5):
        with progress("doing", total, json=False) as tell:
            tell(3)
    assert capsys.readouterr() == ("", "")
