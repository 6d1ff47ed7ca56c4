"""`mqttprov respond`: the responder beside Mosquitto, until it is told to end."""

from pathlib import Path
from typing import Annotated

import typer

from mqttprov.cli.errors import Exit, Failure
from mqttprov.cli.output import emit_json, log_to_stderr, say
from mqttprov.cli.state import JsonOption, StateOption, opened


def respond(
    broker: Annotated[
        str | None, typer.Option(metavar="URL", help="The broker: mqtt://HOST:PORT, or mqtts:// for TLS.")
    ] = None,
    password_file: Annotated[
        Path | None, typer.Option(metavar="F", help="File with the responder's password, as the gate plugin has it.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(metavar="FILE", help="TOML file with broker, password_file and state.")
    ] = None,
    state: StateOption = None,
    json: JsonOption = False,
) -> None:
    """Answer requests beside Mosquitto with its gate plugin, until SIGTERM or Ctrl-C.

    Several may run at once on one state. With --json the first line on stdout is {"connected": URL}.
    """
    from mqttprov.brokers import sidecar
    from mqttprov.brokers.embedded import BrokerError

    try:
        settings = sidecar.read_settings(config) if config is not None else sidecar.SidecarSettings()
        url, secret = broker or settings.broker, password_file or settings.password_file
        if url is None or secret is None:
            raise Failure("give --broker and --password-file, or --config with a file that names both", Exit.USAGE)
        address, password = sidecar.address_of(url), sidecar.read_password(secret)
    except BrokerError as error:
        raise Failure(str(error), Exit.USAGE) from error

    def on_connected(url: str) -> None:
        if json:
            emit_json({"connected": url})
        say(f"answering requests of {url}")

    with opened(state, settings.state) as directory:
        log_to_stderr()
        try:
            sidecar.respond(directory, address, password, on_connected=on_connected)
        except BrokerError as error:
            raise Failure(str(error), Exit.UNAVAILABLE) from error
