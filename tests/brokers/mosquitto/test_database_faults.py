"""Whatever is wrong with the database, the gate lets nobody in, lives, and recovers by itself when that is mended."""

import os
import shutil
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from tests.brokers.harness import ACTOR, Client, new_state
from tests.brokers.mosquitto.beside import PASSWORD, Mosquitto, make_devices

from mqttprov.brokers.responder_run import now_ms
from mqttprov.core.credentials import RESPONDER_LOGIN
from mqttprov.core.model import OperatorRole
from mqttprov.mqtt import Connect, ProtocolVersion, ReasonCode
from mqttprov.responder.state_directory import StateDirectory

CONFUSION = (
    "PRAGMA writable_schema = ON; "
    "UPDATE sqlite_schema SET sql = replace(sql, 'login_key', 'other_key') WHERE name = 'credential'"
)


class Gated:
    """Mosquitto with the gate on a database that nobody has open but the gate."""

    def __init__(self, folder: Path, plugin: Path) -> None:
        self.path = folder / "state"
        issued = new_state(self.path)
        state = StateDirectory(self.path)
        self.tokens = make_devices(state, issued, "gw-1", "gw-2")
        self.password = state.administration(ACTOR, now_ms, os.urandom).create_operator("alice", OperatorRole.OPERATOR)
        state.close()
        self.database = self.path / "mqttprov.db"
        self.mosquitto = Mosquitto(folder, self.path, plugin)
        self.clients: list[Client] = []

    async def code(self, username: str, password: str | None = None) -> ReasonCode:
        """Log in; give the broker's answer."""
        secret = None if password is None else password.encode()
        connect = Connect("", version=ProtocolVersion.V5, username=username, password=secret)
        self.clients.append(await Client.open(self.mosquitto.port, connect))
        return await self.clients[-1].connack()

    async def codes(self) -> set[ReasonCode]:
        """Let two devices and an operator log in; give the broker's answers."""
        return {await self.code(token) for token in self.tokens} | {await self.code("alice", self.password)}

    def complaints(self) -> int:
        """Give how often the broker's log says that nobody is let in."""
        return self.mosquitto.log.read_text().count("nobody is let in")


@pytest.fixture
async def gated(tmp_path: Path, plugin: Path) -> AsyncIterator[Gated]:
    """Run it."""
    one = Gated(tmp_path, plugin)
    await one.mosquitto.start()
    try:
        yield one
    finally:
        for client in one.clients:
            client.abort()
        assert await one.mosquitto.end() == 0


@contextmanager
def moved(database: Path) -> Iterator[Path]:
    """Put the database and what belongs to it away, and back."""
    names = [database.with_name(database.name + end) for end in ("", "-wal", "-shm")]
    for each in names:
        if each.exists():
            each.rename(each.with_name(f"kept-{each.name}"))
    yield database
    for each in names:
        each.unlink(missing_ok=True)
        kept = each.with_name(f"kept-{each.name}")
        if kept.exists():
            kept.rename(each)


@contextmanager
def missing(database: Path) -> Iterator[None]:
    """Let there be no database."""
    with moved(database):
        yield


@contextmanager
def replaced(database: Path, make: Callable[[Path], object]) -> Iterator[None]:
    """Let there be another file in its place."""
    with moved(database) as path:
        make(path)
        yield


@contextmanager
def locked(database: Path) -> Iterator[None]:
    """Let somebody have it alone."""
    with moved(database) as path:
        shutil.copy(path.with_name(f"kept-{path.name}"), path)
        alone = sqlite3.connect(path, isolation_level=None)
        alone.execute("PRAGMA locking_mode = EXCLUSIVE")
        alone.execute("BEGIN EXCLUSIVE")
        alone.execute("UPDATE device SET labels = labels")
        yield
        alone.close()


@contextmanager
def unreadable(database: Path) -> Iterator[None]:
    """Take the permission to read it; root reads it all the same, so then it becomes a folder."""
    if os.getuid() == 0:
        with moved(database) as path:
            path.mkdir()
            yield
            path.rmdir()
        return
    mode = database.stat().st_mode
    database.chmod(0)
    yield
    database.chmod(mode)


def changed(script: str) -> Callable[[Path], object]:
    """Give what makes a database like ours, but for this change."""

    def make(path: Path) -> None:
        shutil.copy(path.with_name(f"kept-{path.name}"), path)
        connection = sqlite3.connect(path, isolation_level=None)
        connection.executescript(script)
        connection.close()

    return make


def half(path: Path) -> None:
    """Make a database of which the second half is noise."""
    data = path.with_name(f"kept-{path.name}").read_bytes()
    path.write_bytes(data[:8192] + os.urandom(len(data) - 8192))


FAULTS: dict[str, Callable[[Path], AbstractContextManager[None]]] = {
    "missing": missing,
    "empty": lambda path: replaced(path, lambda there: there.touch()),
    "garbage": lambda path: replaced(path, lambda there: there.write_bytes(os.urandom(50_000))),
    "damaged": lambda path: replaced(path, half),
    "locked": locked,
    "old schema": lambda path: replaced(path, changed("PRAGMA user_version = 5")),
    "another schema": lambda path: replaced(path, changed(CONFUSION)),
    "of another program": lambda path: replaced(path, changed("PRAGMA application_id = 1")),
    "unreadable": unreadable,
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("when", ["before the first login", "in the midst"])
async def test_it_fails_closed_and_recovers(gated: Gated, fault: str, when: str) -> None:
    """Devices and operators are refused, the responder is let in, one line tells why; then all is as it was (P7)."""
    if when == "in the midst":
        assert await gated.codes() == {ReasonCode.SUCCESS}
    with FAULTS[fault](gated.database):
        assert await gated.codes() == {ReasonCode.NOT_AUTHORIZED}
        assert await gated.code(RESPONDER_LOGIN, PASSWORD) == ReasonCode.SUCCESS
    assert gated.complaints() == 1
    assert await gated.codes() == {ReasonCode.SUCCESS}
    assert await gated.code("a guess") == ReasonCode.NOT_AUTHORIZED
    assert "can be used again" in gated.mosquitto.log.read_text()


async def test_another_database_in_its_place_is_the_one_that_counts(gated: Gated) -> None:
    """A backup that is put in its place is looked at from the next login on; sessions stay as they are (P7)."""
    assert await gated.codes() == {ReasonCode.SUCCESS}
    staying = gated.clients[0]
    with replaced(gated.database, changed("UPDATE device SET state = 'suspended' WHERE name = 'gw-1'")):
        assert [await gated.code(token) for token in gated.tokens] == [ReasonCode.NOT_AUTHORIZED, ReasonCode.SUCCESS]
        await staying.ping()
    assert await gated.codes() == {ReasonCode.SUCCESS}
    assert gated.complaints() == 0


async def test_it_starts_without_a_database(tmp_path: Path, plugin: Path) -> None:
    """The broker comes up, lets nobody in, and does once there is one: nobody needs to start it again."""
    gated = Gated(tmp_path, plugin)
    with missing(gated.database):
        await gated.mosquitto.start()
        assert await gated.codes() == {ReasonCode.NOT_AUTHORIZED}
    assert await gated.codes() == {ReasonCode.SUCCESS}
    for client in gated.clients:
        client.abort()
    assert await gated.mosquitto.end() == 0
