"""What a client may try against the gate: topics at the limit, others' durable sessions, a reload of the broker."""

import asyncio
import signal

import pytest
from tests.brokers.harness import Client, ask, request_bytes
from tests.brokers.mosquitto.beside import Beside
from tests.brokers.mosquitto.test_first_registration import until_state
from tests.brokers.test_device_life import act, life

from mqttprov.core.model import Profile
from mqttprov.core.permissions import REQUEST_TOPIC
from mqttprov.mqtt import Connect, Properties, ProtocolVersion, Publish, ReasonCode, encode

REFUSED = ReasonCode.NOT_AUTHORIZED
MAX_TOPIC_BYTES = 65_535


async def durable(
    beside: Beside, token: str, *, version: ProtocolVersion = ProtocolVersion.V5, clean_start: bool = False
) -> Client:
    """Log in with the client id `kept` and a session that outlives its connection."""
    properties = Properties(session_expiry_interval_s=100) if version is ProtocolVersion.V5 else Properties()
    client = await beside.open(
        Connect("kept", version=version, username=token, clean_start=clean_start, properties=properties)
    )
    assert await client.connack() == ReasonCode.SUCCESS
    return client


async def reload(beside: Beside) -> None:
    """Let the broker read its files again, and ask the gate again about everybody."""
    before = beside.mosquitto.log.read_text().count("Reloading config")
    async with asyncio.timeout(30):
        while beside.mosquitto.log.read_text().count("Reloading config") == before:
            beside.mosquitto.signal(signal.SIGHUP)  # one that comes while it reloads is lost
            (await beside.open(None)).abort()  # 2.1 may sleep over a signal until something else wakes it
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("prefix", ["v1/devices/me/", "v1/gateway/"])
async def test_a_topic_that_would_grow_too_long_goes_nowhere(beside: Beside, prefix: str) -> None:
    """Turned round it would be no topic any more: operators get nothing of it, and what comes next whole (P9)."""
    device, operator = await beside.device("gateway-with-a-name"), await beside.operator()
    await operator.subscribe("v1/devices/#")
    longest = prefix + "x" * (MAX_TOPIC_BYTES - len(prefix))
    device.send(encode(Publish(longest, b"data"), ProtocolVersion.V5))
    await device.publish(f"{prefix}next", b"data")
    message = await operator.message()
    assert (message.topic.rpartition("/")[2], message.payload) == ("next", b"data")
    assert operator.messages() == []


@pytest.mark.parametrize(
    ("own", "told"), [("v1/devices/me/", "v1/devices/gw-1/"), ("v1/gateway/", "v1/devices/gw-1/gateway/")]
)
async def test_a_message_does_not_cost_the_broker_a_look_at_all_who_listen(beside: Beside, own: str, told: str) -> None:
    """Of a fleet that has one filter each message would ask about everybody: it finds no subscriber at all (P9)."""
    device, other, operator = await beside.device("gw-1"), await beside.device("gw-2"), await beside.operator()
    for client in (device, other):
        await client.subscribe(f"{own}attributes")
    assert await device.publish(f"{own}attributes", b"data") == ReasonCode.NO_MATCHING_SUBSCRIBERS
    await operator.subscribe("#")
    await device.publish(f"{own}attributes", b"data")
    assert (await operator.message()).topic == f"{told}attributes"
    await asyncio.gather(*(client.ping() for client in (device, other, operator)))
    assert device.messages() + other.messages() + operator.messages() == []


@pytest.mark.parametrize("name", ["東" * 255, "two words"])
async def test_the_oddest_names_log_in_and_are_ended(beside: Beside, name: str) -> None:
    """255 characters of three bytes each, or a blank: their topics are their own, and commands find them (P7)."""
    issued = beside.admin.create_profile(Profile(0, "wide", unicode_names=True))
    token = (await ask(await beside.session(), request_bytes(issued, name)))["credentialsValue"]
    device, operator = await beside.login(token), await beside.operator()
    await operator.subscribe("v1/devices/#")
    await device.publish("v1/devices/me/telemetry", b"1")
    assert (await operator.message()).topic == f"v1/devices/{name}/telemetry"
    await until_state(beside, name, "active")
    await act(life(beside).suspend, name)
    await device.wait_closed()


