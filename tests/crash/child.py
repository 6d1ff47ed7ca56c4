"""A broker as a process of its own, to be killed at any moment. No test lives here."""

import asyncio
import contextlib
import json
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

START_TIMEOUT_S: Final = 30.0
STOP_TIMEOUT_S: Final = 60.0

# `mqttprov serve` with everything logged that there is to log.
VERBOSE: Final = """
import logging, pathlib, sys
logging.basicConfig(level=logging.DEBUG)
from mqttprov.brokers.embedded import EmbeddedServer, serve
from mqttprov.responder.state_directory import StateDirectory
state = StateDirectory(pathlib.Path(sys.argv[1]))
tell = lambda urls: print('{"listening": ["' + '", "'.join(urls) + '"]}', flush=True)
serve(EmbeddedServer(state, host="127.0.0.1", port=int(sys.argv[2]), tls_port=0), tell)
"""


class Child:
    """`mqttprov serve` on one state directory; what it writes to stderr is kept in `log` over all its lives."""

    logs: Final = b"refused"  # among other things

    def __init__(self, state: Path, log: Path, *, verbose: bool = False) -> None:
        self.state = state
        self.log = log
        self.port = 0
        self.tls_port = 0
        self._verbose = verbose
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pids(self) -> list[int]:
        """The process ids."""
        assert self._process is not None
        return [self._process.pid]

    def _arguments(self) -> Sequence[str]:
        # The same port again after a kill, so that clients find it.
        if self._verbose:
            return ("-c", VERBOSE, str(self.state), str(self.port))
        return ("-m", "mqttprov", "serve", "--state", str(self.state), "--port", str(self.port), "--json")

    async def start(self) -> None:
        """Start it and wait until it listens."""
        with self.log.open("ab") as stderr:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, *self._arguments(), stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE, stderr=stderr,
            )  # fmt: skip
        assert self._process.stdout is not None
        async with asyncio.timeout(START_TIMEOUT_S):
            line = await self._process.stdout.readline()
        assert line, self.log.read_text()[-2000:]
        ports = [int(url.rsplit(":", 1)[1]) for url in json.loads(line)["listening"]]
        self.port, self.tls_port = ports[0], ports[-1]

    async def kill(self) -> None:
        """Kill it without a warning (SIGKILL)."""
        assert self._process is not None
        self._process.kill()
        assert await self._process.wait() == -signal.SIGKILL

    async def stop(self) -> None:
        """End it in good order and see that it ends well."""
        assert self._process is not None
        self._process.terminate()
        async with asyncio.timeout(STOP_TIMEOUT_S):
            assert await self._process.wait() == 0

    async def close(self) -> None:
        """Make sure that it is gone, whatever became of the test."""
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()
