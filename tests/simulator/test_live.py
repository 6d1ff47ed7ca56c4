"""What is printed: the view on a terminal, lines elsewhere, the summary."""

import io

import msgspec
from rich.console import Console

from mqttprov_simulator.live import LiveView, line, print_summary, view
from mqttprov_simulator.results import Progress, Summary

_PROGRESS = Progress(
    elapsed_s=2.0,
    gateways=10,
    states={"new": 2, "awaiting_reply": 3, "online": 4, "waiting_to_connect": 1},
    registered=4,
    failed=0,
    offered_per_s=5.0,
    registrations_per_s=2.0,
    p50_ms=1.5,
    p99_ms=None,
    cpu_cores={"swarm": 0.25, "broker": 0.5},
)
_SUMMARY = Summary(
    gateways=10,
    registered=9,
    failed=1,
    duration_s=3.0,
    registrations_per_s=3.0,
    p50_ms=1.0,
    p99_ms=2.0,
    max_ms=3.0,
    service_p50_ms=1.0,
    service_p99_ms=2.0,
    lag_p99_ms=0.1,
    cpu_us_per_registration={"swarm": 120.0},
    refusals={"NOT_FOUND": 1},
    lost_connections={},
    states={"online": 9},
    tcp_counters={"ListenOverflows": 0},
    seed=5,
    plan={},
)


def _console(*, terminal: bool) -> tuple[Console, io.StringIO]:
    out = io.StringIO()
    return Console(file=out, force_terminal=terminal, width=120), out


def _moments(view: LiveView, *times_s: float) -> None:
    for elapsed_s in times_s:
        view.update(msgspec.structs.replace(_PROGRESS, elapsed_s=elapsed_s))


def test_off_a_terminal_there_is_one_plain_line_per_second() -> None:
    """Ten reports a second become one line, without control sequences."""
    console, out = _console(terminal=False)
    with LiveView(console, live=True) as view:
        _moments(view, *(tenth / 10 for tenth in range(21)))
    lines = out.getvalue().splitlines()
    assert len(lines) == 3
    assert "\x1b" not in out.getvalue()
    assert "registered 4/10" in lines[0]


def test_a_line_tells_rate_latency_cpu_and_states() -> None:
    """Everything that matters is in it, and what is unknown is a dash."""
    text = line(_PROGRESS)
    for part in ("2/s of 5/s offered", "p50 1.5 ms", "p99 -", "swarm 25%", "broker 50%", "provisioning 3", "off 2"):
        assert part in text


def test_on_a_terminal_there_is_a_view_that_is_redrawn() -> None:
    """The fleet is shown as a bar; with live off it is lines on a terminal too."""
    console, out = _console(terminal=True)
    with LiveView(console, live=True) as view:
        _moments(view, 0.0, 0.1, 0.5)
    assert "█" in out.getvalue()
    assert "online 4" in out.getvalue()
    console, out = _console(terminal=True)
    with LiveView(console, live=False) as view:
        _moments(view, 0.0)
    assert "█" not in out.getvalue()


def test_a_played_scenario_tells_of_faults_lateness_and_promises() -> None:
    """Faults as they strike, what the generator owes, what the server promised; a line says only what is news."""
    played = msgspec.structs.replace(_PROGRESS, late=3, faults=("broker-kill", "power-loss 2"), held=10)
    broken = msgspec.structs.replace(played, held=9, broken={"echoed": 2})
    for part in ("late 3", "faults: broker-kill, power-loss 2"):
        assert part in line(played)
    assert "BROKEN: echoed 2" in line(broken)
    assert "late" not in line(_PROGRESS)
    console, out = _console(terminal=True)
    for moment in (played, broken):
        console.print(view(moment))
    for part in ("10 held", "broker-kill  power-loss 2", "BROKEN: echoed 2"):
        assert part in out.getvalue()


def test_the_summary_names_what_counts() -> None:
    """Registered, failed, latency, CPU, refusals, devices and audit chain."""
    console, out = _console(terminal=False)
    print_summary(
        msgspec.structs.replace(_SUMMARY, devices_by_state={"active": 9}, audit_events=20, audit_verified=True), console
    )
    text = out.getvalue()
    for part in ("9 of 10, failed 1", "p99 2.0 ms", "120 us", "NOT_FOUND 1", "active 9", "verified, 20 events", "5"):
        assert part in text
    assert "note:" not in text


def test_the_summary_warns_of_figures_that_mislead() -> None:
    """A generator that lags and connections that the kernel dropped make latencies that are not the broker's."""
    console, out = _console(terminal=False)
    misleading = msgspec.structs.replace(
        _SUMMARY, lag_p99_ms=0.5, tcp_counters={"ListenOverflows": 7}, audit_events=3, audit_verified=False
    )
    print_summary(misleading, console)
    text = out.getvalue()
    assert misleading.generator_lagged
    assert "latencies are partly its own" in text
    assert "ListenOverflows +7" in text
    assert "BROKEN" in text


def test_a_summary_is_json() -> None:
    """It can be written down and read again."""
    assert msgspec.json.decode(msgspec.json.encode(_SUMMARY), type=Summary) == _SUMMARY
