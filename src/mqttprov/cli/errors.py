"""Which error ends the command with which exit status. The table is a contract (docs/reference/cli.md)."""

from enum import IntEnum
from typing import Final

from mqttprov.core.checkpoint import BadCheckpoint
from mqttprov.core.export import TornExport
from mqttprov.core.names import InvalidName
from mqttprov.responder.acting import PartlyMade
from mqttprov.responder.administration import NotFound
from mqttprov.responder.doorbell import BrokerSilent
from mqttprov.responder.state_directory import StateError
from mqttprov.store.protocol import Conflict, StoreUnavailable


class Exit(IntEnum):
    """The exit statuses of every verb."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NOT_FOUND = 3
    DENIED = 4
    CONFLICT = 5
    UNAVAILABLE = 6
    FOUND = 7
    INTERRUPTED = 130


MEANINGS: Final = {
    Exit.OK: "done",
    Exit.FAILED: "failed; also: the server answered FAILURE, or the audit chain is broken",
    Exit.USAGE: "the command line or a value in it cannot be used",
    Exit.NOT_FOUND: "no such profile, token or device; also: the server answered NOT_FOUND",
    Exit.DENIED: "the system does not let this user do it",
    Exit.CONFLICT: "it exists already, a name means several things, or the device's state does not allow it",
    Exit.UNAVAILABLE: "no state directory (run `mqttprov init`), an unusable database, no server, or a silent one",
    Exit.FOUND: "`audit report` or `doctor` found something",
    Exit.INTERRUPTED: "interrupted",
}


class Failure(Exception):  # noqa: N818 - the verb failed; not a defect of the program
    """A verb cannot go on. The text is told to the person: what, why and what to do."""

    def __init__(self, text: str, status: Exit = Exit.FAILED) -> None:
        super().__init__(text)
        self.status = status


_BY_TYPE: Final[tuple[tuple[type[Exception], Exit], ...]] = (
    (NotFound, Exit.NOT_FOUND),
    (Conflict, Exit.CONFLICT),
    (PartlyMade, Exit.FAILED),
    (InvalidName, Exit.USAGE),
    (StateError, Exit.UNAVAILABLE),
    (StoreUnavailable, Exit.UNAVAILABLE),
    (BrokerSilent, Exit.UNAVAILABLE),
    (BadCheckpoint, Exit.FAILED),
    (TornExport, Exit.FAILED),
    (PermissionError, Exit.DENIED),
    (OSError, Exit.FAILED),
)
EXPECTED: Final[tuple[type[Exception], ...]] = (Failure, *(kind for kind, _ in _BY_TYPE))


def exit_status(error: Exception) -> Exit:
    """Give the exit status for one of the `EXPECTED` errors."""
    if isinstance(error, Failure):
        return error.status
    if isinstance(error.__cause__, PermissionError):
        return Exit.DENIED
    return next((status for kind, status in _BY_TYPE if isinstance(error, kind)), Exit.FAILED)
