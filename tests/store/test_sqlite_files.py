"""The database as a file: making, migrating, sharing, filling and damaging it."""

import os
import sqlite3
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.store.world import NOW_MS, World

from mqttprov.core.audit import BrokenChain, Event, EventKind, verify
from mqttprov.core.model import OperatorRole
from mqttprov.store import sqlite
from mqttprov.store.protocol import StoreUnavailable
from mqttprov.store.sqlite import SqliteStore

WRITER = """
import sys
import tempfile
from pathlib import Path
from mqttprov.core.audit import Event, EventKind
from mqttprov.store.sqlite import SqliteStore
store = SqliteStore(Path(sys.argv[1]))
for batch in range(40):
    with store.write() as transaction:
        transaction.append([Event(EventKind.REFUSED, batch, "device") for _ in range(5)])
    print(batch, flush=True)
"""


def read_everything(path: Path) -> None:
    """Open a database and ask every question about all of it."""
    store = SqliteStore(path)
    try:
        reader = store.reader()
        try:
            list(reader.devices())
            reader.profiles()
            reader.tokens()
            reader.states()
            reader.operators()
            verify(reader.events())
        finally:
            reader.close()
    finally:
        store.close()


def test_a_file_that_was_replaced_takes_no_writes(tmp_path: Path) -> None:
    """Nobody else would ever know of them (P2); once the right file is back, all is well."""
    path, aside = tmp_path / "x.db", tmp_path / "aside.db"
    store = SqliteStore(path, create=True)
    event = Event(EventKind.REFUSED, NOW_MS, "device")
    path.rename(aside)
    with pytest.raises(StoreUnavailable, match="removed or replaced"), store.write() as transaction:
        transaction.append([event])
    path.write_bytes(b"garbage")
    with pytest.raises(StoreUnavailable, match="removed or replaced"), store.write() as transaction:
        transaction.append([event])
    aside.rename(path)
    with store.write() as transaction:
        assert [stored.seq for stored in transaction.append([event])] == [1]
    store.close()


