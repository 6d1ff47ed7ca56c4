"""A stock amqtt with our plugin registers devices: exact limits, lost replies, every type of credentials."""

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from tests.brokers.amqtt.harness import NOT_AUTHORIZED, Stock
from tests.brokers.certificates import DeviceKey, pem_of
from tests.brokers.harness import ask, request_bytes
from tests.brokers.test_exact_limits import race
from tests.brokers.test_tls import anonymous

from mqttprov.core.permissions import REQUEST_TOPIC
from mqttprov.core.requests import Outcome
from mqttprov.mqtt import Connect, ProtocolVersion, ReasonCode
from mqttprov.responder.administration import TokenChange


async def test_a_device_registers_and_logs_in(broker: Stock) -> None:
    """The whole way on an unmodified amqtt: request, private reply, login with what was issued."""
    reply = await broker.provision("gw-1")
    assert (reply["status"], reply["credentialsType"]) == ("SUCCESS", "ACCESS_TOKEN")
    device = await broker.login(reply["credentialsValue"])
    await device.ping()
    basic = (await broker.provision("gw-2", credentialsType="MQTT_BASIC"))["credentialsValue"]
    await (await broker.login(basic["userName"], basic["password"])).ping()
    refused = Connect("", version=ProtocolVersion.V311, username=basic["userName"], password=b"wrong")
    assert await broker.attempt(refused) == NOT_AUTHORIZED


async def test_wrong_credentials_and_anonymous_clients_are_refused(broker: Stock) -> None:
    """Who names nobody that we know is refused, also without a user name."""
    assert await broker.attempt(Connect("x", version=ProtocolVersion.V311)) == NOT_AUTHORIZED
    assert await broker.attempt(Connect("x", version=ProtocolVersion.V311, username="nobody")) == NOT_AUTHORIZED


async def test_a_certificate_of_our_authority_logs_in(tls_broker: Stock, tmp_path: Path) -> None:
    """TLS client certificates work where amqtt's listener knows our authority; others do not pass the handshake."""
    own = DeviceKey("gw-1")
    session = await tls_broker.session(tls=anonymous(tls_broker))
    reply = await ask(session, tls_broker.payload("gw-1", csr=own.csr_pem()))
    assert reply["status"] == "SUCCESS"
    authority = tls_broker.path / "authority.pem"
    context = own.context(authority, tmp_path, pem_of(reply["credentialsValue"]))
    await (await tls_broker.login(None, tls=context, client_id="gw-1")).ping()
    assert await tls_broker.attempt(Connect("gw-1", version=ProtocolVersion.V311)) == NOT_AUTHORIZED
    await (await tls_broker.login(None, tls=context, client_id="gw-1")).ping()


async def test_limits_are_exact_under_a_race(broker: Stock) -> None:
    """With `max_registrations` 5 exactly 5 of 24 racers register (P1)."""
    token = broker.admin.create_token("default", "limited", TokenChange(max_registrations=5))
    names = [f"gw-{number}" for number in range(24)]
    replies = await race(broker, token, names, random.Random(7))  # noqa: S311 - an order of connections, not a secret
    assert Counter(reply["status"] for reply in replies) == {"SUCCESS": 5, "NOT_FOUND": 19}


async def test_a_lost_reply_is_told_again(broker: Stock) -> None:
    """Between commit and reply the connection is cut: the same request gets the same answer, once used (P4, P1)."""
    limited = broker.admin.create_token("default", "one", TokenChange(max_registrations=1))
    payload = request_bytes(limited, "gw-1")
    responder = broker.plugin._run.responder
    original = responder.request
    told: list[bytes] = []

    def request(payload: bytes, source: str, reply: Callable[[bytes, Outcome], None], _: object = None) -> None:
        def cut(answer: bytes, outcome: Outcome) -> None:
            told.append(answer)
            session.abort()
            asyncio.get_running_loop().call_later(0.05, reply, answer, outcome)

        original(payload, source, cut)

    responder.request = request  # type: ignore[method-assign, assignment] # to cut at exactly this moment
    session = await broker.session()
    session.publish_nowait(REQUEST_TOPIC, payload, 1)
    await session.wait_closed()
    responder.request = original  # type: ignore[method-assign] # as it was
    assert b"credentialsValue" not in session.raw
    reply = await ask(await broker.session(), payload)
    assert reply["credentialsValue"].encode() in told[0]
    assert (await ask(await broker.session(), request_bytes(limited, "gw-2")))["status"] == "NOT_FOUND"


async def test_many_sessions_share_user_name_and_client_id(broker: Stock) -> None:
    """Gateways of one vendor all say client id `provision`: none ends another one's session."""
    sessions = [await broker.session(client_id="provision") for _ in range(20)]
    replies = await asyncio.gather(
        *(ask(session, broker.payload(f"gw-{number}")) for number, session in enumerate(sessions))
    )
    assert {reply["deviceName"] for reply in replies} == {f"gw-{number}" for number in range(20)}
    assert not any(session.gone for session in sessions)


async def test_a_provisioning_session_may_do_nothing_else(broker: Stock) -> None:
    """Any other topic ends it, and so does a ninth request while eight wait; only the response may be subscribed."""
    session = await broker.session()
    assert await session.subscribe("#", "/provision/response", "v1/devices/me/+") == (
        ReasonCode.UNSPECIFIED_ERROR,
        ReasonCode.GRANTED_QOS_1,
        ReasonCode.UNSPECIFIED_ERROR,
    )
    session.publish_nowait("v1/devices/me/telemetry", b"{}")
    await session.wait_closed()


async def test_what_waits_for_an_answer_is_answered_before_the_end(broker: Stock) -> None:
    """Shutting down answers every accepted request (P2), and nobody logs in after that."""
    sessions = [await broker.session() for _ in range(8)]
    for number, session in enumerate(sessions):
        session.publish_nowait(REQUEST_TOPIC, broker.payload(f"gw-{number}"), 1)
    for session in sessions:
        await session.ping()
    await broker.stop()
    answers = [(await session.message()).payload for session in sessions]
    assert all(b"SUCCESS" in answer for answer in answers)
    await broker.start()