@pytest.mark.parametrize(
    ("version", "clean_start"),
    [(ProtocolVersion.V311, False), (ProtocolVersion.V5, False), (ProtocolVersion.V5, True)],
)
async def test_nobody_takes_over_a_durable_session(
    beside: Beside, version: ProtocolVersion, *, clean_start: bool
) -> None:
    """While it waits for its owner nobody else gets its client id, it misses nothing; an heir hears nothing of it.

    With MQTT 5 that hangs on the session's expiry, also where it began anew.
    """
    issued = beside.admin.create_profile(Profile(0, "own", subscribe_topics=("%d/#",)))
    token = (await ask(await beside.session(), request_bytes(issued, "gw-1")))["credentialsValue"]
    stranger, operator = (await beside.provision("gw-2"))["credentialsValue"], await beside.operator()
    owner = await durable(beside, token, version=version, clean_start=clean_start)
    await owner.subscribe("gw-1/#", "v1/devices/me/#")
    await until_state(beside, "gw-1", "active")  # until that is recorded it keeps its client id anyway
    owner.abort()
    assert await beside.refusal(stranger, client_id="kept", version=version) == REFUSED
    await operator.publish("gw-1/x", b"kept for it")
    await operator.publish("v1/devices/gw-1/x", b"for this session only")
    owner = await durable(beside, token, version=version)
    assert (owner.session_present, (await owner.message()).payload) == (True, b"kept for it")
    await operator.publish("v1/devices/gw-1/x", b"as it subscribed before")
    assert (await owner.message()).payload == b"as it subscribed before"
    owner.abort()
    await operator.publish("gw-1/x", b"secret")
    await act(life(beside).suspend, "gw-1")
    heir = await durable(beside, stranger, version=version)
    await operator.publish("gw-1/x", b"secret")
    await heir.ping()
    assert b"secret" not in heir.raw


async def test_what_waits_for_a_suspended_device_is_dropped(beside: Beside) -> None:
    """It was for a session that has ended (P7); a device that comes back listens where it listened before (P10)."""
    issued = beside.admin.create_profile(Profile(0, "own", subscribe_topics=("%d/#",)))
    token = (await ask(await beside.session(), request_bytes(issued, "gw-1")))["credentialsValue"]
    owner, operator = await durable(beside, token), await beside.operator()
    await owner.subscribe("gw-1/#", "v1/devices/me/#")
    await until_state(beside, "gw-1", "active")
    owner.abort()
    await operator.publish("gw-1/x", b"before")
    await act(life(beside).suspend, "gw-1")
    await operator.publish("gw-1/x", b"meanwhile")
    await act(life(beside).resume, "gw-1")
    owner = await durable(beside, token)
    assert owner.session_present
    for topic in ("gw-1/x", "v1/devices/gw-1/x"):
        await operator.publish(topic, b"now")
        assert (await owner.message()).payload == b"now"


async def test_a_provisioning_session_leaves_nothing_behind(beside: Beside) -> None:
    """It cannot be durable, and nothing of its request is retained."""
    connect = Connect("x", version=ProtocolVersion.V5, username="provision", clean_start=False)
    assert await (await beside.open(connect)).connack() == REFUSED
    session = await beside.session()
    session.send(encode(Publish(REQUEST_TOPIC, b"{}", qos=1, retain=True, packet_id=9), ProtocolVersion.V5))
    await session.until(lambda: bytes((0x40, 3, 0, 9, REFUSED)) in session.raw or session.gone)
    assert bytes((0x40, 3, 0, 9, REFUSED)) in session.raw


async def test_a_reload_keeps_who_may_stay_and_nobody_else(beside: Beside) -> None:
    """Devices, operators and who provisions go on; a suspended device ends; no principal's name is a login (P7)."""
    token = (await beside.provision("gw-2"))["credentialsValue"]
    staying, going = await beside.device("gw-1"), await beside.login(token)
    operator, provisioning = await beside.operator(), await beside.session()
    await until_state(beside, "gw-2", "active")
    await beside.fall_silent()
    await act(life(beside).suspend, "gw-2")
    await going.ping()  # there is nobody who would end it
    await reload(beside)
    await going.wait_closed()
    for client in (staying, operator, provisioning):
        await client.ping()
    for name in ("d:gw-1", "r:responder", "o:alice"):
        assert await beside.refusal(name) == REFUSED
    await beside.respond()
    assert (await ask(provisioning, beside.payload("gw-3")))["status"] == "SUCCESS"


async def test_a_reload_leaves_durable_sessions_alone(beside: Beside) -> None:
    """Those without connection are not refused, several times over, and can be taken up afterwards."""
    token = (await beside.provision("gw-1"))["credentialsValue"]
    client = await durable(beside, token)
    await until_state(beside, "gw-1", "active")
    client.abort()
    other = await beside.device("gw-2")
    await other.ping()
    for _ in range(3):
        await reload(beside)
    await (await durable(beside, token)).ping()
    assert "Client kept disconnected" not in beside.mosquitto.log.read_text()  # as who may not stay
    assert beside.mosquitto.is_running
