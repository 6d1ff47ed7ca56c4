"""`mqttprov device`: the fleet."""

from pathlib import Path
from typing import Annotated

import typer

from mqttprov.cli import values
from mqttprov.cli.asking import confirm
from mqttprov.cli.output import emit_columns, emit_fields, emit_json, emit_json_rows, record, say
from mqttprov.cli.state import JsonOption, StateOption, administering, caring, reading
from mqttprov.core.names import fold
from mqttprov.responder.administration import NotFound
from mqttprov.responder.device_life import Done

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
NameArgument = Annotated[str, typer.Argument(help="Name of the device.")]
ReasonOption = Annotated[
    str | None, typer.Option("--reason", metavar="TEXT", help="Why; kept in the audit event.", show_default=False)
]
YesOption = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
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


@app.command()
def suspend(
    name: NameArgument, reason: ReasonOption = None, state: StateOption = None, json: JsonOption = False
) -> None:
    """Stop a device: it may neither log in nor provision, and its sessions have ended when this returns."""
    with caring(state) as life:
        _tell(life.suspend(name, reason), "is suspended", json=json)


@app.command()
def resume(
    name: NameArgument, reason: ReasonOption = None, state: StateOption = None, json: JsonOption = False
) -> None:
    """Let a suspended device go on as what it was, with the credentials that it has."""
    with caring(state) as life:
        _tell(life.resume(name, reason), "is resumed", json=json)


@app.command()
def decommission(
    name: NameArgument,
    reason: ReasonOption = None,
    wait: Annotated[
        str,
        typer.Option(metavar="5s", help="How long a connected gateway may take to wipe its credentials."),
    ] = "5s",
    yes: YesOption = False,
    state: StateOption = None,
    json: JsonOption = False,
) -> None:
    """Retire a device: its credentials are revoked, a connected gateway wipes them, its sessions end.

    The record stays, and with it the name stays taken.
    """
    wait_ms = values.duration_ms(wait)
    with caring(state) as life:
        _ask(state, name, "Decommission device", yes=yes)
        done = life.decommission(name, reason, wait_ms=wait_ms)
    if done.wiped is not None and not done.wiped.done and not json:
        say(f"The gateway may still hold its revoked credentials: {done.wiped.why}.")
    wiped = "; the gateway has wiped its credentials" if done.wiped is not None and done.wiped.done else ""
    _tell(done, f"is decommissioned{wiped}", json=json, wiped=done.wiped.done if done.wiped else None)


@app.command()
def release(
    name: NameArgument,
    reason: ReasonOption = None,
    yes: YesOption = False,
    state: StateOption = None,
    json: JsonOption = False,
) -> None:
    """Free the name of a decommissioned device for another one; its record stays as NAME#ID."""
    with caring(state) as life:
        _ask(state, name, "Release the name of device", yes=yes)
        done = life.release(name, reason)
    _tell(done, "has given its name free", json=json)


@app.command()
def rotate(
    name: NameArgument, reason: ReasonOption = None, state: StateOption = None, json: JsonOption = False
) -> None:
    """Let a device have the next generation of its credentials; the old one works until the new one logs in.

    A gateway that listens to remote calls is told to fetch it: at once, or when it connects next.
    """
    with caring(state) as life:
        done = life.rotate(name, reason)
    _tell(done, "gets its next generation when it asks; it is told to when it is connected", json=json)


def _ask(state: Path | None, name: str, question: str, *, yes: bool) -> None:
    with reading(state) as reader:
        found = next(reader.devices(name), None)
    if found is not None:  # else the verb says so
        confirm(f"{question} {found.name!r} ({found.state}, profile {found.profile!r})?", yes=yes)


def _tell(done: Done, what: str, *, json: bool, **more: bool | None) -> None:
    if json:
        emit_json(record(done.device) | {"auditSeq": done.seq, "brokers": done.brokers, **more})
    else:
        say(f"Device {done.device.name!r} {what}.")
