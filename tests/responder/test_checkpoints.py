"""Writing checkpoints: what is on disk, when it is due, and what must not be signed (P5)."""

import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.responder.desk import Desk

from mqttprov.core.audit import BrokenChain, verify
from mqttprov.core.checkpoint import parse_verifier_key, read_checkpoints
from mqttprov.core.model import Profile
from mqttprov.pki.note_key import verify_signature
from mqttprov.responder.checkpoints import (
    EVERY_EVENTS,
    EVERY_S,
    CheckpointRefused,
    CheckpointWriter,
    PeriodicCheckpoints,
)
from mqttprov.responder.state_directory import StateDirectory, StateError, initialise


def writer_of(desk: Desk) -> CheckpointWriter:
    """Make a writer on the desk's state."""
    return CheckpointWriter(desk.state.store, desk.state.audit_signer(desk.entropy), desk.state.checkpoints_path)


def marks_of(desk: Desk) -> tuple[dict[int, str], bool]:
    """Read the file as an outsider does: with the public key alone."""
    key = parse_verifier_key((desk.state.path / "audit-key.pub").read_text())
    lines = desk.state.checkpoints_path.read_text().splitlines(keepends=True)
    return read_checkpoints(lines, key, verify_signature)


class TestWriting:
    """The file."""

    def test_a_checkpoint_is_the_head_of_the_chain(self, desk: Desk) -> None:
        """It is appended, for its owner alone, and only when there is something new."""
        writer = writer_of(desk)
        assert writer.last_size() == 0
        first = writer.write()
        assert first is not None
        assert writer.write() is None
        desk.administration.create_profile(Profile(0, "plant"))
        second = writer.write()
        assert desk.state.checkpoints_path.read_text() == f"{first}\n{second}"
        assert marks_of(desk) == ({3: desk.events()[2].hash, 5: desk.events()[4].hash}, False)
        assert verify(desk.reader.events(), checkpoints=marks_of(desk)[0]) == desk.reader.head()
        assert writer.last_size() == 5
        assert stat.S_IMODE(desk.state.checkpoints_path.stat().st_mode) == 0o600

    def test_what_a_crash_left_is_completed(self, desk: Desk) -> None:
        """Wherever the power failed within a write, the next one leaves a file of whole checkpoints."""
        writer, path = writer_of(desk), desk.state.checkpoints_path
        first = writer.write() or ""
        desk.administration.create_profile(Profile(0, "plant"))
        second = writer.write() or ""
        whole = path.read_bytes()
        for cut in range(len(whole)):
            path.write_bytes(whole[:cut])
            writer.write()
            kept = cut >= len(first.encode())
            assert path.read_bytes() == (whole if kept else second.encode())

    def test_writers_take_turns(self, desk: Desk) -> None:
        """Several at once, also in other processes: each checkpoint once and in order."""
        start = threading.Barrier(4)

        def work(number: int) -> None:
            writer = writer_of(desk)
            start.wait()
            for i in range(10):
                desk.administration.create_profile(Profile(0, f"p-{number}-{i}"))
                writer.write()

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        marks, torn = marks_of(desk)
        assert (max(marks), torn) == (83, False)
        assert list(marks) == sorted(marks)
        verify(desk.reader.events(), checkpoints=marks)

    def test_a_database_that_lost_events_is_not_signed(self, desk: Desk, tmp_path: Path) -> None:
        """A checkpoint would hide what the last one shows: an older database, restored."""
        writer = writer_of(desk)
        writer.write()
        initialise(tmp_path / "other", actor="cli:other", now_ms=desk.clock, entropy=desk.entropy)
        other = StateDirectory(tmp_path / "other")
        rewritten = CheckpointWriter(other.store, desk.state.audit_signer(desk.entropy), desk.state.checkpoints_path)
        with pytest.raises(CheckpointRefused, match=r"does not fit its last checkpoint, of 3 events.*audit verify"):
            rewritten.write()
        other.administration("cli:other", desk.clock, desk.entropy).create_profile(Profile(0, "plant"))
        with pytest.raises(CheckpointRefused, match="does not fit"):
            rewritten.write()
        reader = other.store.reader()
        with pytest.raises(BrokenChain, match="not what its checkpoint says"):
            verify(reader.events(), checkpoints=marks_of(desk)[0])
        reader.close()
        other.close()

    @pytest.mark.parametrize("change", [lambda b: b.replace(b"\n3\n", b"\n2\n"), lambda b: b"x" * 5000])
    def test_a_file_of_others_is_left_alone(self, desk: Desk, change: Callable[[bytes], bytes]) -> None:
        """What does not end with a checkpoint of ours is never overwritten."""
        writer, path = writer_of(desk), desk.state.checkpoints_path
        writer.write()
        changed = change(path.read_bytes())
        path.write_bytes(changed)
        desk.administration.create_profile(Profile(0, "plant"))
        with pytest.raises(CheckpointRefused, match="does not end with a checkpoint of ours"):
            writer.write()
        assert path.read_bytes() == changed


