"""amqtt's configuration, its own plugins and those of third parties on our broker."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from amqtt.broker import Broker as AmqttBroker
from amqtt.contrib.auth_db.managers import UserManager
from amqtt.errors import BrokerError
from pwdlib import PasswordHash
from pwdlib.hashers.argon2 import Argon2Hasher
from tests.brokers.amqtt.our_broker import PLUGIN, Ours, ours
from tests.brokers.amqtt.slow_plugins import NotingPlugin
from tests.brokers.harness import Client, ask

from mqttprov.brokers.amqtt_broker import Broker
from mqttprov.brokers.connection import Connection
from mqttprov.core.model import OperatorRole
from mqttprov.mqtt import Connect, ProtocolVersion, ReasonCode, Will

ANONYMOUS = "amqtt.plugins.authentication.AnonymousAuthPlugin"
FILE = "amqtt.plugins.authentication.FileAuthPlugin"
ACL = "amqtt.plugins.topic_checking.TopicAccessControlListPlugin"
TABOO = "amqtt.plugins.topic_checking.TopicTabooPlugin"
SYS = "amqtt.plugins.sys.broker.BrokerSysPlugin"
EVENTS = "amqtt.plugins.logging_amqtt.EventLoggerPlugin"
PACKETS = "amqtt.plugins.logging_amqtt.PacketLoggerPlugin"
SLOW = "tests.brokers.amqtt.slow_plugins.SlowPlugin"
BROKEN = "tests.brokers.amqtt.slow_plugins.BrokenPlugin"
NOTING = "tests.brokers.amqtt.slow_plugins.NotingPlugin"
DENIED = ReasonCode.NOT_AUTHORIZED


async def ended(broker: Ours) -> None:
    """End a broker that was started by hand."""
    for client in broker.clients:
        client.abort()
    await broker.stop()
    broker.state.close()


async def exchange(broker: Ours) -> None:
    """Provision a device, log it in, and see that an operator hears it and is heard."""
    device, operator = await broker.device("gw-1"), await broker.operator()
    await operator.subscribe("v1/devices/+/telemetry")
    await device.subscribe("v1/devices/me/rpc/request/+")
    await device.publish("v1/devices/me/telemetry", b"up")
    assert (await operator.message()).payload == b"up"
    await operator.publish("v1/devices/gw-1/rpc/request/1", b"down")
    assert (await device.message()).payload == b"down"


async def test_without_other_plugins_nothing_is_in_the_way(tmp_path: Path) -> None:
    """It is amqtt's `Broker`, and connections are the plain ones, as without amqtt."""
    async with ours(tmp_path / "state") as broker:
        assert isinstance(broker.amqtt, AmqttBroker)
        assert type(broker.broker.new_connection()) is Connection
        await exchange(broker)


@pytest.mark.parametrize("plugins", [{EVENTS: {}, PACKETS: {}}, {TABOO: {}}, {SLOW: {}}, {ANONYMOUS: {}}])
async def test_devices_and_operators_live_beside_other_plugins(tmp_path: Path, plugins: dict[str, Any]) -> None:
    """The whole way of a device with plugins that only listen, that decide at once, and that take their time."""
    async with ours(tmp_path / "state", plugins) as broker:
        await exchange(broker)


async def test_our_credentials_or_another_plugin_s(tmp_path: Path) -> None:
    """Users of a password file log in beside devices; a wrong password of either is refused (one yes, no no)."""
    passwords = tmp_path / "passwords"
    passwords.write_text(f"alice:{PasswordHash((Argon2Hasher(),)).hash('wonder')}\n")
    async with ours(tmp_path / "state", {FILE: {"password_file": str(passwords)}}) as broker:
        await exchange(broker)
        alice = await broker.login("alice", "wonder", client_id="a")
        assert await broker.refusal("alice", "wrong") == ReasonCode.BAD_USER_NAME_OR_PASSWORD
        assert await broker.refusal("mallory", "wonder") == ReasonCode.BAD_USER_NAME_OR_PASSWORD
        assert await broker.refusal(None) == DENIED
        name, secret = "op", broker.admin.create_operator("op", OperatorRole.OPERATOR)
        assert await broker.refusal(name, secret + "x") == ReasonCode.BAD_USER_NAME_OR_PASSWORD
        again = await broker.login("alice", "wonder", client_id="a")
        await alice.wait_closed()  # client ids are a user's own, and taken over by the same user
        await again.ping()


