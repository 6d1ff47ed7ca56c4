"""A worker as a process: lines in, lines out, and its end when it is told, or when nobody is there any more."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec
import pytest
from tests.simulator.running.harness import LINE, plan

from mqttprov_simulator.running.values import (
    Assignment,
    Begin,
    Endpoint,
    Failure,
    FromWorker,
    Ready,
    Recording,
    TokenKey,
)
from mqttprov_simulator.scenario.model import Stop

_COMMAND = [sys.executable, "-m", "mqttprov_simulator.running.worker"]


@contextmanager
def _process() -> Iterator["subprocess.Popen[bytes]"]:
    process = subprocess.Popen(_COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()


def _write(process: "subprocess.Popen[bytes]", value: object) -> None:
    assert process.stdin is not None
    process.stdin.write(msgspec.json.encode(value) + b"\n")
    process.stdin.flush()


def _said(process: "subprocess.Popen[bytes]") -> Iterator[FromWorker]:
    assert process.stdout is not None
    for line in process.stdout:
        yield msgspec.json.decode(line, type=FromWorker)


@pytest.mark.parametrize("end", ["SIGTERM", "end of stdin"])
def test_a_process_begins_and_ends_as_it_is_told(end: str) -> None:
    """Ready, begin, moments, recording; Ctrl-C is none of its business. Nobody listens at its target."""
    with _process() as process:
        assert process.stdin is not None
        _write(process, Assignment(
            scenario=plan(LINE, stop=Stop(timeout_s=60)), worker=0, workers=1, starts_at=0,
            endpoints=(Endpoint(host="127.0.0.1", port=1),), tokens={"default/default": TokenKey("key", "secret")},
        ))  # fmt: skip
        said = _said(process)
        assert isinstance(next(said), Ready)
        process.send_signal(signal.SIGINT)
        _write(process, Begin(time.time()))
        next(said)
        if end == "SIGTERM":
            process.send_signal(signal.SIGTERM)
        else:
            process.stdin.close()
        *_, last = said
        assert isinstance(last, Recording)
        assert "Connection refused" in last.lost_connections
        assert process.wait(30) == 0


def test_nonsense_is_a_failure() -> None:
    """With a status that says so."""
    with _process() as process:
        out, err = process.communicate(b"Good morning\n", timeout=30)
        assert isinstance(msgspec.json.decode(out, type=FromWorker), Failure)
        assert (process.returncode, err) == (1, b"")
