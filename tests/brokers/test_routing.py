"""Who gets which message: `me` topics, operators, permissions by role, wills, and delivery under haste."""

import json
import os

import pytest
from tests.brokers.harness import Client, Running, ask, request_bytes

from mqttprov.core.model import OperatorRole, Profile
from mqttprov.mqtt import ClientSession, Connect, ProtocolVersion, Publish, ReasonCode, Will

V311, V5 = ProtocolVersion.V311, ProtocolVersion.V5
DENIED = ReasonCode.NOT_AUTHORIZED


def without_audit(client: Client) -> list[Publish]:
    """Give a client's messages that are not audit events."""
    return [m for m in client.messages() if not m.topic.startswith("provision/audit/")]


async def test_operators_see_a_devices_own_topics_under_its_name(broker: Running) -> None:
    """`v1/devices/me/...` and `v1/gateway/...` of device D are `v1/devices/D/...` to operators (DESIGN 5.8)."""
    operator = await broker.operator()
    observer = await broker.operator(OperatorRole.OBSERVER)
    device = await broker.device("Gateway abcde")
    for client in (operator, observer):
        await client.subscribe("v1/devices/+/#")
    await device.publish("v1/devices/me/telemetry", b"1")
    device.publish_nowait("v1/gateway/connect", b"2")
    await device.ping()
    for client in (operator, observer):
        await client.ping()
        assert [(m.topic, m.payload, m.qos) for m in client.messages()] == [
            ("v1/devices/Gateway abcde/telemetry", b"1", 1),
            ("v1/devices/Gateway abcde/gateway/connect", b"2", 0),
        ]


async def test_own_topics_are_never_echoed_nor_given_to_another_device(broker: Running) -> None:
    """`me` means "this session" (thingsboard.md rule 15): on a plain broker the gateway hears itself and loops."""
    token = (await broker.provision("gw-1"))["credentialsValue"]
    device, twin = await broker.login(token, client_id="a"), await broker.login(token, client_id="b")
    other = await broker.device("gw-2")
    for client in (device, twin, other):
        await client.subscribe("v1/devices/me/#", "v1/gateway/#")
    for topic in ("v1/devices/me/attributes", "v1/devices/me/rpc/request/1", "v1/gateway/telemetry"):
        await device.publish(topic, b"{}")
    for client in (device, twin, other):
        await client.ping()
        assert client.messages() == []


async def test_an_operators_call_reaches_the_device_and_its_answer_the_operator(broker: Running) -> None:
    """Server-side RPC goes both ways, to this device alone."""
    operator = await broker.operator()
    device, other = await broker.device("gw-1"), await broker.device("gw-2")
    for client in (device, other):
        await client.subscribe("v1/devices/me/rpc/request/+")
    await operator.subscribe("v1/devices/gw-1/rpc/response/+")
    await operator.publish("v1/devices/gw-1/rpc/request/7", b'{"method":"reboot"}')
    assert (await device.message()).topic == "v1/devices/me/rpc/request/7"
    await device.publish("v1/devices/me/rpc/response/7", b'{"ok":true}')
    answer = await operator.message()
    assert (answer.topic, answer.payload) == ("v1/devices/gw-1/rpc/response/7", b'{"ok":true}')
    await other.ping()
    assert other.messages() == []


async def test_the_gateways_questions_are_answered(broker: Running) -> None:
    """`getSessionLimits` and attribute requests get an answer, so that a gateway counts itself connected (rule 14)."""
    device = await broker.device("gw-1")
    await device.subscribe("v1/devices/me/rpc/response/+", "v1/devices/me/attributes/response/+")
    await device.publish("v1/devices/me/rpc/request/3", b'{"method":"getSessionLimits","params":{}}')
    limits = await device.message()
    assert limits.topic == "v1/devices/me/rpc/response/3"
    assert json.loads(limits.payload)["maxPayloadSize"] > 0
    await device.publish("v1/devices/me/attributes/request/4", b'{"sharedKeys":"a,b"}')
    attributes = await device.message()
    assert (attributes.topic, attributes.payload) == ("v1/devices/me/attributes/response/4", b"{}")


