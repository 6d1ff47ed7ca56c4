"""A virtual gateway that things happen to: the faults of `scenario.model.KINDS`, each at its site.

A gateway without faults is a plain `VirtualGateway` and pays nothing for them. Where chance strikes is `Chances`'
matter, when time does the worker's; here is what a strike does. Power loss throws the machine away: what comes back is
a new one that knows what is stored, and nothing else (P10).
"""

import asyncio
from collections.abc import Callable
from time import monotonic
from typing import Any, ClassVar, Final, Protocol

import msgspec

from mqttprov.gateway import actions, events
from mqttprov.gateway.machine import REQUEST_TOPIC, RESPONSE_TOPIC
from mqttprov.gateway.transitions import State
from mqttprov_simulator.driver import Link, Route
from mqttprov_simulator.gateway_spec import GatewaySpec
from mqttprov_simulator.links import LateLink
from mqttprov_simulator.scenario.drawing import Chances
from mqttprov_simulator.scenario.model import GatewayFault
from mqttprov_simulator.virtual_gateway import VirtualGateway, Watcher

OFF: Final = "off"
_CUT: Final = "cut (fault)"


class StrikeWatcher(Watcher, Protocol):
    """A watcher that is told of strikes too."""

    def struck(self, gateway: "StruckGateway", fault: GatewayFault, now_s: float) -> None:
        """A fault struck, now."""


