"""`mqttprov simulate` and `mqttprov demo`: fleets of virtual gateways against a broker, or against one of their own.

The swarm is loaded by these verbs only.
"""

import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import msgspec
import typer

from mqttprov.cli import values
from mqttprov.cli.errors import Exit, Failure
from mqttprov.cli.output import emit_json
from mqttprov.cli.request import FROM_FILE_HELP, CaOption, HostOption, KeyOption, PortOption
from mqttprov.cli.state import JsonOption

if TYPE_CHECKING:
    from rich.console import Console

    from mqttprov_simulator.results import Summary

_GIVE_UP_AFTER_REFUSALS: Final = 5  # about ten seconds of a gateway's patience: an exhausted token must not hold it up
_LEAST_TIME_S: Final = 60.0
_SLOWEST_PER_S: Final = 100.0

GatewaysOption = Annotated[int, typer.Option(metavar="N", min=1, max=1_000_000, help="How many gateways.")]


def simulate(
    secret_file: Annotated[Path, typer.Option(metavar="F", help=FROM_FILE_HELP)],
    key: KeyOption = None,
    gateways: GatewaysOption = 1000,
    rate: Annotated[
        float | None,
        typer.Option(
            metavar="R", min=0.001, help="Gateways that start per second.", show_default="as fast as 128 at once can"
        ),
    ] = None,
    host: HostOption = "127.0.0.1",
    port: PortOption = 1883,
    tls_ca: CaOption = None,
    json: JsonOption = False,
) -> None:
    """Register many virtual gateways with a broker and say how long it took them.

    Exit status 1 when a gateway was not registered. A refused gateway tries five times.
    """
    from mqttprov_simulator.host import HostLimitError
    from mqttprov_simulator.live import LiveView
    from mqttprov_simulator.plan import SwarmPlan
    from mqttprov_simulator.swarm import SwarmError, run_swarm

    key, secret = values.registration_token(key, values.text_from_file(secret_file))
    _end_on_sigterm()
    try:
        plan = SwarmPlan(
            host=host,
            port=port,
            key=key,
            secret=secret,
            gateways=gateways,
            rate_per_s=rate,
            tls_ca_file=tls_ca,
            timeout_s=_LEAST_TIME_S + gateways / (rate or _SLOWEST_PER_S),
            give_up_after_refusals=_GIVE_UP_AFTER_REFUSALS,
        )
    except ValueError as error:
        raise Failure(str(error), Exit.USAGE) from error
    try:
        with LiveView(progress_console(stderr=True), live=True) as view:
            summary = run_swarm(plan, on_progress=view.update).summary
    except (SwarmError, HostLimitError) as error:
        raise Failure(str(error)) from error
    _tell(summary, json=json)


def demo(gateways: GatewaysOption = 1000, json: JsonOption = False) -> None:
    """Show it all: a broker of its own, a fleet that registers with it, and what the store says about it.

    Needs no state directory and leaves nothing behind.
    """
    from mqttprov_simulator.demo import DemoError, run_demo
    from mqttprov_simulator.host import HostLimitError
    from mqttprov_simulator.swarm import SwarmError

    _end_on_sigterm()
    try:
        summary = run_demo(gateways=gateways, console=progress_console(stderr=True), live=True)
    except (DemoError, SwarmError, HostLimitError) as error:
        raise Failure(str(error)) from error
    _tell(summary, json=json)


def _end_on_sigterm() -> None:
    """Let SIGTERM end a run like Ctrl-C, so that what it started ends with it."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def progress_console(*, stderr: bool = False) -> "Console":
    """Give the console for progress and summaries; off a terminal nothing is wrapped."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    return Console(file=stream, width=None if stream.isatty() else 200)


def _tell(summary: "Summary", *, json: bool) -> None:
    if json:
        emit_json(msgspec.to_builtins(summary))
    else:
        from mqttprov_simulator.live import print_summary

        print_summary(summary, progress_console())
    if summary.failed or summary.audit_verified is False:
        raise typer.Exit(Exit.FAILED)