async def test_guests_have_all_topics_but_ours(tmp_path: Path) -> None:
    """Who another plugin lets in may neither speak nor listen where devices and the audit do, not even with `#`."""
    async with ours(tmp_path / "state", {ANONYMOUS: {"allow_anonymous": True}}) as broker:
        guest, other, operator = await broker.login(None), await broker.login(None), await broker.operator()
        device = await broker.device("gw-1")
        await operator.subscribe("#")
        await device.subscribe("v1/devices/me/rpc/request/+")
        codes = await guest.subscribe("#", "v1/devices/+/#", "provision/audit/#", "/provision/response", "$share/g/#")
        assert codes == (1, DENIED, DENIED, DENIED, 1)
        await device.publish("v1/devices/me/telemetry", b"private")
        assert await other.publish("v1/devices/gw-1/rpc/request/1", b"forged") == DENIED
        assert await other.publish("home/lamp", b"on") == ReasonCode.SUCCESS
        assert (await guest.message()).payload == b"on"
        await broker.provision("gw-2")
        await operator.until(lambda: any(b"gw-2" in m.payload for m in operator.messages()))
        for client in (guest, device):
            await client.ping()
            assert b"private" not in client.raw
            assert b"forged" not in client.raw
            assert b"gw-2" not in client.raw


async def test_a_topic_plugin_s_no_counts_for_everybody(tmp_path: Path) -> None:
    """amqtt's access list, by name: who is not on it hears nothing; devices and operators are known by their names."""
    acl = {
        "publish_acl": {"gw-1": ["v1/devices/me/telemetry"], "op": ["#"]},
        "acl": {"gw-1": ["v1/devices/me/rpc/#"], "op": ["v1/#"]},  # of subscriptions
    }
    broker = Ours(tmp_path / "state", {ACL: acl})
    with pytest.warns(DeprecationWarning, match="acl"):
        await broker.start()
    try:
        device = await broker.device("gw-1")
        operator = await broker.login("op", broker.admin.create_operator("op", OperatorRole.OPERATOR))
        assert await operator.subscribe("v1/devices/#", "site/#") == (1, DENIED)
        assert await device.subscribe("v1/devices/me/rpc/request/+", "v1/devices/me/attributes") == (1, DENIED)
        await device.publish("v1/devices/me/attributes", b"not received")
        await device.publish("v1/devices/me/telemetry", b"received")
        assert (await operator.message()).payload == b"received"
        stranger = await broker.device("gw-2")
        assert await stranger.publish("v1/devices/me/telemetry", b"x") == DENIED
    finally:
        await ended(broker)


async def test_a_slow_plugin_keeps_the_order(tmp_path: Path) -> None:
    """While a plugin thinks, nothing overtakes: messages arrive in order, and a refused one is missing."""
    async with ours(tmp_path / "state", {SLOW: {}}) as broker:
        guest, other = await broker.login("guest"), await broker.login("guest")
        assert await guest.subscribe("x/#", "forbidden/x") == (1, DENIED)
        for number in range(100):
            other.publish_nowait(f"x/{number}", str(number).encode(), 1)
        await guest.until(lambda: len(guest.messages()) == 100)
        assert [int(m.payload) for m in guest.messages()] == list(range(100))
        assert await other.publish("forbidden/x", b"") == DENIED
        assert await broker.refusal("nobody") == ReasonCode.BAD_USER_NAME_OR_PASSWORD


async def test_a_plugin_that_fails_says_no_and_nothing_else_breaks(tmp_path: Path, expected_errors: list[str]) -> None:
    """What raises counts as no (on stock amqtt the session would hang for ever, defect 10); devices live on."""
    expected_errors.append("a plugin failed")
    async with ours(tmp_path / "state", {BROKEN: {}}) as broker:
        await exchange(broker)
        assert await broker.refusal("nobody") == ReasonCode.BAD_USER_NAME_OR_PASSWORD
        operator = await broker.operator()
        assert await operator.publish("broken/x", b"") == DENIED
        assert await operator.subscribe("broken/x", "whole") == (DENIED, DENIED)
        assert await operator.subscribe("whole") == (1,)


