"""`mqttprov swarm sweep`: one scenario at several rates, to find the highest that keeps a p99."""

from typing import TYPE_CHECKING, Annotated, Final

import msgspec
import typer

from mqttprov.cli import swarm, values
from mqttprov.cli.errors import Exit, Failure
from mqttprov.cli.output import emit_columns, emit_json, say
from mqttprov.cli.state import JsonOption

if TYPE_CHECKING:
    from mqttprov_simulator.report.knee import Step
    from mqttprov_simulator.report.result import RunResult
    from mqttprov_simulator.scenario.model import Scenario

_COLUMNS: Final = {
    "asked": "RATE", "achieved": "REACHED", "p50": "P50", "p99": "P99", "lag": "LAG P99", "says": "KEEPS IT",
}  # fmt: skip


def sweep(
    scenario: swarm.ScenarioArgument,
    p99_ms: Annotated[
        float, typer.Option("--p99-ms", metavar="MS", min=0.001, callback=values.finite, help="The p99 to keep.")
    ],
    least: Annotated[
        float, typer.Option(metavar="R", min=0.1, callback=values.finite, help="Lowest rate to try, per second.")
    ] = 10,
    most: Annotated[
        float, typer.Option(metavar="R", min=0.1, callback=values.finite, help="Highest rate to try.")
    ] = 10_000,
    target: Annotated[
        str, typer.Option(metavar="T", help="'embedded' or 'mosquitto': each step has one of its own.")
    ] = "embedded",
    gateways: swarm.GatewaysOption = None,
    seed: swarm.SeedOption = None,
    processes: swarm.ProcessesOption = None,
    cluster: swarm.ClusterOption = None,
    json: JsonOption = False,
) -> None:
    """Find the highest rate at which gateways may arrive so that the p99 of their registrations is kept.

    Each step is a run of its own, with as many gateways as arrive in the scenario's time. Exit status 1 when no rate
    keeps it.
    """
    from mqttprov_simulator.running.sweep import sweep as swept

    if least > most:
        raise Failure(f"--least {least:g} is more than --most {most:g}", Exit.USAGE)
    if "://" in target:  # its devices would be there already in the second step
        raise Failure("a sweep needs a new target for each step; give --target embedded or mosquitto", Exit.USAGE)
    loaded = swarm.loaded(scenario, gateways, seed)
    where = swarm.place(target, processes, cluster, None, None, None, None)
    with swarm.stopping() as stop:

        def run(step: "Scenario") -> "RunResult":
            result = swarm.played_once(step, where, command="", stop=stop)
            if stop.is_set():
                raise KeyboardInterrupt
            return result

        knee = swept(loaded, p99_ms, run, least_per_s=least, most_per_s=most, told=_say)
    if json:
        emit_json(msgspec.to_builtins(knee))
    else:
        emit_columns(map(_row, knee.steps), _COLUMNS)
        say(knee.says)
    if knee.highest_per_s is None:
        raise typer.Exit(Exit.FAILED)


def _say(step: "Step") -> None:
    row = _row(step)
    say(f"{row['asked']}: p99 {row['p99']}, {row['says']}")


def _row(step: "Step") -> dict[str, str]:
    from mqttprov_simulator.report import words

    return {
        "asked": words.rate(step.asked_per_s),
        "achieved": words.rate(step.achieved_per_s),
        "p50": words.milliseconds(step.p50_ms),
        "p99": words.milliseconds(step.p99_ms),
        "lag": words.milliseconds(step.lag_p99_ms),
        "says": "yes" if step.keeps else f"no: {step.why_not}",
    }
