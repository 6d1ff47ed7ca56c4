"""One virtual gateway: `gateway.machine` with a credentials file in memory, a timer of the loop and one connection.

It carries out the machine's actions and reports its events; it decides nothing but when its part in the run is over.
"""

import asyncio
from collections.abc import Callable
from time import monotonic
from typing import Any, ClassVar, Final

from mqttprov.gateway import actions, events
from mqttprov.gateway.machine import RESPONSE_TOPIC, GatewayMachine
from mqttprov.gateway.replies import Refusal, parse_reply
from mqttprov.gateway.requests import encode_request
from mqttprov.gateway.transitions import State
from mqttprov.mqtt import ReasonCode
from mqttprov_simulator.chance import ChanceStream
from mqttprov_simulator.driver import Link, Network
from mqttprov_simulator.plan import SwarmPlan
from mqttprov_simulator.results import GatewayRecord
from mqttprov_simulator.tally import Tally

_ONLINE: Final = State.ONLINE.value
# Where a machine goes from AWAITING_REPLY when the reply held no credentials.
_REFUSED: Final = frozenset({State.WAITING_TO_PROVISION, State.WAITING_TO_CONNECT})
# What a timer that fires in one of these states has waited for in vain.
_AWAITED: Final = {
    State.CONNECTING_TO_PROVISION: "CONNACK",
    State.CONNECTING: "CONNACK",
    State.AWAITING_REPLY: "reply",
}
_REASONS: Final = {int(code): code.name for code in ReasonCode}


class MemoryFile:
    """The credentials file of a virtual gateway: it outlives connections and brokers, and ends with the run."""

    __slots__ = ("content",)

    def __init__(self) -> None:
        self.content: bytes | None = None


class Fleet:
    """What the gateways of one run share: the plan, the way to the broker, the counts, and who waits for them."""

    def __init__(self, plan: SwarmPlan, network: Network, tally: Tally, on_settled: Callable[[], None]) -> None:
        """`on_settled` is called when a gateway is no longer in flight: registered for the first time, or given up."""
        self.plan: Final = plan
        self.network: Final = network
        self.tally: Final = tally
        self.online = 0
        self.settled = 0
        self.changed: Final = asyncio.Event()  # set when the fleet becomes complete
        self._on_settled: Final = on_settled

    @property
    def complete(self) -> bool:
        """Whether all gateways have settled and, if they are to stay connected, all but those given up are online."""
        gateways = self.plan.gateways
        reached = self.online + self.tally.gave_up if self.plan.stay_connected else self.settled
        return reached == gateways == self.settled

    def note(self, online: int, settled: int) -> None:
        """Count a change: gateways that came (1) or went (-1) online, and one that has settled."""
        self.online += online
        self.settled += settled
        if self.complete:
            self.changed.set()
        if settled:
            self._on_settled()


