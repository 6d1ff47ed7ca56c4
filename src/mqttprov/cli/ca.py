"""`mqttprov ca`: the certificate authorities that sign certificates of devices, and their lists of ended ones."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mqttprov.cli.asking import confirm
from mqttprov.cli.errors import Exit, Failure
from mqttprov.cli.output import emit_columns, emit_fields, emit_json, record, say
from mqttprov.cli.state import JsonOption, StateOption, administering

if TYPE_CHECKING:
    from mqttprov.responder.authority_care import AuthorityView

app = typer.Typer(help="Certificate authorities: who signs certificates of devices and brokers.")

NameOption = Annotated[
    str | None, typer.Option(help="Common name of the new authority.", show_default="mqttprov, with a number")
]
DaysOption = Annotated[
    int | None, typer.Option(min=1, max=36_500, help="How long the new authority lasts.", show_default="3650")
]
CertificateOption = Annotated[
    Path | None,
    typer.Option("--certificate", metavar="FILE", help="Bring your own: its certificate (PEM), then those above it."),
]
KeyOption = Annotated[
    Path | None,
    typer.Option("--private-key", metavar="FILE", help="Its private key (EC, unencrypted PEM, readable by you alone)."),
]
YesOption = Annotated[bool, typer.Option("--yes", help="Do not ask.")]

_COLUMNS = {
    "state": "STATE",
    "subject": "SUBJECT",
    "fingerprint": "FINGERPRINT",
    "notAfterAt": "UNTIL",
    "live": "LIVE",
}


def _asked(name: str | None, days: int | None, certificate: Path | None, private_key: Path | None) -> dict[str, Any]:
    """Give what was asked for, as arguments. Raises `Failure` for what contradicts itself."""
    if (certificate is None) != (private_key is None):
        raise Failure("an authority of your own is two files: give --certificate and --private-key", Exit.USAGE)
    if certificate is not None and (name is not None or days is not None):
        raise Failure("an authority of your own has a name and validity already; leave out --name, --days", Exit.USAGE)
    given = {"name": name, "days": days, "certificate": certificate, "private_key": private_key}
    return {option: value for option, value in given.items() if value is not None}


def _tell(view: "AuthorityView", *, json: bool) -> None:
    fields = record(view, leave_out=("live",))
    if json:
        emit_json(fields)
        return
    emit_fields(fields)
    say("authority.pem has changed: give it to devices and brokers that verify with it.")


@app.command()
def show(state: StateOption = None, json: JsonOption = False) -> None:
    """Show all authorities: subject, fingerprint, validity, and how many certificates of each devices can use now."""
    with administering(state) as admin:
        rows = [record(view) for view in admin.ca.show()]
        lists = str(admin.ca.lists_path)
    if json:
        emit_json({"authorities": rows, "crl": lists})
        return
    emit_columns(rows, _COLUMNS)
    say(f"Ended certificates are listed in {lists}; serial numbers are in --json.")


@app.command()
def init(
    name: NameOption = None,
    days: DaysOption = None,
    certificate: CertificateOption = None,
    private_key: KeyOption = None,
    state: StateOption = None,
    json: JsonOption = False,
) -> None:
    """Replace the authority that 'mqttprov init' made, as long as it has issued nothing."""
    _install("init", _asked(name, days, certificate, private_key), state, json=json)


@app.command()
def rotate(
    name: NameOption = None,
    days: DaysOption = None,
    certificate: CertificateOption = None,
    private_key: KeyOption = None,
    state: StateOption = None,
    json: JsonOption = False,
) -> None:
    """Let a new authority sign from now on, also in a running 'serve'.

    Older ones stay trusted, and the oldest goes on to sign the broker's own certificate, until 'mqttprov ca retire'.
    """
    _install("rotate", _asked(name, days, certificate, private_key), state, json=json)


def _install(verb: str, asked: dict[str, Any], state: Path | None, *, json: bool) -> None:
    with administering(state) as admin:
        try:
            view = getattr(admin.ca, verb)(**asked)
        except ValueError as error:
            raise Failure(str(error), Exit.USAGE) from error
    _tell(view, json=json)


@app.command()
def retire(yes: YesOption = False, state: StateOption = None, json: JsonOption = False) -> None:
    """End the trust in all older authorities and remove their private keys.

    Devices whose authority.pem has only those no longer believe the broker: give them the new one before.
    """
    with administering(state) as admin:
        older = [view for view in admin.ca.show() if view.state == "trusted"]
        live = sum(view.live for view in older)
        confirm(f"Retire {len(older)} older authorities, with {live} certificates that devices still use?", yes=yes)
        retired: list[dict[str, Any]] = [record(view, leave_out=("state",)) for view in admin.ca.retire()]
    if json:
        emit_json({"retired": retired})
    else:
        emit_columns(retired, {name: heading for name, heading in _COLUMNS.items() if name != "state"})


@app.command()
def crl(
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a copy into this file, which everybody may read.")
    ] = None,
    state: StateOption = None,
    json: JsonOption = False,
) -> None:
    """Write the lists of ended certificates (X.509 CRL, one for each trusted authority) into crl.pem.

    'serve' does so by itself, soon after each change and once a day; a list is good for 7 days.
    """
    with administering(state) as admin:
        text = admin.ca.write_lists()
        path = admin.ca.lists_path
    if out is not None:
        from mqttprov.responder.state_files import write_whole

        write_whole(out, text.encode(), mode=0o644)
        path = out
    if json:
        emit_json({"crl": str(path), "lists": text.count("-----BEGIN")})
    else:
        say(f"Wrote {path}.")
