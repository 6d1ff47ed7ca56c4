"""The same scenarios on a stock, unmodified amqtt: each shows its defect, so they look at the right thing.

When one of these tests fails, amqtt has mended that defect: then the documentation (docs/how-to/amqtt.md) is to follow.
"""

import contextlib
import gc
from collections.abc import AsyncIterator

import pytest
from amqtt.broker import Broker as AmqttBroker
from tests.brokers.defects import scenarios
from tests.brokers.defects.wire import Broker, Login, publish

RULES = "tests.brokers.defects.amqtt_rules.Rules"
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
FORBIDDEN = "provision/audit/x"


@pytest.fixture
def expected_errors() -> list[str]:
    """Let amqtt log what it likes here: its faults are the subject."""
    return [""]


class Stock:
    """A stock amqtt and how the scenarios reach it."""

    def __init__(self, amqtt: AmqttBroker, under_test: Broker) -> None:
        self.amqtt = amqtt
        self.under_test = under_test


@contextlib.asynccontextmanager
async def stock(many: int = 4) -> AsyncIterator[Stock]:
    """Run one."""
    logins = [Login(f"user-{number}", f"password-{number}") for number in range(many + 2)]
    rules = {"passwords": {login.username: login.password for login in logins}, "forbidden": FORBIDDEN}
    amqtt = AmqttBroker({"listeners": {"default": {"bind": "127.0.0.1:0"}}, "plugins": {RULES: rules}})
    await amqtt.start()
    port = amqtt._servers["default"].instance.sockets[0].getsockname()[1]
    wrong = Login(logins[0].username, "wrong")
    try:
        yield Stock(amqtt, Broker("127.0.0.1", port, logins[0], logins[1], wrong, FORBIDDEN, tuple(logins[2:])))
    finally:
        await amqtt.shutdown()
        gc.collect()  # what it leaves behind is told while this test lets it be told


@pytest.mark.parametrize("clean", [True, False])
async def test_1_a_rejected_connect_ends_or_deafens_its_victim(clean: bool) -> None:
    """The victim stays connected and deaf, or is cut off."""
    async with stock() as one:
        connected, hears = await scenarios.eviction(one.under_test, clean=clean)
    assert not hears
    assert connected is clean


async def test_2_failed_logins_stay_for_ever() -> None:
    """One session for each."""
    async with stock() as one:
        assert set(await scenarios.failed_logins(one.under_test, 10)) == {5}
        assert len(one.amqtt.sessions) == 10


async def test_3_retained_messages_go_to_who_never_subscribed() -> None:
    """The newcomer gets what another one listens to."""
    async with stock() as one:
        assert await scenarios.retained_leak(one.under_test) == [(scenarios.TOPIC, b"retained")]


async def test_4_acknowledged_messages_are_lost() -> None:
    """Of 20 that were acknowledged fewer arrive."""
    async with stock() as one:
        _, delivered = await scenarios.burst_before_disconnect(one.under_test)
    assert delivered < 20


async def test_5_fan_out_loses_messages_while_others_come_and_go() -> None:
    """The later filters get less."""
    async with stock() as one:
        assert sum(await scenarios.fan_out_under_churn(one.under_test)) < 1500


async def test_6_nothing_is_bounded() -> None:
    """Neither keep-alive nor the time to CONNECT nor the size of a packet."""
    async with stock() as one:
        limits = await scenarios.no_limits(one.under_test, 3.0)
        assert limits == scenarios.Limits(silent_client=False, half_connect=False, huge_packet=False)


async def test_7_wills_and_qos_break_the_rules() -> None:
    """A forbidden will is published, and a message gets more QoS than it was sent with."""
    async with stock() as one:
        assert await scenarios.forbidden_will(one.under_test)
        assert await scenarios.upgraded_qos(one.under_test) == [1]


async def test_8_connections_wait_for_seconds_while_it_is_busy() -> None:
    """Its listener holds 100 and one more; all others have to try again."""
    async with stock() as one:
        assert scenarios.taken_while_busy(one.under_test) == 101


async def test_9_a_connection_costs_more_among_many() -> None:
    """Each connect and subscribe looks at the filters of all."""
    async with stock(300) as one:
        empty_s, among_others_s = await scenarios.cost_per_connection(one.under_test, 300, 30)
    assert among_others_s > 1.3 * empty_s


async def test_10_a_plugin_that_fails_leaves_a_zombie() -> None:
    """The connection has ended and its session says "connected" for ever."""
    async with stock() as one:
        await scenarios.zombie(one.under_test, publish("defect/poison", b"x", packet_id=1))
        session = one.amqtt.sessions["zombie"][0]
        assert session.transitions.state == "connected"
