"""`mqttprov http-auth`: logins and rights for EMQX, VerneMQ and RabbitMQ, which ask over HTTP."""

import ssl
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mqttprov.cli.errors import Exit, Failure
from mqttprov.cli.output import emit_json, log_to_stderr, say
from mqttprov.cli.serve import is_loopback
from mqttprov.cli.state import JsonOption, StateOption, opened
from mqttprov.responder.state_directory import StateDirectory

if TYPE_CHECKING:
    from mqttprov.brokers.http_auth.server import Broker


def http_auth(
    listen: Annotated[str, typer.Option(metavar="HOST:PORT", help="Where brokers ask; port 0 takes any free one.")],
    broker: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="mqtt://HOST:PORT or mqtts://HOST:PORT: answer provisioning requests there too, and end sessions.",
        ),
    ] = None,
    broker_ca: Annotated[
        Path | None, typer.Option(metavar="FILE", help="CA of the broker's certificate (PEM).")
    ] = None,
    tls_certificate: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Certificate chain (PEM) with which to listen for HTTPS.")
    ] = None,
    tls_key: Annotated[Path | None, typer.Option(metavar="FILE", help="Its private key (PEM).")] = None,
    insecure: Annotated[bool, typer.Option("--insecure", help="Plain HTTP also off loopback.")] = False,
    state: StateOption = None,
    json: JsonOption = False,
) -> None:
    """Answer the logins and topic rights of another broker over HTTP until SIGTERM or Ctrl-C.

    The path of a question begins with the secret in keys/http-auth-secret of the state directory, which is made at the
    first start. With --json the first line on stdout is {"listening": URL, "secretFile": FILE}; with --broker
    {"connected": URL} follows when provisioning requests are answered there. Until then, and whenever that ends, the
    logins of provisioning sessions are refused.
    """
    try:
        from mqttprov.brokers.broker_link import parse_url
        from mqttprov.brokers.http_auth.server import Broker  # in an extra
    except ModuleNotFoundError as error:
        raise Failure(
            f"http-auth needs the package {error.name}; run: pip install 'mqttprov[http]'", Exit.USAGE
        ) from error

    host, port = _address(listen)
    certificate = _certificate(tls_certificate, tls_key)
    if certificate is None and not insecure and not is_loopback(host):
        raise Failure(
            f"{host} is not a loopback address, and without TLS anybody on the way reads passwords; give "
            "--tls-certificate and --tls-key (or --insecure, if the network is your own)",
            Exit.USAGE,
        )
    joined = None
    if broker is None and broker_ca is not None:
        raise Failure("--broker-ca is for the connection to a broker; give --broker, too", Exit.USAGE)
    if broker is not None:
        try:
            address = parse_url(broker)
        except ValueError as error:
            raise Failure(str(error), Exit.USAGE) from error
        if broker_ca is not None and not address.tls:
            raise Failure(f"--broker-ca means TLS, but {broker!r} does not; give mqtts://HOST:PORT", Exit.USAGE)
        _refuse_plain(address.host, with_tls=address.tls, insecure=insecure)
        joined = Broker(
            address, _context(broker_ca) if address.tls else None, lambda url: _tell_connected(url, json=json)
        )
    with opened(state) as directory:
        _serve(directory, host, port, certificate, joined, json=json)
    sys.stdout.flush()


def _serve(
    directory: StateDirectory,
    host: str,
    port: int,
    certificate: tuple[Path, Path] | None,
    broker: "Broker | None",
    *,
    json: bool,
) -> None:
    from mqttprov.brokers.http_auth import server  # in an extra

    log_to_stderr()
    secret_file = directory.path / server.SECRET_FILE

    def on_listening(url: str) -> None:
        if json:
            emit_json({"listening": url, "secretFile": str(secret_file)})
        say(f"listening on {url}; paths begin with the secret in {secret_file}")

    try:
        files = None if certificate is None else server.Certificate(*certificate)
        server.serve(directory, host, port, certificate=files, broker=broker, on_listening=on_listening)
    except server.HttpAuthError as error:
        raise Failure(str(error), Exit.UNAVAILABLE) from error


def _tell_connected(url: str, *, json: bool) -> None:
    if json:
        emit_json({"connected": url})
    say(f"answering provisioning requests of {url}")


def _refuse_plain(broker_host: str, *, with_tls: bool, insecure: bool) -> None:
    if not with_tls and not insecure and not is_loopback(broker_host):
        raise Failure(
            f"{broker_host} is not a loopback address; give mqtts:// (or --insecure, if the network is your own)",
            Exit.USAGE,
        )


def _address(listen: str) -> tuple[str, int]:
    host, _, port = listen.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65_535:
        raise Failure(f"{listen!r} is not HOST:PORT; write for example 127.0.0.1:8088", Exit.USAGE)
    return host.removeprefix("[").removesuffix("]"), int(port)


def _certificate(chain: Path | None, key: Path | None) -> tuple[Path, Path] | None:
    if chain is None and key is None:
        return None
    if chain is None or key is None:
        raise Failure("give both --tls-certificate and --tls-key, or neither", Exit.USAGE)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(chain, key)
    except OSError as error:  # also ssl.SSLError
        raise Failure(f"{chain} and {key} cannot be used: {error}", Exit.USAGE) from error
    return chain, key


def _context(ca_file: Path | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError as error:  # also ssl.SSLError
        raise Failure(f"{ca_file} is not a CA certificate in PEM form: {error}", Exit.USAGE) from error
