"""What every operator action stands on: the store, the keys, who acts, clock and randomness. No actions here."""

from collections.abc import Callable

import msgspec

from mqttprov.core.audit import Event, EventKind
from mqttprov.core.model import Profile
from mqttprov.core.secrets import Keys
from mqttprov.store.protocol import Store, WriteTransaction


class NotFound(Exception):  # noqa: N818 - it names what is wrong
    """There is no profile, token or device of this name."""


class PartlyMade(Exception):  # noqa: N818 - it names what is wrong
    """Making many things ended early: `made` secrets that were told belong to what exists, those told later do not."""

    def __init__(self, text: str, made: int = 0) -> None:
        super().__init__(text)
        self.made = made


class Acting:
    """Acts on a store on behalf of `actor` (for example "cli:anna")."""

    def __init__(
        self,
        store: Store,
        keys: Keys,
        *,
        actor: str,
        now_ms: Callable[[], int],
        entropy: Callable[[int], bytes],
    ) -> None:
        self._store = store
        self._keys = keys
        self._actor = actor
        self._now_ms = now_ms
        self._entropy = entropy

    def _event(self, kind: EventKind, **fields: str | None) -> Event:
        return msgspec.structs.replace(Event(kind, self._now_ms(), self._actor), **fields)


def find_profile(transaction: WriteTransaction, name: str) -> Profile:
    """Give the profile of this name. Raises `NotFound`."""
    rows = transaction.reader().profiles(name)
    if not rows:
        raise NotFound(f"there is no profile named {name!r}; see: mqttprov profile list")
    return rows[0].profile
