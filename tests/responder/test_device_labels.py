"""Labelling all devices that selectors mean."""

import pytest
from tests.responder.desk import Desk

from mqttprov.core.audit import parse_body
from mqttprov.core.limits import MAX_LABELS
from mqttprov.core.names import InvalidName
from mqttprov.responder.acting import PartlyMade

BATCH = "mqttprov.responder.device_labels._DEVICES_PER_TRANSACTION"


@pytest.fixture
def fleet(desk: Desk) -> Desk:
    """Give seven devices of two types."""
    for i in range(7):
        desk.administration.create_device("default", f"GW-{i}", None, {"type": f"type{i % 2}"})
        desk.now_ms += 1  # devices come in the order of their making, to a millisecond
    return desk


def labels(desk: Desk) -> dict[str, dict[str, str]]:
    """Give the labels of all devices."""
    return {row.name: row.labels for row in desk.reader.devices()}


def test_those_that_are_meant_are_labelled_by_batches(fleet: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """One event for each that changed (P5); done again there is nothing to do."""
    monkeypatch.setattr(BATCH, 3)
    told: list[int] = []
    seq = fleet.reader.head().seq
    changes = {"site": "berlin", "gone": None}
    assert fleet.administration.label_devices(["type=type0"], changes, remark="moved", tell_progress=told.append) == 4
    assert told == [3, 4]
    assert labels(fleet) == {
        f"GW-{i}": {"type": "type1"} if i % 2 else {"type": "type0", "site": "berlin"} for i in range(7)
    }
    assert fleet.kinds_after(seq) == ["labelled"] * 4
    event = parse_body(fleet.events()[-1].body)[1]
    assert (event.labels, event.text, event.actor) == ({"type": "type0", "site": "berlin"}, "moved", "cli:test")
    assert fleet.administration.label_devices(["type=type0"], changes) == 0
    assert fleet.reader.head().seq == seq + 4


def test_a_label_may_be_changed_by_which_devices_are_selected(fleet: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each device is met once."""
    monkeypatch.setattr(BATCH, 2)
    assert fleet.administration.label_devices(["type=type1"], {"type": "type0"}) == 3
    assert {tuple(of_one.items()) for of_one in labels(fleet).values()} == {(("type", "type0"),)}


def test_decommissioned_devices_keep_theirs(fleet: Desk) -> None:
    """They are no error among many."""
    fleet.state.device_life("cli:test", fleet.clock).decommission("gw-1")
    assert fleet.administration.label_devices(["type=type1"], {"type": None}) == 2
    assert labels(fleet)["GW-1"] == {"type": "type1"}


@pytest.mark.parametrize(
    ("selectors", "changes"), [([], {"a": "b"}), (["type"], {"-": "b"}), (["="], {"a": "b"}), (["type"], {"a": "\n"})]
)
def test_what_cannot_be_used_changes_nothing(fleet: Desk, selectors: list[str], changes: dict[str, str]) -> None:
    """Also not to say which devices are meant: that would be all of them."""
    before = fleet.events()
    with pytest.raises(InvalidName):
        fleet.administration.label_devices(selectors, changes)
    assert fleet.events() == before


def test_a_device_with_too_many_labels_ends_it(fleet: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the device and how many were labelled; a batch is labelled whole or not at all."""
    monkeypatch.setattr(BATCH, 2)
    full = {f"k{i}": "" for i in range(MAX_LABELS - 1)}
    fleet.state.device_life("cli:test", fleet.clock).label("gw-4", full)
    with pytest.raises(PartlyMade, match="2 devices were labelled; then: device 'GW-4': 33 labels") as failure:
        fleet.administration.label_devices(["type=type0"], {"a": "b"})
    assert failure.value.made == 2
    assert [name for name, of_one in labels(fleet).items() if "a" in of_one] == ["GW-0", "GW-2"]
