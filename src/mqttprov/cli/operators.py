"""`mqttprov operator`: MQTT logins of people and programs behind the fleet."""

from typing import Annotated

import typer

from mqttprov.admin import NewPasswordUnconfirmed, OperatorRole
from mqttprov.cli.asking import confirm
from mqttprov.cli.output import emit_columns, emit_fields, emit_json, emit_json_rows, iso_time, say
from mqttprov.cli.secret_files import told_once
from mqttprov.cli.state import JsonOption, StateOption, administering

app = typer.Typer(help="Operators: MQTT logins of people and programs behind the fleet.")

NameArgument = Annotated[str, typer.Argument(help="Name of the operator.")]


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="Name, which is the MQTT user name.")],
    role: Annotated[
        OperatorRole, typer.Option(help="An observer may only listen; an operator may also publish.")
    ] = OperatorRole.OPERATOR,
    state: StateOption = None,
    json: JsonOption = False,
) -> None:
    """Make an operator's login; prints its password this once."""
    with administering(state) as admin:
        password = admin.create_operator(name, role)
    _tell(
        {"name": name, "role": role.value, "password": password},
        f"operator {name!r} is made with a password",
        json=json,
    )


def _tell(fields: dict[str, str], made: str, *, json: bool) -> None:
    with told_once(made, f"give it another one: mqttprov operator rotate {fields['name']} --yes"):
        if json:
            emit_json(fields)
            return
        say("The password is shown this once:")
        emit_fields(fields)


@app.command()
def rotate(
    name: NameArgument,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    state: StateOption = None,
    json: JsonOption = False,
) -> None:
    """Give an operator's login a new password, shown this once; the old one and its sessions end at once."""
    unconfirmed = None
    with administering(state) as admin:
        confirm(f"End the password of operator {name!r}, and its sessions?", yes=yes)
        try:
            password = admin.rotate_operator(name)
        except NewPasswordUnconfirmed as error:
            unconfirmed, password = error, error.password
    _tell({"name": name, "password": password}, f"operator {name!r} has a new password", json=json)
    if unconfirmed is not None:
        raise unconfirmed


@app.command()
def remove(
    name: NameArgument,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    state: StateOption = None,
    json: JsonOption = False,
) -> None:
    """Remove an operator's login: it and its sessions end at once. The name may be given to another one."""
    with administering(state) as admin:
        confirm(f"Remove the login of operator {name!r}, and end its sessions?", yes=yes)
        admin.remove_operator(name)
    (emit_json if json else emit_fields)({"name": name, "removed": True})


@app.command("list")
def list_(state: StateOption = None, json: JsonOption = False) -> None:
    """List operators; never their passwords."""
    with administering(state) as admin:
        rows = [
            {"name": name, "role": role.value, "createdAt": iso_time(created_ms)}
            for name, role, created_ms in admin.operators()
        ]
    if json:
        emit_json_rows(rows)
    else:
        emit_columns(rows, {"name": "NAME", "role": "ROLE", "createdAt": "CREATED"})
