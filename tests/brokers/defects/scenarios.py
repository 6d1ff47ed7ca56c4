"""One scenario per defect, in the order of the reference (amqtt-and-ceilings.md 4.1)."""

import asyncio
import contextlib
import select
import socket
from typing import NamedTuple

from tests.brokers.defects.wire import (
    CONNACK,
    DISCONNECT,
    PINGREQ,
    PUBACK,
    Broker,
    Peer,
    client,
    connect,
    packet,
    peer,
    publish,
)

TOPIC = "defect/topic"


async def eviction(broker: Broker, *, clean: bool) -> tuple[bool, bool]:
    """1: a rejected CONNECT with a victim's client id. Gives: the victim is connected, the victim hears messages."""
    async with client(broker, broker.one, "victim") as victim:
        await victim.subscribed(TOPIC)
        async with peer(broker, connect(broker.wrong, "victim", clean=clean)) as attacker:
            await attacker.until(CONNACK)
        async with client(broker, broker.other, "sender") as sender:
            sender.send(publish(TOPIC, b"x", packet_id=1))
            await sender.until(PUBACK)
        connected = await victim.alive() and await victim.quiet()
        return connected, bool(victim.messages)


async def failed_logins(broker: Broker, attempts: int = 50) -> list[int | None]:
    """2: failed logins, each with a client id of its own. Gives their return codes; see what the broker holds then."""
    codes: list[int | None] = []
    for number in range(attempts):
        async with peer(broker, connect(broker.wrong, f"failed-{number}")) as one:
            body = await one.until(CONNACK)
            codes.append(body[1] if body else None)
            await one.quiet(0.05)
    return codes


async def retained_leak(broker: Broker) -> list[tuple[str, bytes]]:
    """3: a retained message while another client is subscribed to its topic. Gives what a newcomer gets unasked."""
    async with client(broker, broker.one, "reader") as reader, client(broker, broker.other, "sender") as sender:
        await reader.subscribed(TOPIC)
        sender.send(publish(TOPIC, b"retained", packet_id=1, retain=True))
        await sender.until(PUBACK)
        async with client(broker, broker.other, "newcomer") as newcomer:
            await newcomer.quiet()
        sender.send(publish(TOPIC, b"", packet_id=2, retain=True))
        await sender.until(PUBACK)
        return [(message.topic, message.payload) for message in newcomer.messages]


async def burst_before_disconnect(broker: Broker, count: int = 20) -> tuple[int, int]:
    """4: messages of QoS 1 and DISCONNECT in one segment. Gives how many were acknowledged, how many delivered."""
    async with client(broker, broker.one, "reader") as reader:
        await reader.subscribed(TOPIC)
        async with client(broker, broker.other, "sender") as sender:
            burst = [publish(TOPIC, str(n).encode(), packet_id=n + 1) for n in range(count)]
            sender.send(b"".join(burst) + DISCONNECT)
            await sender.quiet()
        await reader.quiet()
        return sender.acknowledged, len(reader.messages)


async def fan_out_under_churn(broker: Broker, messages: int = 500) -> list[int]:
    """5: messages to three filters while others subscribe and go. Gives how many each of the three got."""

    async def churn(number: int) -> None:
        for turn in range(1_000):
            async with client(broker, broker.many[number], f"churn-{number}-{turn}") as one:
                await one.subscribed(f"defect/churn/{number}/{turn}", TOPIC)

    async with contextlib.AsyncExitStack() as stack:
        readers: list[Peer] = []
        for number, topic_filter in enumerate((TOPIC, "defect/+", "defect/#")):
            reader = await stack.enter_async_context(client(broker, broker.one, f"reader-{number}"))
            await reader.subscribed(topic_filter)
            readers.append(reader)
        sender = await stack.enter_async_context(client(broker, broker.other, "sender"))
        churning = [asyncio.create_task(churn(number)) for number in range(4)]
        for number in range(messages):
            sender.send(publish(TOPIC, str(number).encode(), packet_id=number + 1))
            await sender.until(PUBACK)
            await asyncio.sleep(0)
        await asyncio.gather(*[reader.quiet() for reader in readers])
        for task in churning:
            task.cancel()
        await asyncio.gather(*churning, return_exceptions=True)
        return [len(reader.messages) for reader in readers]


