"""The gateway's state machine: the one and only, for real gateways, the swarm and virtual time.

Pure: time comes in as `now_s`, chance as `rng`, everything else as an event; what is to be done goes out as actions
that the driver carries out in order. All state is in memory; what survives a power cut is what SaveCredentials wrote
(P10). How the states hang together is data in `transitions`.

The rules it keeps:
- the provision request is the same, byte for byte, at every attempt (P4: same proof, same answer);
- credentials are saved first and used afterwards, never the other way round: a login makes them the newest generation,
  and what is lost then in a power cut cannot be had again under every reprovision policy;
- stored credentials are given up only for others that are saved, or when an operator orders it; refused ones are tried
  in turn with provisioning, so that a suspended device that is resumed comes back without a person.
"""

from collections.abc import Callable
from typing import Any, Final

import msgspec

from mqttprov.gateway.actions import (
    Action,
    CancelTimer,
    Connect,
    Disconnect,
    Publish,
    RemoveCredentials,
    SaveCredentials,
    SetTimer,
    StateChanged,
    Stopped,
    Subscribe,
)
from mqttprov.gateway.backoff import MachineSettings, backoff_delay_s
from mqttprov.gateway.events import (
    ConnectFailed,
    ConnectionLost,
    ConnectRefused,
    ConnectSucceeded,
    CredentialsRemoved,
    CredentialsRemoveFailed,
    CredentialsSaved,
    CredentialsSaveFailed,
    Event,
    EventType,
    MessageReceived,
    PublishAcknowledged,
    Started,
    StopRequested,
    TimerFired,
)
from mqttprov.gateway.replies import UNUSABLE, Refusal, parse_reply, printable
from mqttprov.gateway.rpc import (
    ATTRIBUTES_TOPIC,
    PING_METHOD,
    PONG,
    REMOVE_METHOD,
    REMOVED,
    RPC_REQUEST_FILTER,
    TELEMETRY_TOPIC,
    RpcCall,
    not_removed,
    parse_call,
    unsupported,
)
from mqttprov.gateway.transitions import IGNORED, TRANSITIONS, State

REQUEST_TOPIC: Final = "/provision/request"
RESPONSE_TOPIC: Final = "/provision/response"
# MQTT 5 reason codes that speak of the credentials: client id, user name or password, authorisation, ban, method.
# Server unavailable, busy, quota, moved and the like say nothing about them.
CREDENTIAL_REFUSALS: Final = frozenset({0x85, 0x86, 0x87, 0x8A, 0x8C})
_REMOVAL_ANSWER_TIMEOUT_S: Final = 2.0
_REMOVAL_TOKEN: Final = 1

# The user name marks the session, no password is looked at (reference/thingsboard.md rule 2); 60 s as the vendor's.
_CONNECT_TO_PROVISION: Final = Connect("provisioning", "", "provision", None, 60, 4, False)
_SUBSCRIBE_TO_REPLY: Final = Subscribe((RESPONSE_TOPIC,))
_SUBSCRIBE_ONLINE: Final = Subscribe((RPC_REQUEST_FILTER, ATTRIBUTES_TOPIC))
_DISCONNECT: Final = Disconnect()
# Stands for "none", so that every place that holds a login or something to save holds one type.
_NO_LOGIN: Final = Connect("operational", "", None, None, 0, 5, False)
_NOTHING: Final = SaveCredentials(b"")


class MachineError(RuntimeError):
    """The driver or the transition table is wrong: an event of an unknown kind, or a step that the table denies."""


