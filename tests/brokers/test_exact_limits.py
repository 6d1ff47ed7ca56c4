"""Proof of P1 over real connections: a limit is exact under a race, and raising it lets exactly as many more in."""

import asyncio
import random
from collections import Counter
from typing import Any

import pytest
from tests.brokers.harness import Client, Running, ask, request_bytes

from mqttprov.responder.administration import IssuedToken, TokenChange

RACERS = 64


async def race(broker: Running, token: IssuedToken, names: list[str], order: random.Random) -> list[Any]:
    """Let one connection for each name ask at the same moment; give the replies in the order of names."""
    sessions = [await broker.session() for _ in names]
    pairs = list(zip(sessions, names, strict=True))
    order.shuffle(pairs)
    tasks: dict[str, asyncio.Task[Any]] = {}
    for session, name in pairs:
        tasks[name] = asyncio.create_task(ask(session, request_bytes(token, name), qos=order.randrange(2)))
    replies = [await tasks[name] for name in names]
    for session in sessions:
        session.disconnect()
    return replies


@pytest.mark.parametrize("seed", range(3))
async def test_ten_of_sixty_four_racers_register_and_two_more_after_raising(each_broker: Running, seed: int) -> None:
    """With `max_registrations` 10 exactly 10 devices come to be; with 12 exactly 2 more (P1); no refusal is counted."""
    order = random.Random(seed)  # noqa: S311 - an order of connections, not a secret
    token = each_broker.admin.create_token("default", "limited", TokenChange(max_registrations=10))
    names = [f"gw-{number}" for number in range(RACERS)]

    replies = await race(each_broker, token, names, order)
    assert Counter(reply["status"] for reply in replies) == {"SUCCESS": 10, "NOT_FOUND": 54}
    assert {reply["errorMsg"] for reply in replies if reply["status"] == "NOT_FOUND"} == {
        "Provision data was not found!"
    }
    winners = {name for name, reply in zip(names, replies, strict=True) if reply["status"] == "SUCCESS"}

    each_broker.admin.update_token("limited", None, TokenChange(max_registrations=12))
    again = await race(each_broker, token, names, order)
    assert Counter(reply["status"] for reply in again) == {"SUCCESS": 12, "NOT_FOUND": 52}
    later = {name for name, reply in zip(names, again, strict=True) if reply["status"] == "SUCCESS"}
    assert winners < later
    # Who asks again with the same proof gets the same answer and uses nothing (P4).
    values = {name: reply["credentialsValue"] for name, reply in zip(names, replies, strict=True) if name in winners}
    assert values == {name: again[names.index(name)]["credentialsValue"] for name in winners}

    reader = each_broker.state.store.reader()
    assert {device.name for device in reader.devices()} == later
    (row,) = reader.tokens(None, "limited")
    assert (row.used, row.max_registrations) == (12, 12)
    reader.close()


async def test_a_limit_below_what_is_used_lets_nobody_in_and_nobody_out(each_broker: Running) -> None:
    """Lowering a limit refuses new names; devices that are registered stay and get their answers."""
    token = each_broker.admin.create_token("default", "limited", TokenChange(max_registrations=5))
    names = [f"gw-{number}" for number in range(5)]
    await race(each_broker, token, names, random.Random(0))  # noqa: S311 - an order of connections, not a secret
    each_broker.admin.update_token("limited", None, TokenChange(max_registrations=2))
    replies = await race(each_broker, token, [*names, "gw-new"], random.Random(1))  # noqa: S311 - the same
    assert [reply["status"] for reply in replies] == ["SUCCESS"] * 5 + ["NOT_FOUND"]


async def test_many_connections_with_one_name_make_one_device(each_broker: Running) -> None:
    """64 requests for one device name, in different cases, are one registration and one credential (P1, P4, P8)."""
    token = each_broker.admin.create_token("default", "limited", TokenChange(max_registrations=1))
    sessions: list[Client] = [await each_broker.session() for _ in range(RACERS)]
    names = ["Gateway-1", "gateway-1"]
    replies = await asyncio.gather(
        *(ask(session, request_bytes(token, names[n % 2])) for n, session in enumerate(sessions))
    )
    assert {reply["status"] for reply in replies} == {"SUCCESS"}
    assert len({reply["credentialsValue"] for reply in replies}) == 1
    assert len({reply["deviceId"] for reply in replies}) == 1
    (row,) = each_broker.state.store.reader().tokens(None, "limited")
    assert row.used == 1
