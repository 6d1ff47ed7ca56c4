"""`mqttprov swarm report` and `compare`: what to make of results that are kept. They run nothing."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec
import typer

from mqttprov.cli import swarm
from mqttprov.cli.errors import Exit, Failure
from mqttprov.cli.output import emit_columns, emit_json, say
from mqttprov.cli.state import JsonOption

if TYPE_CHECKING:
    from mqttprov_simulator.report.compare import Comparison, Figure
    from mqttprov_simulator.report.result import RunResult

_SEPARATOR: Final = "vs"
_COLUMNS: Final = {"name": "FIGURE", "a": "A", "b": "B", "ratio": "B/A", "interval": "95 %", "says": "B IS"}

ResultArgument = Annotated[Path, typer.Argument(metavar="RESULT", help="What 'mqttprov swarm run --out' kept.")]
ResultsArgument = Annotated[
    list[str], typer.Argument(metavar="A B", help="Two results, or more for each side: A1 A2 A3 vs B1 B2 B3.")
]


def report(
    result: ResultArgument,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Where the page goes.", show_default="beside the result, as .html"),
    ] = None,
    hgrm: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the latencies here, as text for HdrHistogram's plotter.")
    ] = None,
) -> None:
    """Make a page of a result: one HTML file that needs nothing else."""
    from mqttprov_simulator.report.file import hgrm as percentiles
    from mqttprov_simulator.report.page import page

    read = _read(result)
    written = out or result.with_suffix(".html")
    for path in (written, hgrm):
        swarm.writable(path)
    written.write_text(page(read), "utf-8")
    say(f"Wrote {written}.")
    if hgrm is not None:
        if not read.histograms.get("latency"):
            raise Failure(f"{result} has no latencies: nothing was registered after the warm-up")
        hgrm.write_text(percentiles(read.histograms["latency"]), "utf-8")
        say(f"Wrote {hgrm}.")


def compare(results: ResultsArgument, json: JsonOption = False) -> None:
    """Compare results: how B stands to A, with 95 % intervals, and whether a difference was shown.

    With three results or more for each side the intervals are over runs, with fewer over the seconds within them.
    """
    from mqttprov_simulator.report.compare import compare as compared

    a, b = _sides(results)
    comparison = compared([_read(path) for path in a], [_read(path) for path in b])
    if json:
        emit_json(msgspec.to_builtins(comparison))
    else:
        _tell(comparison)


def _sides(given: list[str]) -> tuple[list[Path], list[Path]]:
    paths = [Path(name) for name in given]
    if _SEPARATOR not in given:
        if len(given) != 2:
            raise Failure(
                f"give two results, or both sides with '{_SEPARATOR}' between them: A1 A2 {_SEPARATOR} B1 B2",
                Exit.USAGE,
            )
        return paths[:1], paths[1:]
    at = given.index(_SEPARATOR)
    a, b = paths[:at], paths[at + 1 :]
    if not a or not b or _SEPARATOR in given[at + 1 :]:
        raise Failure(f"give results on both sides of one '{_SEPARATOR}': A1 A2 {_SEPARATOR} B1 B2", Exit.USAGE)
    return a, b


def _read(path: Path) -> "RunResult":
    from mqttprov_simulator.report.file import ResultError, read_result

    try:
        return read_result(path)
    except FileNotFoundError as error:
        raise Failure(f"there is no file {path}; name what 'mqttprov swarm run --out' kept", Exit.USAGE) from error
    except ResultError as error:
        raise Failure(str(error), Exit.USAGE) from error


def _tell(comparison: "Comparison") -> None:
    emit_columns((_row(figure) for figure in comparison.figures), _COLUMNS)
    say(f"intervals over {comparison.over}, of {comparison.results_a} and {comparison.results_b} results")
    for warning in comparison.warnings:
        say(f"note: {warning}")


def _row(figure: "Figure") -> dict[str, Any]:
    from mqttprov_simulator.report import words

    def shown(value: float | None) -> str:
        match figure.unit:
            case _ if value is None:
                return words.UNKNOWN
            case "/s":
                return words.rate(value)
            case "ms":
                return words.milliseconds(value)
            case "us":
                return f"{words.count(value)} us"
            case "MiB":
                return words.memory(value * 2**20)

    interval = words.UNKNOWN if figure.low is None or figure.high is None else f"{figure.low:.2f} to {figure.high:.2f}"
    return {
        "name": figure.name,
        "a": shown(figure.a),
        "b": shown(figure.b),
        "ratio": words.UNKNOWN if figure.ratio is None else f"{figure.ratio:.2f}",
        "interval": interval,
        "says": figure.says,
    }