async def test_a_will_that_a_plugin_forbids_is_refused(tmp_path: Path) -> None:
    """For guests, operators and devices alike; one that nobody forbids is published."""
    async with ours(tmp_path / "state", {SLOW: {}}) as broker:
        operator = await broker.operator()
        await operator.subscribe("fine/#")
        secret = broker.admin.create_operator("op", OperatorRole.OPERATOR)
        for username, password in (("guest", None), ("op", secret.encode())):
            for topic, reason in (("forbidden/x", DENIED), ("fine/x", ReasonCode.SUCCESS)):
                will = Will(topic, b"last words")
                connect = Connect("", version=ProtocolVersion.V5, username=username, password=password, will=will)
                client = await broker.open(connect)
                assert await client.connack() == reason
                client.abort()
            assert (await operator.message()).payload == b"last words"


async def test_users_of_a_database_log_in(tmp_path: Path) -> None:
    """amqtt's contributed plugin for users in a database, which really waits, beside devices."""
    connection = f"sqlite+aiosqlite:///{tmp_path / 'users.db'}"
    plugins = {"amqtt.contrib.auth_db.UserAuthDBPlugin": {"connection": connection, "sync_schema": True}}
    async with ours(tmp_path / "state", plugins) as broker:
        manager = UserManager(connection)
        await manager.create_user_auth("alice", "wonder")
        await manager.close()
        alice = await broker.login("alice", "wonder")
        assert await alice.publish("home/lamp", b"on") == ReasonCode.SUCCESS
        assert await broker.refusal("alice", "wrong") == ReasonCode.BAD_USER_NAME_OR_PASSWORD
        await exchange(broker)


async def test_retained_messages_outlive_the_broker_in_a_database(tmp_path: Path) -> None:
    """amqtt's contributed plugin for persistence keeps retained messages; sessions begin anew."""
    connection = f"sqlite+aiosqlite:///{tmp_path / 'sessions.db'}"
    plugins = {"amqtt.contrib.persistence.SessionDBPlugin": {"connection": connection, "clear_on_shutdown": False}}
    async with ours(tmp_path / "state", plugins) as broker:
        operator = await broker.operator()
        operator.mqtt().publish("kept/x", b"kept", 1, retain=True)
        operator.send(operator.mqtt().take_output())
        await operator.ping()
        operator.disconnect()
        await broker.restart()
        again = await broker.operator()
        await again.subscribe("kept/#")
        assert (await again.message()).payload == b"kept"


async def test_plugins_are_told_and_learn_no_secret(tmp_path: Path) -> None:
    """They hear of sessions, subscriptions and messages; nothing of provisioning, no token and no password (P3, P6)."""
    NotingPlugin.told.clear()
    async with ours(tmp_path / "state", {NOTING: {}}) as broker:
        reply = await broker.provision("gw-1")
        token = reply["credentialsValue"]
        device = await broker.login(token, client_id="c-1")
        await device.subscribe("v1/devices/me/attributes")
        packet_id = device.mqtt().unsubscribe(["v1/devices/me/attributes"])
        device.send(device.mqtt().take_output())
        await device.publish("v1/devices/me/telemetry", b"t")
        device.mqtt().publish("v1/devices/me/telemetry", b"kept", 1, retain=True)
        device.send(device.mqtt().take_output())
        await device.ping()
        sessions = dict(broker.amqtt.sessions)
        assert list(sessions) == ["c-1"]
        device.disconnect()
        await broker.broker.empty.wait()
        assert packet_id
    kinds = [kind for kind, _ in NotingPlugin.told]
    assert kinds == ["connected", "subscribed", "unsubscribed", "received", "broadcast", "received", "broadcast",
                     "retained", "disconnected"]  # fmt: skip
    everything = repr([(kind, vars(value) if hasattr(value, "__dict__") else value)
                       for kind, told in NotingPlugin.told for value in told.values()])  # fmt: skip
    for secret in (token, broker.issued.secret, broker.issued.key):
        assert secret not in everything
    assert NotingPlugin.told[0][1]["client_session"].username == "gw-1"


