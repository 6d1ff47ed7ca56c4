"""`mqttprov swarm list|show|plan|schema`: what a scenario says, before anything runs.

The swarm is loaded by these verbs only.
"""

from typing import TYPE_CHECKING, Any, Final

import msgspec

from mqttprov.cli import swarm
from mqttprov.cli.errors import Exit, Failure
from mqttprov.cli.output import emit, emit_columns, emit_fields, emit_json
from mqttprov.cli.state import JsonOption

if TYPE_CHECKING:
    from mqttprov_simulator.scenario.outline import Happening, Outline

_HAPPENINGS: Final = {"at": "AT s", "name": "NAME", "kind": "KIND", "gateways": "GATEWAYS"}
_BAR: Final = 50  # columns of the longest bar


def list_(json: JsonOption = False) -> None:
    """List the shipped scenarios."""
    from mqttprov_simulator.scenario.reading import shipped_names

    rows = []
    for name in shipped_names():
        scenario = swarm.loaded(name, gateways=None, seed=None)
        rows.append({"name": name, "gateways": scenario.gateways, "summary": scenario.summary})
    if json:
        emit_json(rows)
    else:
        emit_columns(rows, {"name": "NAME", "gateways": "GATEWAYS", "summary": "WHAT HAPPENS"})


def show(scenario: swarm.ScenarioArgument) -> None:
    """Print a scenario's file, to copy and change it."""
    from mqttprov_simulator.scenario.reading import ScenarioError, source_of

    try:
        text = source_of(scenario)
    except ScenarioError as error:
        raise Failure(str(error), Exit.USAGE) from error
    for line in text.rstrip("\n").split("\n"):
        emit(line)


def plan(
    scenario: swarm.ScenarioArgument,
    gateways: swarm.GatewaysOption = None,
    seed: swarm.SeedOption = None,
    json: JsonOption = False,
) -> None:
    """Say what a scenario comes to, without running it.

    Its groups, arrivals over time, faults and actions by time with how many gateways each meets, and a digest: plans
    with equal digests are equal.
    """
    from mqttprov_simulator.scenario.outline import outline

    drawn = outline(swarm.loaded(scenario, gateways, seed))
    if json:
        emit_json(drawn)
    else:
        _tell(drawn)


def schema() -> None:
    """Print the JSON Schema of scenario files, for editors that complete and check TOML."""
    from mqttprov_simulator.scenario.model import Scenario

    emit_json(msgspec.json.schema(Scenario))


def _tell(drawn: "Outline") -> None:
    emit_fields(
        {
            "scenario": drawn.name,
            "summary": drawn.summary,
            "seed": drawn.seed,
            "gateways": drawn.gateways,
            "expected": drawn.expected,
            "planned end": f"{drawn.planned_end_s:.1f} s",
            "digest": drawn.digest,
        }
    )
    emit("")
    emit_columns(
        [msgspec.structs.asdict(group) for group in drawn.groups],
        {"name": "GROUP", "gateways": "GATEWAYS", "expect": "EXPECT", "first_s": "FIRST s", "last_s": "LAST s"},
    )
    emit("")
    _histogram(drawn.arrivals, drawn.seconds_per_row)
    if drawn.happenings:
        emit("")
        emit_columns([_happening(one) for one in drawn.happenings], _HAPPENINGS)


def _happening(one: "Happening") -> dict[str, Any]:
    at = "by chance" if one.at_s is None else f"{one.at_s:g}"
    until = "" if one.until_s is None or one.until_s == one.at_s else f" to {one.until_s:g}"
    return {"at": at + until, "name": one.name, "kind": one.kind, "gateways": one.gateways}


def _histogram(arrivals: tuple[int, ...], seconds: int) -> None:
    """Print arrivals over time, a bar a row."""
    most = max(arrivals, default=0) or 1
    end = f"{len(arrivals) * seconds}"
    unit = "second" if seconds == 1 else f"{seconds} seconds"
    emit(f"arrivals per {unit}, at most {most}")
    for row, count in enumerate(arrivals):
        bar = "#" * max(1 if count else 0, round(count * _BAR / most))
        emit(f"{row * seconds:>{len(end)}} s {count:>{len(str(most))}} {bar}".rstrip())
