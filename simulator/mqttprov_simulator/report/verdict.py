"""What a run says in the end: passed, failed, or refused because its figures are the generator's own. Pure."""

from collections.abc import Iterator
from typing import Final

from mqttprov_simulator.report import figures, words
from mqttprov_simulator.report.result import Miss, RunResult, Verdict
from mqttprov_simulator.scenario.model import Scenario

# The rules of reference/simulation.md: section 2 rule 4, section 5, and its P2.
MAX_LAG_SHARE: Final = 0.1
# Below it lag says nothing of the swarm: it is what the timers of a kernel are late when anything else runs there. It
# is in the latencies, so it makes them no better than the server's.
_LEAST_LAG_MS: Final = 2.0
_BUSY_CORES: Final = 0.9

# What the kernel's counters mean, and from which share of the registrations on they are in the percentiles. A packet
# that is sent again can be any process' of this host: only many of them, and more than a few, say something.
_COSTS: Final = {
    "ListenOverflows": ("on this host an accept queue was full", 0.001, 1),
    "ListenDrops": ("on this host connection attempts were thrown away", 0.001, 1),
    "TCPTimeouts": ("on this host packets had to be sent again", 0.01, 5),
}


def verdict(result: RunResult, scenario: Scenario) -> Verdict:
    """Judge a run; what its `verdict` says so far does not matter.

    A broken promise, a missed threshold or an error fails it. Figures that are the generator's own are refused, and
    these reasons are there too when it failed.
    """
    misses = tuple(_misses(result, scenario))
    failures = [*result.errors, *_broken(result), *map(_sentence, misses)]
    refusals = list(refused_because(result))
    state: Final = "failed" if failures else "refused" if refusals else "passed"
    return Verdict(state=state, reasons=(*failures, *refusals), misses=misses)


def refused_because(result: RunResult) -> Iterator[str]:
    """Say why the figures are the generator's own; nothing if they are not."""
    lag_ms, p99_ms = figures.latency_ms(result, 99, "lag"), figures.latency_ms(result, 99)
    if lag_ms is not None and p99_ms is not None and lag_ms > max(_LEAST_LAG_MS, MAX_LAG_SHARE * p99_ms):
        yield (
            f"The swarm itself started gateways late (p99 {words.milliseconds(lag_ms)}, more than a tenth of the "
            f"latency's p99 of {words.milliseconds(p99_ms)}): give it more processes or cores, or offer less."
        )
    yield from _saturated(result)


def kernel_remarks(result: RunResult) -> Iterator[str]:
    """Say what the kernel did to connections, when that is in the percentiles (reference/simulation.md, P1 and P2).

    It takes no verdict away: a broker that accepts too late is as late for the fleet, and the same kernel serves it.
    """
    for name, (what, share, least) in _COSTS.items():
        moved = result.tcp_counters.get(name, 0)
        if name == "ListenDrops" and moved <= result.tcp_counters.get("ListenOverflows", 0):
            continue  # the kernel counts each of those as thrown away, too
        if moved >= max(least, share * result.registered):
            yield (
                f"{what[0].upper()}{what[1:]} {words.several(moved, 'time')} ({name}); each costs its connection a "
                "second or so, which is in the latencies. A fleet would meet the same broker: spread the arrivals, or "
                "raise the broker's accept backlog and net.core.somaxconn."
            )


def _saturated(result: RunResult) -> Iterator[str]:
    under_load = figures.load(result)
    if under_load is None or under_load.kept_up:
        return
    samples = figures.samples_under_load(result)
    by_process: dict[str, list[float]] = {}
    for sample in samples:
        for name, cores in figures.swarm_cores(result, sample).items():
            by_process.setdefault(name, []).append(cores)
    for name, used in by_process.items():
        busy = sum(cores > _BUSY_CORES for cores in used)
        if 2 * busy > len(samples):
            yield (
                f"The swarm's process {name} used more than 90 % of a core in {busy} of {len(samples)} seconds under "
                f"load, and only {words.rate(under_load.achieved_per_s)} of {words.rate(under_load.offered_per_s)} "
                "were reached: the limit may be the swarm's own; give it more processes or cores."
            )


def _broken(result: RunResult) -> Iterator[str]:
    for check in result.checks:
        if check.state == "broken":
            gateways = {gateway for broken in check.broken for gateway in broken.gateways}
            first = min(check.broken, key=lambda broken: broken.at_s, default=None)
            promise = words.PROMISES[check.promise][0]
            seen = "" if first is None else f"; first at {words.seconds(first.at_s)}: {first.seen}"
            yield f"Broken promise \u201c{promise}\u201d, with {words.several(len(gateways), 'gateway')}{seen}."


def _misses(result: RunResult, scenario: Scenario) -> Iterator[Miss]:
    wanted = scenario.thresholds
    under_load = figures.load(result)
    at_most = {
        "p50_ms": figures.latency_ms(result, 50),
        "p99_ms": figures.latency_ms(result, 99),
        "login_p99_ms": figures.latency_ms(result, 99, "login"),
        "telemetry_p99_ms": figures.latency_ms(result, 99, "telemetry"),
        "max_failed_share": figures.failed_share(result),
        "all_online_within_s": result.all_online_at_s,
    }
    for name, got in at_most.items():
        limit = getattr(wanted, name)
        if limit is not None and (got is None or got > limit):
            yield Miss(name, limit, got)
    least = wanted.min_registrations_per_s
    rate = None if under_load is None else under_load.registrations_per_s
    if least is not None and (rate is None or rate < least):
        yield Miss("min_registrations_per_s", least, rate)


def _sentence(miss: Miss) -> str:
    name, shown = {
        "p50_ms": ("Half of the registrations were to be done in", words.milliseconds),
        "p99_ms": ("99 of 100 registrations were to be done in", words.milliseconds),
        "login_p99_ms": ("99 of 100 logins were to be done in", words.milliseconds),
        "telemetry_p99_ms": ("99 of 100 telemetry messages were to be acknowledged in", words.milliseconds),
        "min_registrations_per_s": ("There were to be at least", words.rate),
        "max_failed_share": ("Not registered were to be at most", words.share),
        "all_online_within_s": ("All were to be online within", words.seconds),
    }[miss.threshold]
    if miss.got is None:
        return f"{name} {shown(miss.wanted)}, but that never came about ({miss.threshold})."
    return f"{name} {shown(miss.wanted)}, but it was {shown(miss.got)} ({miss.threshold})."
