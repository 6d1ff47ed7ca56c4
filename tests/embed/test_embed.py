"""A broker inside somebody's asyncio program: it starts, tells, obeys and ends, and leaves the process as it was."""

import asyncio
import gc
import json
import logging
import resource
import signal
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import uvloop
from tests.brokers.harness import Client, ask, request_bytes

from mqttprov.admin import Admin, IssuedToken, LifecycleState, TokenChange, initialise
from mqttprov.core.model import OperatorRole
from mqttprov.embed import (
    Broker,
    BrokerError,
    EventKind,
    LoginRefused,
    Outcome,
    Recorded,
    Role,
    SessionBegun,
    SessionEnded,
    StateError,
)
from mqttprov.mqtt import Connect, Disconnected, ProtocolVersion, ReasonCode

WAIT_S = 10.0


@pytest.fixture
def issued(tmp_path: Path) -> IssuedToken:
    """Make a state directory `state`; give its registration token."""
    made = initialise(tmp_path / "state")
    assert made is not None
    return made


def port_of(broker: Broker, scheme: str = "mqtt") -> int:
    """Give the port of a listener."""
    return next(url.port or 0 for url in map(urlsplit, broker.urls) if url.scheme == scheme)


async def login(broker: Broker, username: str, **fields: Any) -> Client:
    """Connect by MQTT 5."""
    connect = Connect("", version=ProtocolVersion.V5, username=username, keep_alive_s=60, **fields)
    return await Client.open(port_of(broker), connect)


async def registered(broker: Broker, issued: IssuedToken, name: str) -> str:
    """Register a device; give its access token."""
    session = await login(broker, "provision")
    reply = await ask(session, request_bytes(issued, name))
    session.disconnect()
    return str(reply["credentialsValue"])


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that happens in turns of this loop."""
    async with asyncio.timeout(WAIT_S):
        while not condition():  # noqa: ASYNC110 - nobody tells of it
            await asyncio.sleep(0.001)


def kinds(seen: list[Outcome]) -> list[str]:
    """Give the kinds of the audit events among outcomes."""
    return [str(outcome.event.kind) for outcome in seen if isinstance(outcome, Recorded)]


async def test_it_tells_what_happens_in_values_without_secrets(issued: IssuedToken, tmp_path: Path) -> None:
    """Registrations, refusals, first logins, sessions begun and ended; recorded ones in the order of the chain (P5)."""
    seen: list[Outcome] = []
    async with Broker(tmp_path / "state", port=0) as broker:
        broker.on_outcome(seen.append)
        token = await registered(broker, issued, "gw-1")
        device = await login(broker, token)
        assert await device.connack() == ReasonCode.SUCCESS
        stranger = await login(broker, "mqp_at_wrong")
        assert await stranger.connack() == ReasonCode.BAD_USER_NAME_OR_PASSWORD
        device.disconnect()
        await until(lambda: any(isinstance(outcome, SessionEnded) for outcome in seen))
        (begun,) = [outcome for outcome in seen if isinstance(outcome, SessionBegun)]
        (ended,) = [outcome for outcome in seen if isinstance(outcome, SessionEnded)]
        (refused,) = [outcome for outcome in seen if isinstance(outcome, LoginRefused)]
        assert (begun.principal.name, begun.principal.role, begun.source) == ("gw-1", Role.DEVICE, "127.0.0.1")
        assert ended.principal == begun.principal
        assert (str(refused.reason), refused.source) == ("unknown", "127.0.0.1")
        session = await login(broker, "provision")
        assert (await ask(session, request_bytes(issued, "bad/name")))["status"] == "FAILURE"
        await until(lambda: EventKind.REFUSED in kinds(seen))
        session.drop()
    assert kinds(seen)[-4:] == ["provisioned", "activated", "refused", "login-refused"]
    places = [outcome.seq for outcome in seen if isinstance(outcome, Recorded)]
    assert places == sorted(set(places))
    assert token not in repr(seen)
    assert issued.secret not in repr(seen)


async def test_sessions_that_the_end_ends_are_told_too(issued: IssuedToken, tmp_path: Path) -> None:
    """Every session that began ends exactly once, also by `stop`."""
    seen: list[Outcome] = []
    broker = Broker(tmp_path / "state", port=0)
    broker.on_outcome(seen.append)
    await broker.start()
    device = await login(broker, await registered(broker, issued, "gw-1"))
    assert await device.connack() == ReasonCode.SUCCESS
    await broker.stop()
    assert (await device.take(Disconnected)).reason_code == ReasonCode.SERVER_SHUTTING_DOWN
    await device.wait_closed()
    assert [type(o) for o in seen if not isinstance(o, Recorded)] == [SessionBegun, SessionEnded]


async def test_a_handler_that_raises_is_logged_and_nothing_else(
    issued: IssuedToken, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Other handlers are called and devices are served; a coroutine function is refused when it is given."""
    seen: list[Outcome] = []

    def broken(outcome: Outcome) -> None:
        raise LookupError(type(outcome).__name__)

    async def waiting(outcome: Outcome) -> None:
        """Would never run."""

    async with Broker(tmp_path / "state", port=0) as broker:
        broker.on_outcome(broken)
        broker.on_outcome(seen.append)
        with pytest.raises(TypeError, match="task"):
            broker.on_outcome(waiting)
        device = await login(broker, await registered(broker, issued, "gw-1"))
        assert await device.connack() == ReasonCode.SUCCESS
        await until(lambda: "activated" in kinds(seen))
        await device.ping()
        device.disconnect()
    errors = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert len(errors) == len(seen)
    assert {record.getMessage() for record in errors} == {"a handler of outcomes failed"}


