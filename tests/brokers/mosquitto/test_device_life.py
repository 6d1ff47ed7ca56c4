"""An operator's verbs on devices that are connected to Mosquitto: what is true when they return (P7)."""

import asyncio
import json
import time

import pytest
from tests.brokers.harness import ask, request_bytes
from tests.brokers.mosquitto.beside import Beside
from tests.brokers.mosquitto.test_first_registration import until_state
from tests.brokers.test_device_life import CALLS, REMOVED, act, answer, kinds, life
from tests.brokers.test_operator_logins import assert_that_logins_end

from mqttprov.brokers.farewell import WIPE_CALL
from mqttprov.core.model import Profile, ReprovisionPolicy
from mqttprov.mqtt import Connect, ProtocolVersion, ReasonCode
from mqttprov.responder.administration import TokenChange

REFUSED = ReasonCode.NOT_AUTHORIZED


@pytest.mark.parametrize("version", list(ProtocolVersion))
async def test_suspending_ends_sessions_before_it_returns(beside: Beside, version: ProtocolVersion) -> None:
    """All sessions of this device and no other; new logins are refused until it is resumed (P7)."""
    token = (await beside.provision("gw-1"))["credentialsValue"]
    sessions = [await beside.login(token, client_id=name, version=version) for name in ("a", "b")]
    other = await beside.device("gw-2")
    await until_state(beside, "gw-1", "active")
    done = await act(life(beside).suspend, "GW-1", "stolen")
    assert (done.device.state, done.brokers) == ("suspended", 1)
    # The command is back: whatever the broker does for others from here on, these sessions take no part in it.
    for session in sessions:
        await session.wait_closed()
    assert await beside.refusal(token, version=version) == REFUSED
    await other.ping()
    assert (await beside.provision("gw-1"))["status"] == "FAILURE"
    await act(life(beside).resume, "gw-1")
    await (await beside.login(token, version=version)).ping()


async def test_the_verb_returns_once_the_broker_has_confirmed(beside: Beside) -> None:
    """A message that is published behind the command reaches the suspended device no more; it takes milliseconds."""
    token = (await beside.provision("gw-1"))["credentialsValue"]
    operator = await beside.operator()
    took_s = []
    for _ in range(5):
        device = await beside.login(token)
        await device.subscribe("v1/devices/me/attributes")
        await until_state(beside, "gw-1", "active")
        began_s = time.monotonic()
        await act(life(beside).suspend, "gw-1")
        took_s.append(time.monotonic() - began_s)
        await operator.publish("v1/devices/gw-1/attributes", b"planted")
        await device.wait_closed()
        assert b"planted" not in device.raw
        await act(life(beside).resume, "gw-1")
    assert min(took_s) < 0.5


async def test_a_retired_gateway_wipes_its_credentials_first(beside: Beside) -> None:
    """Its answer is waited for and recorded; another device that answers in its place is not heard."""
    reply = await beside.provision("gw-1")
    gateway, stranger = await beside.login(reply["credentialsValue"]), await beside.device("gw-2")
    await gateway.subscribe(CALLS)
    await until_state(beside, "gw-1", "active")
    verb = asyncio.create_task(act(life(beside).decommission, "gw-1", wait_ms=20_000))
    call = await gateway.message()
    assert call.payload == WIPE_CALL
    number = call.topic.rpartition("/")[2]
    await stranger.publish(f"v1/devices/me/rpc/response/{number}", b'{"code":500}')
    await gateway.publish(f"v1/devices/me/rpc/response/{number}", REMOVED)
    done = await verb
    assert done.wiped is not None
    assert (done.wiped.done, done.wiped.why) == (True, None)
    await gateway.wait_closed()
    assert kinds(beside, reply["deviceId"])[-2:] == ["decommissioned", "wiped"]
    await stranger.ping()


async def test_one_that_does_not_listen_is_retired_at_once(beside: Beside) -> None:
    """Nobody waits for an answer that cannot come, nor for a device that is not there."""
    gateway = await beside.device("gw-1")
    await beside.provision("gw-2")
    await until_state(beside, "gw-1", "active")
    done = await act(life(beside).decommission, "gw-1", wait_ms=30_000)
    assert done.wiped is not None
    assert "does not listen" in (done.wiped.why or "")
    await gateway.wait_closed()
    assert (await act(life(beside).decommission, "gw-2", wait_ms=30_000)).wiped is None


async def test_one_that_does_not_answer_is_retired_in_time(beside: Beside) -> None:
    """The session ends when the time is over that the command gave."""
    gateway = await beside.device("gw-1")
    await gateway.subscribe(CALLS)
    await until_state(beside, "gw-1", "active")
    done = await act(life(beside).decommission, "gw-1", wait_ms=300)
    assert done.wiped is not None
    assert "did not answer" in (done.wiped.why or "")
    await gateway.wait_closed()


