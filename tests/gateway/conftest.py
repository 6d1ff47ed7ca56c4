"""Fixtures of the tests of the client."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.gateway.harness import QUICK, Authority, Broker, Running, Start, settings

from mqttprov.gateway.backoff import MachineSettings


@pytest.fixture
def broker() -> Iterator[Broker]:
    """A broker on an ephemeral port."""
    broker = Broker()
    yield broker
    broker.close()


@pytest.fixture
def start(tmp_path: Path, broker: Broker) -> Iterator[Start]:
    """Starts gateways of the broker, with their files in tmp_path; they are stopped at the end."""
    running = []

    def start_one(machine_settings: MachineSettings = QUICK, **more: object) -> Running:
        running.append(Running(settings(tmp_path, broker.port, **more), machine_settings))
        return running[-1]

    yield start_one
    for gateway in running:
        gateway.stop()


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """The CA that gateways trust."""
    return Authority(tmp_path_factory.mktemp("ca"), "trusted")
