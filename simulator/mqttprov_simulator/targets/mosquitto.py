"""The installed Mosquitto with our gate plugin, and `mqttprov respond` beside it, on a state directory of its own."""

import os
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Final

from mqttprov import __version__
from mqttprov.admin import StateError, now_ms
from mqttprov.brokers.mosquitto.gate_build import GateNotBuilt, build_gate
from mqttprov.brokers.mosquitto.install import Installation, InstallError
from mqttprov.brokers.mosquitto.places import Places
from mqttprov.responder.state_directory import StateDirectory
from mqttprov_simulator.running.values import Endpoint
from mqttprov_simulator.scenario.model import Scenario, TargetFault
from mqttprov_simulator.targets.own_state import allow_broker, needs_tls, no_room, own_leash, own_state, settings_of
from mqttprov_simulator.targets.part import Part
from mqttprov_simulator.targets.ports import free_ports
from mqttprov_simulator.targets.preparing import Prepared
from mqttprov_simulator.targets.target import TargetError

_HOST: Final = "127.0.0.1"
# Once for a process: a sweep starts one target after the other, and compiling takes seconds.
_built_gate: Final = cache(build_gate)
_VERSION_TIMEOUT_S: Final = 10.0
# Mosquitto's own choice, which no setting changes (src/net.c): more connections at once cost those beyond it a second.
_BACKLOG: Final = 100


class MosquittoTarget:
    """A Mosquitto and a responder that run (a `Target`)."""

    def __init__(
        self, version: str, parts: dict[str, Part], endpoint: Endpoint, prepared: Prepared, state: Path
    ) -> None:
        self.name: Final = "mosquitto"
        self.endpoints: Final = (endpoint,)
        self.tokens: Final = prepared.tokens
        self.operator: Final = prepared.operator
        self.state: Final = state
        self.about: Final = {
            "broker": f"{version} with the gate of mqttprov {__version__}",
            "responder": f"mqttprov {__version__}, one process",
            "SQLite": sqlite3.sqlite_version,
            "nodelay": "on",
            "backlog": str(_BACKLOG),
            **settings_of(state),
        }
        self._parts: Final = parts

    def pids(self) -> dict[str, int]:
        """Give the processes that run, by part."""
        return {name: pid for name, part in self._parts.items() if (pid := part.pid) is not None}

    def strike(self, fault: TargetFault) -> None:
        """Begin a fault of one of the two (`Target.strike`); every kind is possible."""
        self._part_of(fault).strike(fault)

    def heal(self, fault: TargetFault) -> None:
        """End a fault (`Target.heal`)."""
        self._part_of(fault).heal(fault)

    def trouble(self) -> str | None:
        """Say what is wrong when one of them has ended by itself (`Target.trouble`)."""
        return next((trouble for part in self._parts.values() if (trouble := part.trouble()) is not None), None)

    def _part_of(self, fault: TargetFault) -> Part:
        return self._parts["broker" if fault.kind.startswith("broker") else "responder"]


@contextmanager
def mosquitto(scenario: Scenario) -> Iterator[MosquittoTarget]:
    """Start both with what the scenario needs; afterwards nothing of it is left.

    Raises TargetError, also when Mosquitto is not installed or the gate plugin cannot be compiled.
    """
    program = _program()
    mqttprov = [sys.executable, "-m", "mqttprov"]
    allow_broker(scenario)
    with own_leash() as leash:
        folder, state = leash.folder, leash.folder / "state"
        prepared = own_state(state, scenario)
        tls = needs_tls(scenario)
        ports = free_ports(2)
        places = Places.below(folder / "mosquitto", state)
        _install(places, mqttprov, ports[0], ports[1] if tls else None)
        broker = Part(
            "broker",
            [program, "-c", str(places.configuration)],
            folder / "mosquitto.log",
            leash,
            says=False,
            port=ports[0],
        )
        responder = Part(
            "responder",
            [*mqttprov, "respond", "--config", str(places.responder), "--json"],
            folder / "respond.log",
            leash,
            says=True,
            grown=lambda: no_room(state),
        )
        endpoint = Endpoint(
            host=_HOST,
            port=ports[0],
            tls_port=ports[1] if tls else None,
            ca_pem=(state / "authority.pem").read_text("ascii") if tls else None,
        )
        parts = {"broker": broker, "responder": responder}
        try:
            for part in parts.values():
                part.start()
            yield MosquittoTarget(_version(program), parts, endpoint, prepared, state)
        finally:
            try:
                responder.end()
            finally:
                broker.end()


def _program() -> str:
    # Distributions keep it where only administrators look.
    program = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if program is None:
        raise TargetError("Mosquitto is not installed; run as root: apt-get install mosquitto")
    return program


def _version(program: str) -> str:
    told = subprocess.run(  # noqa: S603 - the program that runs anyway
        [program, "-h"], capture_output=True, text=True, timeout=_VERSION_TIMEOUT_S, check=False
    )
    found = re.search(r"mosquitto version ([\w.-]+)", told.stdout)
    return f"Mosquitto {found[1]}" if found else "Mosquitto of an unknown version"


def _install(places: Places, mqttprov: Sequence[str], port: int, tls_port: int | None) -> None:
    """Do what `mqttprov mosquitto install --prefix` does, with all listeners on loopback. Raises TargetError."""
    try:
        directory = StateDirectory(places.state)
        try:
            Installation(places, directory, mqttprov, now_ms(), _built_gate).run(port, tls_port)
        finally:
            directory.close()
    except (GateNotBuilt, InstallError, StateError, OSError) as error:
        raise TargetError(f"Mosquitto cannot be set up: {error}") from error
    text = places.configuration.read_text("utf-8")
    places.configuration.write_text(re.sub(r"^(listener \d+)$", rf"\1 {_HOST}", text, flags=re.MULTILINE))
