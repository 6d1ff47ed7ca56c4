"""A worker at the stub broker: figures, the promises that it watches, the end of a run, failures."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest
from tests.simulator.running.harness import LINE, Told, plan

from mqttprov.mqtt import Message, ReasonCode
from mqttprov_simulator.running import population as population_module
from mqttprov_simulator.running import worker as worker_module
from mqttprov_simulator.running.values import Assignment, Endpoint, Failure, FromWorker, Ready, Recording, TokenKey
from mqttprov_simulator.running.worker import Orders, work
from mqttprov_simulator.scenario.model import Constant, GatewayFault, Group, Life, Stop

StubBroker = Any  # conftest.StubBroker: a conftest cannot be imported
At = Callable[..., Awaitable[Told]]


def _named(stub: StubBroker, name: Callable[[str], str] = lambda own: own) -> None:
    """Let replies name the device that they are for."""

    def reply(request: dict[str, Any]) -> dict[str, Any] | None:
        answer: dict[str, Any] = stub.grant(request)
        return {**answer, "deviceName": name(request["deviceName"])}

    stub.reply = reply


async def test_workers_share_a_run_without_overlap(stub: StubBroker, at_stub: At) -> None:
    """Each gateway is driven by one of them; what they tell adds up."""
    shares = [await at_stub(plan(LINE), worker=worker, workers=2) for worker in range(2)]
    assert [share.recording.gateways for share in shares] == [3, 2]
    names = sorted(standing.gateway for share in shares for standing in share.recording.standings)
    assert names == [f"line/{number:06}" for number in range(1, 6)]
    assert len(stub.requests) == 5
    for share in shares:
        assert not share.promises
        assert share.recording.prepared_cpu_s <= share.recording.cpu_s
        assert [told.device for told in share.told] == [
            standing.device for standing in share.recording.standings if standing.registered
        ]


async def test_no_secret_leaves_a_worker(stub: StubBroker, at_stub: At) -> None:
    """P6: fingerprints only."""
    told = await at_stub(plan(LINE))
    text = msgspec.json.encode([told.recording, told.moments]).decode()
    assert "token-of-" not in text
    assert '"secret"' not in text


async def test_what_never_registers_counts_with_the_time_that_passed(stub: StubBroker, at_stub: At) -> None:
    """Errors never vanish from the latencies, and who is missing is named (P10)."""
    stub.reply = lambda _request: None
    told = await at_stub(plan(LINE, stop=Stop(timeout_s=0.6)))
    assert sum(told.recording.latency.values()) == 5
    assert not told.recording.service
    assert told.promises == {"not-online"}
    assert {broken.gateways[0] for broken in told.broken} == {f"line/{number:06}" for number in range(1, 6)}
    assert "its state is" in told.broken[0].seen


async def test_absence_is_seen_while_the_run_goes_on(stub: StubBroker, at_stub: At) -> None:
    """Once the time is over within which all are to be online, not only at the end."""
    stub.reply = lambda _request: None
    told = await at_stub(plan(LINE, stop=Stop(timeout_s=1.6, online_within_s=0.2)))
    assert told.promises == {"not-online"}
    assert max(broken.at_s for broken in told.broken) < 1.55


async def test_gateways_have_their_time_from_the_real_end_of_the_plan(stub: StubBroker) -> None:
    """P10: what is done to the target may last longer than planned; a run that ends before has not judged them."""
    stub.reply = lambda _request: None
    endpoint = Endpoint(host="127.0.0.1", port=stub.port)
    tokens = {"default/default": TokenKey("key", "secret")}
    scenario = plan(LINE, stop=Stop(timeout_s=20, online_within_s=0.1))
    given = Assignment(scenario=scenario, worker=0, workers=1, starts_at=0.0, endpoints=(endpoint,), tokens=tokens)
    said: list[FromWorker] = []
    orders = Orders()

    def tell(value: FromWorker) -> None:
        said.append(value)
        if isinstance(value, Ready):
            orders.begin.set_result(time.time())
            orders.over_at_s = 15.0
            asyncio.get_running_loop().call_later(0.6, orders.stop.set)

    await work(given, tell, orders)
    told = Told(said)
    assert not told.promises
    assert told.recording.unjudged == 5


async def test_who_loses_its_credentials_while_its_secret_is_wrong_is_not_waited_for(
    stub: StubBroker, at_stub: At
) -> None:
    """No server can let it in, so its absence is none of the server's."""

    def reply(request: dict[str, Any]) -> dict[str, Any]:
        known = request["provisionDeviceSecret"] == "secret"
        answer: dict[str, Any] = stub.grant(request) if known else {"status": "NOT_FOUND", "errorMsg": "no"}
        return answer

    stub.reply = reply
    logins = iter([None] * 5)
    stub.refuse_login = lambda _token: next(logins, ReasonCode.BAD_USER_NAME_OR_PASSWORD)
    faults = (
        GatewayFault(kind="wrong-secret", at_s=0.3),
        GatewayFault(kind="power-loss", at_s=0.4),
    )
    told = await at_stub(plan(LINE, faults=faults, stop=Stop(hold_s=0.1, timeout_s=8, online_within_s=0.5)))
    assert told.recording.refusals["NOT_FOUND"] >= 5
    assert "not-online" not in told.promises
    assert told.recording.ended_at_s < 7


