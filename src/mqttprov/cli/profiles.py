"""`mqttprov profile`: what classes of devices have in common."""

from pathlib import Path
from typing import Annotated, Any

import typer

from mqttprov.admin import (
    DEFAULT_SUBJECT_PATTERN,
    MIN_SECRET_CHARS,
    Chain,
    CredentialsType,
    InvalidName,
    Profile,
    ProfileRow,
    ReprovisionPolicy,
    Strategy,
)
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

StrategyOption = Annotated[
    Strategy,
    typer.Option(
        help="Who may become a device: anybody with key and secret, listed devices only, or who has a certificate."
    ),
]
ReprovisionOption = Annotated[
    ReprovisionPolicy | None,
    typer.Option(
        help="What a device gets that asks again after its first login.",
        show_default="reuse; refuse with --strategy pre-provisioned",
    ),
]
PublishOption = Annotated[
    list[str] | None,
    typer.Option(metavar="PATTERN", help="Topics that devices may publish on; %d is the device's name; repeatable."),
]
SubscribeOption = Annotated[
    list[str] | None, typer.Option(metavar="PATTERN", help="Topics that devices may subscribe to; repeatable.")
]
NamePatternOption = Annotated[
    str | None,
    typer.Option(
        metavar="REGEX",
        help="With --ca: fits the whole common name of a certificate; its first group is the device's name.",
        show_default=DEFAULT_SUBJECT_PATTERN,
    ),
]
CaOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="With --strategy certificate-chain: the authorities that issue the devices' certificates."
    ),
]
_ROTATE_HELP = "A factory identity provisions without key and secret, until the first login with what it was given."


def _record(row: ProfileRow) -> dict[str, Any]:
    chain = {"subjectPattern": row.chain.subject_pattern} if row.chain else {}
    return record(row.profile, leave_out=("id",)) | record(row, leave_out=("profile", "chain")) | chain


def _authorities(path: Path) -> str:
    try:
        return path.read_text("ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidName(f"the file {str(path)!r} cannot be read: {error}; give certificates as PEM text") from error


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="Name of the new profile.")],
    strategy: StrategyOption = Strategy.ALLOW_CREATE,
    credentials: Annotated[
        CredentialsType, typer.Option(help="Credentials for requests that name no type.")
    ] = CredentialsType.ACCESS_TOKEN,
    reprovision: ReprovisionOption = None,
    min_secret: Annotated[
        int | None, typer.Option(metavar="N", help="Least length of secrets that devices bring.", show_default="8")
    ] = None,
    unicode_names: Annotated[bool, typer.Option("--unicode-names", help="Device names in any script.")] = False,
    allow_label: Annotated[
        list[str] | None, typer.Option(metavar="KEY", help="A label that a device may set for itself; repeatable.")
    ] = None,
    publish: PublishOption = None,
    subscribe: SubscribeOption = None,
    ca: CaOption = None,
    device_name_pattern: NamePatternOption = None,
    rotate_on_first_use: Annotated[bool, typer.Option("--rotate-on-first-use", help=_ROTATE_HELP)] = False,
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
        MIN_SECRET_CHARS if min_secret is None else min_secret,
        unicode_names=unicode_names,
        label_keys=tuple(allow_label or ()),
        publish_topics=tuple(publish or ()),
        subscribe_topics=tuple(subscribe or ()),
        rotate_on_first_use=rotate_on_first_use,
    )
    with administering(state) as admin:
        if device_name_pattern is not None and ca is None:
            raise InvalidName("--device-name-pattern is for certificates; give --ca too")
        chain = None if ca is None else Chain(_authorities(ca), device_name_pattern or DEFAULT_SUBJECT_PATTERN)
        tell_token(admin.create_profile(profile, chain), json=json)


@app.command()
def update(
    name: Annotated[str, typer.Argument(help="Name of the profile.")],
    rotate_on_first_use: Annotated[
        bool | None, typer.Option("--rotate-on-first-use/--no-rotate-on-first-use", help=_ROTATE_HELP)
    ] = None,
    ca: CaOption = None,
    state: StateOption = None,
    json: JsonOption = False,
) -> None:
    """Change what factory identities may; '--ca' replaces all authorities."""
    with administering(state) as admin:
        authorities = None if ca is None else _authorities(ca)
        admin.update_profile(name, rotate_on_first_use=rotate_on_first_use, authorities=authorities)
        row = admin.profile(name)
    (emit_json if json else emit_fields)(_record(row))


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
