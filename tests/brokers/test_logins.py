"""Logins at the broker: who gets in, what a refused one changes (nothing), and which session ends another."""

import sqlite3
from typing import Any

import pytest
from tests.brokers.harness import Client, Running

from mqttprov.core.limits import MAX_SESSIONS_PER_DEVICE
from mqttprov.core.model import OperatorRole
from mqttprov.mqtt import Connect, Disconnected, ProtocolVersion, ReasonCode

V311 = ProtocolVersion.V311


async def alive(client: Client) -> bool:
    """Tell whether the broker still answers this client."""
    if client.gone or client.mqtt().closed:
        return False
    await client.ping()
    return True


@pytest.mark.parametrize("username", [None, ""])
@pytest.mark.parametrize("version", list(ProtocolVersion))
async def test_anonymous_logins_are_refused(broker: Running, username: str | None, version: ProtocolVersion) -> None:
    """Who presents nothing gets no session (thingsboard.md rule 16)."""
    assert await broker.refusal(username, client_id="somebody", version=version) == ReasonCode.NOT_AUTHORIZED


async def test_unknown_credentials_are_refused(broker: Running) -> None:
    """A token that was never issued, and a user name with a password, get the same refusal."""
    assert await broker.refusal("mqp_at_never-issued") == ReasonCode.BAD_USER_NAME_OR_PASSWORD
    assert await broker.refusal("somebody", "some password") == ReasonCode.BAD_USER_NAME_OR_PASSWORD


async def test_mqtt_basic_logs_in_with_its_password_only(broker: Running) -> None:
    """All three of MQTT_BASIC must fit when they were given."""
    reply = await broker.provision("gw-1", credentialsType="MQTT_BASIC", clientId="own-id", username="own-name")
    given = reply["credentialsValue"]
    assert (given["clientId"], given["userName"]) == ("own-id", "own-name")
    wrong = ReasonCode.BAD_USER_NAME_OR_PASSWORD
    assert await broker.refusal("own-name", "wrong password", client_id="own-id") == wrong
    assert await broker.refusal("own-name", None, client_id="own-id") == wrong
    assert await broker.refusal("own-name", given["password"], client_id="other-id") == wrong
    await broker.login("own-name", given["password"], client_id="own-id")


async def test_a_password_of_any_bytes_is_refused_without_fault(broker: Running) -> None:
    """MQTT passwords are bytes; what is not UTF-8 is simply wrong (P9)."""
    for password in (b"\xff\xfe", b"\xed\xa0\x80", b"\0" * 100):
        client = await broker.open(Connect("x", username="somebody", password=password))
        assert await client.connack() == ReasonCode.BAD_USER_NAME_OR_PASSWORD


@pytest.mark.parametrize("clean_start", [True, False])
async def test_a_refused_login_with_a_victims_client_id_changes_nothing(broker: Running, clean_start: bool) -> None:
    """Stock amqtt evicts or deafens the victim before it looks at the password (its defect 1)."""
    operator = await broker.operator()
    victim = await broker.device("victim", client_id="victim-id")
    await victim.subscribe("v1/devices/me/attributes")
    attacker = await broker.open(
        Connect("victim-id", version=ProtocolVersion.V5, clean_start=clean_start, username="mqp_at_wrong")
    )
    assert await attacker.connack() == ReasonCode.BAD_USER_NAME_OR_PASSWORD
    await operator.publish("v1/devices/victim/attributes", b"still there?")
    assert (await victim.message()).payload == b"still there?"


async def test_another_devices_login_with_the_same_client_id_displaces_nobody(broker: Running) -> None:
    """Only the same principal may take a session over; a client id proves nothing."""
    victim = await broker.device("victim", client_id="shared-id")
    other = await broker.device("other", client_id="shared-id")
    operator = await broker.operator()
    same_name = await broker.login(
        "ops-1", broker.admin.create_operator("ops-1", OperatorRole.OBSERVER), client_id="shared-id"
    )
    for client in (victim, other, operator, same_name):
        assert await alive(client)


async def test_the_same_device_takes_its_session_over(broker: Running) -> None:
    """The newer connection with the same client id wins and the older one is told why (MQTT-3.1.4-3)."""
    token = (await broker.provision("gw-1"))["credentialsValue"]
    first = await broker.login(token, client_id="gw-1")
    await first.subscribe("v1/devices/me/attributes")
    second = await broker.login(token, client_id="gw-1")
    assert (await first.take(Disconnected)).reason_code == ReasonCode.SESSION_TAKEN_OVER
    await first.wait_closed()
    await second.subscribe("v1/devices/me/attributes")
    operator = await broker.operator()
    await operator.publish("v1/devices/gw-1/attributes", b"{}")
    assert (await second.message()).payload == b"{}"