class Limits(NamedTuple):
    """Whether a broker ended each of these connections by itself, within the time that it was given."""

    silent_client: bool
    half_connect: bool
    huge_packet: bool


async def _ended(one: Peer, timeout_s: float) -> bool:
    try:
        async with asyncio.timeout(timeout_s):
            while await one.packet(timeout_s) is not None:
                pass
    except TimeoutError:
        return False
    return True


async def no_limits(broker: Broker, patience_s: float = 13.0) -> Limits:
    """6: a client that is silent for longer than its keep-alive, half a CONNECT, a message of 30 MiB."""
    async with (
        client(broker, broker.one, "silent", keep_alive_s=1) as silent,
        peer(broker, connect(broker.one, "half")[:9]) as half,
        client(broker, broker.other, "huge") as huge,
    ):
        huge.send(packet(0x30, b"\0\x01t" + bytes(30 * 1024 * 1024)))
        return Limits(*await asyncio.gather(*[_ended(one, patience_s) for one in (silent, half, huge)]))


async def forbidden_will(broker: Broker) -> bool:
    """7a: a will on a topic that its client may not publish to. Gives whether somebody who listens there gets it."""
    async with client(broker, broker.one, "reader") as reader:
        await reader.subscribed("#")
        async with peer(broker, connect(broker.other, "dying", will=(broker.forbidden, b"last words"))) as dying:
            await dying.until(CONNACK)
            dying.cut()
        await reader.quiet()
        return any(message.payload == b"last words" for message in reader.messages)


async def upgraded_qos(broker: Broker) -> list[int]:
    """7b: a message of QoS 0 for a subscription of QoS 1. Gives the QoS of what is delivered: none above 0."""
    async with client(broker, broker.one, "reader") as reader, client(broker, broker.other, "sender") as sender:
        await reader.subscribed(TOPIC, qos=1)
        sender.send(publish(TOPIC, b"x"))
        await reader.quiet()
        return [message.qos for message in reader.messages]


def taken_while_busy(broker: Broker, count: int = 300) -> int:
    """8: many connections while the broker is busy, as it is here since nothing below waits for its loop.

    Gives how many of them stand at once; the rest tries again after 1, 3 and 7 seconds.
    """
    with contextlib.ExitStack() as stack:
        poll, waiting = select.poll(), {}
        for _ in range(count):
            one = stack.enter_context(socket.socket())
            one.setblocking(False)
            one.connect_ex((broker.host, broker.port))
            poll.register(one, select.POLLOUT)
            waiting[one.fileno()] = one
        while waiting and (ready := poll.poll(200)):
            for number, _ in ready:
                poll.unregister(waiting.pop(number))
        return count - len(waiting)


async def connection_storm(broker: Broker, count: int = 1_000) -> float:
    """8 again: many logins at once. Gives how many seconds the slowest waited for its CONNACK."""
    loop = asyncio.get_running_loop()

    async def one(number: int) -> float:
        began_s = loop.time()
        async with client(broker, broker.many[number % len(broker.many)], f"storm-{number}"):
            return loop.time() - began_s

    return max(await asyncio.gather(*[one(number) for number in range(count)]))


async def cost_per_connection(broker: Broker, present: int = 1_000, probe: int = 100) -> tuple[float, float]:
    """9: the time to connect, subscribe and leave, among none and among many with a filter of their own, in s each."""
    loop = asyncio.get_running_loop()

    async def cost_s() -> float:
        began_s = loop.time()
        for number in range(probe):
            async with client(broker, broker.one, "probe") as one:
                await one.subscribed(f"defect/probe/{number}")
        return (loop.time() - began_s) / probe

    empty_s = await cost_s()
    async with contextlib.AsyncExitStack() as stack:
        for number in range(present):
            one = await stack.enter_async_context(client(broker, broker.many[number], f"present-{number}"))
            await one.subscribed(f"defect/present/{number}/+", f"defect/present/{number}")
        return empty_s, await cost_s()


async def zombie(broker: Broker, poison: bytes) -> tuple[bool, bool]:
    """10: a packet that makes the broker fail. Gives: the connection ended, its client id is free again.

    See besides what the broker still counts as a session.
    """
    async with client(broker, broker.one, "zombie") as one:
        one.send(poison + PINGREQ)
        ended = not await one.quiet()
    async with client(broker, broker.one, "zombie") as again:
        return ended, await again.alive()
