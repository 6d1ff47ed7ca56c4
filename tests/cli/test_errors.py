"""Whatever is wrong, there is one line that says so and an exit status that tells which kind it is."""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest
from tests.cli.command import Result, command, mqttprov

from mqttprov.cli import output, values
from mqttprov.cli.errors import EXPECTED, MEANINGS, Exit, exit_status
from mqttprov.cli.main import run
from mqttprov.cli.reference import page

Cli = Callable[..., Result]
ROOT = Path(__file__).parents[2]

WRONG: list[tuple[str, int]] = [
    ("frobnicate", 2),
    ("token", 2),
    ("token crate", 2),
    ("token create --frobnicate", 2),
    ("token create --expires soon", 2),
    ("token create --expires 0d", 2),
    ("token create --expires 999999999d", 2),
    ("token create --label nonsense", 2),
    ("token create --label a=1 --label a=2", 2),
    ("token create --label =1", 2),
    ("token create --max-registrations 0", 2),
    ("token create --max-registrations -1", 2),
    ("token create --max-registrations many", 2),
    ("token create --max-registrations 999999999999999999", 2),
    ("token create --name a/b", 2),
    ("token create --max-registrations 99999999999999999999", 2),
    ("token create --profile nobody", 3),
    ("token create --name default", 5),
    ("token list --profile nobody", 3),
    ("device list --profile nobody", 3),
    ("token show nothing", 3),
    ("token revoke nothing --yes", 3),
    ("token update nothing --expires 1d", 3),
    ("token update default", 2),
    ("profile create a+b", 2),
    ("profile create default", 5),
    ("profile create x --strategy nonsense", 2),
    ("profile create x --min-secret 0", 2),
    ("profile create x --min-secret 99999999999999999999999", 2),
    ("profile create x --publish #", 2),
    ("profile show nobody", 3),
    ("device create gw-1", 2),
    ("device create gw+1 --profile default", 2),
    ("device create gw-1 --profile nobody", 3),
    ("device show gw-1", 3),
    ("operator create a/b", 2),
    ("operator create anna --role king", 2),
    ("operator create _responder", 2),
    ("operator rotate _responder --yes", 2),
    ("operator rotate nobody --yes", 3),
    ("operator remove nobody --yes", 3),
    ("audit tail -n -1", 2),
    ("serve --port 70000", 2),
    ("serve --host 0.0.0.0", 2),
    ("serve --host broker.example", 2),
    ("http-auth --listen 127.0.0.1:0 --broker mqtt://127.0.0.1:1 --broker-ca ca.pem", 2),
    ("http-auth --listen 127.0.0.1:0 --broker-ca ca.pem", 2),
    ("swarm run soak --target foo", 2),
    ("swarm", 2),
    ("mosquitto", 2),
    ("doctor --broker mqtt://127.0.0.1:1 --tls-ca authority.pem", 2),
]


@pytest.mark.parametrize(("arguments", "status"), WRONG)
def test_what_is_wrong_is_one_line_and_a_status(cli: Cli, arguments: str, status: int) -> None:
    """No traceback, nothing on stdout, one line on stderr, and the exit status of its kind."""
    result = cli(*arguments.split())
    assert (result.status, result.out) == (status, "")
    assert result.err.startswith("error: ")
    assert result.err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ("token create --expires 0d", "'--expires'"),
        ("token create --max-registrations -5", "'--max-registrations': '-5'"),
        ("device list --stale 1w", "'--stale'"),
        ("token show nothing", "see: mqttprov token list"),
        ("token create --output-file none/x", "error: none/x: No such file or directory\n"),
        ("tokne", "Did you mean 'token'? see: mqttprov --help\n"),
        ("request --secret-file {pem} --key k --csr-file none.csr", "name a file with a signing request"),
        ("ca rotate --certificate none.pem --private-key {pem}", "none.pem cannot be read: No such file or directory;"),
        ("request --timeout-s nan", "'--timeout-s'"),
        ("swarm sweep soak --p99-ms nan", "'--p99-ms'"),
        ("swarm sweep soak --p99-ms 5 --least nan", "'--least'"),
    ],
)
def test_an_error_names_what_it_is_about(state: Path, arguments: str, text: str) -> None:
    """Which option, which file, and what to do."""
    result = mqttprov("--state", str(state), *arguments.format(pem=state / "authority.pem").split())
    assert text in result.err
    assert result.status in (1, 2, 3, 6)
    assert result.err.count("\n") == 1