async def test_an_operators_verb_ends_sessions_of_the_same_program(issued: IssuedToken, tmp_path: Path) -> None:
    """`suspend` waits for this very broker; in its own thread that is no deadlock (P7)."""
    async with Broker(tmp_path / "state", port=0, actor="api:erp") as broker:
        device = await login(broker, await registered(broker, issued, "gw-1"))
        assert await device.connack() == ReasonCode.SUCCESS
        await broker.administer(lambda admin: admin.life.suspend("gw-1", "lost"))
        await device.wait_closed()
        row = await broker.administer(lambda admin: admin.device("gw-1"))
        assert row.state == LifecycleState.SUSPENDED
        last = await broker.administer(lambda admin: list(admin.events())[-1])
        assert json.loads(last.body)["event"]["actor"] == "api:erp"


async def test_actions_come_one_after_the_other_and_are_finished_by_the_end(
    issued: IssuedToken, tmp_path: Path
) -> None:
    """All in one thread that is not the loop's; `stop` waits for what was begun; errors are the action's own."""
    broker = Broker(tmp_path / "state", port=0)
    threads: set[int] = set()

    def make(number: int) -> Callable[[Admin], str]:
        def action(admin: Admin) -> str:
            threads.add(threading.get_ident())
            return admin.create_token("default", f"lot-{number}", TokenChange()).name

        return action

    await broker.start()
    actions = [asyncio.create_task(broker.administer(make(number))) for number in range(20)]
    await asyncio.sleep(0)
    await broker.stop()
    assert [await action for action in actions] == [f"lot-{number}" for number in range(20)]
    assert len(threads) == 1
    assert threading.get_ident() not in threads
    await broker.start()
    with pytest.raises(Exception, match="lot-1"):
        await broker.administer(make(1))
    await broker.stop()


async def test_start_and_stop_may_be_repeated(issued: IssuedToken, tmp_path: Path) -> None:
    """Stop without start is nothing; twice started is an error; a stopped one starts again."""
    broker = Broker(tmp_path / "state", port=0)
    await broker.stop()
    with pytest.raises(RuntimeError, match="does not run"):
        await broker.administer(lambda admin: admin.profiles())
    for _ in range(2):
        await broker.start()
        with pytest.raises(RuntimeError, match="runs already"):
            await broker.start()
        await registered(broker, issued, "gw-1")
        await broker.stop()
        await broker.stop()
        assert broker.urls == []


