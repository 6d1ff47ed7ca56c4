"""Fixtures for tests that kill a broker."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.brokers.harness import new_state
from tests.crash.child import Child

from mqttprov.responder.administration import IssuedToken


@pytest.fixture
def issued(tmp_path: Path) -> IssuedToken:
    """Make the state directory `state` and give its default registration token."""
    return new_state(tmp_path / "state")


@pytest.fixture
async def child(tmp_path: Path, issued: IssuedToken) -> AsyncIterator[Child]:
    """Give a broker that is not yet started."""
    one = Child(tmp_path / "state", tmp_path / "serve.log")
    yield one
    await one.close()


@pytest.fixture
async def verbose_child(tmp_path: Path, issued: IssuedToken) -> AsyncIterator[Child]:
    """Give a broker that logs everything and has a TLS listener, not yet started."""
    one = Child(tmp_path / "state", tmp_path / "serve.log", verbose=True)
    yield one
    await one.close()
