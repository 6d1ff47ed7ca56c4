"""What an operator does to a device is written as it was decided, and its history stays."""

from collections.abc import Callable

import pytest
from tests.store.world import NOW_MS, World

from mqttprov.core.device_life import (
    By,
    Change,
    assign,
    cancel_transfer,
    decommission,
    label,
    offer,
    release,
    resume,
    rotate,
    suspend,
    tombstone_name,
)
from mqttprov.core.facts import ChangeOwner, DeviceFacts, Facts
from mqttprov.core.model import Transfer

BY = By("cli:anna", NOW_MS)
Verb = Callable[[Facts, DeviceFacts, By], Change]


def retire(facts: Facts, known: DeviceFacts, by: By) -> Change:
    """Decommission without a wait."""
    return decommission(facts, known, by, wait_ms=0)


def offered(facts: Facts, known: DeviceFacts, by: By) -> Change:
    """Offer to another owner."""
    return offer(facts, known, by, Transfer("globex", "hash", NOW_MS + 1))


def passed_on(facts: Facts, known: DeviceFacts, by: By) -> Change:
    """Offer, and change the owner as completing it does."""
    change = offered(facts, known, by)
    effect = ChangeOwner(known.device.id, known.device.fold, "globex", NOW_MS)
    effect.apply(facts)
    return Change((*change.effects, effect), change.event)


def labelled(facts: Facts, known: DeviceFacts, by: By) -> Change:
    """Set a label and remove the one that the token gave."""
    return label(facts, known, by, {"site": "berlin", "line": None})


def assigned(facts: Facts, known: DeviceFacts, by: By) -> Change:
    """Give to an owner."""
    return assign(facts, known, by, "ACME")


def act(world: World, verb: Verb, name: str = "gw-1") -> DeviceFacts:
    """Do it in one transaction; give the facts after it."""
    with world.store.write() as transaction:
        facts = world.facts(transaction, name)
        known = facts.devices[name]
        change = verb(facts, known, BY)
        transaction.write(facts, change.effects)
        transaction.append([change.event])
    return known


@pytest.mark.parametrize(
    "verbs",
    [
        (suspend,),
        (suspend, resume),
        (rotate,),
        (rotate, suspend, resume),
        (retire,),
        (offered,),
        (offered, cancel_transfer),
        (passed_on,),
        (labelled,),
        (assigned, labelled, suspend),
    ],
)
def test_what_was_decided_is_what_is_loaded(world: World, verbs: tuple[Verb, ...]) -> None:
    """State, generations and a due rotation."""
    world.batch(world.request("gw-1"), ("gw-1", 1))
    for verb in verbs:
        known = act(world, verb)
        with world.store.write() as transaction:
            loaded = world.facts(transaction, "gw-1")
        assert loaded.devices["gw-1"] == known


def test_an_open_offer_shows_on_the_device(world: World) -> None:
    """To whom and until when; never the code."""
    world.batch(world.request("gw-1"))
    act(world, offered)
    reader = world.store.reader()
    row = next(reader.devices())
    assert (row.transfer_to, row.transfer_expires_ms) == ("globex", NOW_MS + 1)
    reader.close()


def test_history_survives_decommission_and_release(world: World) -> None:
    """The tombstone keeps id, generations and the time of its first login; its name is free for another device (P8)."""
    world.batch(world.request("gw-1"), ("gw-1", 1))
    old = act(world, retire)
    act(world, release)
    world.batch(world.request("gw-1"))
    reader = world.store.reader()
    rows = {row.name: row for row in reader.devices()}
    tombstone = rows[tombstone_name("gw-1", old.device.id)]
    assert (tombstone.id, tombstone.state) == (old.device.id, "decommissioned")
    assert (rows["gw-1"].state, rows["gw-1"].generation) == ("provisioned", 1)
    history = reader.credentials_of(old.device.id)
    assert [(c.generation, c.status, c.first_login_ms) for c in history] == [(1, "superseded", NOW_MS)]
    assert next(reader.devices(tombstone.name)).id == old.device.id
    reader.close()


def test_a_superseded_generation_keeps_the_time_of_its_first_login(world: World) -> None:
    """When the next generation takes over, the history of the last one stays."""
    world.batch(world.request("gw-1"), ("gw-1", 1))
    world.batch(world.request("gw-1"), ("gw-1", 2))
    reader = world.store.reader()
    (row,) = reader.devices()
    assert [c.first_login_ms for c in reader.credentials_of(row.id)] == [NOW_MS, NOW_MS]
    reader.close()


def test_a_due_rotation_shows_until_the_device_has_fetched_it(world: World) -> None:
    """`device list` can say who has not rotated yet."""
    world.batch(world.request("gw-1"), ("gw-1", 1))
    reader = world.store.reader()
    seen = [next(reader.devices()).rotation_due]
    act(world, rotate)
    seen.append(next(reader.devices()).rotation_due)
    world.batch(world.request("gw-1"))
    seen.append(next(reader.devices()).rotation_due)
    assert seen == [False, True, False]
    reader.close()


def test_what_has_ended_is_known_while_the_device_is_offered(world: World) -> None:
    """A credential that ended before must not come back with the new owner."""
    world.batch(world.request("gw-1"), ("gw-1", 1))
    world.batch(world.request("gw-1"), ("gw-1", 2))
    for verb, numbers in ((suspend, []), (resume, []), (offered, [1]), (cancel_transfer, [])):
        act(world, verb)
        with world.store.write() as transaction:
            known = world.facts(transaction, "gw-1").devices["gw-1"]
        assert [c.generation for c in known.ended] == numbers
        assert [c.generation for c in known.credentials] == [2]
