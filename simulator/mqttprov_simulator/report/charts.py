"""What the charts of a page show, as plain values: `page.js` draws them. Pure; of looks only the names of colours."""

from typing import Final, Literal

import msgspec

from mqttprov_simulator.histogram import Buckets, Histogram
from mqttprov_simulator.report import figures, words
from mqttprov_simulator.report.result import RunResult
from mqttprov_simulator.running.values import Second
from mqttprov_simulator.state_groups import grouped

# More points than a wide screen has pixels for say nothing; steps of several seconds are taken instead.
_MAX_STEPS: Final = 480
# Evenly spread over the spectrum's axis, log 1/(1-p), with those that people ask for among them.
_PERCENTILES: Final = tuple(
    sorted({50.0, 75.0, 95.0, 99.5, 99.95, *(round(100 - 10 ** (2 - n / 10), 6) for n in range(51))})
)

Colour = Literal["green", "red", "blue", "purple", "orange", "grey", "slate"]
Unit = Literal["gateways", "per second", "ms", "cores", "times"]
Values = list[float | None]

# From the bottom: what is meant to be large and steady first.
_STATE_COLOURS: Final[dict[str, Colour]] = {
    "online": "green",
    "connecting": "blue",
    "saving": "purple",
    "provisioning": "orange",
    "backing off": "red",
    "stopped": "slate",
    "off": "grey",
}
_SERVER_COLOURS: Final[tuple[Colour, ...]] = ("red", "purple", "orange")
_SWARM_COLOURS: Final[tuple[Colour, ...]] = ("blue", "green", "slate", "grey")


class Series(msgspec.Struct, frozen=True):
    """One line, area, row of bars or lane."""

    name: str
    colour: Colour
    values: Values
    style: Literal["line", "dashed", "thin", "area", "bar", "lane"] = "line"


class Chart(msgspec.Struct, frozen=True, kw_only=True):
    """One chart. `x`: seconds, or percentages where `over` is "percentile". `says`: what is to be seen, in words."""

    id: str
    title: str
    says: str
    over: Literal["time", "percentile"] = "time"
    unit: Unit
    logarithmic: bool = False
    x: list[float]
    series: tuple[Series, ...]


def charts(result: RunResult) -> list[Chart]:
    """Give all charts of a page that have something to show, in their order."""
    length, steps = figures.in_steps(result.seconds, _MAX_STEPS)
    made = [
        _states(result, length, steps),
        _rates(result, length, steps),
        _latency(result, length, steps),
        _spectrum(result),
        _cpu(result, length),
        _trouble(length, steps),
        _strikes(result, length, steps),
    ]
    return [chart for chart in made if any(value for series in chart.series for value in series.values)]


def _states(result: RunResult, length: int, steps: list[Second]) -> Chart:
    standing = [_standing(result.gateways, states) for states in ({}, *(step.states for step in steps))]
    names = [*_STATE_COLOURS, *{name for counts in standing for name in counts if name not in _STATE_COLOURS}]
    shown = [name for name in names if any(counts.get(name) for counts in standing)]
    when = (
        f"All {words.several(result.expected, 'expected gateway')} were online after "
        f"{words.seconds(result.all_online_at_s)}."
        if result.all_online_at_s is not None
        else f"At the end {words.count(result.online_at_end)} of {words.several(result.expected, 'expected gateway')} "
        "were online."
    )
    return Chart(
        id="states",
        title="The fleet",
        says=when,
        unit="gateways",
        x=[0.0, *(step.at_s + float(length) for step in steps)],
        series=tuple(
            Series(name, _STATE_COLOURS.get(name, "grey"), [counts.get(name, 0) for counts in standing], "area")
            for name in shown
        ),
    )


def _standing(gateways: int, states: dict[str, int]) -> dict[str, int]:
    """Give gateways by group; those that have not arrived have no state, and are off."""
    counts = grouped(states)
    counts["off"] += max(0, gateways - sum(states.values()))
    return counts


def _rates(result: RunResult, length: int, steps: list[Second]) -> Chart:
    under_load = figures.load(result)
    says = "Nothing arrived after the warm-up."
    if under_load is not None:
        behind = f"but only {words.rate(under_load.achieved_per_s)} were"
        rest = "and as many were" if under_load.kept_up else behind
        says = f"While gateways arrived, {words.rate(under_load.offered_per_s)} did, {rest} registered."
    return Chart(
        id="rates",
        title="Arrivals and registrations",
        says=says,
        unit="per second",
        x=_middles(length, steps),
        series=(
            Series("registered", "green", [step.registered / length for step in steps]),
            Series("arrived", "slate", [step.due / length for step in steps], "dashed"),
        ),
    )


