"""`mqttprov device`: the fleet."""

from typing import Annotated

import typer

from mqttprov.cli import values
from mqttprov.cli.output import emit_columns, emit_fields, emit_json, emit_json_rows, record
from mqttprov.cli.state import JsonOption, StateOption, administering, reading
from mqttprov.core.names import fold
from mqttprov.responder.administration import NotFound

app = typer.Typer(help="Devices: who they are and where they are in their life.")

_COLUMNS = {
    "name": "NAME",
    "state": "STATE",
    "profile": "PROFILE",
    "owner": "OWNER",
    "labels": "LABELS",
    "token": "TOKEN",
    "credentialsType": "CREDENTIALS",
    "generation": "GENERATION",
    "createdAt": "CREATED",
}
_HISTORY = {
    "generation": "GENERATION",
    "type": "CREDENTIALS",
    "status": "STATUS",
    "supplied": "SUPPLIED",
    "issuedAt": "ISSUED",
    "firstLoginAt": "FIRST LOGIN",
}


@app.command("list")
def list_(
    profile: Annotated[str | None, typer.Option(metavar="P", help="Devices of this profile only.")] = None,
    state: StateOption = None,
    json: JsonOption = False,
) -> None:
    """List devices, oldest first."""
    with reading(state) as reader:
        rows = (record(row) for row in reader.devices() if profile is None or fold(row.profile) == fold(profile))
        if json:
            emit_json_rows(rows)
        else:
            emit_columns(rows, _COLUMNS)


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="Name of the device.")],
    state: StateOption = None,
    json: JsonOption = False,
) -> None:
    """Show one device with the history of its credentials; never the credentials."""
    with reading(state) as reader:
        found = next(reader.devices(name), None)
        if found is None:
            raise NotFound(f"there is no device named {name!r}; see: mqttprov device list")
        history = [record(row) for row in reader.credentials_of(found.id)]
    if json:
        emit_json(record(found) | {"credentials": history})
        return
    emit_fields(record(found))
    if history:
        emit_columns(history, _HISTORY)


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="Name of the new device.")],
    profile: Annotated[str, typer.Option(metavar="P", help="Its profile.")],
    owner: Annotated[str | None, typer.Option(metavar="O", help="Whose it is.")] = None,
    label: Annotated[list[str] | None, typer.Option(metavar="K=V", help="A label; repeatable.")] = None,
    state: StateOption = None,
    json: JsonOption = False,
) -> None:
    """Make a manufactured device, which may then provision itself."""
    with administering(state) as administration, reading(state) as reader:
        device = administration.create_device(profile, name, owner, values.labels(label or ()))
        row = next(reader.devices(device.name))
    (emit_json if json else emit_fields)(record(row))
