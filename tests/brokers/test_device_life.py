"""An operator's verbs on a running broker: what is true when they return, and what becomes of live sessions."""

import asyncio
import json
import os
from collections.abc import Callable
from typing import Any

import pytest
from tests.brokers.harness import ACTOR, Client, Running

from mqttprov.admin import Admin
from mqttprov.brokers.responder_run import now_ms
from mqttprov.core.audit import parse_body, verify
from mqttprov.core.model import Profile, ReprovisionPolicy
from mqttprov.mqtt import Connect, Disconnected, ProtocolVersion, ReasonCode
from mqttprov.responder.device_life import DeviceLife, Done
from mqttprov.responder.jobs import Delivery
from mqttprov.store.protocol import Conflict

REFUSED = ReasonCode.NOT_AUTHORIZED
UNKNOWN = ReasonCode.BAD_USER_NAME_OR_PASSWORD
CALLS = "v1/devices/me/rpc/request/+"
REMOVED = b'{"code":200,"resp":"Provisioned credentials file removed successfully."}'


def life(broker: Running) -> DeviceLife:
    """Give the verbs, as another process has them."""
    return broker.state.device_life(ACTOR, now_ms)


async def act(verb: Callable[..., Done], *arguments: Any, **options: Any) -> Done:
    """Do it while the broker runs on: the verb waits for the broker."""
    return await asyncio.to_thread(verb, *arguments, **options)


def sessions(broker: Running) -> int:
    """Count the sessions that the broker has logged in."""
    return len(broker.broker.sessions)


def kinds(broker: Running, device_id: str) -> list[str]:
    """Give the kinds of the audit events about a device; the chain holds."""
    reader = broker.state.store.reader()
    verify(reader.events())
    found = [str(event.kind) for event in reader.events() if event.device_id == device_id]
    reader.close()
    return found


async def token_of(broker: Running, name: str, **fields: Any) -> str:
    """Provision a device; give its access token."""
    return str((await broker.provision(name, **fields))["credentialsValue"])


async def answer(gateway: Client, payload: bytes = REMOVED) -> bytes:
    """Wait for a call and answer it; give the call."""
    call = await gateway.message()
    number = call.topic.removeprefix("v1/devices/me/rpc/request/")
    await gateway.publish(f"v1/devices/me/rpc/response/{number}", payload)
    return call.payload


@pytest.mark.parametrize("version", list(ProtocolVersion))
async def test_suspending_ends_sessions_before_it_returns(broker: Running, version: ProtocolVersion) -> None:
    """All sessions of this device and no other; new logins and requests are refused until it is resumed (P7)."""
    token = await token_of(broker, "gw-1")
    first = await broker.login(token, client_id="a", version=version)
    second = await broker.login(token, client_id="b", version=version)
    other = await broker.device("gw-2")
    done = await act(life(broker).suspend, "GW-1", "stolen")
    assert (done.device.state, done.brokers) == ("suspended", 1)
    assert sessions(broker) == 1
    for session in (first, second):
        await session.wait_closed()
    if version is ProtocolVersion.V5:
        assert (await first.take(Disconnected)).reason_code == REFUSED
    assert await broker.refusal(token, version=version) == REFUSED
    assert (await broker.provision("gw-1"))["status"] == "FAILURE"
    await other.ping()
    assert (await act(life(broker).resume, "gw-1")).device.state == "active"
    await (await broker.login(token, version=version)).ping()


