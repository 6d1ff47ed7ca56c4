"""Swarms against a stub broker on real sockets: registering, pacing, ending, and telling what went wrong."""

import asyncio
import time
from collections import Counter
from typing import Any

import msgspec
import pytest

from mqttprov.mqtt import ReasonCode
from mqttprov_simulator import plan as plan_module
from mqttprov_simulator.plan import SwarmPlan
from mqttprov_simulator.results import Progress
from mqttprov_simulator.swarm import SwarmError, run_swarm, swarm

_NOT_FOUND = {"status": "NOT_FOUND", "errorMsg": "Provision data was not found!"}
StubBroker = Any  # conftest.StubBroker: a conftest cannot be imported


def _with(plan: SwarmPlan, **changes: Any) -> SwarmPlan:
    return msgspec.structs.replace(plan, **changes)


async def test_every_gateway_registers_once_and_keeps_its_credentials(stub: StubBroker, plan: SwarmPlan) -> None:
    """One request and one login each; the reply is stored byte for byte."""
    result = await swarm(plan)
    assert (result.summary.registered, result.summary.failed) == (10, 0)
    assert result.summary.states == {"stopped": 10}
    assert len(stub.requests) == 10
    names = [record.name for record in result.gateways]
    assert Counter(stub.logins) == Counter(f"token-of-{name}" for name in names)
    for record in result.gateways:
        assert record.registered
        assert record.credentials is not None
        assert f"token-of-{record.name}".encode() in record.credentials
    assert result.latency.count == result.service.count == 10
    assert result.summary.registrations_per_s > 0
    assert result.summary.cpu_us_per_registration["swarm"] > 0


async def test_no_secret_is_shown_in_results(stub: StubBroker, plan: SwarmPlan) -> None:
    """P6: neither the provision secret nor an issued token."""
    result = await swarm(plan)
    shown = repr(result) + msgspec.json.encode(result.summary).decode()
    assert "hidden-secret" not in shown
    assert "token-of-" not in shown


async def test_a_fleet_that_stays_is_online_together_until_the_end(stub: StubBroker, plan: SwarmPlan) -> None:
    """All connections are held at the same time, and closed afterwards."""
    held: list[int] = []
    result = await swarm(
        _with(plan, stay_connected=True, hold_s=0.3), on_progress=lambda _progress: held.append(len(stub.connections))
    )
    assert result.summary.states == {"online": 10}
    assert held[-1] == 10
    await asyncio.wait_for(stub.empty.wait(), 30)


async def test_concurrency_bounds_what_is_in_flight(stub: StubBroker, plan: SwarmPlan) -> None:
    """P9: never more gateways between start and login than the plan allows."""
    in_flight: list[int] = []

    def reply(request: dict[str, Any]) -> dict[str, Any] | None:
        in_flight.append(len(stub.requests) - len(stub.logins))
        answer: dict[str, Any] | None = stub.grant(request)
        return answer

    stub.reply = reply
    result = await swarm(_with(plan, gateways=40, concurrency=3))
    assert result.summary.registered == 40
    assert max(in_flight) == 3


async def test_a_stall_shows_in_the_latency_of_all_that_it_delays(stub: StubBroker, plan: SwarmPlan) -> None:
    """Coordinated omission: latency counts from the planned arrival, and the generator's own lag is told apart."""
    stalls = iter([0.4])

    def reply(request: dict[str, Any]) -> dict[str, Any] | None:
        time.sleep(next(stalls, 0.0))  # stops broker and swarm alike, as they share this loop
        answer: dict[str, Any] | None = stub.grant(request)
        return answer

    stub.reply = reply
    result = await swarm(_with(plan, gateways=30, rate_per_s=100.0))
    assert result.summary.registered == 30
    assert result.lag.count == 30
    assert result.lag.max_us > 200_000
    latency, service = result.latency.percentile(50), result.service.percentile(50)
    assert latency is not None
    assert service is not None
    assert latency > service
    assert latency > 50_000
    assert result.summary.generator_lagged


async def test_gateways_start_at_the_planned_rate(stub: StubBroker, plan: SwarmPlan) -> None:
    """An open plan: the last of ten at 20 per second is due after 450 ms, however fast the others were."""
    result = await swarm(_with(plan, rate_per_s=20.0))
    assert result.summary.registered == 10
    assert result.summary.duration_s >= 0.45


async def test_a_refused_gateway_gives_up_when_it_is_told_to(stub: StubBroker, plan: SwarmPlan) -> None:
    """The status of the reply is recorded; the others are not held up."""
    stub.reply = lambda request: _NOT_FOUND if request["deviceName"] > "swarm-000006" else stub.grant(request)
    result = await swarm(_with(plan, concurrency=2, give_up_after_refusals=1, stay_connected=True))
    assert (result.summary.registered, result.summary.failed) == (6, 4)
    assert result.summary.refusals == {"NOT_FOUND": 4}
    assert [record.refused for record in result.gateways] == [None] * 6 + ["NOT_FOUND"] * 4
    assert [record.state for record in result.gateways] == ["online"] * 6 + ["stopped"] * 4
    assert result.latency.count == 6
    assert len(stub.requests) == 10


async def test_a_refused_gateway_tries_again_with_the_same_request(stub: StubBroker, plan: SwarmPlan) -> None:
    """P4: every attempt sends the same bytes, and the machine's back-off brings it there."""
    stub.reply = lambda request: stub.grant(request) if len(stub.requests) > 20 else _NOT_FOUND
    result = await swarm(plan)
    assert result.summary.registered == 10
    assert result.summary.refusals == {"NOT_FOUND": 20}
    assert len(set(stub.requests)) == 10


