"""Mosquitto with a responder beside it, to be killed at any moment, as `child` has `serve`. No test lives here."""

import contextlib
import signal
import sys
from pathlib import Path
from typing import Final

from tests.brokers.mosquitto.beside import Mosquitto, Process

from mqttprov.brokers.responder_run import now_ms
from mqttprov.brokers.tls import make_server_certificate
from mqttprov.responder.state_directory import StateDirectory

# `mqttprov respond` with everything logged that there is to log.
VERBOSE: Final = """
import logging, pathlib, sys
logging.basicConfig(level=logging.DEBUG)
from mqttprov.brokers.sidecar import address_of, read_password, respond
from mqttprov.responder.state_directory import StateDirectory
state, password = map(pathlib.Path, sys.argv[2:])
tell = lambda url: print(url, flush=True)
respond(StateDirectory(state), address_of(sys.argv[1]), read_password(password), on_connected=tell)
"""


class BesideChild:
    """Both on one state directory; what Mosquitto writes is beside the responder's `log`."""

    logs: Final = b"stopping"  # among other things; refusals are Mosquitto's to log

    def __init__(self, state: Path, log: Path, plugin: Path) -> None:
        self.state = state
        self.log = log
        with contextlib.closing(StateDirectory(state)) as opened:
            files = make_server_certificate(opened.authority, "127.0.0.1", state, now_ms())
        quiet = ("connection_messages false",)  # as `mqttprov mosquitto install` has it, for the sake of this
        self._mosquitto = Mosquitto(log.parent, state, plugin, tls=files, settings=quiet)
        self._responder = Process(log)
        self.port, self.tls_port = self._mosquitto.port, self._mosquitto.tls_port

    @property
    def pids(self) -> list[int]:
        """The process ids."""
        return [self._mosquitto.pid, self._responder.pid]

    async def start(self) -> None:
        """Start them and wait until requests are answered."""
        await self._mosquitto.start()
        await self._responder.run(
            *(sys.executable, "-c", VERBOSE, f"mqtt://127.0.0.1:{self.port}", str(self.state)),
            str(self._mosquitto.password_file),
        )
        await self._responder.line()

    async def kill(self) -> None:
        """Kill both without a warning (SIGKILL)."""
        for process in (self._responder, self._mosquitto):
            assert await process.end(signal.SIGKILL) == -signal.SIGKILL

    async def stop(self) -> None:
        """End them in good order and see that they end well."""
        for process in (self._responder, self._mosquitto):
            assert await process.end() == 0

    async def close(self) -> None:
        """Make sure that they are gone, whatever became of the test."""
        for process in (self._responder, self._mosquitto):
            if process.is_running:
                await process.end(signal.SIGKILL)
