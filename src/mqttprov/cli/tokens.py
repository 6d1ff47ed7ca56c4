"""`mqttprov token`: registration tokens, the keys and secrets that devices provision with."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Annotated, Any

import msgspec
import typer

from mqttprov.cli import values
from mqttprov.cli.asking import confirm
from mqttprov.cli.errors import Exit, Failure
from mqttprov.cli.output import emit_columns, emit_fields, emit_json, emit_json_rows, record, say
from mqttprov.cli.state import JsonOption, StateOption, administering, now_ms, reading
from mqttprov.responder.administration import DEFAULT, IssuedToken, TokenChange, find_token
from mqttprov.store.protocol import Conflict, TokenRow

app = typer.Typer(help="Registration tokens: the key and secret that devices provision with.")

_COLUMNS = {
    "name": "NAME",
    "profile": "PROFILE",
    "key": "KEY",
    "used": "USED",
    "maxRegistrations": "MAX",
    "expiresAt": "EXPIRES",
    "deviceNamePattern": "DEVICE NAMES",
    "labels": "LABELS",
    "revokedAt": "REVOKED",
    "lastUsedAt": "LAST USED",
}

NameArgument = Annotated[str, typer.Argument(help="Name or key of the token.")]
ProfileOption = Annotated[
    str | None, typer.Option("--profile", metavar="P", help="Its profile, when several have a token of this name.")
]
LabelOption = Annotated[
    list[str] | None, typer.Option("--label", metavar="K=V", help="Label for devices that it registers; repeatable.")
]


def _record(row: TokenRow) -> dict[str, Any]:
    return record(row, leave_out=("id",))


def tell_token(issued: IssuedToken, *, json: bool) -> None:
    """Print a token at the one moment when its secret can be told."""
    fields = {
        "profile": issued.profile,
        "token": issued.name,
        "provisionDeviceKey": issued.key,
        "provisionDeviceSecret": issued.secret,
    }
    if json:
        emit_json(fields)
        return
    say("The secret is shown this once:")
    emit_fields(fields)


@app.command()
def create(
    profile: Annotated[str, typer.Option(metavar="P", help="Profile of the devices that it registers.")] = DEFAULT,
    name: Annotated[str | None, typer.Option(metavar="N", help="Name; one is made without it.")] = None,
    max_registrations: Annotated[
        str | None, typer.Option(metavar="N", help="How many devices it registers at most.", show_default="no limit")
    ] = None,
    expires: Annotated[
        str | None, typer.Option(metavar="30d", help="How long it is good for.", show_default="for ever")
    ] = None,
    label: LabelOption = None,
    device_name_pattern: Annotated[
        str | None, typer.Option(metavar="GLOB", help="Device names that it registers, for example 'gw-*'.")
    ] = None,
    output_file: Annotated[
        Path | None,
        typer.Option(metavar="F", help="Write key and secret into this new file (mode 0600) instead of printing them."),
    ] = None,
    state: StateOption = None,
    json: JsonOption = False,
) -> None:
    """Make a registration token; prints key and secret this once."""
    settings = TokenChange(
        max_registrations=None if max_registrations is None else values.whole_number(max_registrations),
        expires_ms=None if expires is None else now_ms() + values.duration_ms(expires),
        labels=values.labels(label or ()),
        device_name_pattern=device_name_pattern,
    )
    with administering(state) as administration:
        if output_file is None:
            tell_token(administration.create_token(profile, name, settings), json=json)
            return
        with _new_secret_file(output_file) as file:
            issued = administration.create_token(profile, name, settings)
            secrets = {"provisionDeviceKey": issued.key, "provisionDeviceSecret": issued.secret}
            file.write(msgspec.json.encode(secrets) + b"\n")
            file.flush()
            os.fsync(file.fileno())
    told = {"profile": issued.profile, "token": issued.name, "provisionDeviceKey": issued.key,
            "outputFile": str(output_file)}  # fmt: skip
    (emit_json if json else emit_fields)(told)


@contextmanager
def _new_secret_file(path: Path) -> Iterator[IO[bytes]]:
    """Make the file before there is a secret that could be lost; remove it when there will be none."""
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    except FileExistsError as error:
        raise Conflict(f"{path} exists already; name a new file, or remove that one") from error
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
    except BaseException:
        path.unlink(missing_ok=True)
        raise


@app.command("list")
def list_(
    profile: Annotated[str | None, typer.Option(metavar="P", help="Tokens of this profile only.")] = None,
    state: StateOption = None,
    json: JsonOption = False,
) -> None:
    """List registration tokens; never their secrets."""
    with reading(state) as reader:
        rows = [_record(row) for row in reader.tokens(profile)]
    if json:
        emit_json_rows(rows)
    else:
        emit_columns(rows, _COLUMNS)


@app.command()
def show(
    name: NameArgument, profile: ProfileOption = None, state: StateOption = None, json: JsonOption = False
) -> None:
    """Show one registration token; never its secret."""
    with reading(state) as reader:
        row = find_token(reader.tokens(profile, name), name)
    (emit_json if json else emit_fields)(_record(row))


@app.command()
def revoke(
    name: NameArgument,
    profile: ProfileOption = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    state: StateOption = None,
    json: JsonOption = False,
) -> None:
    """End a registration token: it registers nothing any more. Its devices stay."""
    with administering(state) as administration, reading(state) as reader:
        row = find_token(reader.tokens(profile, name), name)
        confirm(f"Revoke token {row.name!r} of profile {row.profile!r}, used {row.used} times?", yes=yes)
        row = administration.revoke_token(row.key, None)
    if json:
        emit_json(_record(row))
    else:
        say(f"Token {row.name!r} of profile {row.profile!r} is revoked.")


@app.command()
def update(
    name: NameArgument,
    profile: ProfileOption = None,
    max_registrations: Annotated[str | None, typer.Option(metavar="N|none", help="New limit, up or down.")] = None,
    expires: Annotated[str | None, typer.Option(metavar="30d|never", help="New expiry, counted from now.")] = None,
    label: Annotated[
        list[str] | None,
        typer.Option(metavar="K=V", help="New labels for future devices, in place of the old; repeatable."),
    ] = None,
    device_name_pattern: Annotated[
        str | None, typer.Option(metavar="GLOB|none", help="New pattern for device names.")
    ] = None,
    state: StateOption = None,
    json: JsonOption = False,
) -> None:
    """Change limit, expiry, labels or name pattern of a registration token."""
    changes: dict[str, Any] = {}
    if max_registrations is not None:
        changes["max_registrations"] = None if max_registrations == "none" else values.whole_number(max_registrations)
    if expires is not None:
        changes["expires_ms"] = None if expires == "never" else now_ms() + values.duration_ms(expires)
    if label is not None:
        changes["labels"] = values.labels(label)
    if device_name_pattern is not None:
        changes["device_name_pattern"] = None if device_name_pattern == "none" else device_name_pattern
    if not changes:
        raise Failure("there is nothing to change; give at least one of the options in --help", Exit.USAGE)
    with administering(state) as administration:
        row = administration.update_token(name, profile, TokenChange(**changes))
    (emit_json if json else emit_fields)(_record(row))
