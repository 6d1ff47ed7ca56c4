"""What the plan does to the target at its times: its faults with their ends, and what an operator does. In threads.

Each has a thread of its own, because a restart or a rotation takes its time and the run must go on meanwhile.
"""

import math
import threading
import time
from collections.abc import Callable
from functools import cached_property
from typing import Final

from mqttprov_simulator.report.result import Mark
from mqttprov_simulator.running.values import Broken, Promise
from mqttprov_simulator.scenario.drawing import DrawnGateway, acts, gateways
from mqttprov_simulator.scenario.model import Action, Scenario, TargetFault
from mqttprov_simulator.targets.actions import perform
from mqttprov_simulator.targets.target import Target, TargetError

_JOIN_TIMEOUT_S: Final = 60.0
_BY_ACTS: Final[frozenset[Promise]] = frozenset({"old-still-works", "not-online"})  # may rest on what operators did


class Interventions:
    """The target's faults and the operator's actions of one run."""

    def __init__(self, scenario: Scenario, target: Target) -> None:
        self._scenario: Final = scenario
        self._target: Final = target
        self._starts_at = 0.0
        self._over: Final = threading.Event()
        self._lock: Final = threading.Lock()
        self._marks: Final[list[Mark]] = []
        self._errors: Final[list[str]] = []
        self._going_on: Final[list[str]] = []
        self._missed: Final[dict[Action, tuple[float, frozenset[str]]]] = {}  # of those that are over: when, and whom
        self._threads: Final = [
            *(threading.Thread(target=self._fault, args=(fault,), daemon=True) for fault in scenario.target_faults),
            *(threading.Thread(target=self._action, args=(action,), daemon=True) for action in scenario.actions),
        ]

    def begin(self, starts_at: float) -> None:
        """Let the plan run from this Unix time on."""
        self._starts_at = starts_at
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        """End what still goes on (faults are healed), and wait for that."""
        self._over.set()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(_JOIN_TIMEOUT_S)
                if thread.is_alive():
                    self._fail(f"a fault or an action of the plan did not end within {_JOIN_TIMEOUT_S:.0f} s")

    def over_at_s(self, now_s: float) -> float:
        """Say until when it lasts at least: now, if something goes on or is to come, else when the last was over."""
        if any(thread.is_alive() for thread in self._threads):
            return now_s
        return max((mark.until_s for mark in self.marks()), default=0.0)

    def marks(self) -> tuple[Mark, ...]:
        """What was done, by time."""
        with self._lock:
            return tuple(sorted(self._marks, key=lambda mark: mark.at_s))

    def errors(self) -> tuple[str, ...]:
        """What could not be done."""
        with self._lock:
            return tuple(self._errors)

    def going_on(self) -> tuple[str, ...]:
        """Names of what goes on now."""
        with self._lock:
            return tuple(self._going_on)

    def excuse(self, broken: Broken) -> bool:
        """Whether it only says that a device is not as operators were to make it, and they had not by then.

        A slow target may not know a device when it is to be suspended: that it works on breaks no promise.
        """
        if broken.promise not in _BY_ACTS or not self._scenario.actions:
            return False
        drawn = self._drawn[broken.gateways[0]]
        with self._lock:
            for act in acts(self._scenario, drawn):
                over_at_s, missed = self._missed.get(act.action, (math.inf, frozenset()))
                if act.action.kind != "rotate-devices" and (broken.at_s < over_at_s or drawn.device in missed):
                    return True
        return False

    @cached_property
    def _drawn(self) -> dict[str, DrawnGateway]:
        return {drawn.gateway: drawn for drawn in gateways(self._scenario)}

    def _fault(self, fault: TargetFault) -> None:
        self._at(fault.at_s, fault.name or fault.kind, fault.kind, lambda: self._strike_and_heal(fault))

    def _strike_and_heal(self, fault: TargetFault) -> str:
        self._target.strike(fault)
        try:
            self._over.wait(fault.for_s)
        finally:
            self._target.heal(fault)
        return ""

    def _action(self, action: Action) -> None:
        self._at(action.at_s, action.name or action.kind, action.kind, lambda: self._act(action))

    def _act(self, action: Action) -> str:
        done = perform(action, self._scenario, self._target, began=self._starts_at, stopping=self._over)
        with self._lock:
            self._missed[action] = self._now_s(), done.missed
        not_done = "".join(f"; not {several}: {why}" for why, several in done.not_done.items())
        return f"{done.devices} devices{not_done}"

    def _at(self, at_s: float, name: str, kind: str, do: Callable[[], str]) -> None:
        """Do something at its time, unless the run is over before."""
        if self._over.wait(max(0.0, self._starts_at + at_s - time.time())):
            return
        began_s = self._now_s()
        with self._lock:
            self._going_on.append(name)
        came_of_it = ""
        try:
            came_of_it = do()
        except TargetError as error:
            self._fail(f"{name} at {at_s:g} s: {error}")
        except Exception as error:  # noqa: BLE001 - a thread's error would vanish; it is told with the result
            self._fail(f"{name} at {at_s:g} s: {type(error).__name__}: {error}")
        with self._lock:
            self._going_on.remove(name)
            self._marks.append(Mark(round(began_s, 3), round(self._now_s(), 3), name, kind, came_of_it))

    def _fail(self, text: str) -> None:
        with self._lock:
            self._errors.append(text)

    def _now_s(self) -> float:
        return time.time() - self._starts_at


def timed_marks(scenario: Scenario) -> list[Mark]:
    """Give the marks of the faults that strike gateways by time, as planned."""
    return [
        Mark(fault.at_s, fault.at_s + fault.spread_s + fault.for_s, fault.name or fault.kind, fault.kind)
        for fault in scenario.faults
        if fault.at_s is not None
    ]
