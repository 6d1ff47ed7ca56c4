"""`mqttprov device`: the fleet."""

import os
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

from mqttprov.admin import DeviceRow, Done, ImportCount, LifecycleState
from mqttprov.cli import values
from mqttprov.cli.asking import confirm
from mqttprov.cli.errors import Exit, Failure
from mqttprov.cli.output import cell, emit_columns, emit_fields, emit_json, emit_json_rows, record, say
from mqttprov.cli.progress import progress
from mqttprov.cli.secret_files import SecretSheet, new_secret_file, secret_sheet, told_once
from mqttprov.cli.state import JsonOption, OnlyStateDirOption, StateOption, administering, caring, reading

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
    "lastSeenAt": "LAST SEEN",
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
    label: Annotated[
        list[str] | None,
        typer.Option(metavar="K=V|K!=V|K", help="Devices whose label is so, is not so, or exists; repeatable."),
    ] = None,
    state: Annotated[
        LifecycleState | None,
        typer.Option(
            metavar="|".join(LifecycleState),
            help="Devices in this lifecycle state only.",
            parser=values.lifecycle_state,
        ),
    ] = None,
    owner: Annotated[str | None, typer.Option(metavar="O", help="Devices of this owner only.")] = None,
    profile: Annotated[str | None, typer.Option(metavar="P", help="Devices of this profile only.")] = None,
    stale: Annotated[
        str | None,
        typer.Option(
            metavar="7d",
            help="Devices that have not been in use for so long (to an hour), or, never used, were made before.",
            show_default=False,
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="A page of so many devices.", show_default="all")
    ] = None,
    page: Annotated[
        str | None, typer.Option(metavar="ID", help="The page that begins behind this, as the page before told.")
    ] = None,
    state_dir: OnlyStateDirOption = None,
    json: JsonOption = False,
) -> None:
    """List devices, oldest first. All conditions have to hold; a device without a label K is among those K!=V.

    With --stale decommissioned devices are listed only by --state decommissioned. The state directory is --state-dir.
    """
    wanted: dict[str, Any] = {"labels": label or (), "state": state, "owner": owner, "profile": profile}
    wanted["unseen_for_ms"] = None if stale is None else values.duration_ms(stale, "--stale")
    last: list[str] = []

    def page_of(rows: Iterable[DeviceRow]) -> Iterator[dict[str, Any]]:
        for row in rows:
            last[:] = [row.id]
            yield record(row)

    with administering(state_dir) as admin:
        if profile is not None:
            admin.profile(profile)  # one that is misspelt has no devices, which is not what was asked
        rows = page_of(admin.devices(**wanted, after=page, limit=limit))
        if json:
            emit_json_rows(rows)
        else:
            emit_columns(rows, _COLUMNS)
        if limit is not None and last and any(admin.devices(**wanted, after=last[0], limit=1)):
            say(f"more: --page {last[0]}")


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="Name of the device.")],
    state: StateOption = None,
    json: JsonOption = False,
) -> None:
    """Show one device with the history of its credentials; never the credentials."""
    with administering(state) as admin:
        found = admin.device(name)
        history = [record(row) for row in admin.credentials(found)]
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
    with administering(state) as admin:
        row = admin.device(admin.create_device(profile, name, owner, values.labels(label or ())).name)
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
    wait_ms = values.duration_ms(wait, "--wait")
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


@app.command()
def transfer(
    name: NameArgument,
    to: Annotated[str | None, typer.Option(metavar="OWNER", help="Whose it shall be.", show_default=False)] = None,
    expires: Annotated[str, typer.Option(metavar="7d", help="How long the claim code is good for.")] = "7d",
    output_file: Annotated[
        Path | None,
        typer.Option(metavar="F", help="Write the claim code into this new file (mode 0600) instead of printing it."),
    ] = None,
    cancel: Annotated[bool, typer.Option("--cancel", help="Take the offer back.")] = False,
    reason: ReasonOption = None,
    state: StateOption = None,
    json: JsonOption = False,
) -> None:
    """Offer a device to another owner; prints the one-time claim code that completes it this once.

    A request with the new owner's registration token and this code completes it. Until then nothing changes.
    """
    if (to is not None) is cancel or (cancel and output_file is not None):
        raise Failure("give either --to OWNER or --cancel; --output-file goes with --to", Exit.USAGE)
    valid_ms = values.duration_ms(expires, "--expires")
    file = nullcontext() if output_file is None else new_secret_file(output_file)
    with caring(state) as life:
        if to is None:
            _tell(life.cancel_transfer(name, reason), "is offered to nobody any more", json=json)
            return
        with file as sheet:
            offered = life.transfer(name, to, reason, valid_ms=valid_ms)
            with _code_told_once(name):
                if sheet is not None:
                    sheet.write(offered.claim_code.encode() + b"\n")
                    sheet.flush()
                    os.fsync(sheet.fileno())
    told = {"claimCode": offered.claim_code} if output_file is None else {"outputFile": str(output_file)}
    with _code_told_once(name) if output_file is None else nullcontext():
        if json:
            _tell(offered.done, "", json=True, **told)
            return
        _tell(offered.done, f"is offered to {to!r} for {expires}", json=False)
        if output_file is None:
            say("The claim code is shown this once:")
        emit_fields(told)


