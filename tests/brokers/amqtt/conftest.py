"""Fixtures for the tests of the amqtt plugin: a stock broker of its own for each test."""

import logging
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.brokers.amqtt.harness import Stock, stock


@pytest.fixture
async def broker(tmp_path: Path, clean_log: None) -> AsyncIterator[Stock]:
    """Run a stock amqtt with our plugin and a plain listener."""
    async with stock(tmp_path / "state") as one:
        yield one


@pytest.fixture
async def tls_broker(tmp_path: Path, clean_log: None) -> AsyncIterator[Stock]:
    """Run a stock amqtt with our plugin, a plain and a TLS listener."""
    async with stock(tmp_path / "state", tls=True) as one:
        yield one


@pytest.fixture(autouse=True)
def quiet_amqtt() -> None:
    """Keep amqtt at the level that its own command uses; at DEBUG it says everything, secrets too."""
    for name in ("amqtt", "transitions"):
        logging.getLogger(name).setLevel(logging.INFO)
