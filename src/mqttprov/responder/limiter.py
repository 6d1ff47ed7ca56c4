"""Admission limits: they ration refused attempts, not volume (DESIGN 5.12). Pure: time is an argument.

A factory line of ten thousand gateways behind one address registers at full speed; somebody who guesses is locked out
by source address and by (source, key), never by key alone, or anyone could stop the line (security.md rule 8). Unknown
keys count like known ones. Volume is bounded by the pipeline's queue. The maps are bounded (P9): two generations, of
which the older is dropped when the younger is full.
"""

import ipaddress
from typing import Final

import msgspec

from mqttprov.core.requests import Reason, Refused, refused


class Limit(msgspec.Struct, frozen=True):
    """How many refused attempts may come at once, how many more each second, and how long a lock-out lasts."""

    burst: int
    per_second: float
    lockout_s: float


PER_SOURCE: Final = Limit(burst=200, per_second=2.0, lockout_s=60.0)
PER_SOURCE_AND_KEY: Final = Limit(burst=50, per_second=0.5, lockout_s=60.0)
MAX_TRACKED: Final = 50_000


class _Bucket(msgspec.Struct, gc=False):
    tokens: float
    at_s: float
    locked_until_s: float = 0.0


class Limiter:
    """Counts refused attempts and tells who has to wait."""

    def __init__(
        self,
        per_source: Limit = PER_SOURCE,
        per_source_and_key: Limit = PER_SOURCE_AND_KEY,
        max_tracked: int = MAX_TRACKED,
    ) -> None:
        self._limits = (per_source, per_source_and_key)
        self._max_tracked = max_tracked
        self._young: dict[tuple[str, str], _Bucket] = {}
        self._old: dict[tuple[str, str], _Bucket] = {}

    def wait_s(self, source: str, key: str, now_s: float) -> float:
        """Give how long this source must wait before an attempt with this key ("" for any) is looked at; 0: now."""
        bucket = self._find((source_group(source), key))
        return max(0.0, bucket.locked_until_s - now_s) if bucket else 0.0

    def refused(self, source: str, key: str, now_s: float) -> None:
        """Count an attempt that was refused without having proven a secret."""
        group = source_group(source)
        self._charge((group, ""), self._limits[0], now_s)
        if key:
            self._charge((group, key), self._limits[1], now_s)

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def _find(self, place: tuple[str, str]) -> _Bucket | None:
        return self._young.get(place) or self._old.get(place)

    def _charge(self, place: tuple[str, str], limit: Limit, now_s: float) -> None:
        bucket = self._find(place) or _Bucket(float(limit.burst), now_s)
        tokens = min(float(limit.burst), bucket.tokens + (now_s - bucket.at_s) * limit.per_second) - 1.0
        bucket.tokens, bucket.at_s = tokens, now_s
        if tokens <= 0.0 and bucket.locked_until_s <= now_s:
            bucket.locked_until_s = now_s + limit.lockout_s
            bucket.tokens = limit.burst / 2
        self._old.pop(place, None)
        self._young[place] = bucket
        if len(self._young) > self._max_tracked // 2:
            self._old, self._young = self._young, {}


class Ration(msgspec.Struct, frozen=True, gc=False):
    """What the limiter has to say of one attempt, asked where it is judged: of many that come at once as well."""

    limiter: Limiter
    source: str
    key: str
    now_s: float

    def wait_s(self) -> float:
        """Give how long it must wait before it is looked at; 0: it may be judged."""
        of_source = self.limiter.wait_s(self.source, "", self.now_s)
        return max(of_source, self.limiter.wait_s(self.source, self.key, self.now_s)) if self.key else of_source

    def refused(self) -> None:
        """Count it: it was refused without having proven a secret."""
        self.limiter.refused(self.source, self.key, self.now_s)


def turned_away(wait_s: float) -> Refused:
    """Give the outcome of an attempt that is not looked at, because so many from its source were refused."""
    return refused(Reason.LIMITED, "too many refused attempts", retry_after_s=int(wait_s) + 1)


def source_group(address: str) -> str:
    """Give what counts as one source: the address, or the /64 network of an IPv6 address (security.md SD-9).

    An IPv4 address stays one where a listener for both kinds writes it as IPv6 (RFC 4291 section 2.5.5.2): all of them
    are in one /64.
    """
    if ":" not in address:
        return address
    try:
        parsed = ipaddress.IPv6Address(address.partition("%")[0])
    except ValueError:
        return address
    return str(parsed.ipv4_mapped or ipaddress.IPv6Network((parsed, 64), strict=False))
