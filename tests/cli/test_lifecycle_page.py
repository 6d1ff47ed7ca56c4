"""The page about the life of a device is the table of the rules."""

from pathlib import Path

from mqttprov.cli.lifecycle_page import page
from mqttprov.core.lifecycle import EVENT_MEANINGS, STATE_MEANINGS, TRANSITIONS, LifecycleEvent
from mqttprov.core.model import LifecycleState

PAGE = Path(__file__).parents[2] / "docs" / "lifecycle.md"


def test_the_committed_page_equals_the_generated_one() -> None:
    """If this fails: python -m mqttprov.cli.lifecycle_page > docs/lifecycle.md."""
    assert PAGE.read_text(encoding="utf-8") == page()


def test_every_state_event_and_transition_is_there() -> None:
    """Nothing of the table is missing from the page."""
    assert set(STATE_MEANINGS) == set(LifecycleState)
    assert set(EVENT_MEANINGS) == set(LifecycleEvent)
    drawn = [line for line in page().splitlines() if " --> " in line and "[*]" not in line]
    assert sum(line.count(",") + 1 for line in drawn) == len(TRANSITIONS)
