"""`mqttprov operator`: MQTT logins of people and programs behind the fleet."""

from typing import Annotated

import typer

from mqttprov.admin import OperatorRole
from mqttprov.cli.output import emit_columns, emit_fields, emit_json, emit_json_rows, iso_time, say
from mqttprov.cli.secret_files import told_once
from mqttprov.cli.state import JsonOption, StateOption, administering

app = typer.Typer(help="Operators: MQTT logins of people and programs behind the fleet.")


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
    fields = {"name": name, "role": role.value, "password": password}
    with told_once(f"operator {name!r} is made with a password", "make one with another name"):
        if json:
            emit_json(fields)
            return
        say("The password is shown this once:")
        emit_fields(fields)


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
