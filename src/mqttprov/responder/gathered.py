"""What is gathered for a while, because it happens too often to be written each time. No clock and no store here.

Counts become audit events, one for all of a kind; devices in use become a mark in the store (`Device.last_seen_ms`).
Everything is bounded (P9).
"""

from collections.abc import Callable, Iterable
from typing import Final, Generic, TypeVar

from mqttprov.core.audit import Event, EventKind
from mqttprov.core.hygiene import is_fight
from mqttprov.core.login import Holder

MAX_LIMITED_SOURCES: Final = 1000
LIMITED_INTERVAL_S: Final = 10.0  # what a source was turned away with is told in one event for this long
MAX_FIGHTING: Final = 1000  # devices and sources
FIGHT_INTERVAL_S: Final = 60.0
SEEN_FLUSH_INTERVAL_S: Final = 10.0
SEEN_INTERVAL_MS: Final = 3_600_000  # a device that was marked within this time is not marked again
MAX_SEEN: Final = 100_000
SEEN_PER_JOB: Final = 500  # others wait no longer for the write lock than for a batch of requests

K = TypeVar("K")


class Counts(Generic[K]):
    """Counts by place, up to a bound; what is beyond it is counted in the place that `beyond` gives for it."""

    def __init__(self, most: int, beyond: Callable[[K], K]) -> None:
        self._most = most
        self._beyond = beyond
        self._counts: dict[K, int] = {}

    def add(self, place: K, count: int = 1) -> None:
        """Count so many more."""
        if place not in self._counts and len(self._counts) >= self._most:
            place = self._beyond(place)
        self._counts[place] = self._counts.get(place, 0) + count

    def take(self) -> dict[K, int]:
        """Give all counts and begin anew."""
        counts, self._counts = self._counts, {}
        return counts


class Takeovers:
    """Sessions that were taken over by a connection with the same client id, by device and by who took over.

    One is what a device does that lost its connection. Several in a minute are two that fight.
    """

    def __init__(self) -> None:
        self._counts: Counts[tuple[Holder, str | None]] = Counts(MAX_FIGHTING, lambda _: (_FURTHER, None))

    def add(self, holder: Holder, source: str) -> None:
        """Count a session that ended because another connection came from this source."""
        self._counts.add((holder, source))

    def take(self, now_ms: int) -> list[Event]:
        """Give an event for each device and source that fought, and begin anew."""
        counts = self._counts.take()
        totals: dict[str, int] = {}
        for (holder, _), count in counts.items():
            totals[holder.device_id] = totals.get(holder.device_id, 0) + count
        return [
            Event(
                EventKind.TAKEN_OVER,
                now_ms,
                "device",
                source=source,
                device=holder.device or None,
                device_id=holder.device_id or None,
                generation=holder.generation or None,
                count=count,
            )
            for (holder, source), count in counts.items()
            if is_fight(totals[holder.device_id])
        ]


_FURTHER: Final = Holder("", "", 0)


class SeenDevices:
    """Devices that are in use and not marked as such yet."""

    def __init__(self) -> None:
        self._ids: dict[str, None] = {}

    def add(self, device_ids: Iterable[str]) -> None:
        """Take note of devices; those beyond the bound are noted when they are met again."""
        for device_id in device_ids:
            if len(self._ids) >= MAX_SEEN:
                return
            self._ids[device_id] = None

    def take(self) -> list[str]:
        """Give some of them, which are to be marked now."""
        some = list(self._ids)[:SEEN_PER_JOB] if self._ids else []
        for device_id in some:
            del self._ids[device_id]
        return some
