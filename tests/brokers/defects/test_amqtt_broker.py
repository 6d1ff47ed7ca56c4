"""The scenarios on our broker with amqtt's configuration and another's plugin: no defect comes back with plugins."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.brokers.amqtt.our_broker import ours
from tests.brokers.defects import scenarios
from tests.brokers.defects.test_stock_amqtt import FORBIDDEN, RULES
from tests.brokers.defects.wire import Broker, Login, publish
from tests.brokers.harness import eventually


@contextlib.asynccontextmanager
async def served(path: Path) -> AsyncIterator[tuple[Broker, object]]:
    """Run it with the same plugin that the stock amqtt has."""
    logins = [Login(f"user-{number}", f"password-{number}") for number in range(6)]
    rules = {"passwords": {login.username: login.password for login in logins}, "forbidden": FORBIDDEN}
    async with ours(path / "state", {RULES: rules}) as broker:
        wrong = Login(logins[0].username, "wrong")
        yield (
            Broker("127.0.0.1", broker.port, logins[0], logins[1], wrong, FORBIDDEN, tuple(logins[2:])),
            broker.broker,
        )


@pytest.mark.parametrize("clean", [True, False])
async def test_1_a_rejected_connect_does_nothing_to_anybody(tmp_path: Path, clean: bool) -> None:
    """Plugins are asked before anything is taken over."""
    async with served(tmp_path) as (one, _):
        assert await scenarios.eviction(one, clean=clean) == (True, True)


async def test_2_failed_logins_leave_nothing_behind(tmp_path: Path) -> None:
    """Who no plugin let in is not remembered (P9)."""
    async with served(tmp_path) as (one, engine):
        assert set(await scenarios.failed_logins(one, 10)) == {4}
        await eventually(lambda: not engine._connections)  # type: ignore[attr-defined] # an engine
        assert len(engine.sessions) == 0  # type: ignore[attr-defined] # the same
        assert engine.views == {}  # type: ignore[attr-defined] # the same


async def test_3_4_5_messages_go_where_they_belong(tmp_path: Path) -> None:
    """No retained message unasked, none of a burst lost, none of a fan-out lost."""
    async with served(tmp_path) as (one, _):
        assert await scenarios.retained_leak(one) == []
        assert (await scenarios.burst_before_disconnect(one))[1] == 20
        assert await scenarios.fan_out_under_churn(one, 100) == [100, 100, 100]


async def test_7_wills_and_qos_are_held_to_the_rules(tmp_path: Path) -> None:
    """What a topic plugin forbids is not published as a will either."""
    async with served(tmp_path) as (one, _):
        assert not await scenarios.forbidden_will(one)
        assert await scenarios.upgraded_qos(one) == [0]


async def test_8_connections_are_taken_while_it_is_busy(tmp_path: Path) -> None:
    """Its listeners are ours."""
    async with served(tmp_path) as (one, _):
        assert scenarios.taken_while_busy(one) == 300


async def test_10_a_plugin_that_fails_leaves_nothing(tmp_path: Path, expected_errors: list[str]) -> None:
    """The message is refused; the session goes on."""
    expected_errors.append("a plugin failed")
    async with served(tmp_path) as (one, engine):
        await scenarios.zombie(one, publish("defect/poison", b"x", packet_id=1))
        await eventually(lambda: not engine._connections)  # type: ignore[attr-defined] # an engine
        assert engine.views == {}  # type: ignore[attr-defined] # the same
