"""`mqttprov serve`: our own broker with the responder, until it is told to end."""

import sys
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from mqttprov.cli.errors import Exit, Failure
from mqttprov.cli.output import emit_json, log_to_stderr, say
from mqttprov.cli.state import JsonOption, StateOption, opened
from mqttprov.responder.state_directory import ServeSettings, StateDirectory

if TYPE_CHECKING:
    from mqttprov.brokers.embedded import Server


def is_loopback(host: str) -> bool:
    """Tell whether nothing on a network can reach a listener on this host."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def safe_ports(ports: ServeSettings, *, insecure: bool) -> ServeSettings:
    """Give the ports less those of plain listeners off loopback: secrets leave the machine only over TLS."""
    host = ports.host
    if insecure or is_loopback(host):
        return ports
    if ports.tls_port is None and ports.wss_port is None:
        raise Failure(
            f"{host} is not a loopback address, and without TLS anybody on the way reads keys and secrets; "
            "give --tls-port or --wss-port (or --insecure, if the network is your own)",
            Exit.USAGE,
        )
    say(f"no plain MQTT on {host}, which is not a loopback address: only TLS; --insecure opens both")
    return msgspec.structs.replace(ports, port=None, ws_port=None)


def _port(help_text: str, default: str) -> Any:
    return typer.Option(min=0, max=65535, help=help_text, show_default=f"mqttprov.toml, else {default}")


def _amqtt_server(state: StateDirectory, config: Path, *, insecure: bool) -> "Server":
    try:
        from mqttprov.brokers.amqtt_broker import AmqttServer  # in an extra
    except ModuleNotFoundError as error:
        raise Failure(
            f"--amqtt-config needs {error.name}, which is not installed; run: pip install 'mqttprov[amqtt]'", Exit.USAGE
        ) from error
    return AmqttServer(state, config, insecure=insecure)


def serve(
    host: Annotated[
        str | None, typer.Option(help="Address to listen on.", show_default="mqttprov.toml, else 127.0.0.1")
    ] = None,
    port: Annotated[int | None, _port("Port for plain MQTT; 0 takes any free one.", "1883")] = None,
    tls_port: Annotated[int | None, _port("Port for MQTT over TLS.", "no TLS listener")] = None,
    ws_port: Annotated[int | None, _port("Port for MQTT in WebSockets, path /mqtt.", "no such listener")] = None,
    wss_port: Annotated[int | None, _port("The same over TLS.", "no such listener")] = None,
    insecure: Annotated[bool, typer.Option("--insecure", help="Plain listeners also off loopback.")] = False,
    amqtt_config: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Listeners and plugins of an amqtt broker, instead of the options above."),
    ] = None,
    state: StateOption = None,
    json: JsonOption = False,
) -> None:
    """Run the broker with the responder in it until SIGTERM or Ctrl-C.

    Off loopback only TLS listeners are opened. With --json the first line on stdout is {"listening": [URL, ...]}.
    """
    from mqttprov.brokers.embedded import BrokerError, EmbeddedServer
    from mqttprov.brokers.embedded import serve as run_broker

    given = {"host": host, "port": port, "tls_port": tls_port, "ws_port": ws_port, "wss_port": wss_port}
    given = {name: value for name, value in given.items() if value is not None}
    if amqtt_config is not None and given:
        raise Failure("with --amqtt-config the listeners are those of that file; leave out the others", Exit.USAGE)
    with opened(state) as directory:
        server: Server
        if amqtt_config is not None:
            server = _amqtt_server(directory, amqtt_config, insecure=insecure)
        else:
            wished = msgspec.structs.replace(directory.settings.serve, **given)
            server = EmbeddedServer(directory, **msgspec.structs.asdict(safe_ports(wished, insecure=insecure)))
        log_to_stderr()

        def on_listening(urls: list[str]) -> None:
            if json:
                emit_json({"listening": urls})
            for url in urls:
                say(f"listening on {url}")

        try:
            run_broker(server, on_listening)
        except BrokerError as error:
            raise Failure(str(error), Exit.UNAVAILABLE) from error
    sys.stdout.flush()
