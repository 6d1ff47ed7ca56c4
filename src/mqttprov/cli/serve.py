"""`mqttprov serve`: our own broker with the responder, until it is told to end."""

import sys
from ipaddress import ip_address
from typing import Annotated

import typer

from mqttprov.cli.errors import Exit, Failure
from mqttprov.cli.output import emit_json, log_to_stderr, say
from mqttprov.cli.state import JsonOption, StateOption, opened


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def plain_port(host: str, port: int, tls_port: int | None, *, insecure: bool) -> int | None:
    """Give the port of the plain listener, None for no such listener: secrets leave the machine only over TLS."""
    if insecure or _is_loopback(host):
        return port
    if tls_port is None:
        raise Failure(
            f"{host} is not a loopback address, and without TLS anybody on the way reads keys and secrets; "
            "give --tls-port (or --insecure, if the network is your own)",
            Exit.USAGE,
        )
    say(f"no plain MQTT on {host}, which is not a loopback address: only TLS; --insecure opens both")
    return None


def serve(
    host: Annotated[
        str | None, typer.Option(help="Address to listen on.", show_default="mqttprov.toml, else 127.0.0.1")
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(
            min=0, max=65535, help="Port for plain MQTT; 0 takes any free one.", show_default="mqttprov.toml, else 1883"
        ),
    ] = None,
    tls_port: Annotated[
        int | None,
        typer.Option(
            min=0, max=65535, help="Port for MQTT over TLS.", show_default="mqttprov.toml, else no TLS listener"
        ),
    ] = None,
    insecure: Annotated[bool, typer.Option("--insecure", help="Plain MQTT also off loopback.")] = False,
    state: StateOption = None,
    json: JsonOption = False,
) -> None:
    """Run the broker with the responder in it until SIGTERM or Ctrl-C.

    Off loopback only the TLS listener is opened. With --json the first line on stdout is {"listening": [URL, ...]}.
    """
    from mqttprov.brokers.embedded import BrokerError  # noqa: PLC0415 - the broker is not needed by other verbs
    from mqttprov.brokers.embedded import serve as run_broker  # noqa: PLC0415 - the same

    with opened(state) as directory:
        settings = directory.settings.serve
        host = settings.host if host is None else host
        tls_port = settings.tls_port if tls_port is None else tls_port
        plain = plain_port(host, settings.port if port is None else port, tls_port, insecure=insecure)
        log_to_stderr()

        def on_listening(urls: list[str]) -> None:
            if json:
                emit_json({"listening": urls})
            for url in urls:
                say(f"listening on {url}")

        try:
            run_broker(directory, host=host, port=plain, tls_port=tls_port, on_listening=on_listening)
        except BrokerError as error:
            raise Failure(str(error), Exit.UNAVAILABLE) from error
    sys.stdout.flush()
