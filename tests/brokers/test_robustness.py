"""What many clients may do at once without anybody else suffering, or memory growing past a bound (P9)."""

import asyncio
import contextlib
from typing import Any

import pytest
from tests.brokers.harness import Client, Running, eventually

from mqttprov.brokers.connection import CONNECT_TIMEOUT_S
from mqttprov.core.model import OperatorRole
from mqttprov.mqtt import Connect, ProtocolVersion, ReasonCode, ServerLimits

SLOW = 50
BLOCK = bytes(10_000)


async def operators(broker: Running, count: int, **options: Any) -> list[Client]:
    """Log so many operators in, seven to a name."""
    clients: list[Client] = []
    for number in range(count):
        if number % 7 == 0:
            name = f"operator-{number}"
            password = broker.admin.create_operator(name, OperatorRole.OPERATOR)
        clients.append(await broker.login(name, password, client_id=str(number), **options))
    return clients


@pytest.mark.timeout(60)
async def test_slow_readers_under_a_flood_harm_nobody_else(broker: Running) -> None:
    """Fifty who do not read: QoS 0 is dropped past the bound, QoS 1 ends the session; who reads gets every message."""
    limit = 131_072
    broker.broker.limits = ServerLimits(max_queued_bytes=limit)
    readers = await operators(broker, SLOW, receive_bytes=4_096)
    for number, reader in enumerate(readers):
        await reader.subscribe("flood", qos=number % 2)
        reader.pause()
    healthy, sender = await broker.operator(), await broker.operator()
    await healthy.subscribe("flood", qos=1)
    worst = 0
    for number in range(600):
        await sender.publish("flood", BLOCK + number.to_bytes(2))
        held = [c.session.pending for c in broker.broker._connections]
        worst = max(worst, *[each.output_bytes + each.queued_bytes for each in held])
    await eventually(lambda: len(healthy.messages()) == 600)
    assert [int.from_bytes(m.payload[-2:]) for m in healthy.messages()] == list(range(600))
    assert limit // 2 < worst <= 2 * limit + 2 * len(BLOCK)
    for reader in readers[1::2]:
        reader.resume()
        await reader.wait_closed()
    for reader in readers[0::2]:
        reader.resume()
        await reader.ping()
        assert 0 < len(reader.messages()) < 600


@pytest.mark.timeout(60)
async def test_a_storm_of_reconnects_loses_nothing(broker: Running) -> None:
    """A thousand reconnects as fast as they go, by takeover and by breaking off, while messages of QoS 1 arrive."""
    devices, times, messages = 20, 50, 100
    tokens = [(await broker.provision(f"gw-{n}"))["credentialsValue"] for n in range(devices)]
    operator = await broker.operator()

    async def gateway(token: str, got: set[bytes]) -> None:
        before: Client | None = None
        for turn in range(times):
            client = await broker.login(token, client_id="gw", keep_s=3600, version=ProtocolVersion(4 + turn % 2))
            if before is not None:
                got |= {m.payload for m in before.messages()}
            if turn % 3 == 0:
                client.abort()
            before = client
        assert before is not None
        last = before
        if last.gone or not times % 3:
            last = await broker.login(token, client_id="gw", keep_s=3600)
            got |= {m.payload for m in before.messages()}
        await said.wait()
        await eventually(lambda: len(got | {m.payload for m in last.messages()}) == messages)

    async def talk() -> None:
        for number in range(messages):
            for device in range(devices):
                await operator.publish(f"v1/devices/gw-{device}/rpc/request/1", b"%d" % number)
        said.set()

    said = asyncio.Event()
    for token in tokens:
        first = await broker.login(token, client_id="gw", keep_s=3600)
        await first.subscribe("v1/devices/me/rpc/request/+")
        first.abort()
    await asyncio.gather(talk(), *[gateway(token, set()) for token in tokens])
    assert len(broker.broker.sessions) == devices + 1


async def test_half_open_connections_are_bounded_and_others_are_served(broker: Running) -> None:
    """Hundreds that say nothing, or half of something, are ended in time; meanwhile others come, speak and go."""
    parts = [b"", b"\x10", b"\x10\xff\xff", b"\x10\x20\x00\x04MQ", b"\x10\x80\x01\x00\x04MQTT\x05"]
    half = [await broker.open(None) for _ in range(200)]
    for number, client in enumerate(half):
        if parts[number % len(parts)]:
            client.send(parts[number % len(parts)])
    device = await broker.device("gw-1")
    await device.publish("v1/devices/me/telemetry", b"x")
    tricklers = half[3::5]
    for _ in range(8):  # a byte now and then buys no time
        broker.advance(1)
        for client in tricklers:
            with contextlib.suppress(ConnectionError):
                client.send(b"T")
        await device.ping()
    broker.advance(CONNECT_TIMEOUT_S)
    for client in half:
        await client.wait_closed()
    await device.ping()
    assert len(broker.broker._connections) == 1


async def test_three_hundred_idle_gateways_leave_the_broker_free(broker: Running) -> None:
    """Each is one session and an entry for each filter of its own; gone, they leave nothing. bench/idle.py measures."""
    clients = await operators(broker, 300)
    for number, client in enumerate(clients):
        await client.subscribe(f"own/{number}/rpc/+", f"own/{number}/attributes")
    tree = broker.broker.router.tree
    assert (len(tree), len(tree._plain.root.children), len(broker.broker.sessions)) == (600, 0, 300)
    await clients[7].publish("own/9/attributes", b"x")
    assert (await clients[9].message()).payload == b"x"
    refused = await broker.open(Connect("", version=ProtocolVersion.V5, username="operator-0", password=b"wrong"))
    assert await refused.connack() == ReasonCode.BAD_USER_NAME_OR_PASSWORD
    for client in clients:
        client.abort()
    await eventually(lambda: not broker.broker._connections)
    assert (len(tree), len(broker.broker.sessions)) == (0, 0)
