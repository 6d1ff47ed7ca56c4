"""`mqttprov token`: registration tokens, the keys and secrets that devices provision with."""

import itertools
import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
import typer

from mqttprov.admin import DEFAULT, IssuedToken, TokenChange, TokenRow, now_ms
from mqttprov.cli import values
from mqttprov.cli.asking import confirm
from mqttprov.cli.errors import Exit, Failure
from mqttprov.cli.output import emit_columns, emit_fields, emit_json, emit_json_object, emit_json_rows, record, say
from mqttprov.cli.progress import progress
from mqttprov.cli.secret_files import new_secret_file, secret_sheet, told_once
from mqttprov.cli.state import JsonOption, StateOption, administering

app = typer.Typer(help="Registration tokens: the key and secret that devices provision with.")

_COLUMNS = {
    "name": "NAME",
    "profile": "PROFILE",
    "keyPrefix": "KEY",
    "used": "USED",
    "maxRegistrations": "MAX",
    "expiresAt": "EXPIRES",
    "deviceNamePattern": "DEVICE NAMES",
    "owner": "OWNER",
    "labels": "LABELS",
    "revokedAt": "REVOKED",
    "lastUsedAt": "LAST USED",
}
_KEY_PREFIX_CHARS: Final = 8  # enough to find the token with, in names that `token create` makes too
_SHOWN_DEVICES: Final = 20

NameArgument = Annotated[str, typer.Argument(help="Name or key of the token.")]
ProfileOption = Annotated[
    str | None, typer.Option("--profile", metavar="P", help="Its profile, when several have a token of this name.")
]
LabelOption = Annotated[
    list[str] | None, typer.Option("--label", metavar="K=V", help="Label for devices that it registers; repeatable.")
]
OutputOption = Annotated[
    Path | None,
    typer.Option(
        "--output-file",
        metavar="F",
        help="Write key and secret into this new file (mode 0600) instead of printing them.",
    ),
]


def _record(row: TokenRow) -> dict[str, Any]:
    return record(row, leave_out=("id",))


def _listed(row: TokenRow) -> dict[str, Any]:
    fields = {"name": row.name, "keyPrefix": row.key[:_KEY_PREFIX_CHARS]}
    return fields | record(row, leave_out=("id", "name", "key"))


def tell_token(issued: IssuedToken, *, json: bool) -> None:
    """Print a token at the one moment when its secret can be told."""
    fields = {
        "profile": issued.profile,
        "token": issued.name,
        "provisionDeviceKey": issued.key,
        "provisionDeviceSecret": issued.secret,
    }
    with _told_once(issued):
        if json:
            emit_json(fields)
            return
        say("The secret is shown this once:")
        emit_fields(fields)


def _told_once(issued: IssuedToken) -> AbstractContextManager[None]:
    remedy = f"give it another one: mqttprov token rotate {issued.key} --yes"
    return told_once(f"token {issued.name!r} of profile {issued.profile!r} has a new secret", remedy)


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
    owner: Annotated[
        str | None, typer.Option(metavar="O", help="Whose the devices are that it registers.", show_default="nobody's")
    ] = None,
    output_file: OutputOption = None,
    count: Annotated[
        str | None, typer.Option(metavar="N", help="Make so many tokens, named N-1 and so on; needs --out.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="CSV", help="Where --count writes name, key and secret of each (new file, mode 0600)."),
    ] = None,
    state: StateOption = None,
    json: JsonOption = False,
) -> None:
    """Make a registration token, or many; prints key and secret this once."""
    settings = TokenChange(
        max_registrations=None
        if max_registrations is None
        else values.whole_number(max_registrations, "--max-registrations"),
        expires_ms=None if expires is None else now_ms() + values.duration_ms(expires, "--expires"),
        labels=values.labels(label or ()),
        device_name_pattern=device_name_pattern,
    )
    if (count is None) != (out is None) or (count is not None and output_file is not None):
        raise Failure("many tokens need both --count and --out, and not --output-file", Exit.USAGE)
    with administering(state) as admin:
        if count is not None and out is not None:
            many = values.whole_number(count, "--count")
            heading = ("name", "provisionDeviceKey", "provisionDeviceSecret")
            with secret_sheet(out, heading) as sheet, progress("making", many, json=json) as tell:
                done = 0

                def keep(some: Sequence[IssuedToken]) -> None:
                    nonlocal done
                    sheet.add([(t.name, t.key, t.secret) for t in some])
                    tell(done := done + len(some))

                admin.create_tokens(profile, name, many, settings, keep, owner)
            (emit_json if json else emit_fields)({"profile": profile, "tokens": many, "outputFile": str(out)})
            return
        _issue(output_file, lambda: admin.create_token(profile, name, settings, owner), json=json)