class StruckGateway(VirtualGateway):
    """A gateway with faults."""

    __slots__ = ("_armed_faults", "_chances", "_off", "_ready", "_skew_s", "_strikes", "_wrong_secret")

    def __init__(self, spec: GatewaySpec, watcher: StrikeWatcher, chances: Chances) -> None:
        self._off = False
        self._skew_s = 0.0
        self._wrong_secret = False
        self._chances: Final = chances
        self._strikes: Final = watcher
        self._armed_faults: list[GatewayFault] = []  # by time, waiting for their occasion
        self._ready: asyncio.TimerHandle | None = None  # power comes back
        super().__init__(spec, watcher)

    @property
    def state(self) -> str:
        """The machine's state; without power it has none."""
        return OFF if self._off else super().state

    @property
    def misled(self) -> bool:
        """Whether it knows a wrong secret, and nobody is going to set it right."""
        return self._wrong_secret and self._ready is None

    def clock_skew_s(self) -> float:
        """Give how wrong its clock is."""
        return self._skew_s

    def strike(self, fault: GatewayFault) -> None:
        """Take a fault by time: power loss at once, others as soon as the gateway comes to where they strike."""
        if fault.kind == "power-loss":
            if self.started_s and self._machine.state is not State.STOPPED:
                self._lose_power(fault)
            return
        self._armed_faults.append(fault)
        if fault.kind == "stalled-reader" and self.online:
            self._stall()

    def _occasion(self, kind: str) -> GatewayFault | None:
        """Give the fault that strikes here, if any."""
        fault = next((armed for armed in self._armed_faults if armed.kind == kind), None)
        if fault is not None:
            self._armed_faults.remove(fault)
        else:
            fault = self._chances.strikes(kind)
        if fault is not None:
            self._strikes.struck(self, fault, monotonic())
        return fault

    # --- switched on and off ---

    def start(self, planned_s: float, now_s: float) -> None:
        """Switch it on, with whatever is wrong with it then."""
        self._prepare()
        super().start(planned_s, now_s)

    def stop(self) -> None:
        """Switch it off in good order; one without power stays as it is."""
        if self._ready is not None:
            self._ready.cancel()
            self._ready = None
        if not self._off:
            super().stop()

    def _prepare(self) -> None:
        skew = self._occasion("clock-skew")
        self._skew_s = 0.0 if skew is None else skew.skew_s
        wrong = self._occasion("wrong-secret")
        self._wrong_secret = wrong is not None
        if wrong is not None:
            self._machine = self._new_machine(_with_wrong_secret(self.spec.request))
            if wrong.for_s:
                self._ready = self._loop.call_later(wrong.for_s, self._set_right)

    def _set_right(self) -> None:
        """Somebody corrects the secret, and switches it off and on for that."""
        self._ready = None
        if self._machine.state is not State.STOPPED:
            self._go_off()
            self._come_back()

    @property
    def _loop(self) -> asyncio.AbstractEventLoop:
        return self.spec.route.network.loop

    def _lose_power(self, fault: GatewayFault) -> None:
        self._strikes.struck(self, fault, monotonic())
        self._go_off()
        self._ready = self._loop.call_later(fault.for_s, self._come_back)

    def _go_off(self) -> None:
        """Nothing of it is left but what is stored."""
        link = self._let_go()
        if link is not None:
            link.abort()
        if self._ready is not None:
            self._ready.cancel()
            self._ready = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._armed = 0
        was_online, was_off = self.online, self._off
        states = self._watcher.states
        if not was_off:
            states[self.state] -= 1
            self._off = True
            states[OFF] += 1
        self._machine = self._new_machine(self.spec.request)
        if was_online:
            self._watcher.went_offline(self, monotonic())

    def _come_back(self) -> None:
        self._ready = None
        disk, folder = self.spec.kind.disk, self.spec.folder
        if disk is None or folder is None:
            self._switch_on(self.stored, None)
        else:
            machine = self._machine
            disk.read(folder, lambda: self._machine is machine, self._switch_on)

    def _switch_on(self, stored: bytes | None, _error: str | None) -> None:
        self.stored = stored
        self._prepare()
        states = self._watcher.states
        states[OFF] -= 1
        self._off = False
        states[self.state] += 1
        self._handle(events.Started(stored))

    # --- sites ---

    def connected(self) -> None:
        """Take CONNACK 0, unless the connection is cut now."""
        if self._machine.state is State.CONNECTING_TO_PROVISION and self._occasion("cut-before-request"):
            self._cut()
        else:
            super().connected()

    def _cut(self) -> None:
        link = self._let_go()
        if link is not None:
            link.abort()
        self._watcher.lost(self, _CUT)
        self._handle(events.ConnectionLost(_CUT))

    def message(self, topic: str, payload: bytes) -> None:
        """Take a message; a reply may be lost on its last inch."""
        awaited = self._machine.state is State.AWAITING_REPLY
        if topic == RESPONSE_TOPIC and awaited and self._occasion("reply-lost"):
            self._watcher.replied(self, payload, awaited=True)
            self._cut()
        else:
            super().message(topic, payload)

    def _publish(self, action: actions.Publish, _now_s: float) -> events.Event | None:
        super()._publish(action, _now_s)
        if action.topic != REQUEST_TOPIC or not self._occasion("cut-after-request"):
            return None
        link = self._let_go()
        if link is not None:
            link.cut()
        self._watcher.lost(self, _CUT)
        return events.ConnectionLost(_CUT)

    def _open(self, action: actions.Connect) -> Link:
        late = None if self.spec.kind.own_topics else self._occasion("latency")
        if late is None:
            return super()._open(action)
        return LateLink(self, action, self._route_of(action), late.for_s)

    def _route_of(self, action: actions.Connect) -> Route:
        lonely = self.spec.lonely_route
        return lonely if self._wrong_secret and lonely is not None else super()._route_of(action)

    def _note_state(self, action: actions.StateChanged, now_s: float) -> events.Event | None:
        event = super()._note_state(action, now_s)
        if action.new == State.ONLINE.value:
            self._stall()
        return event

    def _stall(self) -> None:
        fault = self._occasion("stalled-reader")
        if fault is not None and self._link is not None:
            self._link.stall(fault.for_s)

    def _save(self, action: actions.SaveCredentials, now_s: float) -> events.Event | None:
        power = self._occasion("power-loss")
        if power is not None:
            self._go_off()
            self._ready = self._loop.call_later(power.for_s, self._come_back)
            return None
        failed = self._occasion("failed-save")
        slow = self._occasion("slow-save")
        if slow is None:
            return self._end_of_save(action, now_s, failed)
        machine = self._machine

        def later() -> None:
            if self._machine is machine:
                event = self._end_of_save(action, monotonic(), failed)
                if event is not None:
                    self._handle(event)

        self._loop.call_later(slow.for_s, later)
        return None

    def _end_of_save(
        self, action: actions.SaveCredentials, now_s: float, failed: GatewayFault | None
    ) -> events.Event | None:
        if failed is not None:
            return events.CredentialsSaveFailed("no space left on device (fault)")
        return super()._save(action, now_s)

    _CARRY_OUT: ClassVar[dict[type[actions.Action], Callable[[Any, Any, float], events.Event | None]]] = {
        **VirtualGateway._CARRY_OUT,  # noqa: SLF001 - of the class it extends
        actions.StateChanged: _note_state,
        actions.Publish: _publish,
        actions.SaveCredentials: _save,
    }


def _with_wrong_secret(request: bytes) -> bytes:
    """Give a request with another secret of the same length."""
    members: dict[str, Any] = msgspec.json.decode(request)
    secret = str(members["provisionDeviceSecret"])
    members["provisionDeviceSecret"] = ("x" if secret[:1] != "x" else "y") + secret[1:]
    return msgspec.json.encode(members)