class TestOpening:
    """Which files are taken."""

    def test_a_new_database_is_for_its_owner_alone(self, tmp_path: Path) -> None:
        """The file is made with mode 0600 (P6)."""
        SqliteStore(tmp_path / "x.db", create=True).close()
        assert stat.S_IMODE((tmp_path / "x.db").stat().st_mode) == 0o600

    def test_there_must_be_a_database(self, tmp_path: Path) -> None:
        """A missing file is told with what to do."""
        with pytest.raises(StoreUnavailable, match="run 'mqttprov init'"):
            SqliteStore(tmp_path / "x.db")

    def test_an_empty_file_is_not_taken_for_a_new_database(self, tmp_path: Path) -> None:
        """A database that was cut to nothing must not come back as one without devices."""
        (tmp_path / "x.db").touch()
        with pytest.raises(StoreUnavailable, match="empty; restore"):
            SqliteStore(tmp_path / "x.db")

    def test_what_was_committed_is_there_after_opening_again(self, world: World) -> None:
        """Opening runs no migration twice and loses nothing."""
        world.batch(world.request("gw-1"))
        again = SqliteStore(world.store.path, create=True)
        reader = again.reader()
        assert [row.name for row in reader.devices()] == ["gw-1"]
        reader.close()
        again.close()

    @pytest.mark.parametrize(
        ("pragma", "text"), [("user_version = 999", "newer mqttprov"), ("application_id = 1", "another program")]
    )
    def test_a_database_of_others_is_left_alone(self, world: World, pragma: str, text: str) -> None:
        """A newer schema or another program's file is refused before anything is changed."""
        connection = sqlite3.connect(world.store.path)
        connection.execute(f"PRAGMA {pragma}")
        connection.close()
        with pytest.raises(StoreUnavailable, match=text):
            SqliteStore(world.store.path)

    def test_several_may_make_the_same_database_at_once(self, tmp_path: Path) -> None:
        """Whoever comes second to a migration finds it done."""
        start, errors = threading.Barrier(4), list[Exception]()

        def make() -> None:
            start.wait()
            try:
                SqliteStore(tmp_path / "x.db", create=True).close()
            except StoreUnavailable as error:
                errors.append(error)

        threads = [threading.Thread(target=make) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert errors == []
        read_everything(tmp_path / "x.db")


class TestSharing:
    """Several processes on one database."""

    def test_a_reader_sees_whole_batches_of_another_process(self, world: World) -> None:
        """Beside a writing process a reader sees a valid chain of whole batches that only grows (P5)."""
        reader = world.store.reader()
        seen = [0]
        with subprocess.Popen([sys.executable, "-c", WRITER, str(world.store.path)], stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            seen.extend(verify(reader.events()).seq for _ in writer.stdout)
        assert writer.returncode == 0
        assert all(count % 5 == 0 for count in seen)
        assert seen == sorted(seen)
        assert verify(reader.events()).seq == 200
        reader.close()

    def test_writers_of_two_processes_continue_one_chain(self, world: World) -> None:
        """Each transaction takes up the chain where the last one, of whatever process, left it (P5)."""
        subprocess.run([sys.executable, "-c", WRITER, str(world.store.path)], check=True, capture_output=True)
        world.batch(world.request("gw-1"))
        subprocess.run([sys.executable, "-c", WRITER, str(world.store.path)], check=True, capture_output=True)
        reader = world.store.reader()
        assert verify(reader.events()).seq == 401
        reader.close()

    def test_a_writer_that_never_ends_is_not_waited_for_forever(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """After the time-out the store says that somebody else holds the database (P9)."""
        monkeypatch.setattr(sqlite, "BUSY_TIMEOUT_MS", 50)
        other = SqliteStore(world.store.path)
        with (
            world.store.write(),
            pytest.raises(StoreUnavailable, match="another process holds it"),
            other.write(),
        ):
            pass
        other.close()


class TestDamage:
    """Full disks and broken files."""

    def test_a_full_disk_commits_nothing_and_is_told(self, world: World) -> None:
        """Nothing of the batch stays, the next one works once there is room (P2, P5)."""
        execute = world.store._connection.execute
        pages = execute("PRAGMA page_count").fetchone()[0]
        execute(f"PRAGMA max_page_count = {pages + 2}")

        def fill() -> None:
            with world.store.write() as transaction:
                transaction.append([Event(EventKind.REFUSED, NOW_MS, "device", text="x" * 500) for _ in range(200)])

        with pytest.raises(StoreUnavailable, match="make room on its disk"):
            fill()
        reader = world.store.reader()
        assert reader.head().seq == 0
        execute("PRAGMA max_page_count = 100000")
        fill()
        assert verify(reader.events()).seq == 200
        reader.close()

    @pytest.mark.parametrize("kept", [1, 15, 99, 512, 4096, 4097, 20_000])
    def test_a_truncated_database_is_told(self, world: World, kept: int) -> None:
        """Wherever a file was cut off, the error says that the database cannot be used."""
        for i in range(50):
            world.batch(world.request(f"gw-{i}"))
        world.store.close()
        with world.store.path.open("r+b") as file:
            file.truncate(kept)
        with pytest.raises((StoreUnavailable, BrokenChain)):
            read_everything(world.store.path)

    @settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(places=st.lists(st.integers(0, 40_000), min_size=1, max_size=20), noise=st.binary(min_size=1, max_size=64))
    def test_damage_is_never_another_error(self, damaged: Callable[[], Path], places: list[int], noise: bytes) -> None:
        """Whatever is overwritten, reading everything works or says that the database cannot be used."""
        path = damaged()
        with path.open("r+b") as file:
            for place in places:
                file.seek(place)
                file.write(noise)
        try:
            read_everything(path)
        except (StoreUnavailable, BrokenChain) as error:
            assert str(error)  # noqa: PT017 - that nothing else is raised is the point


@pytest.fixture
def damaged(new_world: Callable[..., World], tmp_path: Path) -> Callable[[], Path]:
    """Give fresh copies of a small database, to be damaged."""
    world = new_world()
    for i in range(20):
        world.batch(world.request(f"gw-{i}"), (f"gw-{i}", 1))
    with world.store.write() as transaction:
        transaction.add_operator("anna", OperatorRole.OBSERVER, "hash", NOW_MS)
    world.store.close()
    content = world.store.path.read_bytes()
    copy = tmp_path / "copy.db"

    def make() -> Path:
        for left in tmp_path.glob("copy.db*"):
            left.unlink()
        copy.write_bytes(content)
        return copy

    return make


def reads_alone(path: Path, *, uid: int, gid: int) -> int:
    """Open a database in a process of another user who may only read; give its exit status."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            if os.getuid() == 0:
                os.setgroups([])
                os.setgid(gid)
                os.setuid(uid)
            connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
            connection.execute("SELECT count(*) FROM device").fetchone()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_who_may_only_read_can_do_so_while_nobody_writes() -> None:
    """The gate in Mosquitto, which is another user: devices log in when nothing of ours runs."""
    nobody = 65_534
    with tempfile.TemporaryDirectory() as name:
        folder, path = Path(name), Path(name) / "shared.db"
        SqliteStore(path, create=True).close()
        assert sorted(file.name for file in folder.iterdir()) == ["shared.db", "shared.db.lock"]
        path.chmod(0o640)
        if os.getuid() == 0:
            for each in (folder, path):
                os.chown(each, 0, nobody)
        SqliteStore(path).close()
        left = [path.with_name(f"shared.db{end}") for end in ("-wal", "-shm")]
        assert {(file.stat().st_mode & 0o777, file.stat().st_gid) for file in left} == {(0o640, path.stat().st_gid)}
        folder.chmod(0o550)
        assert reads_alone(path, uid=nobody, gid=nobody) == 0
        for file in left:
            folder.chmod(0o750)
            file.unlink()
        folder.chmod(0o550)
        assert reads_alone(path, uid=nobody, gid=nobody) == 1
        folder.chmod(0o750)
