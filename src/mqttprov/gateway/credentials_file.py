"""`.credentials`: what of a gateway survives a power cut. Reading, saving and removing it; no decisions about its use.

It holds the server's reply as it came (the vendor gateway's file of that name can be read too). Content that cannot be
used never stops a gateway: it is set aside as `.credentials.bad` and counts as absent (P10). A renewal that has not
logged in yet is beside it, in `.credentials.renewed`.
"""

import logging
from pathlib import Path

from mqttprov.gateway.atomic_file import (
    OPERATING_SYSTEM,
    FileLayer,
    move_file,
    remove_file,
    remove_leftovers,
    set_aside,
    write_file,
)
from mqttprov.gateway.replies import MAX_REPLY_BYTES, Refusal, parse_reply

RENEWED: str = ".credentials.renewed"

_log = logging.getLogger(__name__)


class CredentialsFile:
    """The credentials file of one gateway directory, which must exist."""

    def __init__(self, directory: Path, files: FileLayer = OPERATING_SYSTEM, name: str = ".credentials") -> None:
        self.path = directory / name
        self._files = files

    def read(self) -> bytes | None:
        """Give the stored reply, or None if there is none that can be used. Never raises OSError (P10)."""
        try:
            remove_leftovers(self.path, self._files)
        except OSError as error:
            _log.warning("cannot clean up %s: %s", self.path.parent, error)
        try:
            content = self._files.read(self.path, MAX_REPLY_BYTES + 1)
        except FileNotFoundError:
            return None
        except OSError as error:
            self._set_aside(str(error))
            return None
        result = parse_reply(content)
        if isinstance(result, Refusal):
            self._set_aside(result.message)
            return None
        return content

    def save(self, content: bytes) -> None:
        """Replace the stored reply, all or nothing. Raises OSError; what was stored is then still there, whole."""
        write_file(self.path, content, self._files)

    def take_over(self, other: "CredentialsFile") -> None:
        """Let another file replace this one, all or nothing. Raises OSError."""
        move_file(other.path, self.path, self._files)

    def remove(self) -> None:
        """Remove the stored reply; nothing stored is fine. Raises OSError."""
        remove_file(self.path, self._files)

    def _set_aside(self, why: str) -> None:
        try:
            bad = set_aside(self.path, self._files)
        except OSError as error:
            # Not fatal: the next save replaces the file.
            _log.warning("%s is not usable (%s) and cannot be set aside: %s", self.path, why, error)
        else:
            _log.warning("%s is not usable (%s): set aside as %s, provisioning anew", self.path, why, bad.name)
