"""Lists of devices: what the store selects is what the rules mean, page by page."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.responder.desk import Desk

from mqttprov.core.model import LifecycleState, Profile
from mqttprov.core.selectors import Relation, Selector, selects
from mqttprov.responder.device_import import ImportLine
from mqttprov.store.protocol import DeviceQuery

KEYS = ["a", "a.b", "x/y-z", "1"]
VALUES = ["", "1", "true", "null", "ä", '"', "1.0"]
LABELS = [{k: v for k, v in zip(KEYS, (VALUES * 2)[i:], strict=False) if (i + len(k)) % 3} for i in range(7)]
SELECTORS = st.builds(Selector, st.sampled_from(KEYS), st.sampled_from(Relation), st.sampled_from(VALUES))


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    """Give a state directory with devices of all labels, two owners and two profiles."""
    made = Desk(Path(tmp_path_factory.mktemp("queries")) / "state")
    made.administration.create_profile(Profile(0, "Plant"))
    lines = [
        ImportLine(i, f"gw-{i}", ["default", "Plant"][i % 2], ["ACME", None][i % 2], labels)
        for i, labels in enumerate(LABELS)
    ]
    made.administration.import_devices(lines, tell_fault=lambda fault: pytest.fail(fault.text))
    yield made
    made.close()


@given(selectors=st.lists(SELECTORS, max_size=3))
def test_selects_by_label_as_the_rules_do(desk: Desk, selectors: list[Selector]) -> None:
    """Values are compared as text, whatever they look like."""
    found = {row.name for row in desk.reader.find_devices(DeviceQuery(selectors=tuple(selectors)))}
    assert found == {f"gw-{i}" for i, labels in enumerate(LABELS) if selects(selectors, labels)}


def test_all_conditions_hold_together(desk: Desk) -> None:
    """Profile in any case, owner as written, lifecycle state, name."""

    def names(query: DeviceQuery) -> list[str]:
        return [row.name for row in desk.reader.find_devices(query)]

    assert len(names(DeviceQuery())) == len(LABELS)
    assert names(DeviceQuery(profile="PLANT")) == names(DeviceQuery(profile="plant")) != []
    assert set(names(DeviceQuery(owner="ACME"))) == {"gw-0", "gw-2", "gw-4", "gw-6"}
    assert names(DeviceQuery(owner="ACME", profile="plant")) == []
    assert names(DeviceQuery(state=LifecycleState.ACTIVE)) == []
    assert names(DeviceQuery("GW-3", state=LifecycleState.MANUFACTURED)) == ["gw-3"]


def test_pages_meet_each_device_once(desk: Desk) -> None:
    """Each page begins behind the last device of the one before."""
    pages: list[list[str]] = []
    after = None
    while page := list(desk.reader.find_devices(DeviceQuery(after=after, limit=3))):
        pages.append([row.name for row in page])
        after = page[-1].id
    assert [len(page) for page in pages] == [3, 3, 1]
    assert len({name for page in pages for name in page}) == len(LABELS)
