"""Sessions that outlive their connection: who may resume them, what waited, how long, and what ends them."""

import json
from typing import Any

import pytest
from tests.brokers.harness import Client, Running, eventually
from tests.brokers.test_device_life import act, life

from mqttprov.brokers import sessions as limits
from mqttprov.core.limits import MAX_SESSIONS_PER_DEVICE
from mqttprov.core.model import OperatorRole
from mqttprov.mqtt import Disconnect, Disconnected, Properties, ProtocolVersion, ReasonCode, ServerLimits, encode

V311, V5 = ProtocolVersion.V311, ProtocolVersion.V5
CALLS = "v1/devices/me/rpc/request/+"


async def token_of(broker: Running, name: str) -> str:
    """Provision a device; give its access token."""
    return str((await broker.provision(name))["credentialsValue"])


async def leave(broker: Running, client: Client) -> None:
    """Let a client go without a word, and wait until the broker knows."""
    away = broker.broker.sessions.away
    client.abort()
    await eventually(lambda: broker.broker.sessions.away > away)


@pytest.fixture(params=list(ProtocolVersion), ids=["3.1.1", "5"])
def kept(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Give the options of a login whose session is to be kept, in both versions."""
    return {"version": request.param, "keep_s": 3600, "client_id": "gw"}


async def test_what_is_sent_to_who_is_away_waits_in_order(broker: Running, kept: dict[str, Any]) -> None:
    """Subscriptions and messages of QoS 1 and 2 outlive the connection; QoS 0 promises nothing (MQTT section 4.1)."""
    token, operator = await token_of(broker, "gw-1"), await broker.operator()
    device = await broker.login(token, **kept)
    assert not device.session_present
    await device.subscribe(CALLS, qos=2)
    await leave(broker, device)
    for number, qos in enumerate((1, 2, 0, 1)):
        await operator.publish(f"v1/devices/gw-1/rpc/request/{number}", b"x", max(qos, 1)) if qos else None
    again = await broker.login(token, **kept)
    assert again.session_present
    received = [await again.message() for _ in range(3)]
    assert [(m.topic[-1], m.qos, m.dup) for m in received] == [("0", 1, False), ("1", 2, False), ("3", 1, False)]
    await operator.publish("v1/devices/gw-1/rpc/request/9", b"x")
    assert (await again.message()).topic[-1] == "9"


async def test_what_was_not_acknowledged_is_sent_again(broker: Running, kept: dict[str, Any]) -> None:
    """Messages in flight when the connection broke come first, marked as repeated (MQTT-4.4.0-1)."""
    token, operator = await token_of(broker, "gw-1"), await broker.operator()
    device = await broker.login(token, **kept)
    await device.subscribe(CALLS, qos=1)
    device.pause()
    for number in range(3):
        await operator.publish(f"v1/devices/gw-1/rpc/request/{number}", b"x")
    await leave(broker, device)
    await operator.publish("v1/devices/gw-1/rpc/request/3", b"x")
    again = await broker.login(token, **kept)
    received = [await again.message() for _ in range(4)]
    assert [(m.topic[-1], m.dup) for m in received] == [("0", True), ("1", True), ("2", True), ("3", False)]


async def test_a_takeover_hands_the_session_over(broker: Running, kept: dict[str, Any]) -> None:
    """The newcomer goes on where the connection that it displaces stood; nothing is lost in between."""
    token, operator = await token_of(broker, "gw-1"), await broker.operator()
    device = await broker.login(token, **kept)
    await device.subscribe(CALLS)
    device.pause()
    await operator.publish("v1/devices/gw-1/rpc/request/1", b"x")
    again = await broker.login(token, **kept)
    assert again.session_present
    assert (await again.message()).dup
    device.resume()
    if kept["version"] is V5:
        assert (await device.take(Disconnected)).reason_code == ReasonCode.SESSION_TAKEN_OVER
    await device.wait_closed()
    await operator.publish("v1/devices/gw-1/rpc/request/2", b"x")
    assert (await again.message()).topic[-1] == "2"
    assert len(broker.broker.sessions) == 2


async def test_a_goodbye_and_a_message_in_one_segment_lose_nothing(broker: Running, kept: dict[str, Any]) -> None:
    """What comes for a session in the very turn in which its client says goodbye waits as well."""
    operator = await broker.operator()
    await operator.subscribe("self")
    issued = broker.admin.create_operator("listener", OperatorRole.OPERATOR)
    both = await broker.login("listener", issued, **kept)
    await both.subscribe("self")
    both.publish_nowait("self", b"1", 1)
    both.mqtt().disconnect()
    both.send(both.mqtt().take_output())
    assert (await operator.message()).payload == b"1"
    again = await broker.login("listener", issued, **kept)
    assert (again.session_present, (await again.message()).payload) == (True, b"1")


async def test_a_clean_start_begins_anew(broker: Running, kept: dict[str, Any]) -> None:
    """Clean start throws the earlier session away, subscriptions, messages and all (MQTT-3.1.2-4)."""
    token, operator = await token_of(broker, "gw-1"), await broker.operator()
    device = await broker.login(token, **kept)
    await device.subscribe(CALLS)
    await leave(broker, device)
    await operator.publish("v1/devices/gw-1/rpc/request/1", b"x")
    again = await broker.login(token, **{**kept, "clean_start": True})
    await operator.publish("v1/devices/gw-1/rpc/request/2", b"x")
    await again.ping()
    assert (again.session_present, again.messages()) == (False, [])
    assert broker.broker.sessions.bytes_away == 0


async def test_only_the_same_principal_resumes(broker: Running, kept: dict[str, Any]) -> None:
    """Client ids are per principal: a stranger's CONNECT with the same one neither resumes nor ends a session (P3)."""
    token, other = await token_of(broker, "gw-1"), await token_of(broker, "gw-2")
    device = await broker.login(token, **kept)
    await device.subscribe(CALLS)
    await leave(broker, device)
    assert not (await broker.login(other, **kept)).session_present
    assert not (await broker.login(other, **{**kept, "clean_start": True})).session_present
    assert await broker.refusal("mqp_at_wrong", client_id="gw") == ReasonCode.BAD_USER_NAME_OR_PASSWORD
    assert (await broker.login(token, **kept)).session_present


async def test_a_session_ends_when_its_time_is_over(broker: Running) -> None:
    """The client's expiry, at most a week; 3.1.1 cannot say how long, so it is a week (P9)."""
    token = await token_of(broker, "gw-1")
    for version, asked_s, granted_s in ((V5, 100, 100), (V5, 2**32 - 1, limits.MAX_SESSION_EXPIRY_S), (V311, 1, None)):
        login: dict[str, Any] = {"version": version, "keep_s": asked_s, "client_id": "gw"}
        keeps_s = granted_s or limits.MAX_SESSION_EXPIRY_S
        for waits_s, present in ((keeps_s - 5, True), (keeps_s + 2, False)):
            device = await broker.login(token, **login)
            await leave(broker, device)
            broker.advance(waits_s)
            assert broker.broker.sessions.away == present
            again = await broker.login(token, **login)
            assert again.session_present is present
            again.abort()
            await eventually(lambda: broker.broker.sessions.away == 1)
        broker.advance(keeps_s + 2)


async def test_a_goodbye_may_change_how_long_the_session_is_kept(broker: Running) -> None:
    """The expiry in DISCONNECT replaces that of CONNECT; 0 ends the session (MQTT 5 section 3.14.2.2.2)."""
    token = await token_of(broker, "gw-1")
    for expiry_s, present in ((0, False), (50, True)):
        device = await broker.login(token, keep_s=3600, client_id="gw", clean_start=True)
        goodbye = Disconnect(properties=Properties(session_expiry_interval_s=expiry_s))
        device.send(encode(goodbye, V5))
        await device.wait_closed()
        assert broker.broker.sessions.away == present
    broker.advance(52)
    assert len(broker.broker.sessions) == 0


@pytest.mark.parametrize("verb", ["suspend", "decommission"])
async def test_who_loses_its_rights_loses_what_waits(broker: Running, verb: str, kept: dict[str, Any]) -> None:
    """Suspend and decommission end sessions of who is away as they end connections (P7)."""
    token, operator = await token_of(broker, "gw-1"), await broker.operator()
    device = await broker.login(token, **kept)
    await device.subscribe(CALLS)
    await leave(broker, device)
    await operator.publish("v1/devices/gw-1/rpc/request/1", b"x")
    operator.disconnect()
    await act(getattr(life(broker), verb), "gw-1")
    await eventually(lambda: not broker.broker._connections)
    assert (len(broker.broker.sessions), broker.broker.sessions.bytes_away) == (0, 0)
    if verb == "suspend":
        await act(life(broker).resume, "gw-1")
        assert not (await broker.login(token, **kept)).session_present


async def test_a_new_generation_does_not_resume_the_old_ones_session(broker: Running, kept: dict[str, Any]) -> None:
    """What waited for the credentials that are superseded ends with them (words.md)."""
    token = await token_of(broker, "gw-1")
    device = await broker.login(token, **kept)
    await leave(broker, device)
    newer = await token_of(broker, "gw-1")
    assert newer != token
    assert not (await broker.login(newer, **kept)).session_present
    assert len(broker.broker.sessions) == 1


async def test_rights_are_those_of_the_login_that_resumes(broker: Running) -> None:
    """With other rights than it was made with a session is not resumed: the client is told, and subscribes anew."""
    token, operator = await token_of(broker, "gw-1"), await broker.operator()
    device = await broker.login(token, keep_s=3600, client_id="gw")
    await device.subscribe(CALLS)
    await leave(broker, device)
    await operator.publish("v1/devices/gw-1/rpc/request/1", b"x")
    (session,) = list(broker.broker.sessions._away)
    session.principal = type(session.principal)(**{**_fields(session.principal), "subscribe_topics": ("orders/#",)})
    again = await broker.login(token, keep_s=3600, client_id="gw")
    await again.ping()
    assert (again.session_present, again.messages()) == (False, [])


def _fields(value: Any) -> dict[str, Any]:
    return {name: getattr(value, name) for name in value.__struct_fields__}


async def test_an_operator_misses_no_audit_event_while_away(broker: Running, kept: dict[str, Any]) -> None:
    """Audit events (QoS 1) wait for operators whose session is kept (P5)."""
    password = broker.admin.create_operator("ops", OperatorRole.OPERATOR)
    operator = await broker.login("ops", password, **kept)
    await operator.subscribe("provision/audit/provisioned")
    await leave(broker, operator)
    for number in range(5):
        await broker.provision(f"gw-{number}")
    again = await broker.login("ops", password, **kept)
    devices = [json.loads((await again.message()).payload)["event"]["device"] for _ in range(5)]
    assert devices == [f"gw-{number}" for number in range(5)]


async def test_what_waits_is_bounded_in_each_session(broker: Running) -> None:
    """Past the bound the session ends rather than lose a message silently, and the client finds none present (P9)."""
    broker.broker.limits = ServerLimits(max_queued_messages=10)
    token, operator = await token_of(broker, "gw-1"), await broker.operator()
    device = await broker.login(token, keep_s=3600, client_id="gw")
    await device.subscribe(CALLS)
    await leave(broker, device)
    for number in range(10):
        await operator.publish(f"v1/devices/gw-1/rpc/request/{number}", b"x")
    assert broker.broker.sessions.away == 1
    await operator.publish("v1/devices/gw-1/rpc/request/10", b"x")
    await operator.ping()
    assert broker.broker.sessions.away == 0
    again = await broker.login(token, keep_s=3600, client_id="gw")
    await again.ping()
    assert (again.session_present, again.messages()) == (False, [])


async def test_expired_messages_make_room_for_who_is_away(broker: Running) -> None:
    """What has expired in the queue is dropped before the session is (MQTT-3.3.2-5)."""
    broker.broker.limits = ServerLimits(max_queued_messages=10)
    token, operator = await token_of(broker, "gw-1"), await broker.operator()
    device = await broker.login(token, keep_s=3600, client_id="gw")
    await device.subscribe(CALLS)
    await leave(broker, device)
    for number in range(10):
        brief = Properties(message_expiry_interval_s=5)
        await operator.publish(f"v1/devices/gw-1/rpc/request/{number}", b"x", properties=brief)
    broker.advance(6)
    await operator.publish("v1/devices/gw-1/rpc/request/10", b"x")
    again = await broker.login(token, keep_s=3600, client_id="gw")
    assert (again.session_present, (await again.message()).topic[-2:]) == (True, "10")


async def test_what_waits_is_bounded_in_all(broker: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """All who are away share a bound of bytes and one of sessions; the longest away makes room for the next (P9)."""
    monkeypatch.setattr(limits, "MAX_BYTES_AWAY", 10_000)
    monkeypatch.setattr(limits, "MAX_SESSIONS_AWAY", 2)
    operator = await broker.operator()
    tokens = [await token_of(broker, f"gw-{number}") for number in range(3)]
    for token in tokens:
        device = await broker.login(token, keep_s=3600, client_id="gw")
        await device.subscribe(CALLS)
        device.abort()
    await eventually(lambda: (len(broker.broker.sessions), broker.broker.sessions.away) == (3, 2))
    await operator.publish("v1/devices/gw-1/rpc/request/1", bytes(6_000))
    assert 6_000 < broker.broker.sessions.bytes_away < 10_000
    await operator.publish("v1/devices/gw-2/rpc/request/1", bytes(6_000))
    await operator.ping()
    assert (broker.broker.sessions.away, broker.broker.sessions.bytes_away < 10_000) == (1, True)
    present = [(await broker.login(token, keep_s=3600, client_id="gw")).session_present for token in tokens]
    assert present == [False, True, False]
    assert broker.broker.sessions.bytes_away == 0


async def test_who_leaves_with_more_than_there_is_room_for_is_not_kept(
    broker: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was in flight counts when a connection breaks; past the bound of all the session ends with it (P9)."""
    monkeypatch.setattr(limits, "MAX_BYTES_AWAY", 10_000)
    token, operator = await token_of(broker, "gw-1"), await broker.operator()
    device = await broker.login(token, keep_s=3600, client_id="gw")
    await device.subscribe(CALLS)
    device.pause()
    for number in range(3):
        await operator.publish(f"v1/devices/gw-1/rpc/request/{number}", bytes(5_000))
    device.abort()
    await eventually(lambda: len(broker.broker.sessions) == 1)
    assert broker.broker.sessions.bytes_away == 0


async def test_a_subscription_behind_a_goodbye_leaves_nothing(broker: Running) -> None:
    """A message to itself, SUBSCRIBE and DISCONNECT in one segment: the session is gone, and so is all of it (P9)."""
    client = await broker.operator()
    await client.subscribe("self")
    client.publish_nowait("self", b"x", 1)
    client.mqtt().subscribe([("late", 1)])
    client.mqtt().disconnect()
    client.send(client.mqtt().take_output())
    await broker.broker.empty.wait()
    assert (len(broker.broker.router.tree), len(broker.broker.sessions)) == (0, 0)


async def test_retained_messages_that_are_owed_wait_for_a_client_that_has_gone(broker: Running) -> None:
    """Who breaks off while it is being given what is retained finds the rest in its session."""
    operator = await broker.operator()
    for number in range(500):
        operator.publish_nowait(f"v1/devices/gw-1/rpc/request/{number}", b"x", 1, retain=True)
    await operator.ping()
    token = await token_of(broker, "gw-1")
    device = await broker.login(token, keep_s=3600, client_id="gw")
    device.mqtt()._manual_ack = True
    await device.subscribe(CALLS)
    assert len(device.messages()) <= 100  # its window
    await leave(broker, device)
    again = await broker.login(token, keep_s=3600, client_id="gw")
    await again.until(lambda: len(again.messages()) == 500)
    assert {m.retain for m in again.messages()} == {True}


async def test_a_session_of_who_is_away_makes_room_before_one_of_who_is_there(broker: Running) -> None:
    """A principal has eight sessions at most, kept ones included (P9)."""
    token = await token_of(broker, "gw-1")
    first = await broker.login(token, client_id="first")
    for number in range(MAX_SESSIONS_PER_DEVICE - 1):
        await leave(broker, await broker.login(token, client_id=f"gw-{number}", keep_s=3600))
    await broker.login(token, client_id="last")
    await first.ping()
    assert (len(broker.broker.sessions), broker.broker.sessions.away) == (8, 6)


async def test_a_shared_subscription_prefers_who_is_there(broker: Running) -> None:
    """A message for a group waits for an absent member only if no other is connected (MQTT 5 section 4.8.2)."""
    password = broker.admin.create_operator("ops", OperatorRole.OPERATOR)
    clients = [await broker.login("ops", password, client_id=name, keep_s=3600) for name in "abc"]
    for client in clients:
        await client.subscribe("$share/group/work")
    await leave(broker, clients[0])
    sender = await broker.operator()
    for number in range(4):
        await sender.publish("work", str(number).encode())
    for client in clients[1:]:
        await client.ping()
    assert sorted(m.payload for c in clients[1:] for m in c.messages()) == [b"0", b"1", b"2", b"3"]
    assert [len(client.messages()) for client in clients[1:]] == [2, 2]
    for client in clients[1:]:
        await leave(broker, client)
    await sender.publish("work", b"late")
    back = [await broker.login("ops", password, client_id=name, keep_s=3600) for name in "abc"]
    for client in back:
        await client.ping()
    assert [m.payload for client in back for m in client.messages() if not m.dup] == [b"late"]
