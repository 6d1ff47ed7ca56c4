"""Our own broker with the responder in it: `mqttprov serve` as a child, on a state directory of its own."""

import platform
import sqlite3
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from mqttprov import __version__
from mqttprov_simulator.running.values import Endpoint
from mqttprov_simulator.scenario.model import Scenario, TargetFault
from mqttprov_simulator.targets.own_state import allow_broker, needs_tls, no_room, own_leash, own_state, settings_of
from mqttprov_simulator.targets.part import Part
from mqttprov_simulator.targets.ports import free_ports
from mqttprov_simulator.targets.preparing import Prepared

_HOST: Final = "127.0.0.1"


class EmbeddedTarget:
    """A `mqttprov serve` that runs (a `Target`). Broker and responder are one process: a fault strikes both."""

    def __init__(self, part: Part, endpoint: Endpoint, prepared: Prepared, state: Path) -> None:
        self.name: Final = "embedded"
        self.endpoints: Final = (endpoint,)
        self.tokens: Final = prepared.tokens
        self.operator: Final = prepared.operator
        self.state: Final = state
        self.about: Final = {
            "broker": f"mqttprov {__version__}, embedded",
            "responder": "in the broker's process: a fault of the responder is one of the broker too",
            "python of the broker": platform.python_version(),
            "SQLite": sqlite3.sqlite_version,
            "nodelay": "on",
            **settings_of(state),
        }
        self._part: Final = part

    def pids(self) -> dict[str, int]:
        """Give the one process, as long as it runs."""
        pid = self._part.pid
        return {} if pid is None else {"broker": pid}

    def strike(self, fault: TargetFault) -> None:
        """Begin a fault (`Target.strike`); every kind is possible."""
        self._part.strike(fault)

    def heal(self, fault: TargetFault) -> None:
        """End a fault (`Target.heal`)."""
        self._part.heal(fault)

    def trouble(self) -> str | None:
        """Say what is wrong when the process has ended by itself (`Target.trouble`)."""
        return self._part.trouble()


@contextmanager
def embedded(scenario: Scenario, *, serve: Sequence[str] | None = None) -> Iterator[EmbeddedTarget]:
    """Start it with what the scenario needs; afterwards nothing of it is left.

    `serve`: another command than `mqttprov serve`, without options.

    Raises TargetError.
    """
    allow_broker(scenario)
    with own_leash() as leash:
        folder, state = leash.folder, leash.folder / "state"
        prepared = own_state(state, scenario)
        tls = needs_tls(scenario)
        ports = free_ports(2)
        options = ["--state", str(state), "--host", _HOST, "--port", str(ports[0]), "--json"]
        options += ["--tls-port", str(ports[1])] if tls else []
        part = Part(
            "broker",
            [*(serve or (sys.executable, "-m", "mqttprov", "serve")), *options],
            folder / "serve.log",
            leash,
            says=True,
            port=ports[0],
            grown=lambda: no_room(state),
        )
        endpoint = Endpoint(
            host=_HOST,
            port=ports[0],
            tls_port=ports[1] if tls else None,
            ca_pem=(state / "authority.pem").read_text("ascii") if tls else None,
        )
        try:
            part.start()
            yield EmbeddedTarget(part, endpoint, prepared, state)
        finally:
            part.end()