def _code_told_once(name: str) -> AbstractContextManager[None]:
    return told_once(
        f"the offer of device {name!r} is made with a claim code",
        "take it back with --cancel and offer the device again",
    )


@app.command("label")
def label_(
    what: Annotated[
        list[str],
        typer.Argument(
            metavar="[NAME] K=V|K-...", help="Name of the device, unless --label selects; labels to set or to remove."
        ),
    ],
    label: Annotated[
        list[str] | None,
        typer.Option(metavar="K=V|K!=V|K", help="All devices whose label is so, is not so, or exists; repeatable."),
    ] = None,
    reason: ReasonOption = None,
    yes: YesOption = False,
    state: StateOption = None,
    json: JsonOption = False,
) -> None:
    """Set labels of a device, or of all that --label selects; K- removes one. Others stay as they are.

    A session that is open has the new labels at once. Decommissioned devices keep theirs.
    """
    name, changed = (None, what) if label else (what[0], what[1:])
    if (name is not None and "=" in name) or not changed:
        raise Failure("give a name (or --label) and what to change: K=V to set, K- to remove", Exit.USAGE)
    changes = values.label_changes(changed)
    if name is not None:
        with caring(state) as life:
            done = life.label(name, changes, reason)
        labels = f"the labels {cell(done.device.labels)}" if done.device.labels else "no labels"
        _tell(done, f"has {labels}", json=json)
        return
    with administering(state) as admin:
        total = sum(1 for _ in admin.devices(labels=label or ()))
        confirm(f"Label {total} devices?", yes=yes)
        with progress("labelling", total, json=json) as tell:
            count = admin.label_devices(label or (), changes, remark=reason, tell_progress=tell)
    if json:
        emit_json({"selected": total, "labelled": count})
    else:
        say(f"{count} of {total} devices are labelled; the others had these labels, or are decommissioned.")


@app.command()
def assign(
    name: NameArgument,
    owner: Annotated[str, typer.Option(metavar="OWNER", help="Whose it is from now on.")],
    reason: ReasonOption = None,
    state: StateOption = None,
    json: JsonOption = False,
) -> None:
    """Give a device that has no owner to one; a device that has one passes on by `device transfer`."""
    with caring(state) as life:
        _tell(life.assign(name, owner, reason), f"belongs to {owner!r}", json=json)


def _ask(state: Path | None, name: str, question: str, *, yes: bool) -> None:
    with reading(state) as reader:
        found = next(reader.devices(name), None)
    if found is not None:  # else the verb says so
        confirm(f"{question} {found.name!r} ({found.state}, profile {found.profile!r})?", yes=yes)


def _tell(done: Done, what: str, *, json: bool, **more: bool | str | None) -> None:
    if json:
        emit_json(record(done.device) | {"auditSeq": done.seq, "brokers": done.brokers, **more})
    else:
        say(f"Device {done.device.name!r} {what}.")


@app.command("import")
def import_(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="CSV",
            help="Columns: name, and any of profile, owner, labels (k=v;k=v), certificate or public_key (PEM file), "
            "claim_secret.",
        ),
    ],
    profile: Annotated[str | None, typer.Option(metavar="P", help="Profile of lines that name none.")] = None,
    claim_secrets: Annotated[
        Path | None,
        typer.Option(metavar="CSV", help="Give each device a claim secret, written into this new file (mode 0600)."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check every line and change nothing.")] = False,
    state: StateOption = None,
    json: JsonOption = False,
) -> None:
    """Make manufactured devices from a list; run again to complete. Bad lines are told and the rest goes on.

    A device with a claim secret proves itself by it the first time, in place of the token's secret.
    """
    secrets: AbstractContextManager[SecretSheet | None] = nullcontext()
    if claim_secrets is not None and not dry_run:
        secrets = secret_sheet(claim_secrets, ("name", "claimSecret"))
    with administering(state) as admin, secrets as sheet, progress("lines", None, json=json) as tell:
        count = admin.import_list(
            file,
            profile=profile,
            tell_fault=lambda fault: say(f"line {fault.number}: {fault.text}"),
            tell_claims=None if claim_secrets is None else (lambda _: None) if sheet is None else sheet.add,
            tell_progress=lambda count: tell(count.made + count.skipped + count.failed),
            dry_run=dry_run,
        )
    if json:
        emit_json({"dryRun": dry_run} | record(count))
    else:
        say(f"{'Would be: ' if dry_run else ''}{_summary(count)}")
    if count.failed:
        raise typer.Exit(Exit.FAILED)


def _summary(count: ImportCount) -> str:
    return f"{count.made} made, {count.skipped} there already, {count.failed} refused"