async def test_a_device_has_a_bounded_number_of_sessions(broker: Running) -> None:
    """With one session too many the oldest ends (P9)."""
    token = (await broker.provision("gw-1"))["credentialsValue"]
    sessions = [await broker.login(token, client_id=f"id-{n}") for n in range(MAX_SESSIONS_PER_DEVICE + 1)]
    assert (await sessions[0].take(Disconnected)).reason_code == ReasonCode.QUOTA_EXCEEDED
    assert [await alive(each) for each in sessions] == [False] + [True] * MAX_SESSIONS_PER_DEVICE


async def test_failed_logins_leave_nothing_behind(broker: Running) -> None:
    """Stock amqtt keeps a session for ever for each of them (its defect 2)."""
    for number in range(50):
        await broker.refusal("mqp_at_wrong", client_id=f"id-{number}", source="127.0.0.9")
    inside: Any = broker.broker
    assert (len(inside._connections), len(inside.sessions)) == (0, 0)
    assert len(inside.router.tree) == 0


async def test_ended_sessions_leave_nothing_behind(broker: Running) -> None:
    """Places, subscriptions and counts go with the connection, however it ends (P9)."""
    operator = await broker.operator()
    for number, end in enumerate((Client.disconnect, Client.drop, Client.abort)):
        device = await broker.device(f"gw-{number}", client_id="x")
        await device.subscribe("v1/devices/me/rpc/request/+", "v1/devices/me/attributes")
        end(device)
    await operator.subscribe("#")
    operator.disconnect()
    await broker.broker.empty.wait()
    inside: Any = broker.broker
    assert (len(inside._connections), len(inside.sessions)) == (0, 0)
    assert len(inside.router.tree) == 0


async def test_the_older_generation_ends_when_the_newer_logs_in(broker: Running) -> None:
    """Make before break (DESIGN 5.6): both work until the new credential is used, then only that one."""
    old_token = (await broker.provision("gw-1"))["credentialsValue"]
    old = await broker.login(old_token)
    new_token = (await broker.provision("gw-1"))["credentialsValue"]
    assert new_token != old_token
    again = await broker.login(old_token)
    assert await alive(old)
    new = await broker.login(new_token)
    for session in (old, again):
        assert (await session.take(Disconnected)).reason_code == ReasonCode.NOT_AUTHORIZED
        await session.wait_closed()
    assert await broker.refusal(old_token) == ReasonCode.BAD_USER_NAME_OR_PASSWORD
    assert await alive(new)


@pytest.mark.parametrize("state", ["suspended", "decommissioned", "manufactured"])
async def test_the_lifecycle_state_decides_about_logins(broker: Running, state: str) -> None:
    """State is permission (P7): with good credentials and a state that forbids it, CONNECT is refused at once."""
    fresh = (await broker.provision("gw-1"))["credentialsValue"]
    used = (await broker.provision("gw-2"))["credentialsValue"]
    (await broker.login(used)).disconnect()
    database = sqlite3.connect(broker.path / "mqttprov.db")
    with database:
        database.execute("UPDATE device SET state = ?", (state,))
    database.close()
    assert await broker.refusal(fresh) == ReasonCode.NOT_AUTHORIZED
    assert await broker.refusal(used, version=V311) == ReasonCode.NOT_AUTHORIZED


async def test_a_device_cannot_take_an_operators_name_away(broker: Running) -> None:
    """A device may supply any token, also one that is an operator's name; the operator still logs in as himself."""
    password = broker.admin.create_operator("operations", OperatorRole.OBSERVER)
    reply = await broker.provision("gw-1", token="operations")
    assert reply["credentialsValue"] == "operations"
    await broker.login("operations")
    operator = await broker.login("operations", password)
    assert (await operator.subscribe("provision/audit/#"))[0] == ReasonCode.GRANTED_QOS_1


async def test_a_device_cannot_take_another_devices_user_name_away(each_broker: Running) -> None:
    """It may choose it for its token; who knows the password still logs in as who he is (P8)."""
    await each_broker.provision("gw-1", username="own-name", password="pass-word")
    for token in ("an-older-one", "own-name"):
        assert (await each_broker.provision("gw-2", token=token))["status"] == "SUCCESS"
    operator = await each_broker.operator()
    await operator.subscribe("v1/devices/#")
    for password, name in (("pass-word", "gw-1"), ("wrong", "gw-2"), (None, "gw-2")):
        await (await each_broker.login("own-name", password)).publish("v1/devices/me/telemetry", b"1")
        assert (await operator.message()).topic == f"v1/devices/{name}/telemetry"


async def test_a_client_without_id_gets_one(broker: Running) -> None:
    """MQTT 5 section 3.1.3.1: the server assigns a client id and tells it; two clients get two."""
    token = (await broker.provision("gw-1"))["credentialsValue"]
    ids = {(await broker.login(token)).mqtt().client_id for _ in range(2)}
    assert len(ids) == 2
    assert "" not in ids
