"""How long a gateway waits before it tries again: the settings of the machine and one formula. Pure."""

import math
from collections.abc import Callable
from typing import Final

import msgspec

# 2**32 seconds is past any cap; a larger exponent would overflow after weeks of failures.
_MAX_DOUBLINGS: Final = 32


class MachineSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Times and limits of a gateway, shared by all machines of a swarm. All durations in seconds.

    `retry_after_cap_s` bounds what a server may ask for (a wrong reply must not silence a gateway for a year, P10).
    `settled_after_s`: being online for that long makes the next back-off start at `backoff_base_s` again.
    `heartbeat_s`: None sends none. `refusals_before_reprovisioning`: consecutive logins refused because of the
    credentials. Raises ValueError for a value that is not positive, or a cap below the base.
    """

    connect_timeout_s: float = 10.0
    reply_timeout_s: float = 10.0
    backoff_base_s: float = 1.0
    backoff_cap_s: float = 60.0
    retry_after_cap_s: float = 3600.0
    settled_after_s: float = 30.0
    keep_alive_s: int = 120
    heartbeat_s: float | None = 60.0
    refusals_before_reprovisioning: int = 3

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if value is not None and not (0 < value < math.inf):
                raise ValueError(f"{name} is {value}: it must be a positive, finite number")
        if self.backoff_cap_s < self.backoff_base_s:
            raise ValueError(f"backoff_cap_s ({self.backoff_cap_s}) is below backoff_base_s ({self.backoff_base_s})")
        if self.keep_alive_s > 65_535:
            raise ValueError(f"keep_alive_s is {self.keep_alive_s}: MQTT allows at most 65535")


def backoff_delay_s(attempt: int, retry_after_s: float, settings: MachineSettings, rng: Callable[[], float]) -> float:
    """Full jitter: anything between 0 and base * 2**attempt (at most the cap), on top of what the server asked for.

    On top of it, not at least it: a fleet that is told the same number must not come back in the same instant.
    """
    ceiling = min(settings.backoff_cap_s, settings.backoff_base_s * 2.0 ** min(attempt, _MAX_DOUBLINGS))
    return min(retry_after_s, settings.retry_after_cap_s) + rng() * ceiling
