"""A run's result on a terminal: what came of it, at a glance. Only printing."""

from typing import Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mqttprov_simulator.report import figures, words
from mqttprov_simulator.report.result import RunResult
from mqttprov_simulator.report.verdict import kernel_remarks

_STYLES: Final = {"passed": "bold green", "failed": "bold red", "refused": "bold yellow"}
_SIGNS: Final = {"held": ("✓", "green"), "broken": ("✗", "bold red"), "not checked": (words.UNKNOWN, "bright_black")}
_VERDICTS: Final = {"passed": "passed", "failed": "FAILED", "refused": "no verdict: the figures are not the server's"}


def print_result(result: RunResult, console: Console) -> None:
    """Print figures, promises and the verdict with its reasons."""
    console.print(_figures(result))
    console.print(_promises(result))
    for text in (*result.warnings, *kernel_remarks(result)):
        console.print(Text(f"note: {text}", style="yellow"), soft_wrap=not console.is_terminal)
    verdict = result.verdict
    console.print(Text(_VERDICTS[verdict.state], style=_STYLES[verdict.state]))
    for reason in verdict.reasons:
        console.print(Text(f"  {reason}"), soft_wrap=not console.is_terminal)


def _figures(result: RunResult) -> Table:
    table = _grid()
    missing = result.expected - result.registered
    failed = f", {words.count(missing)} missing" if missing > 0 else ""
    table.add_row("registered", f"{words.count(result.registered)} of {words.count(result.expected)} expected{failed}")
    when = words.seconds(result.all_online_at_s) if result.all_online_at_s is not None else "never"
    table.add_row("all online", f"after {when}" if result.all_online_at_s is not None else when)
    load = figures.load(result)
    if load is not None:
        offered = f"{words.rate(load.offered_per_s)} arrived"
        table.add_row("rate", f"{words.rate(load.registrations_per_s)} registrations ({offered})")
    for name in ("latency", "service", "login", "telemetry", "rpc", "lag"):
        if result.histograms.get(name):
            each = (
                f"p{percent:g} {words.milliseconds(figures.latency_ms(result, percent, name))}" for percent in (50, 99)
            )
            table.add_row(name, ", ".join(each))
    for part, used_us in figures.cpu_us_per_registration(result).items():
        memory = words.memory(figures.by_part(result.rss_bytes).get(part, 0))
        table.add_row(f"CPU {part}", f"{used_us:.0f} us per registration, {memory} at most")
    for title, counts in (
        ("refusals", result.refusals), ("lost connections", result.lost_connections), ("faults", result.strikes),
        ("kernel", {name: moved for name, moved in result.tcp_counters.items() if moved}),
    ):  # fmt: skip
        if counts:
            table.add_row(title, ", ".join(f"{name} {words.count(number)}" for name, number in counts.items()))
    table.add_row("seed", f"{result.seed}, plan {result.plan_digest[:16]}")
    return table


def _promises(result: RunResult) -> Table:
    table = _grid()
    for check in result.checks:
        sign, style = _SIGNS[check.state]
        text, _ = words.PROMISES[check.promise]
        about = f"{words.count(check.looked_at)} looked at" if check.state == "held" else check.why_not or ""
        if check.state == "broken":
            about = "; ".join(
                f"{broken.at_s:.1f} s {' '.join(broken.gateways)}: {broken.seen}" for broken in check.broken[:3]
            )
        table.add_row(
            Text(sign, style=style), text, Text(about, style="" if check.state == "broken" else "bright_black")
        )
    return table


def _grid() -> Table:
    return Table(show_header=False, box=None, padding=(0, 2, 0, 0))
