"""`mqttprov audit explain|report`: the record in plain sentences, and what of it should be looked at."""

from collections.abc import Iterator
from typing import Annotated, Any, Final

import typer

from mqttprov.admin import Finding, Told
from mqttprov.cli import values
from mqttprov.cli.errors import Exit
from mqttprov.cli.output import cell, emit, emit_json, emit_json_rows, iso_time
from mqttprov.cli.state import JsonOption, StateOption, administering
from mqttprov.core.hygiene import MEANINGS

_SHOWN_ROWS: Final = 10


def explain(
    ref_or_device: Annotated[
        str, typer.Argument(help="The 'ref' that a device was told, or the name or id of a device.")
    ],
    state: StateOption = None,
    json: JsonOption = False,
) -> None:
    """Tell the story of one answer or of one device, and what to do about refusals.

    With --json an array: one object per event, with the sentence.
    """
    with administering(state) as admin:
        story = admin.explain(ref_or_device)
        told = map(_told, story.told())
        if json:
            emit_json_rows(told)
            return
        for fields in told:
            emit(f"{fields['at']}  #{fields['seq']}  {fields['sentence']}")
            if fields["advice"]:
                emit(f"    What to do: {fields['advice']}")
        standing = story.standing()
        if standing is not None:
            emit(standing)


def _told(told: Told) -> dict[str, Any]:
    fields = {"seq": told.seq, "at": iso_time(told.at_ms), "kind": told.kind}
    return fields | {"sentence": told.sentence, "advice": told.advice}


def report(
    within: Annotated[
        str,
        typer.Option(
            metavar="24h", help="How long enrolling may take and a token may lie unused; how far back failures count."
        ),
    ] = "24h",
    state: StateOption = None,
    json: JsonOption = False,
) -> None:
    """Look for what an operator should know; the exit status is 7 when something is found.

    Keys under several names, names provisioned from alternating sources, superseded credentials in use, fights for a
    client id, failed attempts by source, names used again, devices without owner or not enrolled in time, registration
    tokens near their limit or unused.
    """
    with administering(state) as admin:
        findings = admin.report(within_ms=values.duration_ms(within, "--within"))
    if json:
        emit_json([_record(finding) for finding in findings])
    else:
        for line in _lines(findings):
            emit(line)
    if findings:
        raise typer.Exit(Exit.FOUND)


def _record(finding: Finding) -> dict[str, Any]:
    rows = [{_camel(name): _shown(name, value) for name, value in row.items()} for row in finding.rows]
    return {"finding": finding.kind, "count": finding.count, "rows": rows}


def _camel(name: str) -> str:
    first, *rest = (name.removesuffix("_ms") + "_at" if name.endswith("_ms") else name).split("_")
    return first + "".join(word.title() for word in rest)


def _shown(name: str, value: Any) -> Any:
    return iso_time(value) if name.endswith("_ms") else value


def _lines(findings: list[Finding]) -> Iterator[str]:
    if not findings:
        yield "Nothing to report."
    for finding in findings:
        yield f"{finding.kind}: {finding.count} {MEANINGS[finding.kind]}"
        for row in _record(finding)["rows"][:_SHOWN_ROWS]:
            yield "    " + "  ".join(f"{name}={cell(value)}" for name, value in row.items())
        if finding.count > _SHOWN_ROWS:
            yield f"    ... and {finding.count - _SHOWN_ROWS} more"
