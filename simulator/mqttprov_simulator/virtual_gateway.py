"""One virtual gateway: `gateway.machine` with a credentials file, a timer of the loop and one connection.

It carries out the machine's actions, reports its events and tells a watcher; it decides nothing but when its part in
the run is over. What goes wrong with a gateway on purpose is `struck_gateway`'s.
"""

import asyncio
from collections import Counter
from collections.abc import Callable
from time import monotonic
from typing import Any, ClassVar, Final, Protocol

import msgspec

from mqttprov.gateway import actions, events
from mqttprov.gateway.machine import RESPONSE_TOPIC, GatewayMachine
from mqttprov.gateway.replies import Refusal, parse_reply
from mqttprov.gateway.rpc import ATTRIBUTES_TOPIC
from mqttprov.gateway.transitions import State
from mqttprov.mqtt import ReasonCode
from mqttprov_simulator.driver import Link, Route
from mqttprov_simulator.gateway_spec import GatewaySpec
from mqttprov_simulator.links import OwnTopicsLink

_ONLINE: Final = State.ONLINE.value
# Where a machine goes from AWAITING_REPLY when the reply held no credentials.
_REFUSED: Final = frozenset({State.WAITING_TO_PROVISION, State.WAITING_TO_CONNECT})
# What a timer that fires in one of these states has waited for in vain.
_AWAITED: Final = {
    State.CONNECTING_TO_PROVISION: "CONNACK",
    State.CONNECTING: "CONNACK",
    State.AWAITING_REPLY: "reply",
}
_CONNECT_SUCCEEDED: Final = events.ConnectSucceeded()
_CREDENTIALS_SAVED: Final = events.CredentialsSaved()
_FIRST_TOKEN: Final = 2  # the machine's own is below
_REASONS: Final = {int(code): code.name for code in ReasonCode}


class Watcher(Protocol):
    """Who is told what gateways do. `states`: gateways by state, which they keep themselves."""

    states: Counter[str]

    def came_online(self, gateway: "VirtualGateway", now_s: float, *, first: bool) -> None:
        """A gateway has logged in with what it was issued; `first`: so far it had not."""

    def went_offline(self, gateway: "VirtualGateway", now_s: float) -> None:
        """It is not online any more."""

    def replied(self, gateway: "VirtualGateway", payload: bytes, *, awaited: bool) -> None:
        """A message came on the reply topic, which it waits for or not. It has not looked at it yet."""

    def logs_in(self, gateway: "VirtualGateway") -> None:
        """It connects with its stored credentials."""

    def heard(self, gateway: "VirtualGateway", payload: bytes) -> None:
        """A message came on the topic of its attributes."""

    def refused(self, gateway: "VirtualGateway", reason: str) -> None:
        """A refusing reply (its status) or CONNACK (by name) came."""

    def login_refused(self, gateway: "VirtualGateway", reason_code: int) -> None:
        """The broker said no to its stored credentials."""

    def lost(self, gateway: "VirtualGateway", reason: str) -> None:
        """A connection ended, or was waited for in vain."""

    def acknowledged(self, gateway: "VirtualGateway", token: int) -> None:
        """The PUBACK for what was published with `say`."""

    def unacknowledged(self, gateway: "VirtualGateway", token: int) -> None:
        """There will be none: its connection is over."""

    def gave_up(self, gateway: "VirtualGateway") -> None:
        """It has ended, after as many refusals as its kind takes."""


