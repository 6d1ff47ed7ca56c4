"""Planted bug: how often a token was used is read first and written later, so that requests in flight at the same time
see the same count (P1).
"""

import time
from collections.abc import Collection

from mqttprov.cli.main import main
from mqttprov.core.facts import Facts
from mqttprov.store.sqlite_reader import STATEMENTS
from mqttprov.store.sqlite_transaction import SqliteTransaction

# How long a request is in flight: what the count was so long ago is what it goes by.
IN_FLIGHT_S = 0.05
_load = SqliteTransaction.load
_counts: dict[str, tuple[float, int]] = {}


def load(
    self: SqliteTransaction, token_keys: Collection[str], folds: Collection[str], login_keys: Collection[str]
) -> Facts:
    """Load facts with a count that was read a while ago."""
    facts = _load(self, token_keys, folds, login_keys)
    for token in facts.tokens.values():
        read_s, used = _counts.get(token.key, (0.0, 0))
        if time.monotonic() - read_s > IN_FLIGHT_S:
            _counts[token.key] = time.monotonic(), token.used
        else:
            token.used = used
    return facts


if __name__ == "__main__":
    SqliteTransaction.load = load  # type: ignore[method-assign]
    # Without the second wall, which would find it.
    STATEMENTS["use_token"] = STATEMENTS["use_token"].partition("AND (max_registrations")[0]
    main()
