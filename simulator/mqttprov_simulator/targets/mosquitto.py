"""The installed Mosquitto with our gate plugin, and `mqttprov respond` beside it, on a state directory of its own."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Final

from mqttprov import __version__
from mqttprov.admin import StateError, now_ms
from mqttprov.brokers.mosquitto.gate_build import GateNotBuilt, build_gate
from mqttprov.brokers.mosquitto.install import Installation, InstallError
from mqttprov.brokers.mosquitto.places import Places
from mqttprov.responder.state_directory import StateDirectory
from mqttprov_simulator.scenario.model import Scenario
from mqttprov_simulator.targets.own_state import allow_broker, needs_tls, no_room, own_leash, own_state
from mqttprov_simulator.targets.own_target import HOST, OwnTarget, own_endpoint
from mqttprov_simulator.targets.part import Part
from mqttprov_simulator.targets.ports import free_ports
from mqttprov_simulator.targets.target import TargetError

# Once for a process: a sweep starts one target after the other, and compiling takes seconds.
_built_gate: Final = cache(build_gate)
_VERSION_TIMEOUT_S: Final = 10.0
# Mosquitto's own choice, which no setting changes (src/net.c): more connections at once cost those beyond it a second.
_BACKLOG: Final = 100


@contextmanager
def mosquitto(scenario: Scenario) -> Iterator[OwnTarget]:
    """Start both with what the scenario needs; afterwards nothing of it is left.

    Raises TargetError, also when Mosquitto is not installed or the gate plugin cannot be compiled.
    """
    program = _program()
    mqttprov = [sys.executable, "-m", "mqttprov"]
    allow_broker(scenario)
    with own_leash() as leash:
        folder, state = leash.folder, leash.folder / "state"
        prepared = own_state(state, scenario)
        port, other = free_ports(2)
        tls_port = other if needs_tls(scenario) else None
        places = Places.below(folder / "mosquitto", state)
        _install(places, mqttprov, port, tls_port)
        broker = Part(
            "broker",
            [program, "-c", str(places.configuration)],
            folder / "mosquitto.log",
            leash,
            says=False,
            port=port,
        )
        responder = Part(
            "responder",
            [*mqttprov, "respond", "--config", str(places.responder), "--json"],
            folder / "respond.log",
            leash,
            says=True,
            grown=lambda: no_room(state),
        )
        about = {
            "broker": f"{_version(program)} with the gate of mqttprov {__version__}",
            "responder": f"mqttprov {__version__}, one process",
            "backlog": str(_BACKLOG),
        }
        endpoint = own_endpoint(state, port, tls_port)
        parts = {"broker": broker, "responder": responder}
        try:
            for part in parts.values():
                part.start()
            yield OwnTarget("mosquitto", about, parts, endpoint, prepared, state)
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
    places.configuration.write_text(re.sub(r"^(listener \d+)$", rf"\1 {HOST}", text, flags=re.MULTILINE))
