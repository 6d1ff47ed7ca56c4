"""Fixtures for tests with a real Mosquitto: the gate plugin, built once, and a broker of its own for each test."""

import shutil
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.brokers.harness import new_state
from tests.brokers.mosquitto.beside import GATE, MOSQUITTO, Beside, missing


@pytest.fixture(scope="session")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the gate plugin."""
    if MOSQUITTO is None or shutil.which("gcc") is None or not Path("/usr/include/mosquitto_broker.h").exists():
        missing("no Mosquitto to test with; run tools/test-programs.sh as root")
    folder = tmp_path_factory.mktemp("gate")
    subprocess.run(["make", "-C", str(GATE), f"BUILD={folder}"], check=True, capture_output=True, timeout=120)
    return folder / "mqttprov_gate.so"


@pytest.fixture
async def beside(tmp_path: Path, plugin: Path, clean_log: None) -> AsyncIterator[Beside]:
    """Run Mosquitto with the gate plugin and a responder beside it."""
    one = Beside(tmp_path / "state", new_state(tmp_path / "state"), plugin)
    try:
        await one.start()
        yield one
    finally:
        for client in one.clients:
            client.abort()
        await one.stop()
