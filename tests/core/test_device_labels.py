"""What an operator says about a device: its labels, and its owner when it has none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqttprov.core.audit import EventKind
from mqttprov.core.device_life import By, assign, label, labels_after
from mqttprov.core.facts import ChangeOwner, SetLabels
from mqttprov.core.lifecycle import IllegalTransition
from mqttprov.core.limits import MAX_LABELS
from mqttprov.core.model import LifecycleState, Transfer
from mqttprov.core.names import InvalidName

if TYPE_CHECKING:
    from tests.core.conftest import World

BY = By("cli:anna", 5, "moved")
MAY_BE_LABELLED = sorted(set(LifecycleState) - {LifecycleState.DECOMMISSIONED})
LABELS = st.dictionaries(st.sampled_from("abcd"), st.sampled_from(["", "1", "2"]))
CHANGES = st.dictionaries(st.sampled_from("abcd"), st.sampled_from([None, "", "1", "2"]))


@given(LABELS, CHANGES)
def test_only_what_is_named_changes(labels: dict[str, str], changes: Mapping[str, str | None]) -> None:
    """A label is set, removed (also when it was not there), or stays."""
    after = labels_after(labels, changes)
    for key in "abcd":
        assert after.get(key) == (changes[key] if key in changes else labels.get(key))


@pytest.mark.parametrize("state", MAY_BE_LABELLED)
def test_labels_are_changed_in_every_state_but_the_last(world: World, state: LifecycleState) -> None:
    """One event, which holds the labels that the device has from now on (P5); the state stays."""
    world.grant(world.request())
    known = world.device()
    known.device.state, known.device.labels = state, {"line": "A", "site": "x"}
    change = label(world.facts, known, BY, {"site": "berlin", "line": None})
    assert change.effects == (SetLabels(known.device.id, "gw-1", {"site": "berlin"}),)
    assert (known.device.labels, known.device.state) == ({"site": "berlin"}, state)
    event = change.event
    assert (event.kind, event.labels, event.text, event.state) == (
        EventKind.LABELLED,
        known.device.labels,
        "moved",
        state,
    )


def test_a_tombstone_keeps_what_it_had(world: World) -> None:
    """Neither labels nor an owner; nothing changes."""
    world.grant(world.request())
    known = world.device()
    known.device.state = LifecycleState.DECOMMISSIONED
    with pytest.raises(IllegalTransition, match="a decommissioned device"):
        label(world.facts, known, BY, {"a": "b"})
    with pytest.raises(IllegalTransition, match="a decommissioned device"):
        assign(world.facts, known, BY, "ACME")
    assert (known.device.labels, known.device.owner) == ({}, None)


def test_labels_keep_their_limits(world: World) -> None:
    """Number, keys and values, as wherever labels come from (P9); a label that goes makes room."""
    world.grant(world.request())
    known = world.device()
    known.device.labels = {f"k{i}": "" for i in range(MAX_LABELS)}
    label(world.facts, known, BY, {"k0": None, "new": "x"})
    for changes in ({"more": "x"}, {"-": None}, {"k1": "\n"}):
        with pytest.raises(InvalidName):
            label(world.facts, known, BY, changes)
    assert len(known.device.labels) == MAX_LABELS


def test_a_device_without_owner_is_given_to_one(world: World) -> None:
    """Once; from then on it passes on by a transfer only, and it is no transferred device."""
    world.grant(world.request())
    known = world.device()
    change = assign(world.facts, known, BY, "ACME")
    assert change.effects == (ChangeOwner(known.device.id, "gw-1", "ACME", None),)
    assert (known.device.owner, known.device.transferred_ms) == ("ACME", None)
    assert (change.event.kind, change.event.owner, change.event.to_owner) == (EventKind.OWNER_ASSIGNED, None, "ACME")
    with pytest.raises(IllegalTransition, match="it belongs to 'ACME'"):
        assign(world.facts, known, BY, "globex")


def test_an_open_offer_is_not_passed_over(world: World) -> None:
    """One that has expired gives way, as it does to the next offer; an owner must have a name."""
    world.grant(world.request())
    known = world.device()
    known.device.transfer = Transfer("globex", "hash", BY.now_ms + 1)
    with pytest.raises(IllegalTransition, match="it is offered to 'globex'"):
        assign(world.facts, known, BY, "ACME")
    known.device.transfer = Transfer("globex", "hash", BY.now_ms)
    with pytest.raises(InvalidName):
        assign(world.facts, known, BY, "a/b")
    assign(world.facts, known, BY, "ACME")
    assert known.device.transfer is None
