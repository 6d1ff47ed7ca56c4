"""A transfer on a running broker: what becomes of live sessions and of old credentials when it is completed."""

import asyncio
from typing import Any

import pytest
from tests.brokers.harness import Running, ask, request_bytes
from tests.brokers.test_device_life import UNKNOWN, act, kinds, life, sessions

from mqttprov.responder.administration import IssuedToken
from mqttprov.responder.token_actions import TokenChange


def token_for(broker: Running, owner: str) -> IssuedToken:
    """Make a registration token of this owner."""
    return broker.admin.create_token("default", owner, TokenChange(labels={"of": owner}), owner)


async def provision(broker: Running, token: IssuedToken, **fields: Any) -> Any:
    """Provision gw-1 with a token."""
    client = await broker.session()
    reply = await ask(client, request_bytes(token, "gw-1", **fields))
    client.disconnect()
    return reply


async def test_completing_ends_the_sessions_and_credentials_of_the_old_owner(broker: Running) -> None:
    """The session that completes it gets its answer; others of the device end, other devices' do not (P7)."""
    acme, globex = token_for(broker, "acme"), token_for(broker, "globex")
    old = (await provision(broker, acme))["credentialsValue"]
    sessions_of_old = [await broker.login(old, client_id=name) for name in ("a", "b")]
    other = await broker.device("gw-2")
    offered = await asyncio.to_thread(life(broker).transfer, "gw-1", "globex")
    await sessions_of_old[0].ping()
    reply = await provision(broker, globex, claimCode=offered.claim_code)
    assert reply["status"] == "SUCCESS"
    for session in sessions_of_old:
        await session.wait_closed()
    assert await broker.refusal(old) == UNKNOWN
    await (await broker.login(reply["credentialsValue"])).ping()
    await other.ping()
    assert sessions(broker) == 2
    assert (await provision(broker, globex, claimCode=offered.claim_code))["status"] == "FAILURE"
    assert (await provision(broker, acme))["status"] == "FAILURE"
    told = kinds(broker, reply["deviceId"])
    assert told == [
        "provisioned", "activated", "transfer-offered", "transfer-completed", "activated", "refused", "refused"
    ]  # fmt: skip


async def test_the_sessions_of_the_old_owner_end_before_the_new_one_is_answered(
    broker: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing waits for the event, and the same answer again ends nothing (P7)."""
    acme, globex = token_for(broker, "acme"), token_for(broker, "globex")
    old = await broker.login((await provision(broker, acme))["credentialsValue"])
    monkeypatch.setattr(broker.server._run.responder, "tick", lambda: False)
    other = await broker.device("gw-2")
    offered = await asyncio.to_thread(life(broker).transfer, "gw-1", "globex")
    reply = await provision(broker, globex, claimCode=offered.claim_code)
    assert sessions(broker) == 1
    assert (await provision(broker, globex, claimCode=offered.claim_code))["ref"] != reply["ref"]
    await old.wait_closed()
    await other.ping()


async def test_a_code_behind_the_secret_is_enough_for_who_cannot_send_another_field(broker: Running) -> None:
    """It completes the transfer, and may stay in the settings of the device."""
    acme, globex = token_for(broker, "acme"), token_for(broker, "globex")
    await broker.login((await provision(broker, acme))["credentialsValue"])
    offered = await asyncio.to_thread(life(broker).transfer, "gw-1", "globex")
    secret = f"{globex.secret}:{offered.claim_code}"
    for generation in (2, 3):
        reply = await provision(broker, globex, provisionDeviceSecret=secret)
        await broker.login(reply["credentialsValue"])
        reader = broker.state.store.reader()
        row = next(reader.devices("gw-1"))
        reader.close()
        assert (row.owner, row.generation) == ("globex", generation)


async def test_a_session_with_the_new_credentials_outlives_the_event(
    broker: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The device may log in before a broker has met the event of its transfer, which another one answered."""
    acme, globex = token_for(broker, "acme"), token_for(broker, "globex")
    old = await broker.login((await provision(broker, acme))["credentialsValue"])
    responder = broker.server._run.responder
    monkeypatch.setattr(responder, "tick", lambda: False)  # the event is met when the doorbell rings, and not before
    monkeypatch.setattr(broker.broker, "end_former", lambda _: None)
    offered = await asyncio.to_thread(life(broker).transfer, "gw-1", "globex")
    reply = await provision(broker, globex, claimCode=offered.claim_code)
    new = await broker.login(reply["credentialsValue"])
    met = responder.published_seq
    done = await act(life(broker).rotate, "gw-1")
    assert met < done.seq - 2 < responder.published_seq
    await old.wait_closed()
    await new.ping()
    assert sessions(broker) == 1
