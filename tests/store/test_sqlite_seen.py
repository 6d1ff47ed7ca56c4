"""When devices were last in use, and which credentials were once theirs."""

import itertools
from collections.abc import Callable

import pytest
from tests.store.world import NOW_MS, World

from mqttprov.core.credentials import basic_login_key
from mqttprov.core.device_life import By, decommission
from mqttprov.core.model import LifecycleState
from mqttprov.store.protocol import DeviceQuery


def unseen(world: World, since_ms: int, **query: object) -> list[str]:
    """Name the devices that were not seen since then."""
    reader = world.store.reader()
    found = [row.name for row in reader.find_devices(DeviceQuery(unseen_since_ms=since_ms, **query))]  # type: ignore[arg-type] # fields by name
    reader.close()
    return found


@pytest.fixture
def seen(world: World) -> World:
    """Give three devices: one that never logged in, one that did, one that was seen later too."""
    world.batch(world.request("never"), world.request("once"), world.request("later"), ("once", 1), ("later", 1))
    with world.store.write() as transaction:
        known = world.facts(transaction, "later").devices["later"]
        transaction.mark_seen([known.device.id, "no such id"], NOW_MS + 100)
    return world


def test_a_device_counts_from_its_last_use_or_its_making(seen: World) -> None:
    """Exactly from the time that is asked for."""
    assert unseen(seen, NOW_MS) == []
    assert sorted(unseen(seen, NOW_MS + 1)) == ["never", "once"]
    assert sorted(unseen(seen, NOW_MS + 100)) == ["never", "once"]
    assert sorted(unseen(seen, NOW_MS + 101)) == ["later", "never", "once"]
    assert unseen(seen, NOW_MS + 1, state=LifecycleState.ACTIVE) == ["once"]
    reader = seen.store.reader()
    rows = {row.name: row.last_seen_ms for row in reader.devices()}
    reader.close()
    assert rows == {"never": None, "once": NOW_MS, "later": NOW_MS + 100}


def test_nobody_waits_for_a_decommissioned_device(seen: World) -> None:
    """It is listed only when its state is asked for."""
    with seen.store.write() as transaction:
        facts = seen.facts(transaction, "once")
        transaction.write(facts, decommission(facts, facts.devices["once"], By("x", 1), wait_ms=0).effects)
    assert unseen(seen, NOW_MS + 1) == ["never"]
    assert unseen(seen, NOW_MS + 1, state=LifecycleState.DECOMMISSIONED) == ["once"]


def test_other_changes_leave_the_last_use_as_it_is(seen: World) -> None:
    """A device that provisions itself again, or is marked in the same transaction, keeps the newest time."""
    with seen.store.write() as transaction:
        facts = seen.facts(transaction, "later")
        decision = seen.provision(facts, seen.request("later"))
        transaction.write(facts, decision.effects)
    assert sorted(unseen(seen, NOW_MS + 100)) == ["never", "once"]


def test_the_newest_superseded_credentials_of_a_login_are_found(new_world: Callable[..., World]) -> None:
    """Not those that are live, not those of other logins, and no more than a few (P9)."""
    world = new_world()
    key = basic_login_key(world.keys, "u", None)
    numbers = itertools.count(1)
    for _ in range(11):
        number = next(numbers)
        world.batch(world.request("GW", username="u", password=f"password-{number}"), ("gw", number))
    reader = world.store.reader()
    found = reader.find_superseded([key, "nobody"])
    assert [(s.device, s.generation) for s in found[key]] == [("GW", n) for n in range(10, 2, -1)]
    assert all(s.verifier for s in found[key])
    assert found["nobody"] == []
    (plan,) = [
        row[3]
        for row in reader._connection.execute(
            "EXPLAIN QUERY PLAN SELECT device_id FROM credential WHERE login_key = ? AND ended = 1 "
            "ORDER BY generation DESC LIMIT 8",
            (key,),
        )
    ]
    assert "superseded_login" in plan
    reader.close()
