"""Fixtures for tests with a real Mosquitto: a broker of its own, with the gate plugin, for each test."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.brokers.mosquitto.beside import Beside, running_beside


@pytest.fixture
async def beside(tmp_path: Path, plugin: Path, clean_log: None) -> AsyncIterator[Beside]:
    """Run Mosquitto with the gate plugin and a responder beside it."""
    async with running_beside(tmp_path / "state", plugin) as one:
        yield one
