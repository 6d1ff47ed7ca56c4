"""What may die beside Mosquitto: a responder amid a storm, the broker, the database. Nothing that was told is lost."""

import asyncio
import signal
from collections import Counter
from pathlib import Path

import pytest
from tests.brokers.harness import ask
from tests.brokers.mosquitto.beside import Beside
from tests.brokers.mosquitto.test_first_registration import until_state
from tests.brokers.test_device_life import act, life

from mqttprov.core.audit import verify
from mqttprov.core.permissions import REQUEST_TOPIC
from mqttprov.gateway.backoff import MachineSettings
from mqttprov.mqtt import ProtocolVersion, ReasonCode
from mqttprov.responder.administration import TokenChange
from mqttprov_simulator.plan import SwarmPlan
from mqttprov_simulator.results import SwarmResult
from mqttprov_simulator.swarm import swarm

GATEWAYS = 300
LIMIT = 280
HURRIED = MachineSettings(
    backoff_base_s=0.05, backoff_cap_s=0.5, connect_timeout_s=5.0, reply_timeout_s=5.0, heartbeat_s=None
)


def storm(beside: Beside) -> "asyncio.Task[SwarmResult]":
    """Let gateways in numbers register with a token that has not enough for all of them."""
    token = beside.admin.create_token("default", "storm", TokenChange(max_registrations=LIMIT))
    plan = SwarmPlan(
        host="127.0.0.1",
        port=beside.port,
        key=token.key,
        secret=token.secret,
        gateways=GATEWAYS,
        rate_per_s=300.0,
        credentials_types=("ACCESS_TOKEN", "MQTT_BASIC"),
        seed=1,
        stay_connected=True,
        timeout_s=300.0,
        give_up_after_refusals=1,
        machine=HURRIED,
    )
    return asyncio.create_task(swarm(plan))


async def until_used(beside: Beside, number: int) -> None:
    """Wait until so many have registered."""
    reader = beside.state.store.reader()
    try:
        async with asyncio.timeout(120):
            while next(row.used for row in reader.tokens() if row.name == "storm") < number:  # noqa: ASYNC110 - other processes do it
                await asyncio.sleep(0.005)
    finally:
        reader.close()


async def check(beside: Beside, result: SwarmResult) -> None:
    """See that the limit is exact, that everybody who was told is online, and that the chain is whole."""
    assert (result.summary.registered, result.summary.states.get("online")) == (LIMIT, LIMIT), result.summary
    refused = Counter(record.refused for record in result.gateways if not record.registered)
    assert refused == {"NOT_FOUND": GATEWAYS - LIMIT}, result.summary
    reader = beside.state.store.reader()
    try:
        async with asyncio.timeout(120):
            while reader.states().get("active") != LIMIT:  # noqa: ASYNC110 - other processes do it
                await asyncio.sleep(0.05)
        events = list(reader.events())
        assert verify(events) == reader.head()
        kinds = Counter(event.kind for event in events)
        assert (kinds["provisioned"], kinds["activated"]) == (LIMIT, LIMIT)
        assert next(row.used for row in reader.tokens() if row.name == "storm") == LIMIT
    finally:
        reader.close()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("victim", ["another", "the only one"])
async def test_a_responder_is_killed_amid_a_storm(beside: Beside, victim: str) -> None:
    """With another one left, and with none until it comes back: exact limits, nothing told is lost (P1, P2, P10)."""
    other = await beside.another()
    if victim == "the only one":
        await beside.fall_silent()
    fleet = storm(beside)
    await until_used(beside, 60)
    await other.end(signal.SIGKILL)
    if victim == "the only one":
        await beside.respond()
    await check(beside, await fleet)


@pytest.mark.timeout(600)
async def test_the_broker_is_killed_amid_a_storm(beside: Beside, expected_errors: list[str]) -> None:
    """Gateways and responders find it again; the limit is exact and nobody needs a person (P1, P10)."""
    await beside.another()
    fleet = storm(beside)
    await until_used(beside, 60)
    await beside.mosquitto.end(signal.SIGKILL)
    await beside.mosquitto.start()
    await check(beside, await fleet)


async def test_who_waits_for_a_responder_that_is_killed_has_to_ask_again(beside: Beside) -> None:
    """Their sessions end at once, others' stay; the same request then gets its one answer from the next (P2, P4)."""
    other = await beside.another()
    await beside.fall_silent()
    device, idle = await beside.device("gw-0"), await beside.session()
    sessions = [await beside.session() for _ in range(20)]
    other.signal(signal.SIGSTOP)  # it takes the requests and answers none
    for number, session in enumerate(sessions):
        session.publish_nowait(REQUEST_TOPIC, beside.payload(f"gw-{number}"), 1)
        await session.ping()
    await other.end(signal.SIGKILL)
    for session in sessions:
        await session.wait_closed()
        assert session.messages() == []
    await device.ping()
    await idle.ping()
    await beside.respond()
    for number in range(1, 20):
        reply = await ask(await beside.session(), beside.payload(f"gw-{number}"))
        assert (reply["status"], reply["deviceName"]) == ("SUCCESS", f"gw-{number}")
    assert (await ask(idle, beside.payload("gw-20")))["status"] == "SUCCESS"


