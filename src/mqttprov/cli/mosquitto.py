"""`mqttprov mosquitto`: setting up Mosquitto with our gate plugin."""

import os
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from mqttprov.cli.errors import Exit, Failure
from mqttprov.cli.output import emit, emit_json, say
from mqttprov.cli.state import JsonOption, StateOption, state_path

app = typer.Typer(help="Run Mosquitto 2 with mqttprov: the gate plugin in it, a responder beside it.")


@app.callback()
def _mosquitto() -> None:
    """Run Mosquitto 2 with mqttprov: the gate plugin in it, a responder beside it."""


@app.command()
def install(
    prefix: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Directory for all files; with --system, what stands for / (an image)."),
    ] = None,
    system: Annotated[bool, typer.Option("--system", help="Use Debian's places and its mosquitto.service.")] = False,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port for plain MQTT, on loopback.")] = 1883,
    tls_port: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=65535,
            help="Port for MQTT over TLS, with and without a client certificate.",
            show_default="no TLS listener",
        ),
    ] = None,
    state: StateOption = None,
    json: JsonOption = False,
) -> None:
    """Build the gate plugin and write all that Mosquitto and the responder need.

    Run again it changes only what is not right. With --system the state directory is /var/lib/mqttprov.
    """
    if port == tls_port:
        raise Failure(f"--port and --tls-port are both {port}; give MQTT over TLS a port of its own", Exit.USAGE)
    from mqttprov.admin import now_ms
    from mqttprov.brokers.mosquitto.gate_build import GateNotBuilt
    from mqttprov.brokers.mosquitto.install import Installation, InstallError
    from mqttprov.brokers.mosquitto.places import SYSTEM_STATE, Places
    from mqttprov.responder.state_directory import StateDirectory

    if system:
        root = (prefix or Path("/")).absolute()
        if root == Path("/") and os.geteuid() != 0:
            raise Failure("--system writes below /etc and /usr; run it as root", Exit.DENIED)
        places = Places.of_system(root, SYSTEM_STATE if state is None else state_path(state).absolute())
    elif prefix is None:
        raise Failure("give --prefix DIR, or --system", Exit.USAGE)
    else:
        places = Places.below(prefix.absolute(), state_path(state).absolute())
    directory = StateDirectory(places.real(places.state))
    try:
        done = Installation(places, directory, [sys.executable, "-m", "mqttprov"], now_ms()).run(port, tls_port)
    except (GateNotBuilt, InstallError) as error:
        raise Failure(str(error)) from error
    finally:
        directory.close()
    start = _start(system=system, places_configuration=places.configuration, responder=places.responder)
    if json:
        steps = [{"done": step.done, "path": str(step.path)} for step in done.steps]
        emit_json({"steps": steps, "listeners": done.urls, "remarks": done.remarks, "start": start})
        return
    for step in done.steps:
        emit(f"{step.done:<8} {step.path}")
    for remark in done.remarks:
        say(remark)
    say(f"listeners: {', '.join(done.urls)}")
    say("Next:")
    for line in start:
        say(f"  {line}")


def _start(*, system: bool, places_configuration: Path, responder: Path) -> list[str]:
    if system:
        return ["systemctl daemon-reload", "systemctl restart mosquitto", "systemctl enable --now mqttprov-responder"]
    return [
        f"/usr/sbin/mosquitto -c {shlex.quote(str(places_configuration))}",
        f"mqttprov respond --config {shlex.quote(str(responder))}",
    ]