@pytest.mark.parametrize(
    ("payload", "told"),
    [
        (b'{"sharedKeys":"labels"}', True),
        (b'{"sharedKeys":"a,labels","clientKeys":"b"}', True),
        (b"{}", True),
        (b'{"clientKeys":"labels"}', False),
        (b'{"sharedKeys":["labels"]}', False),
        (b"labels", False),
        (b"[" * 100_000, False),
        (b"", False),
    ],
    ids=["labels", "among-others", "everything", "client-keys", "list", "no-json", "deep", "empty"],
)
async def test_a_device_reads_its_labels(broker: Running, payload: bytes, told: bool) -> None:
    """Its labels are the shared attribute `labels`; who asks for something else gets none."""
    administration = broker.state.administration("test", lambda: 1_700_000_000_000, os.urandom)
    administration.create_device("default", "gw-1", None, {"site": "north"})
    device = await broker.device("gw-1")
    await device.subscribe("v1/devices/me/attributes/response/+")
    await device.publish("v1/devices/me/attributes/request/5", payload)
    answer = await device.message()
    assert answer.topic == "v1/devices/me/attributes/response/5"
    assert json.loads(answer.payload) == ({"shared": {"labels": {"site": "north"}}} if told else {})


async def test_only_who_listens_is_answered(broker: Running) -> None:
    """Without a subscription to the answer there is none."""
    device = await broker.device("gw-1")
    await device.publish("v1/devices/me/rpc/request/3", b'{"method":"getSessionLimits"}')
    await device.ping()
    assert device.messages() == []


@pytest.mark.parametrize(
    "payload",
    [
        b"getSessionLimits",
        b'["getSessionLimits"]',
        b'{"method":["getSessionLimits"]}',
        b"\xff getSessionLimits",
        b'{"getSessionLimits":' + b"[" * 100_000,
        b'{"getSessionLimits":' + b"9" * 10_000 + b"}",
    ],
    ids=["bare", "list", "method-list", "not-utf8", "deep", "long-number"],
)
async def test_questions_that_cannot_be_read_are_harmless(broker: Running, payload: bytes) -> None:
    """Bad JSON in a question to the broker is no question; the session goes on (P9)."""
    device = await broker.device("gw-1")
    await device.subscribe("v1/devices/me/rpc/response/+")
    await device.publish("v1/devices/me/rpc/request/3", payload)
    await device.ping()
    assert device.messages() == []


PUBLISH_MATRIX = [
    # topic, device, operator, observer
    ("v1/devices/me/telemetry", True, True, False),
    ("v1/gateway/telemetry", True, True, False),
    ("v1/devices/gw-2/rpc/request/1", False, True, False),
    ("plant/gw-1/state", True, True, False),
    ("plant/gw-2/state", False, True, False),
    ("elsewhere", False, True, False),
    ("provision/audit/refused", False, False, False),
    ("/provision/request", False, False, False),
    ("/provision/response", False, False, False),
    ("$SYS/broker", False, False, False),
]
SUBSCRIBE_MATRIX = [
    ("v1/devices/me/#", True, True, True),
    ("v1/gateway/+", True, True, True),
    ("v1/devices/gw-2/#", False, True, True),
    ("v1/devices/+/telemetry", False, True, True),
    ("orders/gw-1/new", True, True, True),
    ("orders/gw-1/#", True, True, True),
    ("orders/gw-2/new", False, True, True),
    ("orders/+/new", False, True, True),
    ("#", False, True, True),
    ("+/+/+", False, True, True),
    ("provision/audit/#", False, True, True),
    ("$SYS/#", False, False, False),
]