@pytest.mark.parametrize("listens", ["before", "after", "next time"])
async def test_rotation_reaches_a_connected_gateway(beside: Beside, listens: str) -> None:
    """It is told at once, once it listens, or when it comes back; the old generation ends when the new one logs in."""
    issued = beside.admin.create_profile(Profile(0, "strict", reprovision=ReprovisionPolicy.REFUSE))
    old = (await ask(await beside.session(), request_bytes(issued, "gw-1")))["credentialsValue"]
    gateway = await beside.login(old, client_id="gw")
    if listens == "before":
        await gateway.subscribe(CALLS)
    await until_state(beside, "gw-1", "active")
    await act(life(beside).rotate, "gw-1")
    if listens == "next time":
        gateway.disconnect()
        await gateway.wait_closed()
        gateway = await beside.login(old, client_id="gw")
    if listens != "before":
        await gateway.subscribe(CALLS)
    assert await answer(gateway) == WIPE_CALL
    new = (await ask(await beside.session(), request_bytes(issued, "gw-1")))["credentialsValue"]
    assert new != old
    await gateway.ping()
    latest = await beside.login(new)
    await gateway.wait_closed()  # of the generation that has ended
    assert await beside.refusal(old) == REFUSED
    await latest.ping()


async def test_a_transfer_ends_what_was_before_it(beside: Beside) -> None:
    """With the claim code the new owner's token takes the device over: the old session and login are gone."""
    old = (await beside.provision("gw-1"))["credentialsValue"]
    before = await beside.login(old)
    await until_state(beside, "gw-1", "active")
    offered = await asyncio.to_thread(life(beside).transfer, "gw-1", "plant-south")
    theirs = beside.admin.create_token("default", "south", TokenChange(), owner="plant-south")
    session = await beside.session()
    reply = await ask(session, request_bytes(theirs, "gw-1", claimCode=offered.claim_code))
    assert reply["status"] == "SUCCESS", reply
    await before.wait_closed()
    assert await beside.refusal(old) == REFUSED
    await (await beside.login(reply["credentialsValue"])).ping()


async def test_nobody_takes_over_the_client_id_of_another(beside: Beside) -> None:
    """Neither a device nor a provisioning session: refused, or with an id of its own where the broker can do so."""
    first = await beside.device("gw-1", client_id="mine")
    thief = (await beside.provision("gw-2"))["credentialsValue"]
    assert await beside.refusal(thief, client_id="mine") == REFUSED
    shared = "cannot tell apart devices that share a client id" in beside.mosquitto.log.read_text()
    assert await beside.refusal("provision", client_id="mine") == (REFUSED if shared else ReasonCode.SUCCESS)
    await first.ping()


async def test_labels_are_told_as_they_are_now(beside: Beside) -> None:
    """A device that asks for its labels gets the new ones without logging in again."""
    device = await beside.device("gw-1")
    await device.subscribe("v1/devices/me/attributes/response/+")
    await until_state(beside, "gw-1", "active")
    await act(life(beside).label, "gw-1", {"site": "north"})
    await device.publish("v1/devices/me/attributes/request/1", b'{"sharedKeys":"labels"}')
    assert json.loads((await device.message()).payload) == {"shared": {"labels": {"site": "north"}}}


async def test_audit_events_reach_operators_once_and_in_order(beside: Beside) -> None:
    """All events from the subscription on, as they are in the chain."""
    operator = await beside.operator()
    await operator.subscribe("provision/audit/#")
    for number in range(20):
        (await beside.device(f"gw-{number}")).disconnect()
    await until_state(beside, "gw-19", "active")
    await act(life(beside).suspend, "gw-0")
    await operator.until(lambda: any(m.topic.endswith("/suspended") for m in operator.messages()))
    heard = [json.loads(m.payload) for m in operator.messages()]
    places = [event["seq"] for event in heard]
    assert places == sorted(set(places))
    assert {event["event"]["device"] for event in heard if event["event"]["kind"] == "provisioned"} == {
        f"gw-{number}" for number in range(20)
    }


async def test_what_was_decided_without_a_responder_is_done_when_it_returns(beside: Beside) -> None:
    """A device that is suspended while no responder runs is kicked as soon as one does; logins go on meanwhile (P7)."""
    token = (await beside.provision("gw-1"))["credentialsValue"]
    new = (await beside.provision("gw-2"))["credentialsValue"]
    device = await beside.login(token)
    await until_state(beside, "gw-1", "active")
    await beside.fall_silent()
    first = await beside.login(new)  # a first login, which nobody records yet
    done = await act(life(beside).suspend, "gw-1")
    assert done.brokers == 0
    await device.ping()
    connect = Connect("x", version=ProtocolVersion.V5, username=token)
    refused = await beside.open(connect)
    assert await refused.connack() == REFUSED
    await beside.respond()
    await device.wait_closed()
    await until_state(beside, "gw-2", "active")
    await first.ping()


async def test_an_operator_s_login_ends_with_its_sessions(beside: Beside) -> None:
    """A new password, and a login that is removed, end what stands under the old one (P7)."""
    await assert_that_logins_end(beside)