def _latency(result: RunResult, length: int, steps: list[Second]) -> Chart:
    histograms = [Histogram.of(step.latency) for step in steps]
    tails = [histogram.percentile_ms(99) for histogram in histograms]
    worst = max(
        ((value, step.at_s) for value, step in zip(tails, steps, strict=True) if value is not None), default=None
    )
    says = "No gateway was registered."
    if worst is not None:
        says = (
            f"Overall p50 {words.milliseconds(figures.latency_ms(result, 50))}, p99 "
            f"{words.milliseconds(figures.latency_ms(result, 99))}; the worst p99 of a second was "
            f"{words.milliseconds(worst[0])}, at {worst[1]} s."
        )
    return Chart(
        id="latency",
        title="Registration latency over time",
        says=says,
        unit="ms",
        logarithmic=True,
        x=_middles(length, steps),
        series=(
            Series("p99", "red", tails),
            Series("p50", "blue", [histogram.percentile_ms(50) for histogram in histograms]),
        ),
    )


def _spectrum(result: RunResult) -> Chart:
    kinds: tuple[tuple[str, str, Colour, Literal["line", "dashed", "thin"]], ...] = (
        ("latency", "registration, as planned", "red", "line"),
        ("service", "registration, as started", "orange", "dashed"),
        ("login", "login", "blue", "line"),
        ("telemetry", "telemetry", "green", "thin"),
        ("rpc", "RPC", "purple", "thin"),
        ("lag", "the swarm's own lag", "grey", "thin"),
    )
    latency = Histogram.of(result.histograms.get("latency", {}))
    says = "There is no latency to show."
    if latency.count:
        says = (
            f"Half were registered within {words.milliseconds(latency.percentile_ms(50))}, 99 of 100 within "
            f"{words.milliseconds(latency.percentile_ms(99))}, the slowest in {words.milliseconds(latency.max_ms)}."
        )
    return Chart(
        id="spectrum",
        title="Latency spectrum",
        says=says,
        over="percentile",
        unit="ms",
        logarithmic=True,
        x=list(_PERCENTILES),
        series=tuple(
            Series(name, colour, spectrum(result.histograms[kind]), style)
            for kind, name, colour, style in kinds
            if result.histograms.get(kind)
        ),
    )


def spectrum(buckets: Buckets) -> Values:
    """Give the percentiles of the spectrum in milliseconds; None from where a percentile would be a single value."""
    histogram = Histogram.of(buckets)
    return [
        histogram.percentile_ms(percent) if histogram.count * (100 - percent) >= 100 or percent <= 50 else None
        for percent in _PERCENTILES
    ]


def _cpu(result: RunResult, length: int) -> Chart:
    samples = result.samples[::length]
    names = list(dict.fromkeys(name for sample in samples for name in sample.cores))
    peaks = [(max(s.cores.get(name, 0.0) for s in samples), name) for name in names]
    swarm = [name for name in names if name.startswith("swarm")]
    servers = [name for name in names if name not in swarm]
    colours = {name: _SERVER_COLOURS[n % len(_SERVER_COLOURS)] for n, name in enumerate(servers)}
    colours |= {name: _SWARM_COLOURS[n % len(_SWARM_COLOURS)] for n, name in enumerate(swarm)}
    busiest = max(peaks, default=None)
    return Chart(
        id="cpu",
        title="CPU by process",
        says=f"The busiest was {busiest[1]} with {busiest[0]:.2f} of a core at most." if busiest else "",
        unit="cores",
        x=[sample.at_s - 0.5 for sample in samples],
        series=tuple(
            Series(name, colours[name], [s.cores.get(name) for s in samples], "line" if name in servers else "thin")
            for name in (*servers, *swarm)
        ),
    )


def _trouble(length: int, steps: list[Second]) -> Chart:
    lost, refused = sum(step.lost for step in steps), sum(step.refused for step in steps)
    again = sum(step.came_online - step.registered for step in steps)
    return Chart(
        id="trouble",
        title="Lost, refused, back again",
        says=(
            f"{words.several(lost, 'connection was', 'connections were')} lost and {words.several(refused, 'attempt')} "
            f"refused; gateways came back online {words.several(again, 'time')}."
        ),
        unit="per second",
        x=_middles(length, steps),
        series=(
            Series("lost", "red", [step.lost / length for step in steps], "bar"),
            Series("refused", "orange", [step.refused / length for step in steps], "bar"),
            Series("back online", "green", [(step.came_online - step.registered) / length for step in steps], "bar"),
        ),
    )


def _strikes(result: RunResult, length: int, steps: list[Second]) -> Chart:
    names = sorted(result.strikes, key=lambda name: -result.strikes[name])
    total = sum(result.strikes.values())
    return Chart(
        id="strikes",
        title="Faults as they struck",
        says=f"{words.several(len(names), 'fault')} struck {words.several(total, 'time')}.",
        unit="times",
        x=_middles(length, steps),
        series=tuple(
            Series(
                f"{name}, {words.several(result.strikes[name], 'time')}",
                "red",
                [float(step.strikes.get(name, 0)) for step in steps],
                "lane",
            )
            for name in names
        ),
    )


def _middles(length: int, steps: list[Second]) -> list[float]:
    return [step.at_s + length / 2 for step in steps]