async def test_calls_are_refused_where_the_broker_does_not_bring_them(stub: StubBroker) -> None:
    """Before anything begins, with what to leave out."""
    said: list[FromWorker] = []
    endpoint = Endpoint(host="127.0.0.1", port=stub.port, own_topics=True)
    group = Group(name="a", gateways=1, arrivals=Constant(rate_per_s=1.0), life=Life(rpc_every_s=1.0))
    tokens = {"default/default": TokenKey("key", "secret")}
    given = Assignment(scenario=plan(group), worker=0, workers=1, starts_at=0.0, endpoints=(endpoint,), tokens=tokens)
    await work(given, said.append)
    assert isinstance(said[-1], Failure)
    assert "leave rpc_every_s out" in said[-1].text


async def test_a_refused_login_with_told_credentials_breaks_a_promise(stub: StubBroker, at_stub: At) -> None:
    """P2: what was told must work; a busy server breaks nothing."""
    refusals = iter([ReasonCode.SERVER_BUSY, ReasonCode.BAD_USER_NAME_OR_PASSWORD])
    stub.refuse_login = lambda _token: next(refusals, None)
    told = await at_stub(plan(LINE))
    assert told.promises == {"told-not-durable"}
    assert len(told.broken) == 1
    assert told.broken[0].gateways[0].startswith("line/00000")


async def test_anothers_reply_breaks_a_promise(stub: StubBroker, at_stub: At) -> None:
    """P3: the reply says whom it is for."""
    _named(stub, lambda own: "line-000001")
    told = await at_stub(plan(LINE))
    assert told.promises == {"reply-to-another"}
    assert {broken.gateways for broken in told.broken} == {(f"line/{number:06}",) for number in range(2, 6)}


async def test_another_answer_before_the_first_was_used_breaks_a_promise(stub: StubBroker, at_stub: At) -> None:
    """P4: the reply was lost, so the gateway asks again with the same proof."""
    numbers = iter(range(1000))
    stub.reply = lambda request: {**stub.grant(request), "credentialsValue": f"another-{next(numbers)}"}
    lost = GatewayFault(kind="reply-lost", probability=1.0, times=1)
    told = await at_stub(plan(LINE, faults=(lost,)))
    assert told.promises == {"answer-changed"}
    assert len(told.broken) == 5
    _named(stub)
    assert not (await at_stub(plan(msgspec.structs.replace(LINE, names="again-"), faults=(lost,)))).promises