async def test_a_login_that_was_decided_before_the_suspension_does_not_slip_through(
    broker: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The decision is on its way to the broker while the device is suspended: CONNACK is a refusal (P7)."""
    token = await token_of(broker, "gw-1")
    (await broker.login(token)).disconnect()
    pipeline: Any = broker.server._run.responder._pipeline
    hand_over, held, decided = pipeline._hand_over, list[list[Delivery]](), asyncio.Event()
    loop = asyncio.get_running_loop()

    def hold(deliveries: list[Delivery]) -> None:
        if deliveries:
            held.append(deliveries)
            loop.call_soon_threadsafe(decided.set)

    monkeypatch.setattr(pipeline, "_hand_over", hold)
    client = await broker.open(Connect("x", version=ProtocolVersion.V5, username=token))
    await decided.wait()
    (((_, login),),) = held
    assert login.principal is not None
    await act(life(broker).suspend, "gw-1")
    monkeypatch.setattr(pipeline, "_hand_over", hand_over)
    hand_over(held[0])
    assert await client.connack() == REFUSED
    assert sessions(broker) == 0


async def test_a_first_login_under_way_does_not_slip_through(broker: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same for a first login, whose activation is committed already (P7)."""
    token = await token_of(broker, "gw-1")
    pipeline: Any = broker.server._run.responder._pipeline
    hand_over, held, decided = pipeline._hand_over, list[list[Delivery]](), asyncio.Event()
    loop = asyncio.get_running_loop()

    def hold(deliveries: list[Delivery]) -> None:
        if deliveries:
            held.append(deliveries)
            loop.call_soon_threadsafe(decided.set)

    monkeypatch.setattr(pipeline, "_hand_over", hold)
    client = await broker.open(Connect("x", username=token))
    await decided.wait()
    await act(life(broker).decommission, "gw-1")
    monkeypatch.setattr(pipeline, "_hand_over", hand_over)
    hand_over(held[0])
    assert await client.connack() == UNKNOWN
    assert sessions(broker) == 0


async def test_devices_that_log_in_all_the_time_are_gone_when_suspending_returns(broker: Running) -> None:
    """Under a storm of logins no session of the suspended device is left, nor begins (P7)."""
    token = await token_of(broker, "gw-1")
    stop = asyncio.Event()

    async def storm(number: int) -> None:
        while not stop.is_set():
            client = await broker.open(Connect(f"c-{number}", version=ProtocolVersion.V5, username=token))
            await client.connack()
            client.drop()

    tasks = [asyncio.create_task(storm(number)) for number in range(6)]
    for _ in range(15):
        done = await act(life(broker).suspend, "gw-1")
        assert sessions(broker) == 0
        assert await broker.refusal(token) == REFUSED
        assert sessions(broker) == 0
        assert done.brokers == 1
        await act(life(broker).resume, "gw-1")
    stop.set()
    await asyncio.gather(*tasks)


async def test_decommissioning_asks_a_connected_gateway_to_wipe_first(broker: Running) -> None:
    """It is revoked from the commit on; its session lives for the answer only, and that is recorded (P7, P8)."""
    token = await token_of(broker, "gw-1")
    gateway = await broker.login(token)
    await gateway.subscribe(CALLS)
    deaf = await broker.login(token, client_id="deaf")
    task = asyncio.create_task(act(life(broker).decommission, "gw-1"))
    call = await gateway.message()
    assert json.loads(call.payload) == {"method": "gateway_remove_provisioned_credentials", "params": None}
    await deaf.wait_closed()
    assert await broker.refusal(token) == UNKNOWN
    assert (await broker.provision("gw-1"))["status"] == "FAILURE"
    assert not task.done()
    number = call.topic.rpartition("/")[2]
    assert await gateway.publish(f"v1/devices/me/rpc/response/{number}", REMOVED) == ReasonCode.SUCCESS
    done = await task
    assert done.wiped is not None
    assert (done.wiped.done, done.device.state, sessions(broker)) == (True, "decommissioned", 0)
    await gateway.wait_closed()
    assert kinds(broker, done.device.id)[-3:] == ["decommissioned", "refused", "wiped"]


@pytest.mark.parametrize(
    ("payload", "why"),
    [(b'{"error":"x","code":500}', "code 500"), (b"\xff", "not JSON"), (b"[" * 9999, "not JSON"), (b"{}", "no code")],
)
async def test_an_answer_that_is_no_yes_is_recorded_as_such(broker: Running, payload: bytes, why: str) -> None:
    """The operator learns that the gateway may still hold what is revoked."""
    gateway = await broker.device("gw-1")
    await gateway.subscribe(CALLS)
    task = asyncio.create_task(act(life(broker).decommission, "gw-1"))
    await answer(gateway, payload)
    done = await task
    assert done.wiped is not None
    assert not done.wiped.done
    assert why in (done.wiped.why or "")
    assert kinds(broker, done.device.id)[-1] == "not-wiped"


async def test_a_gateway_that_does_not_answer_is_not_waited_for_for_ever(broker: Running) -> None:
    """The wait is bounded (P9), and meanwhile other devices are suspended without waiting for it."""
    gateway, other = await broker.device("gw-1"), await broker.device("gw-2")
    await gateway.subscribe(CALLS)
    task = asyncio.create_task(act(life(broker).decommission, "gw-1", wait_ms=700))
    await gateway.message()
    await act(life(broker).suspend, "gw-2")
    await other.wait_closed()
    assert not task.done()
    done = await task
    assert done.wiped is not None
    assert done.wiped.why == "it did not answer within 0.7 s"
    await gateway.wait_closed()


@pytest.mark.parametrize("subscribed", [True, False])
async def test_a_gateway_that_leaves_or_is_deaf_is_not_waited_for(broker: Running, subscribed: bool) -> None:
    """Only somebody who can answer is waited for."""
    gateway = await broker.device("gw-1")
    if subscribed:
        await gateway.subscribe(CALLS)
    task = asyncio.create_task(act(life(broker).decommission, "gw-1", wait_ms=60_000))
    if subscribed:
        await gateway.message()
        gateway.abort()
    done = await task
    assert done.wiped is not None
    assert ("ended before" if subscribed else "does not listen") in (done.wiped.why or "")


async def test_a_device_that_is_not_connected_is_not_waited_for(broker: Running) -> None:
    """Nothing but the decommissioning is recorded."""
    await broker.provision("gw-1")
    done = await act(life(broker).decommission, "gw-1", wait_ms=60_000)
    assert done.wiped is None
    assert kinds(broker, done.device.id) == ["provisioned", "decommissioned"]


async def test_only_a_release_gives_the_name_to_another_device(broker: Running) -> None:
    """The tombstone keeps its record; the name begins again with another id (P8)."""
    token = await token_of(broker, "gw-1")
    old = (await act(life(broker).decommission, "gw-1")).device
    with pytest.raises(Conflict, match="tombstone already"):
        await act(life(broker).decommission, "gw-1")
    assert (await broker.provision("gw-1"))["status"] == "FAILURE"
    released = await act(life(broker).release, "gw-1")
    reply = await broker.provision("gw-1")
    assert reply["status"] == "SUCCESS"
    assert reply["deviceId"] != old.id
    assert released.device.name == f"gw-1#{old.id}"
    assert await broker.refusal(token) == UNKNOWN
    await broker.login(reply["credentialsValue"])


async def test_rotation_tells_a_connected_gateway_and_breaks_nothing(broker: Running) -> None:
    """Even where asking again is refused: make before break, one new generation, then the policy again."""
    broker.issued = broker.admin.create_profile(Profile(0, "strict", reprovision=ReprovisionPolicy.REFUSE))
    token = await token_of(broker, "gw-1")
    gateway = await broker.login(token, client_id="old")
    await gateway.subscribe(CALLS)
    assert (await broker.provision("gw-1"))["status"] == "FAILURE"
    done = await act(life(broker).rotate, "gw-1")
    assert done.device.rotation_due
    await answer(gateway)
    await gateway.ping()
    fresh = await token_of(broker, "gw-1")
    assert fresh != token
    await gateway.ping()
    await broker.login(fresh, client_id="new")
    assert (await gateway.take(Disconnected)).reason_code == REFUSED
    assert await broker.refusal(token) == UNKNOWN
    assert (await broker.provision("gw-1"))["status"] == "FAILURE"


async def test_a_gateway_that_was_away_is_told_to_rotate_when_it_is_back(broker: Running) -> None:
    """Once it listens to calls, as long as the rotation is due; and not when it could not get new credentials (P10)."""
    token = await token_of(broker, "gw-1")
    (await broker.login(token)).disconnect()
    await act(life(broker).rotate, "gw-1")
    back = await broker.login(token)
    await back.subscribe(CALLS)
    assert b"gateway_remove_provisioned_credentials" in await answer(back)
    broker.admin.revoke_token(broker.issued.key, None)
    again = await broker.login(token)
    await again.subscribe(CALLS)
    await again.ping()
    assert again.messages() == []
    with pytest.raises(Conflict, match="is revoked"):
        await act(life(broker).rotate, "gw-1")


async def test_new_labels_do_not_make_a_rotation_forgotten(broker: Running) -> None:
    """A gateway that does not listen to calls yet is told when it does, whatever is committed meanwhile."""
    gateway = await broker.device("gw-1")
    await act(life(broker).rotate, "gw-1")
    await act(life(broker).label, "gw-1", {"site": "north"})
    await gateway.subscribe(CALLS)
    assert b"gateway_remove_provisioned_credentials" in await answer(gateway)


async def test_a_gateway_that_brings_its_own_credentials_is_told_to_rotate_once(broker: Running) -> None:
    """It brings the same again; told at each login it would never stay online (P10). Others end the rotation."""
    token = await token_of(broker, "gw-1", token="a-token-of-its-own")
    gateway = await broker.login(token)
    await gateway.subscribe(CALLS)
    assert (await act(life(broker).rotate, "gw-1")).device.rotation_due
    await answer(gateway)
    assert await token_of(broker, "gw-1", token="a-token-of-its-own") == token
    again = await broker.login(token)
    await again.subscribe(CALLS)
    await again.ping()
    assert again.messages() == []
    await broker.login(await token_of(broker, "gw-1", token="another-of-its-own"))
    assert await broker.refusal(token) == UNKNOWN


async def test_what_another_process_commits_without_ringing_is_acted_on_too(broker: Running) -> None:
    """The chain alone says what to do; the doorbell only makes it quick (P7)."""
    gateway = await broker.device("gw-1")
    silent = DeviceLife(
        broker.state.store,
        broker.state.keys,
        actor=ACTOR,
        now_ms=now_ms,
        entropy=os.urandom,
        ring=lambda _seq, _timeout_s: 0,
    )
    silent.suspend("gw-1")
    await gateway.wait_closed()


async def test_two_brokers_on_one_state_both_act(broker: Running) -> None:
    """A command returns when every broker has confirmed; one that has ended is not waited for (P7)."""
    other = Running(broker.path, broker.issued)
    await other.start()
    token = await token_of(broker, "gw-1")
    here, there = await broker.login(token, client_id="here"), await other.login(token, client_id="there")
    assert (await act(life(broker).suspend, "gw-1")).brokers == 2
    assert sessions(broker) == sessions(other) == 0
    await here.wait_closed()
    await there.wait_closed()
    await other.stop()
    assert (await act(life(broker).resume, "gw-1")).brokers == 1


async def test_the_reason_is_in_the_event(broker: Running) -> None:
    """Who, when and why (P5)."""
    await broker.provision("gw-1")
    done = await act(life(broker).suspend, "gw-1", "stolen from line 3")
    reader = broker.state.store.reader()
    (event,) = (parse_body(e.body)[1] for e in reader.events(done.seq - 1))
    reader.close()
    assert (event.actor, event.text, event.state) == (ACTOR, "stolen from line 3", "suspended")


async def test_revoking_a_token_with_its_devices_ends_their_sessions(broker: Running) -> None:
    """A key that leaked: when the command returns, nothing that it registered is connected or comes back (P7)."""
    token = await token_of(broker, "gw-1")
    session = await broker.login(token)

    def revoke() -> int:
        with Admin(broker.path) as admin:
            return admin.revoke_token_with_devices(broker.issued.key, None)[1]

    assert await asyncio.to_thread(revoke) == 1
    assert sessions(broker) == 0
    await session.wait_closed()
    assert await broker.refusal(token) == REFUSED
    assert (await broker.provision("gw-2"))["status"] == "NOT_FOUND"
