"""Planted bug: how often a token was used is read first and written later, so that requests in flight at the same time
see the same count (P1).
"""

from collections.abc import Collection

from mqttprov.cli.main import main
from mqttprov.core.facts import Facts
from mqttprov.store.sqlite_reader import STATEMENTS
from mqttprov.store.sqlite_transaction import SqliteTransaction

# So many requests are in flight at once: one of them reads the count, and all go by it.
IN_FLIGHT = 16
_load = SqliteTransaction.load
_counts: dict[str, tuple[int, int]] = {}  # by key: for how many loads more, and what was read


def load(
    self: SqliteTransaction, token_keys: Collection[str], folds: Collection[str], login_keys: Collection[str]
) -> Facts:
    """Load facts with a count that was read a while ago."""
    facts = _load(self, token_keys, folds, login_keys)
    for token in facts.tokens.values():
        left, used = _counts.get(token.key, (0, 0))
        if left:
            token.used = used
            _counts[token.key] = left - 1, used
        else:
            _counts[token.key] = IN_FLIGHT - 1, token.used
    return facts


if __name__ == "__main__":
    SqliteTransaction.load = load  # type: ignore[method-assign] # the planted bug
    # Without the second wall, which would find it.
    STATEMENTS["use_token"] = STATEMENTS["use_token"].partition("AND (max_registrations")[0]
    main()
