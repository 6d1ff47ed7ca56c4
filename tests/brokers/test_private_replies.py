"""Proof of P3: while hundreds of gateways provision, no eavesdropper gets a byte of a reply, whatever it asks for."""

import asyncio
import json
from typing import Any

import pytest
from tests.brokers.harness import Client, Running, ask, request_bytes

from mqttprov.core.model import OperatorRole, Profile
from mqttprov.core.permissions import REQUEST_TOPIC, RESPONSE_TOPIC
from mqttprov.mqtt import MessageReceived, ProtocolVersion

GATEWAYS = 500
FILTERS = (
    "#", "+/+/+", "/#", "/+/+", "+/provision/#", RESPONSE_TOPIC, REQUEST_TOPIC, "/provision/+", "provision/#",
    "v1/devices/+/#", "v1/devices/me/#", "$SYS/#",
)  # fmt: skip
SHARED = ("$share/group/#", "$share/group/+/+/+", f"$share/group{RESPONSE_TOPIC}")


async def eavesdroppers(broker: Running) -> dict[str, Client]:
    """Log everybody in who might listen, and let each try every filter; what is refused is part of the point."""
    issued = broker.admin.create_profile(
        Profile(0, "nosy", publish_topics=("%d/#",), subscribe_topics=("%d/#", "x/+/#"))
    )
    found: dict[str, Client] = {}
    for role in OperatorRole:
        for version in ProtocolVersion:
            login = (f"{role}-{version}", broker.admin.create_operator(f"{role}-{version}", role))
            found[login[0]] = await broker.login(*login, version=version)
    for name in ("provision", "Gateway-5"):  # a device that is named like a topic of ours
        for version in ProtocolVersion:
            reply = await ask(await broker.session(), request_bytes(issued, f"{name}{version}"))
            found[f"device {name} {version}"] = await broker.login(reply["credentialsValue"], version=version)
    found["device provision"] = await broker.login(
        (await ask(await broker.session(), request_bytes(issued, "provision")))["credentialsValue"]
    )
    for version in ProtocolVersion:
        # The same user name and client id as the gateways', which others would take over or share a queue with.
        found[f"session {version}"] = await broker.login("provision", client_id="provision", version=version)
    for client in found.values():
        for topic_filter in (*FILTERS, *SHARED):
            await client.subscribe(topic_filter)
        client.raw.clear()
    return found


async def one_gateway(broker: Running, number: int, gate: asyncio.Semaphore) -> tuple[Any, Client]:
    """Provision as vendors' clients do: subscribe, ask, and get exactly one message, one's own."""
    async with gate:
        version = (ProtocolVersion.V311, ProtocolVersion.V5)[number % 2]
        session = await broker.login("provision", client_id="provision", version=version)
        if number % 3:
            await session.subscribe(RESPONSE_TOPIC)
        kind = ({}, {"credentialsType": "MQTT_BASIC"}, {"token": f"planted-token-{number:04}"})[number % 3]
        return await ask(session, broker.payload(f"gw-{number}", **kind), qos=number % 2), session


@pytest.mark.timeout(120)
async def test_no_eavesdropper_gets_a_byte_of_five_hundred_replies(broker: Running) -> None:
    """Operators, observers, devices and other provisioning sessions with every filter: nothing of any reply (P3)."""
    listeners = await eavesdroppers(broker)
    gate = asyncio.Semaphore(50)
    answered = await asyncio.gather(*(one_gateway(broker, number, gate) for number in range(GATEWAYS)))
    replies = [reply for reply, _ in answered]
    assert {reply["status"] for reply in replies} == {"SUCCESS"}
    secrets = [_secret(reply).encode() for reply in replies]
    assert len(set(secrets)) == GATEWAYS
    # All events are out and with those who listen; each listener is alive to the end.
    head = broker.state.store.reader().head()
    operator = listeners["operator-5"]
    await operator.until(lambda: any(f'"seq":{head.seq},'.encode() in m.payload for m in operator.messages()))
    for name, client in listeners.items():
        await client.ping()
        topics = {m.topic for m in client.messages()}
        assert all(topic.startswith("provision/audit/") for topic in topics), name
        assert bool(topics) is name.startswith(("operator", "observer")), name
        for forbidden in (b"credentialsValue", b"SUCCESS", b"errorMsg", RESPONSE_TOPIC.encode(), b"password"):
            assert forbidden not in client.raw, (name, forbidden)
        assert not [secret for secret in secrets if secret in client.raw], name
    # And each gateway got its own reply, once, and nobody else's.
    everything = b"".join(bytes(session.raw) for _, session in answered)
    for (_, session), secret in zip(answered, secrets, strict=True):
        await session.ping()
        assert not [e for e in session.events if isinstance(e, MessageReceived)]
        assert session.raw.count(secret) == 1
        assert everything.count(secret) == 1


def _secret(reply: Any) -> str:
    value = reply["credentialsValue"]
    return str(value["password"] if isinstance(value, dict) else value)


async def test_refusals_are_private_too(broker: Running) -> None:
    """A refusal reaches its requester alone; others learn of it, if they may, by the audit event without its secret."""
    operator = await broker.operator()
    await operator.subscribe("#")
    other = await broker.session(client_id="provision")
    await other.subscribe(RESPONSE_TOPIC)
    session = await broker.session(client_id="provision")
    reply = await ask(session, broker.payload("gw-1", provisionDeviceSecret="planted-wrong-secret"))
    assert reply["status"] == "NOT_FOUND"
    event = json.loads((await operator.message()).payload)
    while event["event"]["kind"] != "refused":
        event = json.loads((await operator.message()).payload)
    await other.ping()
    assert other.messages() == []
    for client in (operator, other):
        assert b"errorMsg" not in client.raw
        assert b"planted-wrong-secret" not in client.raw
