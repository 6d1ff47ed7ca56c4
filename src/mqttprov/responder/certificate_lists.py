"""Writing the lists of ended certificates (`crl.pem`): by command, and when `serve` does it by itself (SD-21).

One list for each authority that is trusted, the active one's first. Writers take turns, so that numbers rise whoever
wrote them.
"""

import logging
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from mqttprov.core.audit import ChainedEvent, EventKind
from mqttprov.core.model import CredentialStatus, LifecycleState
from mqttprov.pki.crl import Ended, Ending, entries_by_issuer, is_current, list_pem, load_lists, make_list
from mqttprov.responder.authorities import Authorities
from mqttprov.responder.state_files import StateError, one_at_a_time, read, write_whole
from mqttprov.store.protocol import IssuedCertificateRow, Reader, Store, StoreUnavailable

CERTIFICATE_LISTS: Final = "crl.pem"
MAX_DEVICE_LIFE: Final = timedelta(days=366)
LOOK_EVERY_S: Final = 3600.0
SOON_S: Final = 0.5
_MAX_SHARE: Final = 10  # a list that takes a second to make is made every ten at most

_ENDS: Final = frozenset(
    {EventKind.SUSPENDED, EventKind.RESUMED, EventKind.DECOMMISSIONED, EventKind.TRANSFER_COMPLETED,
     EventKind.REPROVISIONED, EventKind.AUTHORITY_CREATED, EventKind.AUTHORITY_ROTATED, EventKind.AUTHORITY_RETIRED}
)  # fmt: skip
_FIRST_GENERATION: Final = '"generation":1,'

_log = logging.getLogger(__name__)


class CertificateLists:
    """Writes the lists of one state directory. Any thread, any process."""

    def __init__(
        self, path: Path, store: Store, authorities: Callable[[], Authorities], now_ms: Callable[[], int]
    ) -> None:
        self.path = path / CERTIFICATE_LISTS
        self._store = store
        self._authorities = authorities
        self._now_ms = now_ms

    def write(self, *, always: bool = False) -> str | None:
        """Write the lists and give them; None when those that are there still hold and are not a day old.

        Raises `StateError`, `StoreUnavailable` and `OSError`.
        """
        with one_at_a_time(self.path.parent):
            now_ms = self._now_ms()
            reader = self._store.reader()
            try:
                entries = entries_by_issuer(_ended(reader, now_ms), now_ms)
            finally:
                reader.close()
            found = self._authorities()
            old = self._old()
            wanted = [(one, entries.get(one.key_id, {})) for one in (found.active, *reversed(found.older))]
            if (
                not always
                and len(old) == len(wanted)
                and all(
                    one.is_from(before) and is_current(before, entries, now_ms)
                    for before, (one, entries) in zip(old, wanted, strict=True)
                )
            ):
                return None
            text = "".join(list_pem(make_list(one, entries, old, now_ms)) for one, entries in wanted)
            write_whole(self.path, text.encode())
            return text

    def _old(self) -> list[Any]:
        if not self.path.exists():
            return []
        try:
            return load_lists(read(self.path))
        except (StateError, ValueError) as error:
            _log.warning("%s is damaged and is made anew: %s", self.path, error)
            return []


def _ended(reader: Reader, now_ms: int) -> Iterator[Ended]:
    since_ms = now_ms - int(MAX_DEVICE_LIFE.total_seconds() * 1000)
    return (Ended(row.certificate, _ending(row)) for row in reader.issued_certificates(since_ms, ended=True))


def _ending(row: IssuedCertificateRow) -> Ending:
    if row.state == LifecycleState.DECOMMISSIONED:
        return Ending.ENDED
    return Ending.SUPERSEDED if row.status == CredentialStatus.SUPERSEDED else Ending.HELD


class PeriodicLists:
    """Decides when the lists are due and has them written beside the broker's thread, one writing at a time.

    `run_aside` runs a function in another thread, `call_soon` one in the broker's.
    """

    def __init__(
        self,
        lists: CertificateLists,
        *,
        now_s: Callable[[], float],
        run_aside: Callable[[Callable[[], None]], Any],
        call_soon: Callable[[Callable[[], None]], Any],
    ) -> None:
        self._lists = lists
        self._now_s = now_s
        self._run_aside = run_aside
        self._call_soon = call_soon
        self._busy = False
        self._due_s = now_s()
        self._not_before_s = now_s()

    def note(self, event: ChainedEvent) -> None:
        """Look at a committed audit event: the lists are due when it may have ended or restored a certificate."""
        changed = event.kind in _ENDS or (
            event.kind == EventKind.ACTIVATED and _FIRST_GENERATION not in event.body  # it ended an older one
        )
        if changed:
            self._due_s = min(self._due_s, self._now_s() + SOON_S)

    def tick(self) -> None:
        """Begin to write when it is due."""
        now_s = self._now_s()
        if not self._busy and now_s >= max(self._due_s, self._not_before_s):
            self._busy, self._due_s = True, now_s + LOOK_EVERY_S
            self._run_aside(self._write)

    def _write(self) -> None:
        begin_s = self._now_s()
        self.write_now()
        took_s = self._now_s() - begin_s

        def written() -> None:
            self._busy, self._not_before_s = False, self._now_s() + took_s * _MAX_SHARE

        self._call_soon(written)

    def write_now(self) -> None:
        """Write in the calling thread what is not up to date; a failure is logged, and tried again in an hour."""
        try:
            self._lists.write()
        except (StateError, StoreUnavailable, OSError) as error:
            _log.error("the lists of ended certificates were not written: %s", error)
