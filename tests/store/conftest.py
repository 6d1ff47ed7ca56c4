"""A SQLite store in a directory of its own."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.store.world import World


@pytest.fixture
def new_world(tmp_path: Path) -> Iterator[Callable[..., World]]:
    """Make worlds that are closed at the end."""
    made: list[World] = []

    def make(max_registrations: int | None = None) -> World:
        made.append(World(tmp_path / f"{len(made)}.db", max_registrations))
        return made[-1]

    yield make
    for world in made:
        world.store.close()


@pytest.fixture
def world(new_world: Callable[..., World]) -> World:
    """A world without a limit."""
    return new_world()
