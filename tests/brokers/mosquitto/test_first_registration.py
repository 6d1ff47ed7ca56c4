"""The proofs of the first registration on Mosquitto: private replies, exact limits, same answer to same proof."""

import asyncio
import json
from collections import Counter
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import pytest
from tests.brokers.harness import Client, ask, request_bytes
from tests.brokers.mosquitto.beside import Beside
from tests.brokers.test_device_life import kinds

from mqttprov.brokers.gate_desk import GateDesk
from mqttprov.core.audit import verify
from mqttprov.core.model import OperatorRole, Profile
from mqttprov.core.permissions import REQUEST_TOPIC, RESPONSE_TOPIC
from mqttprov.mqtt import MessageReceived, Properties, ProtocolVersion, Publish, ReasonCode, encode
from mqttprov.responder.administration import TokenChange

GATEWAYS = 200
LISTENERS = 50
REFUSED = 300
FILTERS = ("#", "+/+/+", "/#", RESPONSE_TOPIC, REQUEST_TOPIC, "provision/#", "_prov/#", "v1/devices/+/#", "$SYS/#",
           "$CONTROL/#", "$share/prov/_prov/request/+", "$share/g/#", f"$share/g{RESPONSE_TOPIC}")  # fmt: skip


@pytest.mark.parametrize("version", list(ProtocolVersion))
async def test_a_device_registers_and_logs_in_with_what_it_was_told(beside: Beside, version: ProtocolVersion) -> None:
    """Access token and MQTT basic; the first login is recorded, and `me` topics answer."""
    token = (await beside.provision("gw-1"))["credentialsValue"]
    basic = (await beside.provision("gw-2", credentialsType="MQTT_BASIC"))["credentialsValue"]
    first = await beside.login(token, version=version)
    second = await beside.login(basic["userName"], basic["password"], client_id=basic["clientId"], version=version)
    for device in (first, second):
        await device.subscribe("v1/devices/me/rpc/response/+", "v1/devices/me/attributes/response/+")
        await device.publish("v1/devices/me/rpc/request/1", b'{"method":"getSessionLimits","params":{}}')
        answer = await device.message()
        assert answer.topic == "v1/devices/me/rpc/response/1"
        assert "maxInflightMessages" in json.loads(answer.payload)
        await device.publish("v1/devices/me/attributes/request/7", b'{"sharedKeys":"labels"}')
        answer = await device.message()
        assert (answer.topic, json.loads(answer.payload)) == (
            "v1/devices/me/attributes/response/7",
            {"shared": {"labels": {}}},
        )
    for name in ("gw-1", "gw-2"):
        await until_state(beside, name, "active")
    assert await beside.refusal("no such token", version=version) in {
        ReasonCode.NOT_AUTHORIZED,
        ReasonCode.BAD_USER_NAME_OR_PASSWORD,
    }


async def until_state(beside: Beside, name: str, state: str) -> Any:
    """Wait until a device is in a state; give its row."""
    reader = beside.state.store.reader()
    try:
        async with asyncio.timeout(30):
            while True:
                row = next(reader.devices(name))
                if row.state == state:
                    return row
                await asyncio.sleep(0.01)  # the responder writes beside us
    finally:
        reader.close()


async def test_a_topic_that_a_device_chose_is_no_command(beside: Beside) -> None:
    """What stands behind a line's end in a device's topic reaches neither the gate nor another device."""
    reply = await beside.provision("gw-1")
    device, other = await beside.login(reply["credentialsValue"]), await beside.device("gw-2")
    await device.subscribe("v1/devices/me/#")
    for odd in ("x" * 2000, " 2 "):
        asked = Publish(f"v1/devices/me/rpc/request/{odd}", b'{"method":"getSessionLimits"}')
        device.send(encode(asked, ProtocolVersion.V5))
    assert (await device.message()).topic == "v1/devices/me/rpc/response/ 2 "
    hostile = "v1/devices/me/rpc/request/1\nkick 0 0 d:gw-2\n"
    device.publish_nowait(hostile, b'{"method":"getSessionLimits"}', 1)
    await device.until(lambda: False, or_gone=True)  # Mosquitto itself takes no such topic
    await other.ping()
    told: list[str] = []
    desk = GateDesk(beside.responder, lambda: cast("Any", SimpleNamespace(command=lambda *w: told.append(w[0]))))
    for topic in (hostile, "v1/devices/me/rpc/request/1"):
        asked = Publish(
            "_prov/ask/00", b'{"method":"getSessionLimits"}', properties=Properties(user_properties=(("topic", topic),))
        )
        desk.message(cast("Any", SimpleNamespace(settle=lambda _: None)), asked)
    assert [line.split(" ", 3)[::3] for line in told] == [["send", "v1/devices/me/rpc/response/1"]]


def heard(client: Client, text: bytes) -> bool:
    """Tell whether a client has got these bytes."""
    return text in client.raw