def _issue(output_file: Path | None, make: Callable[[], IssuedToken], *, json: bool) -> None:
    """Make a secret and tell it: print it, or write it into a new file."""
    if output_file is None:
        tell_token(make(), json=json)
        return
    with new_secret_file(output_file) as file:
        issued = make()
        secrets = {"provisionDeviceKey": issued.key, "provisionDeviceSecret": issued.secret}
        with _told_once(issued):
            file.write(msgspec.json.encode(secrets) + b"\n")
            file.flush()
            os.fsync(file.fileno())
    told = {"profile": issued.profile, "token": issued.name, "provisionDeviceKey": issued.key,
            "outputFile": str(output_file)}  # fmt: skip
    (emit_json if json else emit_fields)(told)


@app.command("list")
def list_(
    profile: Annotated[str | None, typer.Option(metavar="P", help="Tokens of this profile only.")] = None,
    state: StateOption = None,
    json: JsonOption = False,
) -> None:
    """List registration tokens; never their secrets."""
    with administering(state) as admin:
        if profile is not None:
            admin.profile(profile)  # one that is misspelt has no tokens, which is not what was asked
        rows = [_listed(row) for row in admin.tokens(profile)]
    if json:
        emit_json_rows(rows)
    else:
        emit_columns(rows, _COLUMNS)


@app.command()
def show(
    name: NameArgument, profile: ProfileOption = None, state: StateOption = None, json: JsonOption = False
) -> None:
    """Show one registration token and the devices that it registered; never its secret."""
    with administering(state) as admin:
        row = admin.token(name, profile)
        registered = (record(device, leave_out=("id",)) for device in admin.registered(row))
        if json:
            emit_json_object(_record(row), "devices", registered)
            return
        emit_fields(_record(row))
        shown = list(itertools.islice(registered, _SHOWN_DEVICES))
    if shown:
        emit_columns(shown, {"name": "DEVICE", "state": "STATE", "registeredAt": "REGISTERED"})
    if row.used > len(shown):
        say(f"{row.used - len(shown)} more devices; all of them with --json")


@app.command()
def revoke(
    name: NameArgument,
    profile: ProfileOption = None,
    cascade: Annotated[
        bool, typer.Option("--cascade", help="Also suspend every device that it registered; run again to complete.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    state: StateOption = None,
    json: JsonOption = False,
) -> None:
    """End a registration token: it registers nothing any more. Its devices stay, or are suspended with --cascade."""
    with administering(state) as admin:
        row = admin.token(name, profile)
        devices = f" and suspend its {row.used} devices" if cascade else f", used {row.used} times"
        confirm(f"Revoke token {row.name!r} of profile {row.profile!r}{devices}?", yes=yes)
        suspended: dict[str, int] = {}
        if cascade:
            with progress("suspending", row.used, json=json) as tell:
                row, count = admin.revoke_token_with_devices(row.key, None, tell)
            suspended = {"suspendedDevices": count}
        else:
            row = admin.revoke_token(row.key, None)
    if json:
        emit_json(_record(row) | suspended)
        return
    say(f"Token {row.name!r} of profile {row.profile!r} is revoked.")
    for count in suspended.values():
        say(f"{count} devices are suspended.")


@app.command()
def rotate(
    name: NameArgument,
    profile: ProfileOption = None,
    overlap: Annotated[
        str | None,
        typer.Option(metavar="7d", help="How long the old secret works beside the new one.", show_default="not at all"),
    ] = None,
    output_file: OutputOption = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    state: StateOption = None,
    json: JsonOption = False,
) -> None:
    """Give a registration token a new secret, shown this once; its key, uses and devices stay.

    A secret that leaked is rotated without --overlap; then whoever was told credentials with it shares none with who
    knows the new one.
    """
    overlap_ms = 0 if overlap is None else values.duration_ms(overlap, "--overlap")
    with administering(state) as admin:
        row = admin.token(name, profile)
        if not overlap_ms:
            confirm(f"End the secret of token {row.name!r} of profile {row.profile!r} at once?", yes=yes)
        _issue(output_file, lambda: admin.rotate_token(row.key, None, overlap_ms), json=json)


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
        changes["max_registrations"] = (
            None if max_registrations == "none" else values.whole_number(max_registrations, "--max-registrations")
        )
    if expires is not None:
        changes["expires_ms"] = None if expires == "never" else now_ms() + values.duration_ms(expires, "--expires")
    if label is not None:
        changes["labels"] = values.labels(label)
    if device_name_pattern is not None:
        changes["device_name_pattern"] = None if device_name_pattern == "none" else device_name_pattern
    if not changes:
        raise Failure("there is nothing to change; give at least one of the options in --help", Exit.USAGE)
    with administering(state) as admin:
        row = admin.update_token(name, profile, TokenChange(**changes))
    (emit_json if json else emit_fields)(_record(row))