async def test_several_brokers_live_in_one_process(issued: IssuedToken, tmp_path: Path) -> None:
    """On states of their own they know nothing of each other; on one state they act together (P7)."""
    other_issued = initialise(tmp_path / "other")
    assert other_issued is not None
    async with (
        Broker(tmp_path / "state", port=0) as one,
        Broker(tmp_path / "state", port=0) as twin,
        Broker(tmp_path / "other", port=0, ws_port=0) as other,
    ):
        token = await registered(one, issued, "gw-1")
        await registered(other, other_issued, "gw-1")
        refused = await login(other, token)
        assert await refused.connack() == ReasonCode.BAD_USER_NAME_OR_PASSWORD
        device = await login(twin, token)
        assert await device.connack() == ReasonCode.SUCCESS
        await one.administer(lambda admin: admin.life.suspend("gw-1", None))
        await device.wait_closed()
        assert [urlsplit(url).scheme for url in other.urls] == ["mqtt", "ws"]


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_any_loop_will_do_and_the_process_stays_as_it_was(
    loop: Callable[[], asyncio.AbstractEventLoop], issued: IssuedToken, tmp_path: Path
) -> None:
    """No signal handlers, limits, garbage collection or switch interval of its own; no thread stays behind."""

    def settings() -> tuple[object, ...]:
        return (
            [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)],
            resource.getrlimit(resource.RLIMIT_NOFILE),
            (gc.get_threshold(), gc.get_freeze_count(), sys.getswitchinterval()),
            [handler for handler in logging.getLogger().handlers if type(handler) is logging.StreamHandler],
        )

    async def program() -> None:
        async with Broker(str(tmp_path / "state"), port=0, tls_port=0, ws_port=0, wss_port=0) as broker:
            assert settings() == before
            assert len(broker.urls) == 4
            device = await login(broker, await registered(broker, issued, "gw-1"))
            assert await device.connack() == ReasonCode.SUCCESS
            password = await broker.administer(lambda admin: admin.create_operator("ops", OperatorRole.OPERATOR))
            operator = await login(broker, "ops", password=password.encode())
            assert await operator.connack() == ReasonCode.SUCCESS

    before, threads = settings(), {t.name for t in threading.enumerate()}
    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(program())
    assert settings() == before
    assert not {t.name for t in threading.enumerate()} - threads


async def test_what_cannot_start_is_one_clear_error(issued: IssuedToken, tmp_path: Path) -> None:
    """A directory without a state, a port in use: what and what to do, and nothing is left open."""
    with pytest.raises(StateError, match="mqttprov init"):
        await Broker(tmp_path / "nothing", port=0).start()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        broker = Broker(tmp_path / "state", port=0, ws_port=port)
        with pytest.raises(BrokerError, match=rf"cannot listen on 127\.0\.0\.1, port {port}: .* choose another port"):
            await broker.start()
    assert list((tmp_path / "state" / "run").iterdir()) == []
    async with broker:
        await registered(broker, issued, "gw-1")


async def test_a_client_that_does_not_read_does_not_hold_the_end_up(issued: IssuedToken, tmp_path: Path) -> None:
    """It is cut off after two seconds, and its file is free."""
    async with Broker(tmp_path / "state", port=0) as broker:
        token = await registered(broker, issued, "gw-1")
        connect = Connect("", version=ProtocolVersion.V5, username=token, keep_alive_s=60)
        device = await Client.open(port_of(broker), connect, receive_bytes=4096)
        assert await device.connack() == ReasonCode.SUCCESS
        device.pause()
        assert broker._running is not None
        inside: Any = broker._running[1].broker
        (connection,) = [c for c in inside._connections if c.principal is not None]
        while not connection._transport.get_write_buffer_size():
            connection._transport.write(bytes(10_000))
    assert not inside._connections
    device.abort()
