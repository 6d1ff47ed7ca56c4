"""`mqttprov swarm run` and `doctor`: a scenario from a file to a verdict, and errors that say what to do."""

import os
import signal
import subprocess
from pathlib import Path

import msgspec
import pytest
from tests.cli.command import command, mqttprov

from mqttprov_simulator.report.result import RunResult

SCENARIO = """\
name = "small"
summary = "Ten gateways."
[[group]]
name = "town"
gateways = 10
arrivals = { kind = "storm", within_s = 0.2 }
[stop]
hold_s = 0.1
"""


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A scenario in a file."""
    path = tmp_path / "small.toml"
    path.write_text(SCENARIO)
    return path


def test_a_scenario_is_played_and_its_result_kept(small: Path, tmp_path: Path) -> None:
    """Result and page are written, stdout is the result, the exit status the verdict's; nothing is left behind."""
    out, page, temporary = tmp_path / "out.json", tmp_path / "page.html", tmp_path / "temporary"
    temporary.mkdir()
    options = ("--seed", "5", "--gateways", "6", "--out", str(out), "--report", str(page), "--json")
    done = subprocess.run(
        command("swarm", "run", str(small), *options),
        capture_output=True, check=False, timeout=120, env={**os.environ, "TMPDIR": str(temporary)},
    )  # fmt: skip
    result = msgspec.json.decode(out.read_bytes(), type=RunResult)
    assert msgspec.json.decode(done.stdout, type=RunResult) == result
    assert (result.registered, result.expected, result.seed, result.errors) == (6, 6, 5, ())
    assert [check.promise for check in result.checks if check.state == "broken"] == []
    assert done.returncode == (0 if result.verdict.state == "passed" else 1)
    assert result.command == f"mqttprov swarm run {small} --target embedded --gateways 6 --seed 5"
    assert b"6 gateways against embedded" in done.stderr
    assert b"registered" in done.stderr
    assert page.read_text().startswith("<!doctype html>")
    assert list(temporary.iterdir()) == []


def test_ctrl_c_ends_a_run_with_what_there_is(small: Path, tmp_path: Path) -> None:
    """The result says so, the exit status is that of an interruption, and what was started has ended."""
    small.write_text(SCENARIO.replace("hold_s = 0.1", "hold_s = 300"))
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    process = subprocess.Popen(
        command("swarm", "run", str(small), "--json"),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        env={**os.environ, "TMPDIR": str(temporary)},
    )  # fmt: skip
    assert process.stderr is not None
    while b"registered 10/10" not in process.stderr.readline():
        assert process.poll() is None
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all of its processes
    stdout, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    result = msgspec.json.decode(stdout, type=RunResult)
    assert result.registered == 10
    assert "ended early" in result.errors[0]
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("swarm", "run", "no-such-scenario"), "no-such-scenario"),
        (("swarm", "run", "soak", "--key", "k"), "--key needs --secret-file"),
        (("swarm", "run", "soak", "--target", "ftp://here"), "give embedded, mosquitto, mqtt://HOST:PORT"),
        (("swarm", "run", "soak", "--tls-ca", "ca.pem"), "of its own; leave out"),
        (("swarm", "run", "soak", "--target", "mqtt://a,mqtts://b"), "mqtts:// for all"),
        (("swarm", "doctor", "--target", "mqtt://a,here"), "'here' is no target"),
        (("swarm", "run", "broker-restart", "--target", "mqtt://127.0.0.1:9"), "leave these faults out"),
        (("swarm", "run", "soak", "--cluster", "nonsense://x"), "no Dask scheduler at nonsense://x"),
        (("swarm", "run", "soak", "--gateways", "100000"), "open files"),
        (("swarm", "run", "soak", "--out", "/no/such/place.json"), "there is no directory /no/such"),
        (("swarm", "run", "soak", "--report", "/"), "/ is a directory; name a file"),
    ],
)
def test_what_cannot_be_run_is_told_in_one_line(arguments: tuple[str, ...], text: str) -> None:
    """Before anything is started, with what to write instead."""
    done = mqttprov(*arguments)
    assert done.status in {1, 2}
    assert text in done.err
    assert done.out == ""


def test_the_doctor_says_how_large_a_fleet_can_be() -> None:
    """A small one fits; one that is too large ends with the status of something found, and the same largest one."""
    small = mqttprov("swarm", "doctor", "--gateways", "10", "--json")
    told = msgspec.json.decode(small.out)
    assert small.status == 0
    assert {finding["check"] for finding in told["findings"]} >= {"open files", "ports", "memory", "cores", "backlog"}
    large = mqttprov("swarm", "doctor", "--gateways", "1000000")
    assert large.status == 7
    assert "too small" in large.out
    assert "the largest honest fleet here" in large.err