async def _three(broker: Running, version: ProtocolVersion) -> tuple[Client, Client, Client]:
    issued = broker.admin.create_profile(
        Profile(0, "plant", publish_topics=("plant/%d/#",), subscribe_topics=("orders/%d/#",))
    )
    session = await broker.session()
    token = (await ask(session, request_bytes(issued, "gw-1")))["credentialsValue"]
    logins: list[tuple[str, str | None]] = [(token, None)]
    logins += [(role, broker.admin.create_operator(role, role)) for role in OperatorRole]
    device, operator, observer = [await broker.login(name, word, version=version) for name, word in logins]
    return device, operator, observer


async def test_who_may_publish_where_in_mqtt_5(broker: Running) -> None:
    """The matrix of roles and topics; a refusal is told in PUBACK and the session goes on."""
    clients = await _three(broker, V5)
    seen = []
    for topic, *_ in PUBLISH_MATRIX:
        seen.append((topic, *[await client.publish(topic, b"x") == ReasonCode.SUCCESS for client in clients]))
    assert seen == PUBLISH_MATRIX


async def test_who_may_publish_where_in_mqtt_3(broker: Running) -> None:
    """MQTT 3.1.1 knows no refusal of a message: it is acknowledged and dropped; only allowed ones are delivered."""
    device, operator, observer = await _three(broker, V311)
    watcher = await broker.operator(OperatorRole.OBSERVER)
    await watcher.subscribe("#", "$SYS/#", qos=0)
    for topic, *allowed in PUBLISH_MATRIX:
        for client, may in zip((device, operator, observer), allowed, strict=True):
            await client.publish(topic, b"matrix")
            await watcher.ping()
            found = [m for m in watcher.messages() if m.payload == b"matrix"]
            assert bool(found) is may, (topic, client)
            watcher.events.clear()


@pytest.mark.parametrize("version", list(ProtocolVersion))
async def test_who_may_subscribe_to_what(broker: Running, version: ProtocolVersion) -> None:
    """The matrix of roles and filters; each filter is granted or refused by itself."""
    clients = await _three(broker, version)
    filters = [row[0] for row in SUBSCRIBE_MATRIX]
    codes = [await client.subscribe(*filters) for client in clients]
    granted = [[code == ReasonCode.GRANTED_QOS_1 for code in each] for each in codes]
    assert list(zip(filters, *granted, strict=True)) == SUBSCRIBE_MATRIX
    refusals = {code for each in codes for code in each if code >= 0x80}
    assert refusals == {DENIED if version is V5 else ReasonCode.UNSPECIFIED_ERROR}


@pytest.mark.parametrize("version", list(ProtocolVersion))
@pytest.mark.parametrize("topic", ["v1/devices/other/telemetry", "/provision/response", "provision/audit/x", "$SYS/x"])
async def test_a_forbidden_will_is_refused_at_once(broker: Running, topic: str, version: ProtocolVersion) -> None:
    """Wills are held to the rules for messages, and the client learns of it; stock amqtt publishes them (defect 7)."""
    operator = await broker.operator()
    await operator.subscribe("#")
    token = (await broker.provision("gw-1"))["credentialsValue"]
    device = await broker.open(Connect("x", version, username=token, will=Will(topic, b"will", 1)))
    assert await device.connack() == ReasonCode.NOT_AUTHORIZED
    await device.wait_closed()
    second = await broker.device("gw-2", will=Will("v1/devices/me/telemetry", b"last words", 1))
    second.abort()
    await operator.until(lambda: any(m.payload == b"last words" for m in operator.messages()))
    assert [(m.topic, m.payload) for m in without_audit(operator)] == [("v1/devices/gw-2/telemetry", b"last words")]


async def test_a_clean_goodbye_takes_the_will_away(broker: Running) -> None:
    """MQTT-3.14.4-3: after DISCONNECT nothing is published."""
    operator = await broker.operator()
    await operator.subscribe("v1/devices/#")
    device = await broker.device("gw-1", will=Will("v1/devices/me/telemetry", b"will"))
    device.disconnect()
    second = await broker.device("gw-2", will=Will("v1/devices/me/telemetry", b"will"))
    second.drop()
    assert (await operator.message()).topic == "v1/devices/gw-2/telemetry"
    await operator.ping()
    assert operator.messages() == []