class TestKey:
    """The signing key."""

    def test_init_makes_it_once(self, desk: Desk) -> None:
        """The secret half is for its owner alone; asking again gives the same."""
        public = (desk.state.path / "audit-key.pub").read_text()
        assert stat.S_IMODE((desk.state.path / "keys/audit-key").stat().st_mode) == 0o600
        assert f"{desk.state.audit_signer(desk.entropy).verifier_key}\n" == public

    def test_a_state_directory_of_before_gets_it_on_first_need(self, desk: Desk) -> None:
        """An update needs no step by hand."""
        for name in ("keys/audit-key", "audit-key.pub"):
            (desk.state.path / name).unlink()
        made = StateDirectory(desk.state.path)
        assert made.audit_signer(desk.entropy).verifier_key == made.audit_signer(desk.entropy).verifier_key
        made.close()
        assert writer_of(desk).write()

    @pytest.mark.parametrize(("damage", "text"), [("", "0 bytes instead of 32"), (None, "restore it from a backup")])
    def test_a_lost_key_is_not_replaced(self, desk: Desk, damage: str | None, text: str) -> None:
        """Somebody holds its public half: a new one must not take its place without a word."""
        path = desk.state.path / "keys/audit-key"
        if damage is None:
            path.unlink()
        else:
            path.write_text(damage)
        with pytest.raises(StateError, match=text):
            desk.state.audit_signer(desk.entropy)

    def test_a_key_that_others_may_read_is_refused(self, desk: Desk) -> None:
        """Who reads it can sign (P6)."""
        (desk.state.path / "keys/audit-key").chmod(0o644)
        with pytest.raises(StateError, match="chmod 600"):
            desk.state.audit_signer(desk.entropy)


class Shift:
    """Periodic checkpoints whose threads and loop are lists that the test works off."""

    def __init__(self, desk: Desk) -> None:
        """Begin a shift."""
        self.aside: list[Callable[[], None]] = []
        self.soon: list[Callable[[], None]] = []
        self.published: list[str] = []
        self.checkpoints = PeriodicCheckpoints(
            writer_of(desk),
            self.published.append,
            now_s=lambda: desk.now_s,
            run_aside=self.aside.append,
            call_soon=self.soon.append,
        )

    def work(self) -> None:
        """Do what waits, in both threads."""
        for waiting in (self.aside, self.soon):
            while waiting:
                waiting.pop()()


class TestDue:
    """When `serve` writes one."""

    def test_after_a_time_when_there_is_something_new(self, desk: Desk) -> None:
        """Nothing new, no checkpoint, however long it takes."""
        shift = Shift(desk)
        shift.checkpoints.tick(3)
        assert shift.aside == []
        desk.now_s += EVERY_S
        shift.checkpoints.tick(3)
        shift.work()
        assert len(shift.published) == 1
        desk.now_s += EVERY_S
        shift.checkpoints.tick(3)
        assert shift.aside == []
        assert marks_of(desk)[0].keys() == {3}

    def test_after_so_many_events_at_once(self, desk: Desk) -> None:
        """Under load none waits for the clock; while one is written no other begins."""
        shift = Shift(desk)
        shift.checkpoints.tick(EVERY_EVENTS - 1)
        assert shift.aside == []
        shift.checkpoints.tick(EVERY_EVENTS)
        shift.checkpoints.tick(EVERY_EVENTS * 3)
        assert len(shift.aside) == 1
        shift.work()
        shift.checkpoints.tick(EVERY_EVENTS * 3)
        assert len(shift.aside) == 1

    def test_a_restart_goes_on_where_the_file_ends(self, desk: Desk) -> None:
        """No second checkpoint of the same events."""
        writer_of(desk).write()
        shift = Shift(desk)
        desk.now_s += EVERY_S
        shift.checkpoints.tick(3)
        assert shift.aside == []

    def test_a_failure_is_logged_and_tried_again(self, desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
        """The broker goes on; the next checkpoint covers everything."""
        desk.state.checkpoints_path.write_text("x" * 5000)
        shift = Shift(desk)
        desk.now_s += EVERY_S
        shift.checkpoints.tick(3)
        shift.work()
        assert shift.published == []
        assert "does not end with a checkpoint of ours" in caplog.text
        desk.state.checkpoints_path.unlink()
        desk.now_s += EVERY_S
        shift.checkpoints.tick(4)
        shift.work()
        assert len(shift.published) == 1