def test_a_page_may_be_larger_than_any_fleet(cli: Cli) -> None:
    """A number that SQLite could not hold is a page of all devices."""
    cli("device", "create", "gw-1", "--profile", "default")
    result = cli("device", "list", "--limit", "9" * 30, "--json")
    assert [row["name"] for row in result.data] == ["gw-1"]


@pytest.mark.parametrize(
    "arguments", [["--help"], [], ["token", "--help"], ["serve", "--help"], ["token", "create", "--help"]]
)
def test_help_is_data(arguments: list[str]) -> None:
    """Help goes to stdout and is no error."""
    result = mqttprov(*arguments)
    assert (result.status, result.err) == (0, "")
    assert result.out.startswith("Usage: mqttprov")


@pytest.mark.parametrize("verb", ["profile list", "token create", "device show x", "audit verify", "serve"])
def test_without_a_state_directory_it_says_what_to_run(tmp_path: Path, verb: str) -> None:
    """Exit status 6 and the command that makes one."""
    result = mqttprov(*verb.split(), "--state", str(tmp_path / "nothing"))
    assert result.status == 6
    assert "run 'mqttprov init" in result.err


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (lambda state: (state / "mqttprov.db").write_bytes(b"nonsense" * 2000), "database"),
        (lambda state: os.truncate(state / "mqttprov.db", 5000), "restore it from a backup"),
        (lambda state: os.truncate(state / "mqttprov.db", 0), "is empty"),
        (lambda state: (state / "keys" / "pepper").unlink(), "pepper"),
        (lambda state: (state / "keys" / "pepper").chmod(0o644), "chmod 600"),
        (lambda state: (state / "keys" / "pepper").unlink(), "No such file or directory; restore it"),
        (lambda state: (state / "mqttprov.toml").write_text("[serve]\nprt = 1\n"), "did you mean 'serve.port'"),
    ],
)
def test_a_damaged_state_directory_is_told(cli: Cli, state: Path, damage: Callable[[Path], None], text: str) -> None:
    """Exit status 6, the file that is wrong and what to do."""
    damage(state)
    result = cli("token", "list")
    assert (result.status, result.out) == (6, "")
    assert text in result.err
    assert result.err.count("\n") == 1


