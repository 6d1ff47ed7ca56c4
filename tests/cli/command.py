"""Running the command: in this process for speed, or as a person does."""

import contextlib
import io
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from mqttprov.cli.main import run


class Result(NamedTuple):
    """How a command ended."""

    status: int
    out: str
    err: str

    @property
    def data(self) -> Any:
        """What it printed as JSON."""
        return msgspec.json.decode(self.out)


class Served(NamedTuple):
    """A state directory that is served."""

    state: Path
    port: int
    key: str
    secret_file: Path

    @property
    def secret(self) -> str:
        """The provisionDeviceSecret."""
        return self.secret_file.read_text().strip()

    def at(self) -> list[str]:
        """Give the options by which verbs find broker, key and secret."""
        return ["--port", str(self.port), "--key", self.key, "--secret-file", str(self.secret_file)]


def mqttprov(*arguments: str) -> Result:
    """Run the command in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = run(arguments)
    return Result(status, out.getvalue(), err.getvalue())


def command(*arguments: str) -> list[str]:
    """Give the command line of a process."""
    return [sys.executable, "-m", "mqttprov", *arguments]


@contextlib.contextmanager
def start(*arguments: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """Start the command as a process, which is gone afterwards."""
    process = subprocess.Popen(
        command(*arguments),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )
    try:
        with process:
            yield process
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
