"""A log-linear histogram of whole microseconds: cheap to record, to merge and to keep as JSON. Nothing else lives here.

Values up to 255 are exact; above, 128 buckets per power of two, so a percentile is at most 1/128 too high and never too
low (reference/simulation.md section 6).
"""

import math
from collections.abc import Iterable
from typing import Self

Buckets = dict[int, int]  # bucket -> count, as JSON keeps it


def count_in(buckets: Buckets, value_us: int) -> None:
    """Count a value in bare buckets, for those who only collect; one below 0 (a clock's rounding) counts as 0."""
    if value_us < 256:
        bucket = max(value_us, 0)
    else:
        shift = value_us.bit_length() - 8
        bucket = (shift << 8) + (value_us >> shift)
    buckets[bucket] = buckets.get(bucket, 0) + 1


class Histogram:
    """Counts of values in microseconds."""

    __slots__ = ("_buckets", "count", "max_us")

    def __init__(self) -> None:
        self.count = 0
        self.max_us = 0
        self._buckets: dict[int, int] = {}

    def record(self, value_us: int) -> None:
        """Count a value; one below 0 (a clock's rounding) counts as 0."""
        value_us = max(value_us, 0)
        shift = value_us.bit_length() - 8
        bucket = value_us if shift <= 0 else (shift << 8) + (value_us >> shift)
        self._buckets[bucket] = self._buckets.get(bucket, 0) + 1
        self.count += 1
        self.max_us = max(self.max_us, value_us)

    def percentile(self, percent: float) -> int | None:
        """Give the value in microseconds that `percent` (0 to 100) of the values do not exceed; None without values.

        Raises ValueError for a percentage that is none.
        """
        if not 0 <= percent <= 100:
            raise ValueError(f"{percent} is no percentage: give 0 to 100")
        if not self.count:
            return None
        rank = max(1, math.ceil(self.count * percent / 100))
        bucket = 0
        for bucket in sorted(self._buckets):
            rank -= self._buckets[bucket]
            if rank <= 0:
                break
        return min(highest_of(bucket), self.max_us)

    def percentile_ms(self, percent: float) -> float | None:
        """Give `percentile` in milliseconds, for people."""
        value_us = self.percentile(percent)
        return None if value_us is None else value_us / 1000

    @property
    def max_ms(self) -> float | None:
        """The largest value, exact; None without values."""
        return self.max_us / 1000 if self.count else None

    @classmethod
    def merged(cls, parts: Iterable["Histogram"]) -> Self:
        """Make one histogram of several: as if all their values had been recorded in it."""
        whole = cls()
        for part in parts:
            for bucket, count in part._buckets.items():  # noqa: SLF001 - of this same class
                whole._buckets[bucket] = whole._buckets.get(bucket, 0) + count
            whole.count += part.count
            whole.max_us = max(whole.max_us, part.max_us)
        return whole

    @property
    def buckets(self) -> Buckets:
        """The count of each bucket in use, as results keep it."""
        return dict(self._buckets)

    @classmethod
    def of(cls, buckets: Buckets) -> Self:
        """Give the histogram of these buckets; its largest value is the upper end of the highest bucket.

        Raises ValueError for buckets that none can have.
        """
        if any(bucket < 0 or count < 1 for bucket, count in buckets.items()):
            raise ValueError("not a histogram: a bucket below 0, or a count below 1")
        histogram = cls()
        histogram._buckets = dict(buckets)
        histogram.count = sum(buckets.values())
        histogram.max_us = highest_of(max(buckets)) if buckets else 0
        return histogram

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Histogram) and (self.max_us, self._buckets) == (other.max_us, other._buckets)

    __hash__ = None  # type: ignore[assignment]  # it changes with every record


def highest_of(bucket: int) -> int:
    """Give the largest value in microseconds that a bucket holds."""
    shift = bucket >> 8
    return ((bucket & 0xFF) + 1 << shift) - 1
