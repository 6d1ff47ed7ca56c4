"""The page about the machine is the machine's own table."""

from pathlib import Path

from mqttprov.gateway.diagram import page
from mqttprov.gateway.transitions import MEANINGS, State

PAGE = Path(__file__).parents[2] / "docs" / "gateway-machine.md"


def test_the_committed_page_equals_the_generated_one() -> None:
    """If this fails: python -m mqttprov.gateway.diagram > docs/gateway-machine.md."""
    assert PAGE.read_text(encoding="utf-8") == page()


def test_every_state_is_explained_and_drawn() -> None:
    """No state is missing from the meanings or from the page."""
    assert set(MEANINGS) == set(State)
    assert all(f"| `{state}` |" in page() for state in State)
