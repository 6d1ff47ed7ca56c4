"""Our own gateway through the whole life of a device, over real sockets and without a person at its side (P10)."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from tests.brokers.harness import Running
from tests.brokers.test_device_life import act, kinds, life
from tests.gateway.harness import QUICK, settings
from tests.gateway.harness import Running as Gateway

from mqttprov.brokers.connection import Connection
from mqttprov.gateway.credentials_file import CredentialsFile
from mqttprov.gateway.settings import SecretText
from mqttprov.mqtt import Subscribe

TIMEOUT_S = 30.0
PATIENT = msgspec.structs.replace(QUICK, refusals_before_reprovisioning=100_000)


class Watched:
    """A gateway, and the moments when the broker hears that it listens to calls."""

    def __init__(self, broker: Running, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Start it; it holds on to its credentials, however often they are refused."""
        self.broker, self.file = broker, CredentialsFile(folder)
        self._listens: asyncio.Queue[None] = asyncio.Queue()
        inner = broker.broker.subscribe

        def subscribe(connection: Connection, packet: Subscribe) -> None:
            inner(connection, packet)
            self._listens.put_nowait(None)

        monkeypatch.setattr(broker.broker, "subscribe", subscribe)
        token = broker.issued
        self.gateway = Gateway(
            settings(folder, broker.port, provision_key=token.key, provision_secret=SecretText(token.secret)), PATIENT
        )

    async def online(self) -> None:
        """Wait until it is online and listens."""
        async with asyncio.timeout(TIMEOUT_S):
            await self._listens.get()
        await self.until("online")

    async def until(self, state: str) -> None:
        """Wait for a state of the gateway."""
        await asyncio.to_thread(self.gateway.until, state)

    def generation(self) -> tuple[str, int | None]:
        """Give state and newest generation of the device."""
        reader = self.broker.state.store.reader()
        row = next(reader.devices("gw-1"))
        reader.close()
        return row.state, row.generation


@pytest.fixture
async def watched(broker: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Watched]:
    """A gateway that has provisioned itself and listens."""
    (tmp_path / "gateway").mkdir()
    one = Watched(broker, tmp_path / "gateway", monkeypatch)
    await one.online()
    yield one
    await asyncio.to_thread(one.gateway.stop)


async def test_it_is_suspended_and_comes_back_by_itself(watched: Watched) -> None:
    """Refused while it is suspended, with nothing lost: resumed it is online with the same credentials (P7, P10)."""
    stored = watched.file.read()
    await act(life(watched.broker).suspend, "gw-1")
    await watched.until("waiting_to_connect")
    await watched.until("connecting")
    await watched.until("waiting_to_connect")
    await act(life(watched.broker).resume, "gw-1")
    await watched.online()
    assert watched.file.read() == stored
    assert watched.generation() == ("active", 1)


async def test_it_rotates_without_a_person(watched: Watched) -> None:
    """Told to, it fetches the next generation and logs in with it; the old one ends then (DESIGN 5.6)."""
    stored = watched.file.read()
    done = await act(life(watched.broker).rotate, "gw-1")
    await watched.until("removing")
    await watched.online()
    assert watched.file.read() != stored
    assert watched.generation() == ("active", 2)
    assert kinds(watched.broker, done.device.id)[-3:] == ["rotation-requested", "reprovisioned", "activated"]


async def test_it_wipes_its_credentials_when_it_is_retired_and_gets_no_new_ones(watched: Watched) -> None:
    """It asks anew at once, as it was made to, and finds a tombstone (P7, P8)."""
    done = await act(life(watched.broker).decommission, "gw-1")
    assert done.wiped is not None
    assert done.wiped.done
    assert watched.file.read() is None
    await watched.until("waiting_to_provision")
    assert watched.file.read() is None
    assert watched.generation() == ("decommissioned", 1)