class VirtualGateway:
    """A gateway from `start` to `stop`. `registered` once it has been online with credentials that it was issued.

    `stored` is what its credentials file holds: it outlives connections, brokers and power cuts, and ends with the run.
    """

    __slots__ = (
        "_armed",
        "_due_s",
        "_link",
        "_machine",
        "_refusals",
        "_timer",
        "_wakes_s",
        "_watcher",
        "connect_s",
        "planned_s",
        "refused",
        "registered",
        "spec",
        "started_s",
        "stored",
    )

    def __init__(self, spec: GatewaySpec, watcher: Watcher) -> None:
        self.spec: Final = spec
        self._watcher: Final = watcher
        self._machine = self._new_machine(spec.request)
        self._link: Link | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._armed = 0  # number of the machine's timer, 0 for none
        self._due_s = 0.0
        self._wakes_s = 0.0
        self._refusals = 0
        self.planned_s = 0.0
        self.started_s = 0.0  # 0.0: not yet
        self.connect_s = 0.0  # when it began to connect with stored credentials
        self.stored: bytes | None = None
        self.registered = False
        self.refused: str | None = None
        watcher.states[self.state] += 1

    def _new_machine(self, request: bytes) -> GatewayMachine:
        spec = self.spec
        return GatewayMachine(
            request,
            spec.kind.settings,
            rng=spec.chance,
            has_client_certificate=spec.certified_route is not None,
        )

    @property
    def state(self) -> str:
        """The machine's state."""
        return self._machine.state.value

    @property
    def online(self) -> bool:
        """Whether it is connected with the stored credentials."""
        return self._machine.state is State.ONLINE

    @property
    def owed(self) -> tuple[int, ...]:
        """The tokens of what it has said and nobody has acknowledged."""
        return () if self._link is None else self._link.unacknowledged

    def clock_skew_s(self) -> float:
        """Give how wrong its clock is."""
        return 0.0

    def start(self, planned_s: float, now_s: float) -> None:
        """Switch it on; its latency counts from `planned_s`."""
        self.planned_s, self.started_s = planned_s, now_s
        self._handle(events.Started(self.stored))

    def stop(self) -> None:
        """Switch it off in good order."""
        self._handle(events.StopRequested())

    def keep_alive(self, now_s: float) -> None:
        """Let its connection look at the time."""
        if self._link is not None:
            self._link.keep_alive(now_s)

    def say(self, topic: str, payload: bytes, token: int) -> None:
        """Publish with QoS 1 while it is online. `token`: 2 or more, as the machine has tokens of its own."""
        if self._link is not None:
            self._link.publish(actions.Publish(topic, payload, 1, token))
            self._link.flush()

    # --- driver.Owner ---

    def connected(self) -> None:
        """Take CONNACK 0."""
        self._take(_CONNECT_SUCCEEDED)

    def refused_login(self, reason_code: int, *, said: bool = True) -> None:
        """Take another CONNACK."""
        self._link = None
        self._watcher.refused(self, f"CONNACK {_REASONS.get(reason_code, reason_code)}")
        if said and self._machine.state is State.CONNECTING:
            self._watcher.login_refused(self, reason_code)
        self._handle(events.ConnectRefused(reason_code))

    def message(self, topic: str, payload: bytes) -> None:
        """Take a message; a provision reply that refuses is counted, and may be the last straw."""
        if topic != RESPONSE_TOPIC:
            if topic == ATTRIBUTES_TOPIC:
                self._watcher.heard(self, payload)
            self._take(events.MessageReceived(topic, payload))
            return
        awaited = self._machine.state is State.AWAITING_REPLY
        self._watcher.replied(self, payload, awaited=awaited)
        self._take(events.MessageReceived(topic, payload))
        if awaited and self._machine.state in _REFUSED:
            self._count_refusal(payload)

    def acknowledged(self, token: int) -> None:
        """Take a PUBACK."""
        if token >= _FIRST_TOKEN:
            self._watcher.acknowledged(self, token)
        else:
            self._take(events.PublishAcknowledged(token))

    def not_connected(self, why: str) -> None:
        """Take a failure to connect."""
        self._link = None
        self._watcher.lost(self, why)
        self._handle(events.ConnectFailed(why))

    def lost(self, why: str) -> None:
        """Take the end of a connection."""
        self._let_go()
        self._watcher.lost(self, why)
        self._handle(events.ConnectionLost(why))

    def _let_go(self) -> Link | None:
        """Forget the connection, and what it owes."""
        link, self._link = self._link, None
        if link is not None:
            for token in link.unacknowledged:
                if token >= _FIRST_TOKEN:
                    self._watcher.unacknowledged(self, token)
        return link

    def _count_refusal(self, payload: bytes) -> None:
        reply = parse_reply(payload)
        # A reply of good credentials that this gateway cannot use (X.509) is unusable to it as well.
        self.refused = reply.status if isinstance(reply, Refusal) else "UNUSABLE"
        self._watcher.refused(self, self.refused)
        self._refusals += 1
        if self._refusals == self.spec.kind.gives_up_after and not self.registered:
            self.stop()
            self._watcher.gave_up(self)

    # --- the machine ---

    def _handle(self, event: events.Event) -> None:
        """Take an event that did not come from the connection, and write what it leads to."""
        self._take(event)
        if self._link is not None:
            self._link.flush()

    def _take(self, event: events.Event) -> None:
        now_s, carry_out = monotonic(), self._CARRY_OUT
        queue = [event]
        for current in queue:
            for action in self._machine.handle(current, now_s):
                follow_up = carry_out[type(action)](self, action, now_s)
                if follow_up is not None:
                    queue.append(follow_up)

    # What the machine asks for; each gives the event that it leads to at once, if any.

    def _note_state(self, action: actions.StateChanged, now_s: float) -> events.Event | None:
        watcher = self._watcher
        states = watcher.states
        states[action.old] -= 1
        states[action.new] += 1
        if action.old == _ONLINE:
            watcher.went_offline(self, now_s)
        if action.new != _ONLINE:
            return None
        first = not self.registered
        self.registered = True
        watcher.came_online(self, now_s, first=first)
        return None if self.spec.kind.stays else events.StopRequested()

    def _connect(self, action: actions.Connect, now_s: float) -> None:
        if self._link is not None:
            self._close_link()
        if action.role == "operational":
            self.connect_s = now_s
            self._watcher.logs_in(self)
            if action.version != self.spec.kind.version:
                action = msgspec.structs.replace(action, version=self.spec.kind.version)
        self._link = self._open(action)

    def _open(self, action: actions.Connect) -> Link:
        if self.spec.kind.own_topics:
            session_id = f"swarm-{self.spec.number}"
            return OwnTopicsLink(self, action, self._route_of(action), self.stored, session_id)
        return Link(self, action, self._route_of(action))

    def _route_of(self, action: actions.Connect) -> Route:
        certified = self.spec.certified_route
        return self.spec.route if certified is None or not action.use_client_certificate else certified

    def _subscribe(self, action: actions.Subscribe, _now_s: float) -> None:
        if self._link is not None:
            self._link.subscribe(action)

    def _publish(self, action: actions.Publish, _now_s: float) -> events.Event | None:
        if self._link is not None:
            self._link.publish(action)
        return None

    def _disconnect(self, _action: actions.Disconnect, _now_s: float) -> None:
        self._close_link()

    def _save(self, action: actions.SaveCredentials, _now_s: float) -> events.Event | None:
        disk, folder = self.spec.kind.disk, self.spec.folder
        if disk is None or folder is None:
            self.stored = action.content
            return _CREDENTIALS_SAVED
        machine = self._machine
        disk.save(folder, action.content, lambda: self._machine is machine, self._saved)
        return None

    def _saved(self, content: bytes | None, error: str | None) -> None:
        """Take the end of a save or removal on disk."""
        if error is None:
            self.stored = content
            self._handle(events.CredentialsRemoved() if content is None else events.CredentialsSaved())
        elif self._machine.state is State.REMOVING:
            self._handle(events.CredentialsRemoveFailed(error))
        else:
            self._handle(events.CredentialsSaveFailed(error))

    def _remove(self, _action: actions.RemoveCredentials, _now_s: float) -> events.Event | None:
        disk, folder = self.spec.kind.disk, self.spec.folder
        if disk is None or folder is None:
            self.stored = None
            return events.CredentialsRemoved()
        machine = self._machine
        disk.remove(folder, lambda: self._machine is machine, self._saved)
        return None

    def _set_timer(self, action: actions.SetTimer, now_s: float) -> None:
        # Timers of the loop are dear, and nearly all are replaced by later ones: one that wakes early is kept.
        self._due_s, self._armed = now_s + action.delay_s, action.timer
        if self._timer is None or self._wakes_s > self._due_s:
            self._sleep(now_s)

    def _sleep(self, now_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._wakes_s = self._due_s
        self._timer = self.spec.route.network.loop.call_later(self._due_s - now_s, self._wake)

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
            self._watcher.lost(self, f"no {_AWAITED[state]} in time")
        self._handle(events.TimerFired(timer))

    def _cancel_timer(self, _action: actions.CancelTimer, _now_s: float) -> None:
        self._armed = 0

    def _stopped(self, _action: actions.Stopped, _now_s: float) -> None:
        self._armed = 0
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _close_link(self) -> None:
        link = self._let_go()
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
