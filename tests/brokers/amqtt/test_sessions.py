"""Sessions on a stock amqtt with our plugin: kicks, takeover by the same principal, kept sessions, bounds, ends."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from amqtt.broker import Broker
from amqtt.errors import PluginInitError, PluginLoadError
from tests.brokers.amqtt.harness import NOT_AUTHORIZED, PLUGIN, Stock, stock
from tests.brokers.test_device_life import REMOVED, act, answer, life, token_of

from mqttprov.brokers.stock_desk import MAX_PENDING_DELIVERIES
from mqttprov.brokers.stock_session import MAX_FILTERS_PER_SESSION
from mqttprov.core.limits import MAX_SESSIONS_PER_DEVICE
from mqttprov.mqtt import Connect, Connected, ProtocolVersion, ReasonCode, Will
from mqttprov.responder.doorbell import BrokerSilent

V311 = ProtocolVersion.V311


async def test_suspending_ends_sessions_before_it_returns(broker: Stock) -> None:
    """All sessions of this device and no other; new logins are refused until it is resumed (P7)."""
    token = await token_of(broker, "gw-1")
    operator = await broker.operator()
    await operator.subscribe("v1/devices/#")
    will = Will("v1/devices/me/attributes", b"will")
    sessions = [await broker.login(token, client_id=name, will=will) for name in "ab"]
    other = await broker.device("gw-2")
    done = await act(life(broker).suspend, "gw-1", "stolen")
    assert (done.device.state, done.brokers) == ("suspended", 1)
    assert broker.identities() == 2  # the operator and the other device
    for session in sessions:
        await session.wait_closed()
    assert await broker.attempt(Connect("a", version=V311, username=token)) == NOT_AUTHORIZED
    await other.ping()
    await operator.ping()
    assert operator.messages() == []  # a suspended device has no last word
    await act(life(broker).resume, "gw-1")
    await (await broker.login(token, client_id="a")).ping()


async def test_a_client_that_does_not_read_is_cut_off_too(broker: Stock) -> None:
    """amqtt waits for its peer to read before it closes; a kick does not (P7)."""
    token = await token_of(broker, "gw-1")
    device = await broker.login(token, receive_bytes=4096)
    await device.subscribe("v1/devices/me/rpc/request/+", qos=0)
    device.pause()
    operator = await broker.operator()
    for number in range(60):
        await operator.publish(f"v1/devices/gw-1/rpc/request/{number}", bytes(100_000))
    async with asyncio.timeout(30):
        await act(life(broker).suspend, "gw-1")
    device.resume()
    await device.wait_closed()


async def test_a_login_under_way_does_not_slip_through(broker: Stock, monkeypatch: pytest.MonkeyPatch) -> None:
    """The device is suspended between our yes and amqtt's CONNACK: no session is left (P7)."""
    token = await token_of(broker, "gw-1")
    plugin = broker.plugin
    decide, entered, go = plugin._desk.authenticate, asyncio.Event(), asyncio.Event()

    async def slow(session: Any) -> bool | None:
        answer = await decide(session)
        entered.set()
        await go.wait()
        return answer

    monkeypatch.setattr(plugin._desk, "authenticate", slow)
    client = await broker.open(Connect("x", version=V311, username=token))
    await entered.wait()
    suspending = asyncio.create_task(act(life(broker).suspend, "gw-1"))
    async with asyncio.timeout(30):
        while plugin._desk.sessions.of_device_named("gw-1"):  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.01)
    go.set()
    await suspending
    await client.wait_closed()
    assert broker.identities() == 0


async def test_a_retired_gateway_is_asked_to_wipe_its_credentials(broker: Stock) -> None:
    """Decommissioning waits for the gateway's answer and ends its session."""
    device = await broker.device("gw-1")
    await device.subscribe("v1/devices/me/rpc/request/+")
    done, call = await asyncio.gather(act(life(broker).decommission, "gw-1"), answer(device, REMOVED))
    assert b"gateway_remove_provisioned_credentials" in call
    assert done.device.state == "decommissioned"
    await device.wait_closed()


