"""Our own broker with the responder in it: `mqttprov serve` as a child, on a state directory of its own."""

import platform
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from mqttprov import __version__
from mqttprov_simulator.scenario.model import Scenario
from mqttprov_simulator.targets.own_state import allow_broker, needs_tls, no_room, own_leash, own_state
from mqttprov_simulator.targets.own_target import HOST, OwnTarget, own_endpoint
from mqttprov_simulator.targets.part import Part
from mqttprov_simulator.targets.ports import free_ports


@contextmanager
def embedded(scenario: Scenario, *, serve: Sequence[str] | None = None) -> Iterator[OwnTarget]:
    """Start it with what the scenario needs; afterwards nothing of it is left.

    `serve`: another command than `mqttprov serve`, without options.

    Raises TargetError.
    """
    allow_broker(scenario)
    with own_leash() as leash:
        folder, state = leash.folder, leash.folder / "state"
        prepared = own_state(state, scenario)
        port, other = free_ports(2)
        tls_port = other if needs_tls(scenario) else None
        options = ["--state", str(state), "--host", HOST, "--port", str(port), "--json"]
        options += [] if tls_port is None else ["--tls-port", str(tls_port)]
        part = Part(
            "broker",
            [*(serve or (sys.executable, "-m", "mqttprov", "serve")), *options],
            folder / "serve.log",
            leash,
            says=True,
            port=port,
            grown=lambda: no_room(state),
        )
        about = {
            "broker": f"mqttprov {__version__}, embedded",
            "responder": "in the broker's process: a fault of the responder is one of the broker too",
            "python of the broker": platform.python_version(),
        }
        endpoint = own_endpoint(state, port, tls_port)
        try:
            part.start()
            yield OwnTarget("embedded", about, {"broker": part}, endpoint, prepared, state)
        finally:
            part.end()
