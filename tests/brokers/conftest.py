"""Fixtures for the tests of `mqttprov.brokers`: a broker of its own for each test, and a log that must stay clean."""

import gc
import logging
import shutil
import subprocess
import warnings
from collections.abc import AsyncIterator, Generator, Iterator
from pathlib import Path

import pytest
from tests.brokers.factory import Factory
from tests.brokers.harness import Running, running
from tests.brokers.mosquitto.beside import GATE, MOSQUITTO, missing, running_beside

BOTH = ("embedded", "mosquitto")


@pytest.fixture
def expected_errors() -> list[str]:
    """Give the list of texts that errors in the log may hold in this test; empty unless the test fills it."""
    return []


@pytest.fixture(autouse=True)
def clean_log(caplog: pytest.LogCaptureFixture, expected_errors: list[str]) -> Iterator[None]:
    """Fail the test when anything logged an error or a traceback that it did not announce (P9)."""
    caplog.set_level(logging.DEBUG)
    yield
    bad = [
        record.getMessage()
        for phase in ("setup", "call", "teardown")
        for record in caplog.get_records(phase)
        if (record.levelno >= logging.ERROR or record.exc_info)
        and not any(text in record.getMessage() for text in expected_errors)
    ]
    assert not bad


@pytest.fixture
async def broker(tmp_path: Path, clean_log: None) -> AsyncIterator[Running]:
    """Run a broker with a plain listener."""
    async with running(tmp_path / "state") as one:
        yield one


@pytest.fixture
async def tls_broker(tmp_path: Path, clean_log: None) -> AsyncIterator[Running]:
    """Run a broker with a plain and a TLS listener."""
    async with running(tmp_path / "state", tls=True) as one:
        yield one


@pytest.fixture
async def ws_broker(tmp_path: Path, clean_log: None) -> AsyncIterator[Running]:
    """Run a broker with all listeners: plain and TLS, with and without WebSockets."""
    async with running(tmp_path / "state", tls=True, ws=True) as one:
        yield one


@pytest.fixture(scope="session")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build Mosquitto's gate plugin."""
    if MOSQUITTO is None or shutil.which("gcc") is None or not Path("/usr/include/mosquitto_broker.h").exists():
        missing("no Mosquitto to test with; run tools/test-programs.sh as root")
    folder = tmp_path_factory.mktemp("gate")
    subprocess.run(["make", "-C", str(GATE), f"BUILD={folder}"], check=True, capture_output=True, timeout=120)
    return folder / "mqttprov_gate.so"


@pytest.fixture(params=BOTH)
async def each_broker(request: pytest.FixtureRequest, tmp_path: Path, clean_log: None) -> AsyncIterator[Running]:
    """Run our broker with a plain listener, and in another test Mosquitto with a responder beside it."""
    if request.param == "embedded":
        async with running(tmp_path / "state") as one:
            yield one
    else:
        async with running_beside(tmp_path / "state", request.getfixturevalue("plugin")) as one:
            yield one


@pytest.fixture(params=BOTH)
async def each_tls_broker(request: pytest.FixtureRequest, tmp_path: Path, clean_log: None) -> AsyncIterator[Running]:
    """Run the same with a port for clients with a certificate."""
    if request.param == "embedded":
        async with running(tmp_path / "state", tls=True) as one:
            yield one
    else:
        async with running_beside(tmp_path / "state", request.getfixturevalue("plugin"), tls=True) as one:
            yield one


@pytest.fixture
def factory(tls_broker: Running, tmp_path: Path) -> Factory:
    """Give a factory beside a broker with TLS."""
    return Factory(tls_broker, tmp_path)


def _runs_amqtt(item: pytest.Item) -> bool:
    return "amqtt" in item.nodeid


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Bear with sockets that amqtt's own broker leaves to the garbage collector."""
    for item in items:
        if _runs_amqtt(item):
            item.add_marker(pytest.mark.filterwarnings("ignore::ResourceWarning"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, None, None]:
    """Collect them before the next test, which would be blamed for them."""
    yield
    if _runs_amqtt(item):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            gc.collect()