async def test_a_rotation_asks_the_gateway_once_it_listens(broker: Stock) -> None:
    """A device that is to rotate is called when it subscribes to calls."""
    device = await broker.device("gw-1")
    await act(life(broker).rotate, "gw-1")
    await device.subscribe("v1/devices/me/rpc/request/+")
    assert b"gateway_remove_provisioned_credentials" in (await device.message()).payload


@pytest.mark.parametrize("clean", [True, False])
async def test_a_stranger_s_connect_does_not_touch_a_session(broker: Stock, *, clean: bool) -> None:
    """A refused CONNECT, or another device's, with a victim's client id: stock amqtt ends the victim (defect 1)."""
    victim = await broker.login(await token_of(broker, "gw-1"), client_id="gw-1", clean=False)
    await victim.subscribe("v1/devices/me/rpc/request/+")
    wrong = Connect("gw-1", version=V311, username="nobody", password=b"x", clean_start=clean)
    assert await broker.attempt(wrong) == NOT_AUTHORIZED
    other = await broker.login(await token_of(broker, "gw-2"), client_id="gw-1", clean=clean)
    operator = await broker.operator()
    await operator.publish("v1/devices/gw-1/rpc/request/1", b"still here")
    assert (await victim.message()).payload == b"still here"
    await other.ping()
    assert other.messages() == []


async def test_refused_logins_leave_nothing_behind(broker: Stock) -> None:
    """Stock amqtt keeps a session for each refused login for ever (defect 2); here all are one."""
    for number in range(20):
        connect = Connect(f"c-{number}", version=V311, username="nobody", clean_start=bool(number % 2))
        assert await broker.attempt(connect) == NOT_AUTHORIZED
    assert len(broker.amqtt.sessions) == 1
    assert await broker.attempt(Connect("c-2", version=V311, username="nobody", clean_start=False)) == NOT_AUTHORIZED


async def test_the_same_device_takes_its_client_id_over(broker: Stock) -> None:
    """The older session ends, as MQTT says; the newer one is not disturbed by its end."""
    token = await token_of(broker, "gw-1")
    first = await broker.login(token, client_id="x")
    await first.subscribe("v1/devices/me/rpc/request/+")
    second = await broker.login(token, client_id="x")
    await first.wait_closed()
    await second.subscribe("v1/devices/me/rpc/request/+")
    operator = await broker.operator()
    await operator.publish("v1/devices/gw-1/rpc/request/1", b"call")
    await second.message()
    await second.ping()
    assert second.messages() == []
    assert broker.identities() == 2
    assert [len(s) for f, s in broker.amqtt.subscriptions.items() if "rpc" in f] == [1]


async def test_a_kept_session_goes_on_where_it_was(broker: Stock) -> None:
    """Without clean session, subscriptions and QoS 1 messages wait for the same device; CONNACK says so."""
    token = await token_of(broker, "gw-1")
    operator = await broker.operator()
    first = await broker.login(token, client_id="x", clean=False)
    await first.subscribe("v1/devices/me/rpc/request/+")
    first.disconnect()
    async with asyncio.timeout(30):
        while any(ours.handler for ours in broker.plugin._desk.sessions.of_device_named("gw-1")):  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.01)
    for number in range(MAX_PENDING_DELIVERIES + 5):
        operator.publish_nowait(f"v1/devices/gw-1/rpc/request/{number}", b"waited", 1)
    await operator.ping()
    await broker.quiet()
    again = await broker.open(Connect("x", version=V311, username=token, clean_start=False))
    connected = await again.take(Connected)
    assert connected.connack.session_present
    await again.until(lambda: len(again.messages()) == MAX_PENDING_DELIVERIES)
    await operator.publish("v1/devices/gw-1/rpc/request/x", b"now")
    await again.until(lambda: again.messages()[-1].payload == b"now")


