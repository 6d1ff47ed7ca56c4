"""Deadlines of many connections with one timer: a wheel of whole seconds. No asyncio, no sockets; time is an argument.

A connection that shows signs of life is not moved; it is looked at when its slot comes, and put back if it is not due.
So keeping ten thousand connections alive costs a few hundred looks a second, and a packet costs nothing.
"""

from typing import Final, Protocol

# Nothing waits longer than this for its next look, so what has ended is not remembered for hours (P9).
HORIZON_S: Final = 128


class HasDeadline(Protocol):
    """What the wheel watches. `slot` is the wheel's own note of where it stands; 0 for nowhere."""

    slot: int

    def deadline_s(self) -> float | None:
        """Give the time at which it is too late; None: never (any more)."""

    def expire(self) -> None:
        """It is too late."""


class DeadlineWheel:
    """Calls `expire` on what has passed its deadline, at most a second late."""

    def __init__(self, now_s: float) -> None:
        self._slots: dict[int, list[HasDeadline]] = {}
        self._turned_to = int(now_s)

    def watch(self, item: HasDeadline) -> None:
        """Begin to watch until `deadline_s` gives None. To be called again when a deadline comes nearer or begins."""
        deadline = item.deadline_s()
        if deadline is None:
            return
        slot = min(max(int(deadline), self._turned_to) + 1, self._turned_to + HORIZON_S)
        if item.slot > self._turned_to and item.slot <= slot:
            return  # it is looked at early enough
        item.slot = slot
        self._slots.setdefault(slot, []).append(item)

    def turn(self, now_s: float) -> None:
        """Look at everything whose slot has come; to be called about once a second."""
        now = int(now_s)
        for slot in range(self._turned_to + 1, now + 1):
            self._turned_to = slot
            for item in self._slots.pop(slot, ()):
                if item.slot != slot:
                    continue  # it was put into an earlier slot since
                item.slot = 0
                deadline = item.deadline_s()
                if deadline is not None and deadline <= now_s:
                    item.expire()
                else:
                    self.watch(item)
