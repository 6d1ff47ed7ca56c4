"""What happened in each second of a run, as it goes on."""

from collections import Counter
from collections.abc import Sequence
from typing import Final

import msgspec

from mqttprov_simulator.running.values import Second


class Seconds:
    """The running second and those that have ended. Times are seconds since the planned start."""

    def __init__(self, planned_s: Sequence[float], states: Counter[str]) -> None:
        """`planned_s`: all arrivals, ascending. `states`: gateways by state, as they are at any time."""
        self._planned_s: Final = planned_s
        self._states: Final = states
        self._next = 0
        self.running = Second(at_s=0)
        self._closed: list[Second] = []

    def roll(self, at_s: float) -> Second:
        """Close what is over by now, and give the running second."""
        while self.running.at_s + 1 <= at_s:
            self._take_stock(self.running.at_s + 1.0)
            self._closed.append(self.running)
            self.running = Second(at_s=self.running.at_s + 1)
        return self.running

    def take_closed(self) -> tuple[Second, ...]:
        """Give those that have ended since the last call."""
        closed, self._closed = tuple(self._closed), []
        return closed

    def snapshot(self, at_s: float) -> Second:
        """Give the running second so far."""
        self._take_stock(at_s)
        running = self.running
        return msgspec.structs.replace(
            running, latency=dict(running.latency), login=dict(running.login), strikes=dict(running.strikes)
        )

    def _take_stock(self, until_s: float) -> None:
        planned_s = self._planned_s
        while self._next < len(planned_s) and planned_s[self._next] < until_s:
            self._next += 1
            self.running.due += 1
        self.running.states = {state: count for state, count in self._states.items() if count}