async def test_a_kept_session_ends_with_its_device(broker: Stock) -> None:
    """What is kept for a suspended device is dropped with its live sessions (P7)."""
    token = await token_of(broker, "gw-1")
    first = await broker.login(token, client_id="x", clean=False)
    await first.subscribe("v1/devices/me/rpc/request/+")
    first.disconnect()
    await broker.quiet()
    await act(life(broker).suspend, "gw-1")
    await act(life(broker).resume, "gw-1")
    again = await broker.open(Connect("x", version=V311, username=token, clean_start=False))
    assert not (await again.take(Connected)).connack.session_present
    assert not [f for f in broker.amqtt.subscriptions if "rpc" in f]


async def test_sessions_and_filters_are_bounded(broker: Stock) -> None:
    """At most so many sessions of one device, the oldest goes; at most so many filters of one session (P9)."""
    token = await token_of(broker, "gw-1")
    sessions = [await broker.login(token, client_id=f"c-{n}") for n in range(MAX_SESSIONS_PER_DEVICE + 1)]
    await sessions[0].wait_closed()
    assert broker.identities() == MAX_SESSIONS_PER_DEVICE
    wishes = [f"v1/devices/me/x/{number}" for number in range(MAX_FILTERS_PER_SESSION + 1)]
    codes = await sessions[-1].subscribe(*wishes)
    assert codes.count(ReasonCode.GRANTED_QOS_1) == MAX_FILTERS_PER_SESSION
    sessions[-1].disconnect()


async def test_a_broken_topic_ends_the_connection(broker: Stock) -> None:
    """Stock amqtt leaves such a client connected and deaf (defect 10)."""
    device = await broker.device("gw-1")
    device.send(b"\x30\x09\x00\x06$SYS/xa")
    await device.wait_closed()
    await broker.quiet()
    assert broker.identities() == 0


async def test_the_older_generation_ends_when_the_next_logs_in(broker: Stock) -> None:
    """Make before break: the session of the old credentials ends with the first login of the new ones."""
    old = await broker.device("gw-1", client_id="old")
    new = await broker.device("gw-1", client_id="new")
    await old.wait_closed()
    await new.ping()


@pytest.mark.parametrize("config", [{"state": "/nonexistent"}, {}, {"state": "/nonexistent", "stat": "x"}])
async def test_a_broker_without_a_good_state_does_not_start(config: dict[str, str]) -> None:
    """A missing state, no state, an unknown option: the broker cannot even be built (amqtt fails open later)."""
    with pytest.raises((PluginInitError, PluginLoadError)):
        Broker({"listeners": {"default": {"bind": "127.0.0.1:0"}}, "plugins": {PLUGIN: config}})


async def test_a_start_that_fails_refuses_everybody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, expected_errors: list[str]
) -> None:
    """amqtt starts although a plugin could not; then nobody is let in, with other plugins beside or not."""
    expected_errors.append("mqttprov could not start")

    def broken(*_: object) -> None:
        raise OSError("no doorbell")

    monkeypatch.setattr("mqttprov.responder.doorbell.bind", broken)
    async with stock(tmp_path / "state") as broker:
        for name in ("provision", "x"):
            assert await broker.attempt(Connect("x", version=V311, username=name)) == NOT_AUTHORIZED


async def test_commands_learn_that_the_broker_has_ended(broker: Stock) -> None:
    """After the broker's end a command does not wait for it."""
    await token_of(broker, "gw-1")
    admin = life(broker)
    await broker.amqtt.plugins_manager.get_plugin("ProvisioningPlugin")._run._bell.close()
    try:
        done = await act(admin.suspend, "gw-1")
    except BrokerSilent:
        pytest.fail("the command waited for a broker that is gone")
    assert done.brokers == 0
