"""Whether a database file is still the one that was opened: what is written to another one is lost with its process."""

import os
from pathlib import Path

from mqttprov.store.protocol import StoreUnavailable


class OpenedFile:
    """A file at the moment when it was opened."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._status = path.stat()

    def check(self) -> None:
        """See that the same file is still at the path. Raises `StoreUnavailable`."""
        try:
            is_same = os.path.samestat(self._status, self._path.stat())
        except OSError:
            is_same = False
        if not is_same:
            raise StoreUnavailable(
                f"the database {self._path} was removed or replaced while it was open; end all that runs on it, put "
                "the right file there and start again"
            )