async def test_sys_topics_reach_operators(tmp_path: Path) -> None:
    """amqtt's own `$SYS` plugin runs on it: its retained version and its figures, for operators only."""
    broker = Ours(tmp_path / "state", {SYS: {"sys_interval": 1}})
    with pytest.warns(DeprecationWarning, match="psutil"):
        await broker.start()
    try:
        operator = await broker.operator()
        assert await operator.subscribe("$SYS/#") == (1,)
        version = await operator.message()
        assert (version.topic, version.retain) == ("$SYS/broker/version", True)
        assert list(broker.amqtt.retained_messages) == ["$SYS/broker/version"]
        device = await broker.device("gw-1")
        assert await device.subscribe("$SYS/#") == (DENIED,)
        await operator.until(lambda: any(m.topic.endswith("clients/connected") for m in operator.messages()))
        figures = {m.topic: m.payload for m in operator.messages()}
        assert int(figures["$SYS/broker/clients/connected"]) >= 1
        assert broker.amqtt.subscriptions["$SYS/#"][0][1] == 1
    finally:
        await ended(broker)


async def test_the_context_s_calls_work(tmp_path: Path) -> None:
    """A plugin broadcasts, retains, and subscribes who is connected; it makes up no session."""
    async with ours(tmp_path / "state", {EVENTS: {}}) as broker:
        context = broker.amqtt.plugins_manager.app_context
        operator = await broker.operator()
        await operator.subscribe("site/#")
        await context.broadcast_message("site/x", b"hello")
        assert (await operator.message()).payload == b"hello"
        await context.retain_message("kept/x", b"kept")
        assert context.retained_messages["kept/x"].data == b"kept"
        await operator.subscribe("kept/#")
        assert (await operator.message()).retain
        await context.retain_message("kept/x", b"")
        assert len(context.retained_messages) == 0
        (view,) = [session for session in context.sessions]  # noqa: C416 - it is a generator
        assert await broker.amqtt.add_subscription(("other/x", 1), view) == 1
        await context.broadcast_message("other/x", b"subscribed")
        assert (await operator.message()).payload == b"subscribed"
        with pytest.raises(ValueError, match="wildcard"):
            await context.broadcast_message("a/#", b"")


async def test_listeners_of_every_kind(tmp_path: Path) -> None:
    """tcp and ws, each with its own limit of connections."""
    listeners = {
        "default": {"type": "tcp", "bind": "127.0.0.1:0", "max_connections": 2},
        "web": {"type": "ws", "bind": "127.0.0.1:0", "max_connections": 5},
    }
    async with ours(tmp_path / "state", listeners=listeners) as broker:
        assert [url.split(":")[0] for url in broker.amqtt.urls] == ["mqtt", "ws"]
        one, two = await broker.session(), await broker.session()
        third = await broker.open(Connect("", version=ProtocolVersion.V5, username="provision"))
        await third.wait_closed()
        one.disconnect()
        async with asyncio.timeout(30):
            while len(broker.broker._connections) > 1:  # noqa: ASYNC110 - nothing tells
                await asyncio.sleep(0.01)
        reply = await ask(await broker.session(), broker.payload("gw-1"))
        assert reply["status"] == "SUCCESS"
        assert isinstance(two, Client)


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ({}, "no state directory"),
        ({"plugins": {PLUGIN: {}}}, "no state directory"),
        ({"plugins": {PLUGIN: {"state": "STATE"}}, "listeners": {"default": {"type": "external"}}}, "external"),
        ({"plugins": {PLUGIN: {"state": "STATE"}}, "listeners": {"default": {"ssl": True}}}, "certfile"),
    ],
)
async def test_a_configuration_that_cannot_be_served_is_refused(
    tmp_path: Path, config: dict[str, Any], why: str
) -> None:
    """The error says what is missing."""
    if "STATE" in json.dumps(config):
        async with ours(tmp_path / "state"):
            pass
    config = json.loads(json.dumps(config).replace("STATE", str(tmp_path / "state")))

    async def start() -> None:
        await Broker(config).start()

    with pytest.raises(BrokerError, match=why):
        await start()
    assert not list((tmp_path / "state" / "run").glob("*.doorbell"))  # nothing of it is left behind