class GatewayMachine:
    """One gateway from power-on to StopRequested.

    `request` is the whole provision request (`requests.encode_request`). `rng` gives numbers in [0, 1) for the
    back-off; gateways may share it. `has_client_certificate`: the driver can present one, so X509_CERTIFICATE
    credentials are usable.
    """

    __slots__ = (
        "_armed",
        "_attempt",
        "_has_client_certificate",
        "_heartbeats",
        "_last_timer",
        "_online_since_s",
        "_refusals",
        "_removal",
        "_request",
        "_rng",
        "_settings",
        "_stored",
        "_unsaved",
        "_unsaved_login",
        "state",
    )

    def __init__(
        self,
        request: bytes,
        settings: MachineSettings,
        *,
        rng: Callable[[], float],
        has_client_certificate: bool = False,
    ) -> None:
        self._request: Final = Publish(REQUEST_TOPIC, request, 1)
        self._settings: Final = settings
        self._rng: Final = rng
        self._has_client_certificate: Final = has_client_certificate
        self.state = State.NEW
        self._stored = _NO_LOGIN  # how to log in with what the credentials file holds
        self._unsaved = _NOTHING  # what the file shall hold ...
        self._unsaved_login = _NO_LOGIN  # ... and how to log in with it
        self._removal: RpcCall | None = None
        self._attempt = 0  # failures since the gateway was last online for a while
        self._refusals = 0  # consecutive ones, of the stored credentials
        self._armed = 0  # number of the armed timer, 0 for none
        self._last_timer = 0
        self._heartbeats = 0
        self._online_since_s = 0.0

    def handle(self, event: Event, now_s: float) -> list[Action]:
        """Take one event and say what is to be done, in this order. `now_s` is any clock that never goes back.

        Raises MachineError for a value that is no event, or if a handler breaks the transition table.
        """
        kind = type(event)
        before = self.state
        step = _STEPS.get((before, kind))
        if step is None:
            if (before, kind) in IGNORED:
                return []
            raise MachineError(f"state {before} has no rule for {kind.__name__}: add one to gateway.transitions")
        if isinstance(event, TimerFired):
            if event.timer != self._armed:  # cancelled or replaced while it was on its way
                return []
            self._armed = 0
        handler, next_states = step
        actions: list[Action] = handler(self, event, now_s)
        if self.state not in next_states:
            raise MachineError(f"{before} + {kind.__name__} led to {self.state}, which gateway.transitions denies")
        return actions

    # Provisioning

    def _start(self, event: Started, now_s: float) -> list[Action]:
        if event.stored is None:
            return self._connect_to_provision("no credentials are stored")
        login = self._login(event.stored)
        if isinstance(login, Refusal):
            return self._connect_to_provision(f"the stored credentials are not usable: {login.message}")
        self._stored = login
        return self._connect("credentials are stored")

    def _login(self, reply: bytes) -> Connect | Refusal:
        result = parse_reply(reply)
        if isinstance(result, Refusal):
            return result
        by_certificate = result.type == "X509_CERTIFICATE"
        if by_certificate and not self._has_client_certificate:
            return Refusal(UNUSABLE, "X509_CERTIFICATE, but this gateway has no certificate to show")
        keep_alive_s = self._settings.keep_alive_s
        return Connect(
            "operational", result.client_id, result.username, result.password, keep_alive_s, 5, by_certificate
        )

    def _provision_again(self, event: TimerFired, now_s: float) -> list[Action]:
        return self._connect_to_provision("back-off is over")

    def _connect_to_provision(self, why: str) -> list[Action]:
        actions = self._enter(State.CONNECTING_TO_PROVISION, why, self._settings.connect_timeout_s)
        actions.append(_CONNECT_TO_PROVISION)
        return actions

    def _send_request(self, event: ConnectSucceeded, now_s: float) -> list[Action]:
        actions = self._enter(State.AWAITING_REPLY, "provision request sent", self._settings.reply_timeout_s)
        # Not waiting for the SUBACK: the reply is addressed to this connection, subscribed or not.
        actions += (_SUBSCRIBE_TO_REPLY, self._request)
        return actions

    def _take_reply(self, event: MessageReceived, now_s: float) -> list[Action]:
        if event.topic != RESPONSE_TOPIC:
            return []
        login = self._login(event.payload)
        if isinstance(login, Refusal):
            why = f"provisioning refused: {login.status}, {login.message}"
            return self._provisioning_failed(why, login.retry_after_s, connected=True)
        self._unsaved, self._unsaved_login = SaveCredentials(event.payload), login
        actions = self._enter(State.SAVING, "credentials received")
        actions.append(self._unsaved)
        return actions

    def _provisioning_refused(self, event: ConnectRefused, now_s: float) -> list[Action]:
        return self._provisioning_failed(f"provisioning login refused with reason code 0x{event.reason_code:02X}")

    def _provisioning_lost(self, event: ConnectFailed | ConnectionLost, now_s: float) -> list[Action]:
        return self._provisioning_failed(f"no provisioning connection: {printable(event.text)}")

    def _provisioning_timed_out(self, event: TimerFired, now_s: float) -> list[Action]:
        awaited = "reply" if self.state is State.AWAITING_REPLY else "CONNACK"
        return self._provisioning_failed(f"no {awaited} in time while provisioning", connected=True)

    def _provisioning_failed(self, why: str, retry_after_s: float = 0.0, *, connected: bool = False) -> list[Action]:
        # Make before break: as long as there are credentials in store they get their turn, refused or not (P10).
        state = State.WAITING_TO_PROVISION if self._stored is _NO_LOGIN else State.WAITING_TO_CONNECT
        return self._back_off(state, why, retry_after_s, connected=connected)

    # Saving

    def _use_saved(self, event: CredentialsSaved, now_s: float) -> list[Action]:
        self._stored, self._refusals = self._unsaved_login, 0
        self._unsaved, self._unsaved_login = _NOTHING, _NO_LOGIN
        actions: list[Action] = [_DISCONNECT]
        return actions + self._connect("credentials are saved")

    def _save_failed(self, event: CredentialsSaveFailed, now_s: float) -> list[Action]:
        why = f"could not save the credentials: {printable(event.text)}"
        return self._back_off(State.WAITING_TO_SAVE, why, connected=True)

    def _save_again(self, event: TimerFired, now_s: float) -> list[Action]:
        actions = self._enter(State.SAVING, "back-off is over")
        actions.append(self._unsaved)
        return actions

    # Logging in

    def _connect_again(self, event: TimerFired, now_s: float) -> list[Action]:
        return self._connect("back-off is over")

    def _connect(self, why: str) -> list[Action]:
        actions = self._enter(State.CONNECTING, why, self._settings.connect_timeout_s)
        actions.append(self._stored)
        return actions

    def _connect_refused(self, event: ConnectRefused, now_s: float) -> list[Action]:
        why = f"login refused with reason code 0x{event.reason_code:02X}"
        if event.reason_code not in CREDENTIAL_REFUSALS:
            return self._back_off(State.WAITING_TO_CONNECT, why)
        self._refusals += 1
        if self._refusals < self._settings.refusals_before_reprovisioning:
            return self._back_off(State.WAITING_TO_CONNECT, why)
        return self._back_off(State.WAITING_TO_PROVISION, f"{why}, {self._refusals} times")

    def _connect_lost(self, event: ConnectFailed | ConnectionLost, now_s: float) -> list[Action]:
        return self._back_off(State.WAITING_TO_CONNECT, f"no connection: {printable(event.text)}")

    def _connect_timed_out(self, event: TimerFired, now_s: float) -> list[Action]:
        return self._back_off(State.WAITING_TO_CONNECT, "no CONNACK in time", connected=True)

    # Online

    def _go_online(self, event: ConnectSucceeded, now_s: float) -> list[Action]:
        self._refusals = 0
        self._online_since_s = now_s
        actions = self._enter(State.ONLINE, "logged in", self._settings.heartbeat_s)
        actions.append(_SUBSCRIBE_ONLINE)
        return actions

    def _online_lost(self, event: ConnectionLost, now_s: float) -> list[Action]:
        self._note_settled(now_s)
        return self._back_off(State.WAITING_TO_CONNECT, f"connection lost: {printable(event.text)}")

    def _note_settled(self, now_s: float) -> None:
        # Only a connection that held: one that is taken over or thrown out at once must not be retried every second.
        if now_s - self._online_since_s >= self._settings.settled_after_s:
            self._attempt = 0

    def _heartbeat(self, event: TimerFired, now_s: float) -> list[Action]:
        every_s = self._settings.heartbeat_s
        if every_s is None:
            return []
        self._heartbeats += 1
        payload = msgspec.json.encode({"heartbeat": self._heartbeats})
        return [Publish(TELEMETRY_TOPIC, payload, 1), self._arm(every_s)]

    def _take_message(self, event: MessageReceived, now_s: float) -> list[Action]:
        call = parse_call(event.topic, event.payload)
        if call is None:
            return []
        if call.method == PING_METHOD:
            return [Publish(call.response_topic, PONG, 1)]
        if call.method != REMOVE_METHOD:
            return [Publish(call.response_topic, unsupported(call.method), 1)]
        self._removal = call
        self._note_settled(now_s)
        actions = self._enter(State.REMOVING, "told to remove the stored credentials")
        actions.append(RemoveCredentials())
        return actions

    # Removing the stored credentials; _removal is None once there is no connection to answer on

    def _nobody_to_answer(self, event: ConnectionLost, now_s: float) -> list[Action]:
        self._removal = None
        return []

    def _removed(self, event: CredentialsRemoved, now_s: float) -> list[Action]:
        call, self._removal = self._removal, None
        self._stored, self._refusals = _NO_LOGIN, 0
        if call is None:
            return self._connect_to_provision("stored credentials removed")
        actions = self._enter(State.ANSWERING_REMOVAL, "stored credentials removed", _REMOVAL_ANSWER_TIMEOUT_S)
        actions.append(Publish(call.response_topic, REMOVED, 1, _REMOVAL_TOKEN))
        return actions

    def _remove_failed(self, event: CredentialsRemoveFailed, now_s: float) -> list[Action]:
        call, self._removal = self._removal, None
        reason = printable(event.text)
        if call is None:
            return self._back_off(State.WAITING_TO_CONNECT, f"could not remove the stored credentials: {reason}")
        actions = self._enter(
            State.ONLINE, f"could not remove the stored credentials: {reason}", self._settings.heartbeat_s
        )
        actions.append(Publish(call.response_topic, not_removed(reason), 1))
        return actions

    def _removal_answered(self, event: PublishAcknowledged | ConnectionLost | TimerFired, now_s: float) -> list[Action]:
        actions: list[Action] = [_DISCONNECT]
        return actions + self._connect_to_provision("removal answered")

    # Steps that all of them share

    def _stop(self, event: StopRequested, now_s: float) -> list[Action]:
        actions = self._enter(State.STOPPED, "asked to stop")
        actions += (_DISCONNECT, Stopped())
        return actions

    def _back_off(self, state: State, why: str, retry_after_s: float = 0.0, *, connected: bool = False) -> list[Action]:
        delay_s = backoff_delay_s(self._attempt, retry_after_s, self._settings, self._rng)
        self._attempt += 1
        actions = self._enter(state, why, delay_s)
        if connected:
            actions.append(_DISCONNECT)
        return actions

    def _enter(self, state: State, why: str, timer_s: float | None = None) -> list[Action]:
        """Change the state; the old state's timer ends with it, `timer_s` arms the new one's."""
        actions: list[Action] = [StateChanged(self.state, state, why)]
        self.state = state
        if timer_s is not None:
            actions.append(self._arm(timer_s))
        elif self._armed:
            actions.append(CancelTimer(self._armed))
            self._armed = 0
        return actions

    def _arm(self, delay_s: float) -> SetTimer:
        self._last_timer += 1
        self._armed = self._last_timer
        return SetTimer(self._armed, delay_s)


_Handler = Callable[[GatewayMachine, Any, float], list[Action]]
_STEPS: Final[dict[tuple[State, EventType], tuple[_Handler, tuple[State, ...]]]] = {
    key: (getattr(GatewayMachine, row.handler), row.next_states) for key, row in TRANSITIONS.items()
}