async def test_an_older_generation_that_still_works_breaks_a_promise(stub: StubBroker, at_stub: At) -> None:
    """P7: after newer credentials were used, the older ones are tried, under a client id of their own."""
    numbers = iter(range(1000))
    stub.reply = lambda request: {**stub.grant(request), "credentialsValue": f"generation-{next(numbers)}"}
    refusals = iter([None, *[ReasonCode.BAD_USER_NAME_OR_PASSWORD] * 3])
    stub.refuse_login = lambda _token: next(refusals, None)
    one = Group(name="line", gateways=1, arrivals=Constant(rate_per_s=10))
    cut = GatewayFault(kind="power-loss", at_s=0.8)
    told = await at_stub(plan(one, faults=(cut,), stop=Stop(hold_s=0.2, timeout_s=20)))
    assert told.promises == {"told-not-durable", "old-still-works"}
    assert stub.logins == ["generation-0", "generation-1", "generation-0"]
    assert told.recording.probed == 1
    assert told.recording.standings[0].fingerprints[-1] == told.recording.standings[0].stored


async def test_who_is_to_be_refused_and_gets_in_breaks_a_promise(stub: StubBroker, at_stub: At) -> None:
    """A clone that comes online is seen at once."""
    told = await at_stub(plan(msgspec.structs.replace(LINE, expect="refused")))
    assert told.promises == {"let-in"}
    assert len(told.broken) == 5


async def test_attributes_that_come_back_break_a_promise(stub: StubBroker, at_stub: At) -> None:
    """DESIGN decision 8: what a gateway publishes as its own is for operators; what operators say is no echo."""
    said = msgspec.json.encode({"swarm": "line/000001", "n": 1})

    logged_in = asyncio.Event()
    stub.refuse_login = lambda _token: asyncio.get_running_loop().call_later(0.1, logged_in.set) and None

    async def send() -> None:
        await logged_in.wait()
        for connection in list(stub.connections):
            for payload in (b'{"light":"on"}', b"?", said):
                connection._session.publish(Message("v1/devices/me/attributes", payload), 1)
            connection.transport.write(connection._session.take_output())

    one = Group(name="line", gateways=1, arrivals=Constant(rate_per_s=10))
    told, _ = await asyncio.gather(at_stub(plan(one, stop=Stop(hold_s=0.3))), send())
    assert told.promises == {"echoed"}
    assert told.broken[0].gateways == ("line/000001",)


async def test_a_message_that_is_never_acknowledged_counts_with_the_time_that_passed(at_stub: At) -> None:
    """Errors never vanish: the reader stalls before the first acknowledgement can come."""
    lively = msgspec.structs.replace(LINE, life=Life(telemetry_every_s=0.2))
    stall = GatewayFault(kind="stalled-reader", probability=1.0, for_s=60)
    told = await at_stub(plan(lively, faults=(stall,), stop=Stop(hold_s=1.4, timeout_s=20)))
    assert told.recording.lost_connections["a message was not acknowledged"] >= 5
    assert set(told.recording.lost_connections) == {"a message was not acknowledged"}
    assert sum(told.recording.telemetry.values()) >= 5
    assert not told.promises


async def test_a_run_with_a_time_ends_then(stub: StubBroker, at_stub: At) -> None:
    """`after_s`, whatever the fleet does."""
    told = await at_stub(plan(LINE, stop=Stop(after_s=0.4, hold_s=0.0)))
    assert 0.4 <= told.recording.ended_at_s < 5


async def test_the_warm_up_is_in_the_seconds_but_not_in_the_figures(stub: StubBroker, at_stub: At) -> None:
    """All five are planned within it."""
    lively = msgspec.structs.replace(LINE, life=Life(telemetry_every_s=0.1))
    told = await at_stub(plan(lively, warm_up_s=30.0, stop=Stop(hold_s=0.3, timeout_s=20)))
    recording = told.recording
    assert not recording.latency | recording.service | recording.lag | recording.login | recording.telemetry
    assert sum(sum(second.latency.values()) for second in told.seconds) == 5


