"""`mqttprov request`: act as one device by hand and show the reply."""

import ssl
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
import typer

from mqttprov.cli import values
from mqttprov.cli.errors import Exit, Failure
from mqttprov.cli.output import emit, escaped
from mqttprov.cli.state import JsonOption, OwnTopicsOption
from mqttprov.core.model import CredentialsType
from mqttprov.core.requests import Status
from mqttprov.gateway.one_shot import NoReply, request_once

_TLS_PORT: Final = 8883
_STATUS: Final = {Status.SUCCESS: Exit.OK, Status.NOT_FOUND: Exit.NOT_FOUND, Status.FAILURE: Exit.FAILED}

HostOption = Annotated[str, typer.Option(help="The broker.")]
PortOption = Annotated[int, typer.Option(min=1, max=65535, help="Its port; 8883 means TLS.")]
KeyOption = Annotated[
    str | None, typer.Option(metavar="K", help="provisionDeviceKey; not needed when the secret file names it.")
]
FROM_FILE_HELP: Final = "File with provisionDeviceSecret, or one that 'token create --output-file' wrote."
CaOption = Annotated[
    Path | None, typer.Option("--tls-ca", metavar="FILE", help="CA of the broker's certificate (PEM); means TLS.")
]


SecretFileOption = Annotated[Path | None, typer.Option(metavar="F", help=FROM_FILE_HELP)]
SecretStdinOption = Annotated[bool, typer.Option("--secret-stdin", help="Read the secret from standard input.")]
CertificateOption = Annotated[Path | None, typer.Option(metavar="PEM", help="File with the device's certificate.")]
FactoryCertificateOption = Annotated[
    Path | None,
    typer.Option(metavar="PEM", help="Certificate to show in TLS; it may stand for key and secret."),
]
FactoryKeyOption = Annotated[Path | None, typer.Option(metavar="PEM", help="Private key of --factory-certificate.")]


class _Reply(msgspec.Struct):
    status: Status


def request(
    key: KeyOption = None,
    host: HostOption = "127.0.0.1",
    port: PortOption = 1883,
    secret_file: SecretFileOption = None,
    secret_stdin: SecretStdinOption = False,
    device_name: Annotated[str | None, typer.Option(metavar="N", help="deviceName; one is made without it.")] = None,
    token_file: Annotated[Path | None, typer.Option(metavar="F", help="File with the access token to use.")] = None,
    username: Annotated[str | None, typer.Option(metavar="U", help="MQTT user name to use.")] = None,
    password_file: Annotated[Path | None, typer.Option(metavar="F", help="File with the MQTT password to use.")] = None,
    client_id: Annotated[str | None, typer.Option(metavar="C", help="MQTT client id to use.")] = None,
    certificate_file: CertificateOption = None,
    csr_file: Annotated[Path | None, typer.Option(metavar="PEM", help="File with a signing request.")] = None,
    credentials_type: Annotated[CredentialsType | None, typer.Option(help="Type of credentials to ask for.")] = None,
    claim_code_file: Annotated[
        Path | None, typer.Option(metavar="F", help="File with the claim code of a transfer to complete.")
    ] = None,
    gateway: Annotated[bool, typer.Option("--gateway", help="The device is a gateway.")] = False,
    tls_ca: CaOption = None,
    factory_certificate: FactoryCertificateOption = None,
    factory_key: FactoryKeyOption = None,
    timeout_s: Annotated[
        float, typer.Option(min=0.1, max=3600, callback=values.finite, help="How long to wait, in seconds.")
    ] = 10.0,
    own_topics: OwnTopicsOption = False,
    json: JsonOption = False,
) -> None:
    """Ask for credentials as one device and print the reply, in which they are.

    Exit status: 0 SUCCESS, 3 NOT_FOUND, 1 FAILURE, 6 no reply. Secrets come from files or standard input.
    """
    tls = _with_factory_certificate(tls_context(port, tls_ca), factory_certificate, factory_key)
    without = factory_certificate is not None and secret_file is None and not secret_stdin
    fields: dict[str, Any] = {
        **({} if without else _key_and_secret(key, secret_file, stdin=secret_stdin)),
        "deviceName": device_name,
        "credentialsType": credentials_type,
        "token": _from_file(token_file, "the access token"),
        "username": username,
        "password": _from_file(password_file, "the MQTT password"),
        "clientId": client_id,
        "hash": _from_file(certificate_file, "a certificate as PEM text"),
        "csr": _from_file(csr_file, "a signing request as PEM text"),
        "claimCode": _from_file(claim_code_file, "the claim code"),
        "gateway": gateway or None,
    }
    payload = msgspec.json.encode({name: value for name, value in fields.items() if value is not None})
    try:
        reply = request_once(payload, host=host, port=port, tls=tls, timeout_s=timeout_s, own_topics=own_topics)
    except NoReply as error:
        raise Failure(str(error), Exit.UNAVAILABLE) from error
    _tell(reply, json=json)


def _key_and_secret(key: str | None, secret_file: Path | None, *, stdin: bool) -> dict[str, str]:
    if (secret_file is None) is not stdin:
        raise Failure("give either --secret-file or --secret-stdin", Exit.USAGE)
    secret = values.secret_from_stdin() if secret_file is None else values.text_from_file(secret_file)
    key, secret = values.registration_token(key, secret)
    return {"provisionDeviceKey": key, "provisionDeviceSecret": secret}


def _with_factory_certificate(
    tls: ssl.SSLContext | None, certificate: Path | None, key: Path | None
) -> ssl.SSLContext | None:
    if certificate is None and key is None:
        return tls
    if tls is None or certificate is None or key is None:
        raise Failure(
            "a factory identity is shown in TLS: give --factory-certificate, --factory-key and --tls-ca", Exit.USAGE
        )
    try:
        tls.load_cert_chain(certificate, key, password="")  # an empty one, so that nobody is asked
    except OSError as error:  # also ssl.SSLError
        raise Failure(f"{certificate} and {key} are not a certificate with its key: {error}", Exit.USAGE) from error
    return tls


def _from_file(path: Path | None, what: str) -> str | None:
    return None if path is None else values.text_from_file(path, what)


def tls_context(port: int, ca_file: Path | None) -> ssl.SSLContext | None:
    """Give how to verify the broker; None for plain MQTT."""
    if ca_file is None and port != _TLS_PORT:
        return None
    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError as error:  # also ssl.SSLError
        raise Failure(f"{ca_file} is not a CA certificate in PEM form: {error}", Exit.USAGE) from error


def _tell(reply: bytes, *, json: bool) -> None:
    try:
        text = escaped(reply.decode())
        status = msgspec.json.decode(text, type=_Reply).status
    except (UnicodeDecodeError, msgspec.DecodeError) as error:
        raise Failure("the reply is not one of a provisioning server; is this the right broker?") from error
    for line in (text if json else msgspec.json.format(text)).splitlines():
        emit(line)
    if status is not Status.SUCCESS:
        raise typer.Exit(_STATUS[status])