def test_a_file_that_the_system_protects_is_denied(cli: Cli, state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit status 4 when this user may not read the keys."""

    def deny(self: Path, *_: object, **__: object) -> str:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "read_text", deny)
    assert cli("token", "list").status == 4


def test_a_path_that_the_system_protects_is_denied(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit status 4 when this user may not enter the state directory, and who may."""
    monkeypatch.setattr("os.access", lambda *_, **__: False)
    result = mqttprov("token", "list", "--state", str(state))
    assert (result.status, result.out) == (4, "")
    assert result.err.endswith("is not readable by this user; run this as its owner\n")


def test_a_damaged_authority_is_told(cli: Cli, state: Path) -> None:
    """`ca show` names the file."""
    (state / "authority.pem").write_text("garbage")
    result = cli("ca", "show")
    assert (result.status, result.out) == (6, "")
    assert result.err.startswith("error: authority.pem: ")


def test_arguments_that_are_not_text_are_refused(state: Path) -> None:
    """Bytes that are not UTF-8 are no name of anything."""
    result = subprocess.run(
        [*command("device", "show"), b"\xff\xfe", "--state", str(state)], capture_output=True, check=False
    )
    assert (result.returncode, result.stderr) == (
        2,
        b"error: the command line holds bytes that are not UTF-8; type it again\n",
    )


def test_an_interruption_is_quiet(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C ends with 130 and without a traceback."""

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("mqttprov.admin.verify", interrupt)
    result = mqttprov("audit", "verify", "--state", str(state))
    assert (result.status, result.out, result.err) == (130, "", "")


def test_every_expected_error_has_a_documented_status() -> None:
    """The table of exit statuses is complete."""
    assert set(MEANINGS) == set(Exit)
    for kind in EXPECTED:
        assert exit_status(kind("x")) in MEANINGS


def test_a_server_comes_up_though_its_log_is_on_a_full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """P9: what cannot be told is left untold; `serve` and `respond` go on."""
    with open("/dev/full", "w") as full:  # noqa: PTH123 - a device, not a file of ours
        monkeypatch.setattr("sys.stderr", full)
        output.say("listening on mqtt://127.0.0.1:1883")
        monkeypatch.undo()
        with contextlib.suppress(OSError):
            full.close()


def test_control_characters_of_stored_data_are_never_printed(cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    """What a terminal would obey or hide comes out as \\uXXXX, in columns, fields, talk and JSON alike."""
    evil = "a\x1b[2J\x07\x9b\u202e\U000e0001b"
    shown = "a\\u001b[2J\\u0007\\u009b\\u202e\\udb40\\udc01b"
    output.emit_columns([{"x": evil}], {"x": "X"})
    output.emit_fields({"x": evil})
    output.emit_json({"x": evil})
    output.emit_json_rows([{"x": evil}])
    output.say(evil)
    captured = capsys.readouterr()
    assert captured.out == f'X\n{shown}\nx  {shown}\n{{"x":"{shown}"}}\n[{{"x":"{shown}"}}]\n'
    assert captured.err == f"{shown}\n"
    missing = cli("device", "show", evil)
    assert missing.status == 3
    assert "\x1b" not in missing.err


@pytest.mark.parametrize(
    ("text", "ms"), [("90s", 90_000), ("45m", 2_700_000), ("12h", 43_200_000), ("30d", 2_592_000_000)]
)
def test_durations_are_read(text: str, ms: int) -> None:
    """Seconds, minutes, hours and days."""
    assert values.duration_ms(text, "--expires") == ms


def test_the_reference_page_is_that_of_this_program() -> None:
    """docs/reference/cli.md is what `python -m mqttprov.cli.reference` writes."""
    assert (ROOT / "docs" / "reference" / "cli.md").read_text("utf-8") == page()


def test_a_verb_loads_only_what_it_needs(state: Path) -> None:
    """`token list` starts without broker, simulator, gateway, X.509 or rich."""
    code = (
        "import sys; from mqttprov.cli.main import run; run(sys.argv[1:]); "
        "print(*sorted({m.split('.')[0] + '.' + (m.split('.') + [''])[1] for m in sys.modules}))"
    )
    listed = subprocess.run(
        [command()[0], "-c", code, "token", "list", "--state", str(state)], capture_output=True, text=True, check=True
    )
    loaded = set(listed.stdout.splitlines()[-1].split())
    heavy = {
        "mqttprov.brokers",
        "mqttprov.gateway",
        "mqttprov.mqtt",
        "mqttprov.pki",
        "cryptography.x509",
        "asyncio.events",
    }
    assert not loaded & heavy
    assert not [name for name in loaded if name.startswith(("mqttprov_simulator", "rich.", "paho", "uvloop"))]


def test_a_closed_pipe_is_no_traceback(state: Path) -> None:
    """`mqttprov ... | head` ends quietly."""
    head = shutil.which("true")
    assert head is not None
    shell = f"{' '.join(command('audit', 'tail', '--state', str(state)))} | {head}"
    result = subprocess.run(["/bin/sh", "-c", shell], capture_output=True, check=False)
    assert result.stderr == b""


def test_run_gives_the_status_of_this_process() -> None:
    """`run` is what the console script exits with."""
    assert run(["--help"]) == 0


@pytest.mark.parametrize(
    "arguments", [("--state-dir", "", "init"), ("init", "--state", ""), ("device", "list", "--state-dir=")]
)
def test_a_state_directory_that_an_unset_variable_names_is_refused(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    """It is not the current directory: nothing is made there."""
    result = mqttprov(*arguments)
    assert (result.status, result.err.count("\n")) == (2, 1)
    assert "--state-dir names no directory" in result.err
    assert not list(tmp_path.iterdir())


def test_the_version_is_told() -> None:
    """Name and version, as packages have them."""
    result = mqttprov("--version")
    assert result == (0, f"mqttprov {version('mqttprov')}\n", "")