async def test_a_large_run_connects_from_several_addresses(
    stub: StubBroker, at_stub: At, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One address has 28,000 ports towards one broker."""
    monkeypatch.setattr(population_module, "GATEWAYS_PER_SOURCE", 2)
    await at_stub(plan(LINE))
    assert stub.sources == {"127.0.0.2", "127.0.0.3", "127.0.0.4"}


async def test_a_worker_waits_for_the_start_and_ends_when_told(stub: StubBroker) -> None:
    """Without a start in its assignment it says that it is ready; an early end has a recording."""
    said: list[FromWorker] = []
    orders = Orders()
    assignment = Assignment(
        scenario=plan(LINE, stop=Stop(hold_s=60)), worker=0, workers=1, starts_at=0,
        endpoints=(Endpoint(host="127.0.0.1", port=stub.port),), tokens={"default/default": TokenKey("key", "secret")},
    )  # fmt: skip

    def tell(value: FromWorker) -> None:
        said.append(value)
        if isinstance(value, Ready):
            assert stub.requests == []
            orders.begin.set_result(time.time() + 0.1)
        elif not isinstance(value, Recording) and getattr(value, "registered", 0) == 5:
            orders.stop.set()

    await asyncio.wait_for(work(assignment, tell, orders), 30)
    assert isinstance(said[0], Ready)
    assert isinstance(said[-1], Recording)
    await asyncio.wait_for(stub.empty.wait(), 30)


async def test_stopped_before_the_start_nothing_has_begun(stub: StubBroker) -> None:
    """There is a recording all the same."""
    said: list[FromWorker] = []
    orders = Orders()
    orders.stop.set()
    endpoint = Endpoint(host="127.0.0.1", port=stub.port)
    for starts_at in (0.0, time.time() + 60):
        assignment = Assignment(
            scenario=plan(LINE), worker=0, workers=1, starts_at=starts_at, endpoints=(endpoint,),
            tokens={"default/default": TokenKey("key", "secret")},
        )  # fmt: skip
        await asyncio.wait_for(work(assignment, said.append, orders), 30)
        assert isinstance(said[-1], Recording)
    assert stub.requests == []


@pytest.mark.parametrize(
    ("endpoint", "says"),
    [
        (Endpoint(host="no-such-host.invalid", port=1883), "give a name or an address"),
        (Endpoint(host="127.0.0.1", port=None), "no plain port"),
    ],
)
async def test_a_target_that_cannot_be_reached_by_name_or_port_is_a_failure(endpoint: Endpoint, says: str) -> None:
    """With what to do."""
    said: list[FromWorker] = []
    assignment = Assignment(
        scenario=plan(LINE),
        worker=3,
        workers=4,
        starts_at=1.0,
        endpoints=(endpoint,),
        tokens={"default/default": TokenKey("key", "secret")},
    )
    await work(assignment, said.append)
    assert isinstance(said[-1], Failure)
    assert said[-1].worker == 3
    assert says in said[-1].text


async def test_too_few_open_files_are_a_failure(at_stub: At, monkeypatch: pytest.MonkeyPatch) -> None:
    """P9, before any gateway begins."""
    monkeypatch.setattr(worker_module, "SPARE_CONNECTIONS", 1 << 40)
    told = await at_stub(plan(LINE))
    assert isinstance(told.end, Failure)
    assert "ulimit" in told.end.text


async def test_a_mistake_of_our_own_is_a_failure(stub: StubBroker, at_stub: At) -> None:
    """It does not pass for lost connections."""

    def reply(_request: dict[str, Any]) -> dict[str, Any] | None:
        raise ZeroDivisionError("in the stub, which shares the loop")

    stub.reply = reply
    told = await at_stub(plan(LINE))
    assert isinstance(told.end, Failure)
    assert "ZeroDivisionError: in the stub" in told.end.text
