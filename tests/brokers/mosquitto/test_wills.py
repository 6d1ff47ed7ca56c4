"""Wills of clients that the gate let in: delivered as their messages are, and no way round its rules."""

import pytest
from tests.brokers.mosquitto.beside import Beside
from tests.brokers.mosquitto.test_first_registration import until_state
from tests.brokers.test_device_life import act, life

from mqttprov.core.model import OperatorRole
from mqttprov.core.permissions import REQUEST_TOPIC
from mqttprov.mqtt import Properties, ProtocolVersion, Will

OWN = "v1/devices/me/telemetry"
OTHERS = "v1/devices/gw-2/attributes"


@pytest.mark.parametrize("version", list(ProtocolVersion))
async def test_a_will_is_told_as_a_message_is(beside: Beside, version: ProtocolVersion) -> None:
    """A device's under its name, when its connection breaks or another of its own displaces it; an operator's, too."""
    operator, other = await beside.operator(), await beside.device("gw-2")
    await operator.subscribe("v1/devices/#")
    await other.subscribe("v1/devices/me/attributes")
    token = (await beside.provision("gw-1"))["credentialsValue"]
    for payload in (b"broken", b"displaced"):
        device = await beside.login(token, client_id="gw", will=Will(OWN, payload, 1, retain=True), version=version)
        if payload == b"broken":
            device.abort()
        else:
            await beside.login(token, client_id="gw", version=version)
        message = await operator.message()
        assert (message.topic, message.payload, message.retain) == ("v1/devices/gw-1/telemetry", payload, False)
    password = beside.admin.create_operator("bob", OperatorRole.OPERATOR)
    (await beside.login("bob", password, will=Will(OTHERS, b"from bob", 1), version=version)).abort()
    message = await other.message()
    assert (message.topic, message.payload) == ("v1/devices/me/attributes", b"from bob")


async def test_a_will_is_told_after_its_delay(beside: Beside) -> None:
    """Also by then it is known whose it is, wherever MQTT 5 keeps the session for longer."""
    operator, token = await beside.operator(), (await beside.provision("gw-1"))["credentialsValue"]
    await operator.subscribe("v1/devices/#")
    will = Will(OWN, b"gone", 1, properties=Properties(will_delay_interval_s=1))
    device = await beside.login(token, client_id="gw", will=will, keep_s=100, clean_start=True)
    await until_state(beside, "gw-1", "active")
    device.abort()
    assert (await operator.message()).payload == b"gone"


async def test_a_will_opens_nothing(beside: Beside) -> None:
    """Not another's topics, no request, and nothing for a device that has lost its rights (P3, P7)."""
    operator, other = await beside.operator(), await beside.device("gw-2")
    await operator.subscribe("#")
    await other.subscribe("v1/devices/me/attributes")
    request = Will(REQUEST_TOPIC, beside.payload("gw-3"), 1)
    (await beside.login("provision", will=request)).abort()
    token = (await beside.provision("gw-1"))["credentialsValue"]
    (await beside.login(token, will=Will(OTHERS, b"planted", 1))).abort()
    await until_state(beside, "gw-1", "active")
    last = await beside.login(token, will=Will(OWN, b"planted", 1))
    await act(life(beside).suspend, "gw-1")
    await last.wait_closed()
    await other.ping()
    await operator.ping()
    assert b"planted" not in other.raw + operator.raw
    reader = beside.state.store.reader()
    assert {row.name for row in reader.devices()} == {"gw-1", "gw-2"}
    reader.close()
