"""Runs of a worker at the stub broker."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from tests.simulator.running.harness import Told, run

from mqttprov_simulator.running.values import Endpoint
from mqttprov_simulator.scenario.model import Scenario


@pytest.fixture
def at_stub(stub: Any, tmp_path: Path) -> Callable[..., Awaitable[Told]]:
    """Run a scenario at the stub broker."""

    async def at(scenario: Scenario, **values: Any) -> Told:
        values.setdefault("directory", str(tmp_path))
        return await run(scenario, (Endpoint(host="127.0.0.1", port=stub.port),), **values)

    return at
