"""A state directory, and a responder over it whose clock stands still and whose answers come when the test says."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.responder.desk import Desk


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    """Give a state directory with its administration, and closes it at the end."""
    made = Desk(tmp_path / "state")
    yield made
    made.close()
