"""Proof of P4: the reply is cut off after the commit, and the identical request gets the identical credentials."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.brokers.certificates import DeviceKey, pem_of
from tests.brokers.harness import TIMEOUT_S, Running, ask, request_bytes

from mqttprov.core.model import CredentialsType, Profile, ReprovisionPolicy
from mqttprov.core.permissions import REQUEST_TOPIC
from mqttprov.core.requests import FactoryIdentity, Outcome
from mqttprov.responder.administration import TokenChange

KEY = DeviceKey("gw-1")
REQUESTS: dict[str, dict[str, Any]] = {
    "token": {},
    "supplied-token": {"token": "a-token-of-its-own"},
    "basic": {"credentialsType": "MQTT_BASIC"},
    "supplied-basic": {"username": "own-name", "password": "own-password", "clientId": "own-id"},
    "half-basic": {"username": "own-name"},
    "certificate": {"hash": KEY.certificate_pem},
    "csr": {"csr": KEY.csr_pem()},
    "gateway": {"gateway": True},
}
NAMELESS: dict[str, dict[str, Any]] = {
    "request-id": {"requestId": "4711"},
    "supplied-token": {"token": "a-token-of-its-own"},
    "csr": {"csr": KEY.csr_pem()},
}


async def cut_off(broker: Running, payload: bytes, times: int = 1) -> None:
    """Send a request and have the connection cut between its commit and the reply."""
    responder = broker.responder
    original = responder.request
    for _ in range(times):
        session = await broker.session()
        committed: list[Outcome] = []

        def request(
            payload: bytes,
            source: str,
            reply: Callable[[bytes, Outcome], None],
            factory: FactoryIdentity | None = None,
            committed: list[Outcome] = committed,
        ) -> None:
            def cut(answer: bytes, outcome: Outcome) -> None:
                committed.append(outcome)
                broker.cut_off()
                reply(answer, outcome)

            original(payload, source, cut, factory)

        responder.request = request  # type: ignore[method-assign] # to cut at exactly this moment
        session.publish_nowait(REQUEST_TOPIC, payload, 1)
        await session.wait_closed()
        responder.request = original  # type: ignore[method-assign] # as it was
        assert len(committed) == 1
        assert b"credentialsValue" not in session.raw


async def told(broker: Running, payload: bytes) -> dict[str, Any]:
    """Ask and give what must be identical: all but the reference and the time."""
    session = await broker.session()
    reply: dict[str, Any] = await ask(session, payload)
    session.disconnect()
    assert reply["status"] == "SUCCESS", reply
    return {name: value for name, value in reply.items() if name not in {"ref", "serverTime"}}


def check_one(broker: Running) -> None:
    """See that there is one device with one generation, and one use of one token."""
    reader = broker.state.store.reader()
    (device,) = reader.devices()
    assert len(reader.credentials_of(device.id)) == 1
    assert sum(token.used for token in reader.tokens()) == 1
    reader.close()


@pytest.mark.parametrize("kind", REQUESTS)
async def test_the_identical_request_gets_the_identical_credentials(each_broker: Running, kind: str) -> None:
    """For every type of credentials, once more after a restart: one device, one use, the same answer (P4)."""
    payload = each_broker.payload("gw-1", **REQUESTS[kind])
    await cut_off(each_broker, payload, times=2)
    first = await told(each_broker, payload)
    assert await told(each_broker, payload) == first
    await each_broker.restart()
    assert await told(each_broker, payload) == first
    check_one(each_broker)


@pytest.mark.parametrize("kind", NAMELESS)
async def test_a_nameless_request_that_can_be_recognised_is_one_device(each_broker: Running, kind: str) -> None:
    """Without a name, what the device brings tells the repetition from another device's request (P4)."""
    payload = each_broker.payload(None, **NAMELESS[kind])
    await cut_off(each_broker, payload)
    first = await told(each_broker, payload)
    await each_broker.restart()
    assert await told(each_broker, payload) == first
    check_one(each_broker)


async def test_the_answer_that_comes_at_last_logs_in(each_tls_broker: Running, tmp_path: Path) -> None:
    """What is told after cut-offs and a restart is good: token, user name with password, and certificate (P4)."""
    payloads = {kind: each_tls_broker.payload(f"gw-{kind}", **REQUESTS[kind]) for kind in ("token", "basic", "csr")}
    for payload in payloads.values():
        await cut_off(each_tls_broker, payload)
    await each_tls_broker.restart()
    values = {kind: (await told(each_tls_broker, payload))["credentialsValue"] for kind, payload in payloads.items()}
    await each_tls_broker.login(values["token"])
    await each_tls_broker.login(values["basic"]["userName"], values["basic"]["password"])
    context = KEY.context(each_tls_broker.path / "authority.pem", tmp_path, pem_of(values["csr"]))
    await each_tls_broker.login(None, tls=context)


async def test_a_limit_of_one_survives_lost_replies(each_broker: Running) -> None:
    """A lost reply burns no use: with a limit of one the same device still gets its answer, another one none (P1)."""
    limited = each_broker.admin.create_token("default", "one", TokenChange(max_registrations=1))
    await cut_off(each_broker, request_bytes(limited, "gw-1"), times=3)
    assert (await told(each_broker, request_bytes(limited, "gw-1")))["deviceName"] == "gw-1"
    session = await each_broker.session()
    assert (await ask(session, request_bytes(limited, "gw-2")))["status"] == "NOT_FOUND"


async def test_another_proof_is_another_answer(each_broker: Running) -> None:
    """Only the identical request gets the identical answer; a different one is the next generation (P4)."""
    first = await told(each_broker, each_broker.payload("gw-1"))
    other = await told(each_broker, each_broker.payload("gw-1", credentialsType="MQTT_BASIC"))
    assert other["credentialsType"] == "MQTT_BASIC"
    assert await told(each_broker, each_broker.payload("gw-1")) == first


async def until_active(broker: Running, name: str) -> None:
    """Wait until a device's login is recorded, which beside Mosquitto is after its CONNACK."""
    reader = broker.state.store.reader()
    try:
        async with asyncio.timeout(TIMEOUT_S):
            while next(reader.devices(name)).state != "active":  # noqa: ASYNC110 - another thread writes it
                await asyncio.sleep(0.01)
    finally:
        reader.close()


async def test_after_its_first_login_a_credential_is_not_told_again(each_broker: Running) -> None:
    """Once used, the same proof gets the next generation; the policy `refuse` answers FAILURE (DESIGN 5.6)."""
    first = await told(each_broker, each_broker.payload("gw-1"))
    await each_broker.login(first["credentialsValue"])
    await until_active(each_broker, "gw-1")
    second = await told(each_broker, each_broker.payload("gw-1"))
    assert second["credentialsValue"] != first["credentialsValue"]
    strict = each_broker.admin.create_profile(Profile(0, "strict", reprovision=ReprovisionPolicy.REFUSE))
    payload = request_bytes(strict, "gw-2")
    reply = await told(each_broker, payload)
    assert reply["credentialsType"] == CredentialsType.ACCESS_TOKEN
    assert await told(each_broker, payload) == reply
    await each_broker.login(reply["credentialsValue"])
    await until_active(each_broker, "gw-2")
    assert (await ask(await each_broker.session(), payload))["status"] == "FAILURE"