@pytest.mark.timeout(150)
async def test_fifty_eavesdroppers_get_no_byte_of_two_hundred_replies(beside: Beside) -> None:
    """Operators, observers, devices and other provisioning sessions with every filter: nothing of any reply (P3).

    Two responders answer; a refusal is as private.
    """
    await beside.another()
    issued = beside.admin.create_profile(
        Profile(0, "nosy", publish_topics=("%d/#",), subscribe_topics=("%d/#", "x/+/#"))
    )
    listeners: list[tuple[str, Client]] = []
    for number in range(LISTENERS):
        version = list(ProtocolVersion)[number % 2]
        match number % 4:
            case 0 | 1 as role:
                name = f"listener-{number}"
                password = beside.admin.create_operator(name, list(OperatorRole)[role])
                client = await beside.login(name, password, version=version)
            case 2:
                reply = await ask(await beside.session(), request_bytes(issued, f"provision{number}"))
                client = await beside.login(reply["credentialsValue"], version=version)
            case _:
                client = await beside.login("provision", version=version)
        for topic_filter in FILTERS:
            await client.subscribe(topic_filter)
        client.raw.clear()
        listeners.append((("operator", "observer", "device", "session")[number % 4], client))
    gate = asyncio.Semaphore(25)

    async def one(number: int) -> tuple[Any, Client]:
        async with gate:
            session = await beside.login("provision", version=list(ProtocolVersion)[number % 2])
            if number % 3:
                await session.subscribe(RESPONSE_TOPIC)
            return await ask(session, beside.payload(f"gw-{number}"), qos=number % 2), session

    answered = await asyncio.gather(*(one(number) for number in range(GATEWAYS)))
    assert {reply["status"] for reply, _ in answered} == {"SUCCESS"}
    refused = await ask(await beside.session(), beside.payload("gw-x", provisionDeviceSecret="planted-wrong-secret"))
    assert refused["status"] == "NOT_FOUND"
    secrets = [reply["credentialsValue"].encode() for reply, _ in answered]
    for kind, client in listeners:
        if kind in {"operator", "observer"}:
            await client.until(partial(heard, client, b'"device":"gw-199"'))
        await client.ping()
        for forbidden in (
            b"credentialsValue",
            b"SUCCESS",
            b"errorMsg",
            b"planted-wrong",
            RESPONSE_TOPIC.encode(),
            b"reply ",
            *secrets,
        ):
            assert forbidden not in client.raw, (kind, forbidden)
    everything = b"".join(bytes(session.raw) for _, session in answered)
    for (_, session), secret in zip(answered, secrets, strict=True):
        await session.ping()
        assert not [e for e in session.events if isinstance(e, MessageReceived)]
        assert session.raw.count(secret) == everything.count(secret) == 1


async def test_a_lost_reply_is_told_again(beside: Beside) -> None:
    """The connection is cut right behind the request: the same proof gets the same answer, and no second use (P4)."""
    payload = beside.payload("gw-1")
    cut = await beside.session(client_id="one")
    cut.publish_nowait(REQUEST_TOPIC, payload, 1)
    await cut.until(lambda: len(cut.raw) > 0)
    cut.abort()
    first = await ask(await beside.session(), payload)
    again = await ask(await beside.session(), payload)
    assert first["credentialsValue"] == again["credentialsValue"]
    reader = beside.state.store.reader()
    assert [row.used for row in reader.tokens()] == [1]
    reader.close()


async def test_limits_are_exact_with_two_responders(beside: Beside) -> None:
    """Sixty-four ask two responders at once for ten registrations: ten get one, twice over (P1)."""
    await beside.another()
    token = beside.admin.create_token("default", "limited", TokenChange(max_registrations=10))
    sessions = [await beside.session() for _ in range(64)]
    for _ in range(2):
        replies = await asyncio.gather(
            *(ask(session, request_bytes(token, f"gw-{n}")) for n, session in enumerate(sessions))
        )
        assert Counter(reply["status"] for reply in replies) == {"SUCCESS": 10, "NOT_FOUND": 54}
    reader = beside.state.store.reader()
    assert next(row.used for row in reader.tokens() if row.name == "limited") == 10
    events = list(reader.events())
    assert verify(events) == reader.head()
    assert Counter(event.kind for event in events)["provisioned"] == 10
    reader.close()


async def test_refused_logins_are_counted(beside: Beside) -> None:
    """The gate tells each, beyond a bound per second their number; an event stands for many, and none holds a name."""
    for first in range(0, REFUSED, 50):
        await asyncio.gather(*(beside.refusal(f"planted-guess-{n}") for n in range(first, first + 50)))
    async with asyncio.timeout(40):
        while True:
            reader = beside.state.store.reader()
            found = [event for event in reader.events() if event.kind == "login-refused"]
            reader.close()
            if sum(json.loads(event.body)["event"]["count"] for event in found) >= REFUSED:
                break
            await asyncio.sleep(0.1)  # it is told every few seconds
    assert sum(json.loads(event.body)["event"]["count"] for event in found) == REFUSED
    assert all("planted" not in event.body for event in found)
    assert "planted" not in beside.mosquitto.log.read_text()


async def test_the_events_of_a_device_are_whole(beside: Beside) -> None:
    """One event for the registration, one for the first login, none for the second (P5)."""
    reply = await beside.provision("gw-1")
    for _ in range(2):
        await beside.login(reply["credentialsValue"])
        await until_state(beside, "gw-1", "active")
    assert kinds(beside, reply["deviceId"]) == ["provisioned", "activated"]