async def test_what_does_not_register_in_time_counts_with_the_timeout(stub: StubBroker, plan: SwarmPlan) -> None:
    """Every run ends; errors stay in the latencies and are counted by what was waited for."""
    stub.reply = lambda _request: None
    machine = msgspec.structs.replace(plan.machine, reply_timeout_s=0.1)
    result = await swarm(_with(plan, gateways=3, timeout_s=0.5, machine=machine))
    assert (result.summary.registered, result.summary.failed) == (0, 3)
    assert result.summary.p50_ms == result.summary.max_ms == 500
    assert result.summary.lost_connections["no reply in time"] >= 3
    assert {record.credentials for record in result.gateways} == {None}
    assert 0.5 <= result.summary.duration_s < 5


async def test_a_login_that_is_refused_is_counted_and_tried_again(stub: StubBroker, plan: SwarmPlan) -> None:
    """P10: a busy broker costs time, not the credentials."""
    refusals = iter([ReasonCode.SERVER_BUSY, ReasonCode.BAD_USER_NAME_OR_PASSWORD])
    stub.refuse_login = lambda _token: next(refusals, None)
    result = await swarm(_with(plan, gateways=1))
    assert result.summary.registered == 1
    assert result.summary.refusals == {"CONNACK SERVER_BUSY": 1, "CONNACK BAD_USER_NAME_OR_PASSWORD": 1}
    assert len(stub.requests) == 1


async def test_a_fleet_rides_out_a_broker_that_goes_away(stub: StubBroker, plan: SwarmPlan) -> None:
    """P10: all come back with the credentials that they had, without asking for new ones."""
    down, refused = asyncio.Event(), asyncio.Event()

    def watch(progress: Progress) -> None:
        if progress.states.get("online") == 10 and not down.is_set():
            stub.stop()
            down.set()
        elif down.is_set() and progress.states.get("waiting_to_connect"):
            refused.set()

    async def bring_back() -> None:
        await refused.wait()
        await stub.start()

    plan = _with(plan, stay_connected=True, hold_s=0.5)
    result, _ = await asyncio.wait_for(asyncio.gather(swarm(plan, on_progress=watch), bring_back()), 30)
    assert result.summary.states == {"online": 10}
    assert sum(result.summary.lost_connections.values()) >= 10
    assert len(stub.requests) == 10
    assert len(stub.logins) == 20
    assert result.latency.count == 10


async def test_where_nobody_listens_every_gateway_fails_with_the_reason(stub: StubBroker, plan: SwarmPlan) -> None:
    """A wrong port is told as what it is."""
    stub.stop()
    result = await swarm(_with(plan, timeout_s=0.3))
    assert result.summary.failed == 10
    assert set(result.summary.lost_connections) == {"Connection refused"}
    assert result.summary.registrations_per_s == 0


async def test_a_silent_fleet_is_kept_alive(stub: StubBroker, plan: SwarmPlan) -> None:
    """MQTT keep alive: half of it passes, then there is a PINGREQ."""
    machine = msgspec.structs.replace(plan.machine, keep_alive_s=1)
    result = await swarm(_with(plan, stay_connected=True, hold_s=1.2, machine=machine))
    assert stub.pings >= 10
    assert not result.summary.lost_connections


async def test_a_broker_that_is_dead_but_connected_is_noticed(stub: StubBroker, plan: SwarmPlan) -> None:
    """P10: without an answer to its PINGREQ a gateway connects anew."""
    stub.answers_pings = False
    machine = msgspec.structs.replace(plan.machine, keep_alive_s=1)
    result = await swarm(_with(plan, gateways=2, stay_connected=True, hold_s=30.0, timeout_s=2.5, machine=machine))
    assert result.summary.lost_connections["no PINGRESP in time"] >= 2
    assert len(stub.logins) >= 4


async def test_a_large_swarm_connects_from_several_addresses(
    stub: StubBroker, plan: SwarmPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One source address has 28,000 ports; the loopback network has many addresses."""
    monkeypatch.setattr(plan_module, "GATEWAYS_PER_SOURCE", 4)
    result = await swarm(plan)
    assert result.summary.registered == 10
    assert stub.sources == {"127.0.0.2", "127.0.0.3", "127.0.0.4"}


async def test_an_unknown_host_is_one_clear_error(plan: SwarmPlan) -> None:
    """Before any gateway starts."""
    with pytest.raises(SwarmError, match="give a name or an address"):
        await swarm(_with(plan, host="no-such-host.invalid"))


async def test_a_mistake_in_a_callback_ends_the_run(stub: StubBroker, plan: SwarmPlan) -> None:
    """Our own errors do not pass for lost connections."""

    def reply(_request: dict[str, Any]) -> dict[str, Any] | None:
        raise ZeroDivisionError

    stub.reply = reply
    with pytest.raises(ZeroDivisionError):
        await swarm(plan)
    await asyncio.wait_for(stub.empty.wait(), 30)


async def test_progress_is_told_and_its_errors_are_not_hidden(stub: StubBroker, plan: SwarmPlan) -> None:
    """From the first moment to the last; a view that breaks ends the run."""
    seen: list[Progress] = []
    await swarm(plan, on_progress=seen.append)
    assert (seen[0].registered, seen[-1].registered) == (0, 10)
    assert sum(seen[-1].states.values()) == 10

    def broken(_progress: Progress) -> None:
        raise KeyError("view")

    with pytest.raises(KeyError, match="view"):
        await swarm(plan, on_progress=broken)


async def test_run_swarm_has_a_loop_of_its_own(stub: StubBroker, plan: SwarmPlan) -> None:
    """For programs without one; here in a thread beside the stub's."""
    result = await asyncio.to_thread(run_swarm, plan)
    assert result.summary.registered == 10
