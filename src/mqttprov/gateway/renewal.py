"""When a certificate that runs out is renewed: in the last third of its life, not all gateways at once. Pure.

The wall clock of a device may be wrong and be set right at any time, so what is left is asked for again and again.
"""

from collections.abc import Callable
from typing import Final

import msgspec

from mqttprov.gateway.backoff import MachineSettings

LOOK_EVERY_S: Final = 6 * 3600.0
LONGEST_RETRY_S: Final = 86_400.0
_SHARE: Final = 1 / 3
_JITTER: Final = 1 / 4
_INSTANT_S: Final = 0.001


class Life(msgspec.Struct, frozen=True, gc=False):
    """What is left of a certificate's life (s, negative once it ran out) and how long it is in all."""

    left_s: float
    total_s: float


class Renewal:
    """Decides when to renew. `life` tells about the certificate that is stored, None if there is none that runs out."""

    __slots__ = (
        "_due_share",
        "_failures",
        "_life",
        "_not_before_s",
        "_retry_after_s",
        "_rng",
        "_settings",
        "under_way",
    )

    def __init__(self, life: Callable[[], Life | None], settings: MachineSettings, rng: Callable[[], float]) -> None:
        self._life = life
        self._settings = settings
        self._rng = rng
        self._due_share = _SHARE
        self._failures = 0
        self._retry_after_s = 0.0
        self._not_before_s = 0.0
        self.under_way = False  # the provisioning that goes on is a renewal

    @property
    def new_key(self) -> bool:
        """Whether to renew with a new key: yes, but a server may insist on the old one, so that one has its turn."""
        return self._failures % 2 == 0

    def has_run_out(self) -> bool:
        """Tell whether the stored certificate is worth nothing any more."""
        life = self._life()
        return life is not None and life.left_s <= 0

    def online(self, now_s: float) -> None:
        """Begin to watch. Not at once in any case: certificates that live for seconds must not keep a gateway busy."""
        life = self._life()
        if life is None:
            return
        self._due_share = _SHARE * (1 - _JITTER * self._rng())
        wait_s = self._settings.settled_after_s
        if self._failures:
            wait_s = max(self._settings.backoff_cap_s, min(life.left_s / 8, LONGEST_RETRY_S)) * (1 - self._rng() / 2)
        self._not_before_s = now_s + wait_s + self._retry_after_s
        self._retry_after_s = 0.0

    def next_look_s(self, now_s: float) -> float | None:
        """Give the time until it may be due (s); None: never."""
        life = self._life()
        if life is None:
            return None
        wait_s = max(life.left_s - life.total_s * self._due_share, self._not_before_s - now_s, _INSTANT_S)
        return min(wait_s, LOOK_EVERY_S)

    def is_due(self, now_s: float) -> bool:
        """Tell whether to renew now. An attempt that begins now has its time before the next one."""
        life = self._life()
        if life is None or now_s + _INSTANT_S < self._not_before_s:
            return False
        due = life.left_s <= life.total_s * self._due_share + _INSTANT_S
        if due:
            self._not_before_s = now_s + self._settings.settled_after_s
        return due

    def failed(self, retry_after_s: float = 0.0) -> None:
        """Note that it did not come about; the next attempt takes its time, and what the server asked for on top."""
        self.under_way = False
        self._failures += 1
        self._retry_after_s = min(retry_after_s, self._settings.retry_after_cap_s)

    def succeeded(self) -> None:
        """Note that the new certificate has logged in."""
        self._failures = 0
