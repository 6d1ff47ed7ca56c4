"""A target that a run started itself: its parts are processes of ours, its state directory is the run's own."""

import sqlite3
from pathlib import Path
from typing import Final

from mqttprov_simulator.running.values import Endpoint
from mqttprov_simulator.scenario.model import TargetFault
from mqttprov_simulator.targets.own_state import settings_of
from mqttprov_simulator.targets.part import Part
from mqttprov_simulator.targets.preparing import Prepared

HOST: Final = "127.0.0.1"


class OwnTarget:
    """A broker with its responder that runs here (a `Target`); every kind of fault is possible.

    `parts`: "broker", and "responder" unless that is in the broker's process. `about`: what is told of them beside what
    is so for all.
    """

    def __init__(
        self,
        name: str,
        about: dict[str, str],
        parts: dict[str, Part],
        endpoint: Endpoint,
        prepared: Prepared,
        state: Path,
    ) -> None:
        self.name: Final = name
        self.endpoints: Final = (endpoint,)
        self.tokens: Final = prepared.tokens
        self.operator: Final = prepared.operator
        self.state: Final = state
        self.about: Final = {**about, "SQLite": sqlite3.sqlite_version, "nodelay": "on", **settings_of(state)}
        self._parts: Final = parts

    def pids(self) -> dict[str, int]:
        """Give the processes that run, by part."""
        return {name: pid for name, part in self._parts.items() if (pid := part.pid) is not None}

    def strike(self, fault: TargetFault) -> None:
        """Begin a fault of a part (`Target.strike`)."""
        self._part_of(fault).strike(fault)

    def heal(self, fault: TargetFault) -> None:
        """End a fault (`Target.heal`)."""
        self._part_of(fault).heal(fault)

    def trouble(self) -> str | None:
        """Say what is wrong when a part has ended by itself (`Target.trouble`)."""
        return next((trouble for part in self._parts.values() if (trouble := part.trouble()) is not None), None)

    def _part_of(self, fault: TargetFault) -> Part:
        # Where both are one process, a fault strikes both.
        name = "broker" if fault.kind.startswith("broker") else "responder"
        return self._parts.get(name, self._parts["broker"])


def own_endpoint(state: Path, port: int, tls_port: int | None) -> Endpoint:
    """Give where gateways connect to; with TLS they trust the authority of this state directory."""
    ca_pem = None if tls_port is None else (state / "authority.pem").read_text("ascii")
    return Endpoint(host=HOST, port=port, tls_port=tls_port, ca_pem=ca_pem)
