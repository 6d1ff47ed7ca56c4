"""What a person sees of a run: the live view or a line per second while it runs, the summary at its end. Only printing.

The view goes to a terminal, the lines to anything else. Both cost CPU time in the swarm's own process, so they look at
the fleet a few times per second and no more.
"""

from types import TracebackType
from typing import Final, Self

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from mqttprov_simulator.results import Progress, Summary
from mqttprov_simulator.state_groups import grouped

_VIEW_EVERY_S: Final = 0.25
_LINE_EVERY_S: Final = 1.0
_BAR_WIDTH: Final = 60

# Of the groups of states (`state_groups`), in the order of a gateway's life.
_COLOURS: Final = {
    "off": "bright_black",
    "provisioning": "yellow",
    "saving": "magenta",
    "connecting": "cyan",
    "online": "green",
    "backing off": "red",
    "stopped": "blue",
}


class LiveView:
    """Shows progress while the context lasts; give `update` to the swarm. With `live`, only on a terminal."""

    def __init__(self, console: Console, *, live: bool) -> None:
        self._console: Final = console
        self._live: Final = (
            Live(console=console, auto_refresh=False, transient=True) if live and console.is_terminal else None
        )
        self._next_s = 0.0

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def update(self, progress: Progress) -> None:
        """Show a moment of the run, if the last one was shown long enough ago."""
        if progress.elapsed_s < self._next_s:
            return
        if self._live is not None:
            self._next_s = progress.elapsed_s + _VIEW_EVERY_S
            self._live.update(view(progress), refresh=True)
        else:
            self._next_s = progress.elapsed_s + _LINE_EVERY_S
            self._console.print(line(progress), markup=False, highlight=False, soft_wrap=True)


def line(progress: Progress) -> str:
    """One plain line about a moment."""
    groups = ", ".join(f"{name} {count}" for name, _, count in _grouped(progress.states) if count)
    cpu = ", ".join(f"{name} {cores:.0%}" for name, cores in progress.cpu_cores.items())
    failed = f"  failed {progress.failed}" if progress.held is None else ""
    return (
        f"{progress.elapsed_s:5.1f} s  registered {progress.registered}/{progress.gateways}"
        f"{failed}  {progress.registrations_per_s:.0f}/s{_offered(progress)}"
        f"  p50 {_ms(progress.p50_ms)}  p99 {_ms(progress.p99_ms)}  CPU {cpu}  [{groups}]{_plain_news(progress)}"
    )


def view(progress: Progress) -> Group:
    """The live view of a moment: a bar of the fleet's states, what they mean, and the figures."""
    bar, legend = Text(), Text()
    filled = 0
    total = 0
    for name, colour, count in _grouped(progress.states):
        total += count
        width = round(total * _BAR_WIDTH / max(progress.gateways, 1)) - filled
        filled += width
        bar.append("█" * width, style=colour)
        if count:
            legend.append("■ ", style=colour).append(f"{name} {count}  ")
    figures = Table.grid(padding=(0, 3))
    played = progress.held is not None
    second = ("late", str(progress.late)) if played else ("failed", str(progress.failed))
    figures.add_row("registered", f"{progress.registered} of {progress.gateways}", *second)
    figures.add_row("rate", f"{progress.registrations_per_s:.0f}/s{_offered(progress)}", "time", _seconds(progress))
    figures.add_row("p50", _ms(progress.p50_ms), "p99", _ms(progress.p99_ms))
    cells = [cell for name, cores in progress.cpu_cores.items() for cell in (f"CPU {name}", f"{cores:.0%}")]
    for first in range(0, len(cells), 4):
        figures.add_row(*cells[first : first + 4])
    if not played:
        return Group(bar, legend, figures)
    figures.add_row("promises", _promises(progress))
    return Group(bar, legend, figures, Text("  ".join(progress.faults), style="yellow", no_wrap=True))


def _promises(progress: Progress) -> Text:
    if not progress.broken:
        return Text(f"{progress.held} held", style="green")
    return Text("BROKEN: " + _counts(progress.broken), style="bold red")


def _plain_news(progress: Progress) -> str:
    """What a line says only if there is something to say."""
    news = f"  late {progress.late}" if progress.late else ""
    if progress.faults:
        news += f"  faults: {', '.join(progress.faults)}"
    return news + (f"  BROKEN: {_counts(progress.broken)}" if progress.broken else "")


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())


def print_summary(summary: Summary, console: Console) -> None:
    """Print a whole run as a table, and warnings if its figures do not mean what they seem to."""
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_row("registered", f"{summary.registered} of {summary.gateways}, failed {summary.failed}")
    table.add_row("rate", f"{summary.registrations_per_s:.0f} registrations/s")
    latency = (("p50", summary.p50_ms), ("p99", summary.p99_ms), ("max", summary.max_ms))
    table.add_row("latency", ", ".join(f"{name} {_ms(value)}" for name, value in latency))
    for name, used_us in summary.cpu_us_per_registration.items():
        table.add_row(f"CPU {name}", f"{used_us:.0f} us per registration")
    for title, counts in (
        ("refusals", summary.refusals),
        ("lost connections", summary.lost_connections),
        ("gateways", summary.states),
        ("devices", summary.devices_by_state or {}),
    ):
        if counts:
            table.add_row(title, Text(", ".join(f"{name} {count}" for name, count in counts.items())))
    if summary.audit_events is not None:
        chain = "verified" if summary.audit_verified else "BROKEN"
        table.add_row("audit chain", f"{chain}, {summary.audit_events} events")
    table.add_row("seed", str(summary.seed))
    console.print(table)
    for warning in _warnings(summary):
        console.print(f"note: {warning}", style="yellow", markup=False, highlight=False, soft_wrap=True)


def _warnings(summary: Summary) -> list[str]:
    warnings = []
    if summary.generator_lagged:
        warnings.append(
            f"the swarm started gateways late (p99 {_ms(summary.lag_p99_ms)}), so the latencies are partly its own; "
            "offer a lower rate or give it more CPU"
        )
    moved = ", ".join(f"{name} +{count}" for name, count in summary.tcp_counters.items() if count)
    if moved:
        warnings.append(f"the kernel dropped or repeated connection attempts ({moved}); each costs a second")
    return warnings


def _grouped(states: dict[str, int]) -> list[tuple[str, str, int]]:
    return [(name, _COLOURS.get(name, "white"), count) for name, count in grouped(states).items()]


def _offered(progress: Progress) -> str:
    return "" if progress.offered_per_s is None else f" of {progress.offered_per_s:.0f}/s offered"


def _seconds(progress: Progress) -> str:
    return f"{progress.elapsed_s:.1f} s"


def _ms(value_ms: float | None) -> str:
    return "-" if value_ms is None else f"{value_ms:.1f} ms"