async def test_a_provisioning_sessions_will_is_never_published(broker: Running) -> None:
    """Who is nobody yet leaves no message behind."""
    operator = await broker.operator()
    await operator.subscribe("#")
    for topic in ("v1/devices/me/telemetry", "anything", "/provision/request"):
        (await broker.session(will=Will(topic, b"will", 1))).abort()
    device = await broker.device("gw-1", will=Will("v1/devices/me/telemetry", b"end", 1))
    device.abort()
    await operator.until(lambda: any(m.payload == b"end" for m in operator.messages()))
    assert [m.payload for m in without_audit(operator)] == [b"end"]


@pytest.mark.parametrize("first_login", [True, False])
@pytest.mark.parametrize("qos", [0, 1])
async def test_a_burst_that_ends_in_disconnect_is_delivered_whole(broker: Running, qos: int, first_login: bool) -> None:
    """CONNECT, 20 messages and DISCONNECT in one segment: all 20 arrive; stock amqtt loses half (its defect 4)."""
    operator = await broker.operator()
    await operator.subscribe("v1/devices/#")
    token = (await broker.provision("gw-1"))["credentialsValue"]
    if not first_login:
        (await broker.login(token)).disconnect()

    def first(session: ClientSession) -> None:
        for number in range(20):
            session.publish("v1/devices/me/telemetry", str(number).encode(), qos)
        session.disconnect()

    await broker.open(Connect("gw-1", username=token), first=first)
    received = [int((await operator.message()).payload) for _ in range(20)]
    assert received == list(range(20))


async def test_a_message_has_the_lower_qos_of_sender_and_subscriber(broker: Running) -> None:
    """MQTT section 4.3: neither side gets more than it asked for."""
    low, high = await broker.operator(), await broker.operator()
    await low.subscribe("t", qos=0)
    await high.subscribe("t", qos=1)
    sender = await broker.operator()
    for qos in (0, 1):
        await sender.publish("t", b"x") if qos else sender.publish_nowait("t", b"x")
    await sender.ping()
    assert [(await low.message()).qos for _ in range(2)] == [0, 0]
    assert [(await high.message()).qos for _ in range(2)] == [0, 1]


async def test_overlapping_subscriptions_deliver_once(broker: Running) -> None:
    """A session that matches by several filters gets a message once, with the highest QoS; none after unsubscribing."""
    operator = await broker.operator()
    await operator.subscribe("a/#", qos=0)
    await operator.subscribe("a/+", "a/b", qos=1)
    await operator.publish("a/b", b"x")
    assert (await operator.message()).qos == 1
    operator.mqtt().unsubscribe(["a/#", "a/+", "a/b"])
    operator.send(operator.mqtt().take_output())
    await operator.publish("a/b", b"y")
    await operator.ping()
    assert operator.messages() == []


async def test_a_subscription_has_bounds(broker: Running) -> None:
    """Shared filters of MQTT 3.1.1, which does not know them, are refused, and so is one filter too many (P9)."""
    device = await broker.login("ops-1", broker.admin.create_operator("ops-1", OperatorRole.OPERATOR), version=V311)
    assert await device.subscribe("$share/group/#") == (ReasonCode.UNSPECIFIED_ERROR,)
    operator = await broker.operator()
    for start in range(0, 256, 64):
        codes = await operator.subscribe(*[f"t/{n}" for n in range(start, start + 64)])
        assert set(codes) == {ReasonCode.GRANTED_QOS_1}
    assert await operator.subscribe("t/0", "t/256") == (ReasonCode.GRANTED_QOS_1, ReasonCode.QUOTA_EXCEEDED)
