"""`mqttprov gateway`: our own gateway, for a device or for trying things out."""

import logging
import os
import signal
from pathlib import Path
from typing import Annotated

import typer

from mqttprov.admin import now_ms
from mqttprov.cli.errors import Exit, Failure
from mqttprov.cli.output import emit, emit_json, iso_time, log_to_stderr
from mqttprov.cli.state import JsonOption, OwnTopicsOption

app = typer.Typer(help="The gateway: provisions itself once and stays online.")


@app.callback()
def _gateway() -> None:
    """Keep `run` a verb of its own, although there is only one."""


@app.command()
def run(
    directory: Annotated[
        Path, typer.Option("--dir", metavar="DIR", help="Its own directory: identity, credentials, certificates.")
    ],
    host: Annotated[str, typer.Option(help="The broker.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Its port; 8883 means TLS.")] = 1883,
    heartbeat_s: Annotated[
        float, typer.Option(min=0.1, help="Seconds between two heartbeats, sent as telemetry.")
    ] = 60.0,
    csr: Annotated[
        bool,
        typer.Option("--csr", help="Ask for a certificate of the server's authority, and renew it before it runs out."),
    ] = False,
    own_topics: OwnTopicsOption = False,
    json: JsonOption = False,
) -> None:
    """Be a gateway until SIGTERM or Ctrl-C; prints every change of its state.

    Configured by TB_GW_PROVISIONING_DEVICE_KEY and _SECRET, and if wanted _NAME, _ACCESS_TOKEN, _USERNAME, _PASSWORD,
    _CLIENT_ID and _CA_CERT_FILENAME (a file in its directory).
    """
    from mqttprov.gateway.actions import StateChanged
    from mqttprov.gateway.backoff import MachineSettings
    from mqttprov.gateway.client import GatewayClient
    from mqttprov.gateway.identity import IdentityError
    from mqttprov.gateway.settings import GatewaySettings, SettingsError

    def on_state(change: StateChanged) -> None:
        at = iso_time(now_ms())
        if json:
            emit_json({"at": at, "from": change.old, "to": change.new, "why": change.why})
        else:
            emit(f"{at}  {change.old} -> {change.new}  {change.why}")

    log_to_stderr(logging.WARNING)  # the changes themselves are printed
    try:
        settings = GatewaySettings.from_environment(
            os.environ, host=host, port=port, directory=directory, signing_request=csr, own_topics=own_topics
        )
        client = GatewayClient(settings, machine_settings=MachineSettings(heartbeat_s=heartbeat_s), on_state=on_state)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: client.stop())
        client.run()
    except (SettingsError, ValueError) as error:
        raise Failure(str(error), Exit.USAGE) from error
    except IdentityError as error:
        raise Failure(str(error)) from error
