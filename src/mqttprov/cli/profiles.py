"""`mqttprov profile`: what classes of devices have in common."""

from typing import Annotated, Any

import typer

from mqttprov.admin import CredentialsType, Profile, ProfileRow, ReprovisionPolicy, Strategy
from mqttprov.cli.output import emit_columns, emit_fields, emit_json, emit_json_rows, record
from mqttprov.cli.state import JsonOption, StateOption, administering
from mqttprov.cli.tokens import tell_token

app = typer.Typer(help="Device profiles: what a class of devices has in common.")

_COLUMNS = {
    "name": "NAME",
    "strategy": "STRATEGY",
    "credentialsType": "CREDENTIALS",
    "reprovision": "REPROVISION",
    "tokens": "TOKENS",
    "devices": "DEVICES",
    "createdAt": "CREATED",
}


def _record(row: ProfileRow) -> dict[str, Any]:
    return record(row.profile, leave_out=("id",)) | record(row, leave_out=("profile",))


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="Name of the new profile.")],
    strategy: Annotated[
        Strategy, typer.Option(help="Who may become a device: anybody with key and secret, or listed devices only.")
    ] = Strategy.ALLOW_CREATE,
    credentials: Annotated[
        CredentialsType, typer.Option(help="Credentials for requests that name no type.")
    ] = CredentialsType.ACCESS_TOKEN,
    reprovision: Annotated[
        ReprovisionPolicy | None,
        typer.Option(
            help="What a device gets that asks again after its first login.",
            show_default="reuse; refuse with --strategy pre-provisioned",
        ),
    ] = None,
    min_secret: Annotated[
        int | None, typer.Option(metavar="N", help="Least length of secrets that devices bring.", show_default="8")
    ] = None,
    unicode_names: Annotated[bool, typer.Option("--unicode-names", help="Device names in any script.")] = False,
    allow_label: Annotated[
        list[str] | None, typer.Option(metavar="KEY", help="A label that a device may set for itself; repeatable.")
    ] = None,
    publish: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATTERN", help="Topics that devices may publish on; %d is the device's name; repeatable."
        ),
    ] = None,
    subscribe: Annotated[
        list[str] | None, typer.Option(metavar="PATTERN", help="Topics that devices may subscribe to; repeatable.")
    ] = None,
    state: StateOption = None,
    json: JsonOption = False,
) -> None:
    """Make a profile with its registration token 'default'; prints key and secret this once."""
    if reprovision is None:
        listed = strategy is Strategy.PRE_PROVISIONED
        reprovision = ReprovisionPolicy.REFUSE if listed else ReprovisionPolicy.REUSE
    profile = Profile(
        0,
        name,
        strategy,
        credentials,
        reprovision,
        **({} if min_secret is None else {"min_secret_chars": min_secret}),
        unicode_names=unicode_names,
        label_keys=tuple(allow_label or ()),
        publish_topics=tuple(publish or ()),
        subscribe_topics=tuple(subscribe or ()),
    )
    with administering(state) as admin:
        tell_token(admin.create_profile(profile), json=json)


@app.command("list")
def list_(state: StateOption = None, json: JsonOption = False) -> None:
    """List all profiles."""
    with administering(state) as admin:
        rows = [_record(row) for row in admin.profiles()]
    if json:
        emit_json_rows(rows)
    else:
        emit_columns(rows, _COLUMNS)


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="Name of the profile.")],
    state: StateOption = None,
    json: JsonOption = False,
) -> None:
    """Show one profile."""
    with administering(state) as admin:
        row = admin.profile(name)
    (emit_json if json else emit_fields)(_record(row))
