"""The result of a run: one JSON file with everything that pages, comparisons and later readers need. Values only.

Histograms are sparse log-linear buckets (`histogram`), in microseconds, so that results merge and compare exactly.
Times are seconds since the planned start. No secret is in it (P6).
"""

from typing import Any, Final, Literal

import msgspec

from mqttprov_simulator.histogram import Buckets
from mqttprov_simulator.running.values import Broken, Promise, Second

FORMAT: Final = 1


class Mark(msgspec.Struct, frozen=True):
    """Something that the plan did to the run at a time: a fault of the target, an action, a timed fault of gateways.

    `note`: what came of it, where that can be said.
    """

    at_s: float
    until_s: float
    name: str
    kind: str
    note: str = ""


class Sample(msgspec.Struct, frozen=True):
    """CPU of the processes in the second before `at_s`: cores in use by part ("broker", "responder", "swarm")."""

    at_s: float
    cores: dict[str, float]


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One promise: held, broken or not checked. `looked_at`: how many gateways, credentials or events were looked at.

    `why_not`: why it was not checked. `broken`: the first of them, of `in_all`.
    """

    promise: Promise
    state: Literal["held", "broken", "not checked"]
    looked_at: int = 0
    broken: tuple[Broken, ...] = ()
    in_all: int = 0
    why_not: str | None = None


class Miss(msgspec.Struct, frozen=True):
    """A threshold and what came out instead."""

    threshold: str
    wanted: float
    got: float | None


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What the run says. `refused`: the figures are the generator's own; the reasons say so.

    Broken promises and misses fail a run also when its figures are refused.
    """

    state: Literal["passed", "failed", "refused"]
    reasons: tuple[str, ...] = ()
    misses: tuple[Miss, ...] = ()


class Environment(msgspec.Struct, frozen=True, kw_only=True):
    """Where it ran: what changes figures. `settings`: sysctls, limits, broker settings, versions, by name."""

    cores: int
    memory_bytes: int
    kernel: str
    python: str
    mqttprov: str
    load_before: float
    settings: dict[str, str]


class RunResult(msgspec.Struct, frozen=True, kw_only=True):
    """A run, whole. `scenario`: as it was run, after what the command line changed. `command` repeats it.

    `plan_digest`: equal for equal plans (same scenario and seed). `histograms`: latency, service, lag, login,
    telemetry, rpc. `tcp_counters`: how much the kernel's grew. `cpu_s`, `rss_bytes`: by process ("broker",
    "responder", "swarm-0", ...). `all_online_at_s`: when all expected gateways were online for the first time,
    None: never.
    """

    format: int = FORMAT
    scenario: dict[str, Any]
    seed: int
    plan_digest: str
    target: str
    command: str
    began_at: str
    duration_s: float
    workers: int
    gateways: int
    expected: int
    registered: int
    online_at_end: int
    all_online_at_s: float | None
    seconds: tuple[Second, ...]
    samples: tuple[Sample, ...]
    marks: tuple[Mark, ...]
    histograms: dict[str, Buckets]
    refusals: dict[str, int]
    lost_connections: dict[str, int]
    strikes: dict[str, int]
    cpu_s: dict[str, float]
    rss_bytes: dict[str, int]
    tcp_counters: dict[str, int]
    checks: tuple[Check, ...]
    verdict: Verdict
    environment: Environment
    errors: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