async def test_a_responder_that_ends_well_ends_no_session(beside: Beside) -> None:
    """What it has taken it answers, and the other one takes what comes behind that (P2)."""
    await beside.another()
    sessions = [await beside.session() for _ in range(40)]
    asking = asyncio.gather(*(ask(session, beside.payload(f"gw-{n}")) for n, session in enumerate(sessions)))
    await asyncio.sleep(0)
    await beside.fall_silent()
    assert {reply["status"] for reply in await asking} == {"SUCCESS"}
    for session in sessions:
        await session.ping()


@pytest.mark.parametrize("version", list(ProtocolVersion))
async def test_nobody_waits_for_a_responder_that_is_not_there(beside: Beside, version: ProtocolVersion) -> None:
    """Provisioning logins are refused, so that a gateway comes again; one that was in and asks is cut off (P10)."""
    token = (await beside.provision("gw-1"))["credentialsValue"]
    session = await beside.session(version=version)
    await beside.fall_silent()
    assert await beside.refusal("provision", version=version) == ReasonCode.NOT_AUTHORIZED
    assert await beside.refusal(None, client_id="provision", version=version) == ReasonCode.NOT_AUTHORIZED
    await (await beside.login(token, version=version)).ping()
    await session.ping()
    session.publish_nowait(REQUEST_TOPIC, beside.payload("gw-2"), 1)
    await session.wait_closed()
    assert session.messages() == []
    await beside.respond()
    assert (await beside.provision("gw-2"))["status"] == "SUCCESS"


async def test_the_next_responder_takes_over_what_one_did_alone(beside: Beside) -> None:
    """The one that ended sessions and published events is killed: a command waits for the other to do so (P7)."""
    token = (await beside.provision("gw-1"))["credentialsValue"]
    other = await beside.another()
    device = await beside.login(token)
    await until_state(beside, "gw-1", "active")
    done = await act(life(beside).suspend, "gw-1")
    assert done.brokers == 2
    await device.wait_closed()
    await act(life(beside).resume, "gw-1")
    device = await beside.login(token)
    await beside.fall_silent()  # this one led
    done = await act(life(beside).suspend, "gw-1")
    assert done.brokers == 1
    await device.wait_closed()
    await beside.respond()
    await act(life(beside).resume, "gw-1")
    device = await beside.login(token)
    await other.end(signal.SIGKILL)
    done = await act(life(beside).suspend, "gw-1")
    assert done.brokers == 1
    await device.wait_closed()


async def test_a_database_of_garbage_lets_nobody_in_until_it_is_restored(
    beside: Beside, expected_errors: list[str]
) -> None:
    """The gate refuses logins; after the restore they go on without a restart, and what was told meanwhile holds."""
    expected_errors += ["cannot be", "nothing was committed", "no checkpoint", "events wait", "after the next start"]
    token = (await beside.provision("gw-1"))["credentialsValue"]
    device = await beside.login(token)
    await until_state(beside, "gw-1", "active")
    session = await beside.session()
    path = beside.path / "mqttprov.db"
    beside.state.store._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # all of it is in the one file now
    good = path.read_bytes()
    path.write_bytes(b"garbage!" * (len(good) // 8))
    assert await beside.refusal(token) == ReasonCode.NOT_AUTHORIZED
    meanwhile = await ask(session, beside.payload("gw-2"))  # the engine may have in memory all that it needs
    assert meanwhile["status"] in {"SUCCESS", "FAILURE"}
    await device.ping()  # who is in stays in
    with path.open("r+b") as file:
        file.write(good)
    async with asyncio.timeout(60):
        while await beside.refuses(token):  # noqa: ASYNC110 - other processes do it
            await asyncio.sleep(0.1)
    if meanwhile["status"] == "SUCCESS":
        assert not await beside.refuses(meanwhile["credentialsValue"])
    reply = await ask(session, beside.payload("gw-3"))
    assert reply["status"] == "SUCCESS"
    assert not await beside.refuses(reply["credentialsValue"])


async def test_a_database_that_was_replaced_ends_the_responder(beside: Beside, tmp_path: Path) -> None:
    """It answers FAILURE rather than tell what only the old file knows; with the right file a new start heals all."""
    await beside.fall_silent()
    respond = await beside.another()
    session = await beside.session()
    reply = await ask(session, beside.payload("gw-1"))
    path = beside.path / "mqttprov.db"
    path.rename(tmp_path / "aside")
    (tmp_path / "other").write_bytes(b"garbage!" * 1000)
    (tmp_path / "other").rename(path)
    assert (await ask(session, beside.payload("gw-2")))["status"] == "FAILURE"
    assert await respond.end(0) == 6
    assert "was removed or replaced" in respond.log.read_text()
    assert await beside.refuses(reply["credentialsValue"])
    (tmp_path / "aside").rename(path)
    await beside.respond()
    assert not await beside.refuses(reply["credentialsValue"])
    assert (await ask(session, beside.payload("gw-2")))["status"] == "SUCCESS"
