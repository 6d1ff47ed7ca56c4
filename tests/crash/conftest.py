"""Fixtures for tests that kill a broker."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.brokers.conftest import BOTH, plugin
from tests.brokers.harness import new_state
from tests.crash.beside import BesideChild
from tests.crash.child import Child

from mqttprov.responder.administration import IssuedToken

__all__ = ["plugin"]


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


@pytest.fixture(params=BOTH)
async def verbose_child(
    request: pytest.FixtureRequest, tmp_path: Path, issued: IssuedToken
) -> AsyncIterator[Child | BesideChild]:
    """Give a broker that logs everything and takes certificates, not yet started: ours, and Mosquitto."""
    log = tmp_path / "serve.log"
    one: Child | BesideChild
    if request.param == "embedded":
        one = Child(tmp_path / "state", log, verbose=True)
    else:
        one = BesideChild(tmp_path / "state", log, request.getfixturevalue("plugin"))
    yield one
    await one.close()
