"""Planted bug: the first login with a new generation does not end the older ones (P7)."""

from collections.abc import Sequence

from mqttprov.cli.main import main
from mqttprov.core.facts import Effect, Facts, SupersedeCredentials
from mqttprov.store.sqlite_transaction import SqliteTransaction

_write = SqliteTransaction.write


def write(self: SqliteTransaction, facts: Facts, effects: Sequence[Effect]) -> None:
    """Write everything but ends."""
    _write(self, facts, [effect for effect in effects if not isinstance(effect, SupersedeCredentials)])


if __name__ == "__main__":
    SqliteTransaction.write = write  # type: ignore[method-assign] # the planted bug
    main()
