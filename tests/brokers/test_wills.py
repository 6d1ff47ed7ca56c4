"""Wills whose time has come: delay, resumption, takeover, and clients that have lost the right to speak."""

from typing import Any

import pytest
from tests.brokers.harness import Client, Running, eventually
from tests.brokers.test_device_life import act, life

from mqttprov.core.model import OperatorRole
from mqttprov.mqtt import Disconnect, Properties, ProtocolVersion, ReasonCode, Will, encode

TOPIC = "v1/devices/me/telemetry"


def will(delay_s: int | None, qos: int = 1) -> Will:
    """Make a will with a delay."""
    return Will(TOPIC, b"gone", qos, properties=Properties(will_delay_interval_s=delay_s))


async def published(operator: Client) -> int:
    """Count the wills that an operator got by now."""
    await operator.ping()
    return len(operator.messages())


async def watched(broker: Running, **login: Any) -> tuple[Client, Client, dict[str, Any]]:
    """Give an operator who watches, a device with a will, and how it logs in."""
    name = f"watcher-{len(broker.clients)}"
    operator = await broker.login(name, broker.admin.create_operator(name, OperatorRole.OBSERVER), keep_alive_s=3600)
    await operator.subscribe("v1/devices/#", qos=2)
    options = {"client_id": "gw", **login}
    token = (await broker.provision("gw-1"))["credentialsValue"]
    return operator, await broker.login(token, **options), {"username": token, **options}


async def gone(broker: Running, client: Client) -> None:
    """Let a client go without a word, and wait until the broker knows."""
    connections = len(broker.broker._connections)
    client.abort()
    await eventually(lambda: len(broker.broker._connections) < connections)


@pytest.mark.parametrize("qos", [0, 1, 2])
async def test_a_will_waits_for_its_delay(broker: Running, qos: int) -> None:
    """It is published when the delay has passed, with its QoS (MQTT 5 section 3.1.3.2.2)."""
    operator, device, _ = await watched(broker, will=will(30, qos), keep_s=3600)
    await gone(broker, device)
    broker.advance(28)
    assert await published(operator) == 0
    broker.advance(4)
    message = await operator.message()
    assert (message.payload, message.qos, message.properties.will_delay_interval_s) == (b"gone", qos, None)
    broker.advance(3600)
    assert await published(operator) == 0


async def test_who_is_back_in_time_leaves_no_will(broker: Running) -> None:
    """A session that is resumed before the delay is over takes its will away (MQTT-3.1.3-9)."""
    operator, device, login = await watched(broker, will=will(30), keep_s=3600)
    await gone(broker, device)
    broker.advance(20)
    again = await broker.login(**login)
    broker.advance(20)
    assert (again.session_present, await published(operator)) == (True, 0)
    taking_over = await broker.login(**login)
    broker.advance(40)
    assert (taking_over.session_present, await published(operator)) == (True, 0)


@pytest.mark.parametrize(("keep_s", "delay_s"), [(None, 30), (10, 3600), (3600, None)])
async def test_a_will_waits_for_the_end_of_the_session_at_most(
    broker: Running, keep_s: int | None, delay_s: int | None
) -> None:
    """Whichever comes first, the delay or the session's end, at which it is due (MQTT-3.1.2-8)."""
    operator, device, _ = await watched(broker, will=will(delay_s), keep_s=keep_s)
    await gone(broker, device)
    if keep_s == 10:
        assert await published(operator) == 0
        broker.advance(12)
    assert await published(operator) == 1


async def test_a_clean_start_ends_the_session_and_with_it_the_delay(broker: Running) -> None:
    """The old session's will is published when a new one takes its place (MQTT 5 section 3.1.2.4)."""
    operator, device, login = await watched(broker, will=will(3600), keep_s=3600)
    await gone(broker, device)
    await broker.login(**{**login, "clean_start": True})
    assert await published(operator) == 1


async def test_a_takeover_without_delay_publishes_the_will(broker: Running) -> None:
    """The displaced connection did not say goodbye (MQTT 5 section 3.1.4)."""
    for version in ProtocolVersion:
        operator, device, login = await watched(broker, will=Will(TOPIC, b"gone"), version=version)
        await broker.login(**{**login, "will": None})
        await device.wait_closed()
        assert await published(operator) == 1


async def test_a_client_may_say_goodbye_and_leave_its_will(broker: Running) -> None:
    """DISCONNECT with reason 0x04 asks for it (MQTT 5 section 3.14.2.1)."""
    operator, device, _ = await watched(broker, will=will(None))
    device.send(encode(Disconnect(ReasonCode.DISCONNECT_WITH_WILL_MESSAGE), ProtocolVersion.V5))
    await device.wait_closed()
    assert await published(operator) == 1


@pytest.mark.parametrize("away", [False, True])
@pytest.mark.parametrize("verb", ["suspend", "decommission"])
async def test_a_device_that_lost_its_rights_leaves_no_will(broker: Running, verb: str, away: bool) -> None:
    """Its will would be a message of a device that may not publish any more (P7)."""
    operator, device, _ = await watched(broker, will=will(30), keep_s=3600)
    if away:
        await gone(broker, device)
    await act(getattr(life(broker), verb), "gw-1")
    broker.advance(3600)
    assert await published(operator) == 0