class VirtualGateway:
    """A gateway from `start` to `stop`. `registered` once it has been online with credentials that it was issued."""

    __slots__ = (
        "_armed",
        "_due_s",
        "_fleet",
        "_index",
        "_link",
        "_machine",
        "_planned_s",
        "_refusals",
        "_started_s",
        "_timer",
        "_wakes_s",
        "file",
        "gave_up",
        "refused",
        "registered",
    )

    def __init__(self, index: int, fleet: Fleet) -> None:
        self._fleet: Final = fleet
        self._index: Final = index
        self._machine: Final = GatewayMachine(
            encode_request(fleet.plan.request(index)),
            fleet.plan.machine,
            rng=ChanceStream(fleet.plan.seed, index),
        )
        self._link: Link | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._armed = 0  # number of the machine's timer, 0 for none
        self._due_s = 0.0
        self._wakes_s = 0.0
        self._planned_s = 0.0
        self._started_s = 0.0
        self._refusals = 0
        self.file: Final = MemoryFile()
        self.registered = False
        self.gave_up = False
        self.refused: str | None = None
        fleet.tally.states[self.state] += 1

    @property
    def state(self) -> str:
        """The machine's state."""
        return self._machine.state.value

    def record(self) -> GatewayRecord:
        """Write down how it stands."""
        name = self._fleet.plan.device_name(self._index)
        return GatewayRecord(name, self.state, self.registered, self.file.content, self.refused)

    def start(self, planned_s: float, now_s: float) -> None:
        """Switch it on; its latency counts from `planned_s`."""
        self._planned_s, self._started_s = planned_s, now_s
        self._handle(events.Started(self.file.content))

    def stop(self) -> None:
        """Switch it off in good order."""
        self._handle(events.StopRequested())

    def keep_alive(self, now_s: float) -> None:
        """Let its connection look at the time."""
        if self._link is not None:
            self._link.keep_alive(now_s)

    # --- driver.Owner ---

    def connected(self) -> None:
        """Take CONNACK 0."""
        self._handle(events.ConnectSucceeded())

    def refused_login(self, reason_code: int) -> None:
        """Take another CONNACK."""
        self._link = None
        self._fleet.tally.refusals[f"CONNACK {_REASONS.get(reason_code, reason_code)}"] += 1
        self._handle(events.ConnectRefused(reason_code))

    def message(self, topic: str, payload: bytes) -> None:
        """Take a message; a provision reply that refuses is counted, and may be the last straw."""
        awaited = topic == RESPONSE_TOPIC and self._machine.state is State.AWAITING_REPLY
        self._handle(events.MessageReceived(topic, payload))
        if awaited and self._machine.state in _REFUSED:
            self._count_refusal(payload)

    def acknowledged(self, token: int) -> None:
        """Take a PUBACK."""
        self._handle(events.PublishAcknowledged(token))

    def not_connected(self, why: str) -> None:
        """Take a failure to connect."""
        self._link = None
        self._fleet.tally.lost_connections[why] += 1
        self._handle(events.ConnectFailed(why))

    def lost(self, why: str) -> None:
        """Take the end of a connection."""
        self._link = None
        self._fleet.tally.lost_connections[why] += 1
        self._handle(events.ConnectionLost(why))

    def _count_refusal(self, payload: bytes) -> None:
        reply = parse_reply(payload)
        # A reply of good credentials that this gateway cannot use (X.509) is unusable to it as well.
        self.refused = reply.status if isinstance(reply, Refusal) else "UNUSABLE"
        self._fleet.tally.refusals[self.refused] += 1
        self._refusals += 1
        if self._refusals == self._fleet.plan.give_up_after_refusals and not self.registered:
            self.gave_up = True
            self.stop()
            self._fleet.tally.gave_up += 1
            self._fleet.note(online=0, settled=1)

    # --- the machine ---

    def _handle(self, event: events.Event) -> None:
        now_s = monotonic()
        queue = [event]
        for current in queue:
            for action in self._machine.handle(current, now_s):
                follow_up = self._CARRY_OUT[type(action)](self, action, now_s)
                if follow_up is not None:
                    queue.append(follow_up)
        if self._link is not None:
            self._link.flush()

    # What the machine asks for; each gives the event that it leads to at once, if any.

    def _note_state(self, action: actions.StateChanged, now_s: float) -> events.Event | None:
        fleet = self._fleet
        fleet.tally.states[action.old] -= 1
        fleet.tally.states[action.new] += 1
        if action.old == _ONLINE:
            fleet.note(online=-1, settled=0)
        if action.new != _ONLINE:
            return None
        first = not self.registered
        if first:
            self.registered = True
            fleet.tally.register(self._planned_s, self._started_s, now_s)
        fleet.note(online=1, settled=int(first))
        return None if fleet.plan.stay_connected else events.StopRequested()

    def _connect(self, action: actions.Connect, _now_s: float) -> None:
        self._close_link()
        fleet = self._fleet
        self._link = Link(self, action, fleet.network, fleet.plan.source_address(self._index))

    def _subscribe(self, action: actions.Subscribe, _now_s: float) -> None:
        if self._link is not None:
            self._link.subscribe(action)

    def _publish(self, action: actions.Publish, _now_s: float) -> None:
        if self._link is not None:
            self._link.publish(action)

    def _disconnect(self, _action: actions.Disconnect, _now_s: float) -> None:
        self._close_link()

    def _save(self, action: actions.SaveCredentials, _now_s: float) -> events.Event:
        self.file.content = action.content
        return events.CredentialsSaved()

    def _remove(self, _action: actions.RemoveCredentials, _now_s: float) -> events.Event:
        self.file.content = None
        return events.CredentialsRemoved()

    def _set_timer(self, action: actions.SetTimer, now_s: float) -> None:
        # Timers of the loop are dear, and nearly all are replaced by later ones: one that wakes early is kept.
        self._due_s, self._armed = now_s + action.delay_s, action.timer
        if self._timer is None or self._wakes_s > self._due_s:
            self._sleep(now_s)

    def _sleep(self, now_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._wakes_s = self._due_s
        self._timer = self._fleet.network.loop.call_later(self._due_s - now_s, self._wake)

    def _wake(self) -> None:
        self._timer = None
        if not self._armed:
            return
        now_s = monotonic()
        if now_s < self._due_s:
            self._sleep(now_s)
            return
        timer, self._armed = self._armed, 0
        state = self._machine.state
        if state in _AWAITED:
            self._fleet.tally.lost_connections[f"no {_AWAITED[state]} in time"] += 1
        self._handle(events.TimerFired(timer))

    def _cancel_timer(self, _action: actions.CancelTimer, _now_s: float) -> None:
        self._armed = 0

    def _stopped(self, _action: actions.Stopped, _now_s: float) -> None:
        self._armed = 0
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _close_link(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            link.close()

    _CARRY_OUT: ClassVar[dict[type[actions.Action], Callable[[Any, Any, float], events.Event | None]]] = {
        actions.StateChanged: _note_state,
        actions.SetTimer: _set_timer,
        actions.CancelTimer: _cancel_timer,
        actions.Connect: _connect,
        actions.Subscribe: _subscribe,
        actions.Publish: _publish,
        actions.Disconnect: _disconnect,
        actions.SaveCredentials: _save,
        actions.RemoveCredentials: _remove,
        actions.Stopped: _stopped,
    }
