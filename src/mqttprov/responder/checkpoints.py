"""Writing checkpoints of the audit chain: into a file, by every process that does; and when `serve` writes one.

The file only grows. Writers take turns by a lock on it, so that its checkpoints are in order whoever wrote them.
"""

import fcntl
import logging
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from mqttprov.core.audit import ChainHead
from mqttprov.core.checkpoint import VerifierKey, open_note
from mqttprov.pki.note_key import NoteSigner, verify_signature
from mqttprov.store.protocol import Store, StoreUnavailable

EVERY_EVENTS: Final = 1000
EVERY_S: Final = 60.0
_TAIL_BYTES: Final = 4096  # holds the last checkpoint; one is about 250 bytes

_SIGNATURE_LINE: Final = re.compile("^\N{EM DASH} .*\n".encode(), re.MULTILINE)

_log = logging.getLogger(__name__)


class CheckpointRefused(Exception):  # noqa: N818 - it names what is wrong
    """No checkpoint is written because the last one contradicts the store: signing would hide what happened."""


class CheckpointWriter:
    """Appends signed checkpoints to a file. Any thread, any process."""

    def __init__(self, store: Store, signer: NoteSigner, path: Path) -> None:
        self._store = store
        self._signer = signer
        self._path = path

    @property
    def key(self) -> VerifierKey:
        """What the checkpoints are verified with."""
        return self._signer.verifier_key

    def last_size(self) -> int:
        """Give how many events the last checkpoint vouches for; 0 when there is none."""
        try:
            with self._path.open("rb") as file:
                last, _ = self._last(file.fileno())
        except FileNotFoundError:
            return 0
        return last.seq

    def write(self) -> str | None:
        """Write a checkpoint of the events so far and give it; None when there are none since the last one.

        It is on disk when this returns. Raises `CheckpointRefused`, `StoreUnavailable` and `OSError`.
        """
        is_new = not self._path.exists()
        descriptor = os.open(self._path, os.O_CREAT | os.O_RDWR, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            last, end = self._last(descriptor)
            head = self._head_after(last)
            if head is None:
                return None
            note = self._signer.sign(head)
            os.ftruncate(descriptor, end)  # what a crash left of a checkpoint that nobody was told
            os.pwrite(descriptor, (b"\n" if end else b"") + note.encode(), end)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if is_new:
            folder = os.open(self._path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        return note

    def _head_after(self, last: ChainHead) -> ChainHead | None:
        """Give the end of the chain, or None when it is still the last checkpoint's."""
        reader = self._store.reader()
        try:
            head = reader.head()
            behind = next(reader.events(last.seq - 1, 1), None) if last.seq else None
        finally:
            reader.close()
        if last.seq and (behind is None or behind.hash != last.hash):
            raise CheckpointRefused(
                f"the audit does not fit its last checkpoint, of {last.seq} events: events were removed or changed, or "
                f"an older database was restored; see 'mqttprov audit verify', then put {self._path} elsewhere"
            )
        return head if head.seq > last.seq else None

    def _last(self, descriptor: int) -> tuple[ChainHead, int]:
        """Give the last whole checkpoint of ours and where the file may go on."""
        begin = max(0, os.fstat(descriptor).st_size - _TAIL_BYTES)
        tail = os.pread(descriptor, _TAIL_BYTES, begin)
        signatures = list(_SIGNATURE_LINE.finditer(tail))
        if not signatures and not begin:
            return ChainHead(), 0
        # Behind the last signature line there is at most a checkpoint that was written halfway.
        end = signatures[-1].end() if signatures else 0
        note = b"\n\n".join(tail[:end].rsplit(b"\n\n", 2)[-2:])
        try:
            return open_note(note.decode(), self._signer.verifier_key, verify_signature), begin + end
        except ValueError as error:
            raise CheckpointRefused(f"{self._path} does not end with a checkpoint of ours; put it elsewhere") from error


class PeriodicCheckpoints:
    """Decides when a checkpoint is due and has it written beside the broker's thread, one at a time.

    `run_aside` runs a function in another thread, `call_soon` one in the broker's; `publish` gets each new checkpoint.
    """

    def __init__(
        self,
        writer: CheckpointWriter,
        publish: Callable[[str], None],
        *,
        now_s: Callable[[], float],
        run_aside: Callable[[Callable[[], None]], Any],
        call_soon: Callable[[Callable[[], None]], Any],
    ) -> None:
        self._writer = writer
        self._publish = publish
        self._now_s = now_s
        self._run_aside = run_aside
        self._call_soon = call_soon
        self._busy = False
        self._at_s = now_s()
        try:
            self._seq = writer.last_size()
        except (CheckpointRefused, OSError):
            self._seq = 0  # the first attempt to write fails for the same reason, and is logged

    def tick(self, seq: int) -> None:
        """Begin a checkpoint when it is due; `seq` is how far the audit's outbox has come."""
        if self._busy or seq <= self._seq:
            return
        if seq - self._seq >= EVERY_EVENTS or self._now_s() - self._at_s >= EVERY_S:
            self._busy, self._seq, self._at_s = True, seq, self._now_s()
            self._run_aside(self._write)

    def _write(self) -> None:
        note = self.write_now()

        def written() -> None:
            self._busy = False
            if note is not None:
                self._publish(note)

        self._call_soon(written)

    def write_now(self) -> str | None:
        """Write a checkpoint in the calling thread; None when there is nothing new or it failed, which is logged."""
        try:
            return self._writer.write()
        except (CheckpointRefused, StoreUnavailable, OSError) as error:
            _log.error("no checkpoint of the audit was written: %s", error)
            return None
