"""What a run of a swarm gives: progress while it runs, a summary for people and JSON, a record of each gateway. Values.

Latency is counted from the planned arrival, so that a stall shows in all that it delayed (simulation.md P6); service
time from the actual start; lag is the generator's own delay between the two.
"""

from typing import Any

import msgspec

from mqttprov_simulator.histogram import Histogram


class Progress(msgspec.Struct, frozen=True):
    """A run at one moment. Rates are those of the last second, percentiles those of the last five.

    `states`: gateways by machine state. `failed`: gave up. `cpu_cores`: CPU seconds per second by process. Only where a
    scenario is played: `late`: gateways that are due and not started, the generator's own delay; `faults`: what goes on
    or has just struck; `held` and `broken`: promises that were not seen broken, and the others with how often.
    """

    elapsed_s: float
    gateways: int
    states: dict[str, int]
    registered: int
    failed: int
    offered_per_s: float | None
    registrations_per_s: float
    p50_ms: float | None
    p99_ms: float | None
    cpu_cores: dict[str, float]
    late: int = 0
    faults: tuple[str, ...] = ()
    held: int | None = None
    broken: dict[str, int] = {}


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """A whole run. `registered` gateways reached online with the issued credentials; `failed` are all the others.

    A registration that did not happen in time counts with the time-out in the latencies; one that was refused for good
    is no latency, it is in `failed` and `refusals`. `refusals`: refusing replies by status and refused logins by reason
    code. `lost_connections`: by what ended them, time-outs too. `tcp_counters`: how much the kernel's grew meanwhile.
    `cpu_us_per_registration`: by process. The last three: what the store says, None where it was not asked.
    """

    gateways: int
    registered: int
    failed: int
    duration_s: float
    registrations_per_s: float
    p50_ms: float | None
    p99_ms: float | None
    max_ms: float | None
    service_p50_ms: float | None
    service_p99_ms: float | None
    lag_p99_ms: float | None
    cpu_us_per_registration: dict[str, float]
    refusals: dict[str, int]
    lost_connections: dict[str, int]
    states: dict[str, int]
    tcp_counters: dict[str, int]
    seed: int
    plan: dict[str, Any]
    devices_by_state: dict[str, int] | None = None
    audit_events: int | None = None
    audit_verified: bool | None = None

    @property
    def generator_lagged(self) -> bool:
        """Whether the swarm itself was too slow for its plan, so that the latencies are partly its own.

        More than a tenth of p99 (reference/simulation.md rule 4 of section 2).
        """
        return self.lag_p99_ms is not None and self.p99_ms is not None and self.lag_p99_ms > 0.1 * self.p99_ms


class GatewayRecord(msgspec.Struct, frozen=True, gc=False):
    """One gateway at the end of a run, before the swarm was taken down.

    `credentials` is what its credentials file holds, byte for byte. `refused`: the status of its last refusing reply.
    """

    name: str
    state: str
    registered: bool
    credentials: bytes | None
    refused: str | None

    def __repr__(self) -> str:
        held = "None" if self.credentials is None else f"<{len(self.credentials)} bytes>"
        return (
            f"GatewayRecord(name={self.name!r}, state={self.state!r}, registered={self.registered}, "
            f"credentials={held}, refused={self.refused!r})"
        )


class SwarmResult(msgspec.Struct, frozen=True):
    """Everything about a run; only `summary` is meant for reports."""

    summary: Summary
    gateways: list[GatewayRecord]
    latency: Histogram
    service: Histogram
    lag: Histogram
