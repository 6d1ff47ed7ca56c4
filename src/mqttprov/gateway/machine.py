"""The gateway's state machine: the one and only, for real gateways, the swarm and virtual time.

Pure: time comes in as `now_s`, chance as `rng`, everything else as an event; what is to be done goes out as actions
that the driver carries out in order. All state is in memory; what survives a power cut is what SaveCredentials wrote
(P10). How the states hang together is data in `transitions`.

The rules it keeps:
- the provision request is the same, byte for byte, at every attempt (P4: same proof, same answer);
- credentials are saved first and used afterwards, never the other way round: a login makes them the newest generation,
  and what is lost then in a power cut cannot be had again under every reprovision policy;
- stored credentials are given up only for others that are saved, or when an operator orders it; refused ones are tried
  in turn with provisioning, so that a suspended device that is resumed comes back without a person;
- a certificate is renewed before it runs out, and the old credentials stay stored until the new ones have logged in.
"""

from collections.abc import Callable
from typing import Any, Final

import msgspec

from mqttprov.gateway import actions as a
from mqttprov.gateway import events as e
from mqttprov.gateway import rpc
from mqttprov.gateway.backoff import MachineSettings, backoff_delay_s
from mqttprov.gateway.logins import NO_LOGIN, TO_PROVISION, login_of
from mqttprov.gateway.renewal import Life, Renewal
from mqttprov.gateway.replies import Refusal, printable
from mqttprov.gateway.transitions import IGNORED, TRANSITIONS, State

REQUEST_TOPIC: Final = "/provision/request"
RESPONSE_TOPIC: Final = "/provision/response"
# MQTT 5 reason codes that speak of the credentials: client id, user name or password, authorisation, ban, method.
# Server unavailable, busy, quota, moved and the like say nothing about them.
CREDENTIAL_REFUSALS: Final = frozenset({0x85, 0x86, 0x87, 0x8A, 0x8C})
_REMOVAL_ANSWER_TIMEOUT_S: Final = 2.0
_REMOVAL_TOKEN: Final = 1

_SUBSCRIBE_TO_REPLY: Final = a.Subscribe((RESPONSE_TOPIC,))
_SUBSCRIBE_ONLINE: Final = a.Subscribe((rpc.RPC_REQUEST_FILTER, rpc.ATTRIBUTES_TOPIC))
_DISCONNECT: Final = a.Disconnect()
_NOTHING: Final = a.SaveCredentials(b"")


class MachineError(RuntimeError):
    """The driver or the transition table is wrong: an event of an unknown kind, or a step that the table denies."""


class GatewayMachine:
    """One gateway from power-on to StopRequested.

    `request` is the whole provision request (`requests.encode_request`). `rng` gives numbers in [0, 1) for the
    back-off; gateways may share it. `has_client_certificate`: the driver can present one, so X509_CERTIFICATE
    credentials are usable. `life` tells what is left, by the device's own clock, of the certificate that is stored,
    None if there is none that runs out.
    """

    __slots__ = (
        "_armed",
        "_attempt",
        "_has_client_certificate",
        "_heartbeat_at_s",
        "_heartbeats",
        "_last_timer",
        "_online_since_s",
        "_refusals",
        "_removal",
        "_renewal",
        "_renewed",
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
        life: Callable[[], Life | None] = lambda: None,
    ) -> None:
        self._request = a.Publish(REQUEST_TOPIC, request, 1)
        self._settings: Final = settings
        self._rng: Final = rng
        self._has_client_certificate: Final = has_client_certificate
        self.state = State.NEW
        self._stored = NO_LOGIN  # how to log in with what the credentials file holds
        self._renewed = NO_LOGIN  # how to log in with what was saved beside it and has not logged in yet
        self._renewal: Final = Renewal(life, settings, rng)
        self._unsaved = _NOTHING  # what the file shall hold ...
        self._unsaved_login = NO_LOGIN  # ... and how to log in with it
        self._removal: rpc.RpcCall | None = None
        self._attempt = 0  # failures since the gateway was last online for a while
        self._refusals = 0  # consecutive ones, of the stored credentials
        self._armed = 0  # number of the armed timer, 0 for none
        self._last_timer = 0
        self._heartbeats = 0
        self._heartbeat_at_s = 0.0
        self._online_since_s = 0.0

    def handle(self, event: e.Event, now_s: float) -> list[a.Action]:
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
        if isinstance(event, e.TimerFired):
            if event.timer != self._armed:  # cancelled or replaced while it was on its way
                return []
            self._armed = 0
        handler, next_states = step
        actions: list[a.Action] = handler(self, event, now_s)
        if self.state not in next_states:
            raise MachineError(f"{before} + {kind.__name__} led to {self.state}, which gateway.transitions denies")
        return actions

    # Provisioning

    def _start(self, event: e.Started, now_s: float) -> list[a.Action]:
        renewed = NO_LOGIN if event.renewed is None else self._login(event.renewed, renewed=True)
        if not isinstance(renewed, Refusal):
            self._renewed = renewed
        login = None if event.stored is None else self._login(event.stored)
        if login is not None and not isinstance(login, Refusal):
            self._stored = login
        if self._renewed is not NO_LOGIN:
            return self._connect("renewed credentials are stored")
        if isinstance(login, Refusal):
            return self._connect_to_provision(f"the stored credentials are not usable: {login.message}")
        if login is None:
            return self._connect_to_provision("no credentials are stored")
        if self._renewal.has_run_out():
            return self._connect_to_provision("the stored certificate has run out")
        return self._connect("credentials are stored")

    def _login(self, reply: bytes, *, renewed: bool = False) -> a.Connect | Refusal:
        can_show = self._has_client_certificate
        return login_of(reply, self._settings.keep_alive_s, has_client_certificate=can_show, renewed=renewed)

    def _provision_again(self, event: e.TimerFired, now_s: float) -> list[a.Action]:
        return self._connect_to_provision("back-off is over")

    def _connect_to_provision(self, why: str) -> list[a.Action]:
        actions = self._enter(State.CONNECTING_TO_PROVISION, why, self._settings.connect_timeout_s)
        actions.append(TO_PROVISION)
        return actions

    def _send_request(self, event: e.ConnectSucceeded, now_s: float) -> list[a.Action]:
        actions = self._enter(State.AWAITING_REPLY, "provision request sent", self._settings.reply_timeout_s)
        # Not waiting for the SUBACK: the reply is addressed to this connection, subscribed or not.
        actions += (_SUBSCRIBE_TO_REPLY, self._request)
        return actions

    def _take_reply(self, event: e.MessageReceived, now_s: float) -> list[a.Action]:
        if event.topic != RESPONSE_TOPIC:
            return []
        renewing = self._renewal.under_way
        login = self._login(event.payload, renewed=renewing)
        if isinstance(login, Refusal):
            why = f"provisioning refused: {login.status}, {login.message}"
            return self._provisioning_failed(why, login.retry_after_s, connected=True)
        self._unsaved, self._unsaved_login = a.SaveCredentials(event.payload, renewing), login
        actions = self._enter(State.SAVING, "credentials received")
        actions.append(self._unsaved)
        return actions

    def _provisioning_refused(self, event: e.ConnectRefused, now_s: float) -> list[a.Action]:
        return self._provisioning_failed(f"provisioning login refused with reason code 0x{event.reason_code:02X}")

    def _provisioning_lost(self, event: e.ConnectFailed | e.ConnectionLost, now_s: float) -> list[a.Action]:
        return self._provisioning_failed(f"no provisioning connection: {printable(event.text)}")

    def _provisioning_timed_out(self, event: e.TimerFired, now_s: float) -> list[a.Action]:
        awaited = "reply" if self.state is State.AWAITING_REPLY else "CONNACK"
        return self._provisioning_failed(f"no {awaited} in time while provisioning", connected=True)

    def _provisioning_failed(self, why: str, retry_after_s: float = 0.0, *, connected: bool = False) -> list[a.Action]:
        if self._renewal.under_way:
            self._renewal.failed(retry_after_s)
            retry_after_s = 0.0  # it is for the next request; until then there is something to do
        # Make before break: as long as there are credentials in store they get their turn, refused or not (P10).
        state = State.WAITING_TO_PROVISION if self._stored is NO_LOGIN else State.WAITING_TO_CONNECT
        return self._back_off(state, why, retry_after_s, connected=connected)

    # Saving

    def _use_saved(self, event: e.CredentialsSaved, now_s: float) -> list[a.Action]:
        if self._renewal.under_way:
            self._renewed, self._renewal.under_way = self._unsaved_login, False
        else:
            self._stored = self._unsaved_login
        self._refusals = 0
        self._unsaved, self._unsaved_login = _NOTHING, NO_LOGIN
        actions: list[a.Action] = [_DISCONNECT]
        return actions + self._connect("credentials are saved")

    def _save_failed(self, event: e.CredentialsSaveFailed, now_s: float) -> list[a.Action]:
        why = f"could not save the credentials: {printable(event.text)}"
        if self._renewal.under_way:
            self._unsaved, self._unsaved_login = _NOTHING, NO_LOGIN
            return self._provisioning_failed(why, connected=True)
        return self._back_off(State.WAITING_TO_SAVE, why, connected=True)

    def _unusable(self, event: e.CredentialsUnusable, now_s: float) -> list[a.Action]:
        self._unsaved, self._unsaved_login = _NOTHING, NO_LOGIN
        return self._provisioning_failed(f"the credentials are not usable: {printable(event.text)}", connected=True)

    def _save_again(self, event: e.TimerFired, now_s: float) -> list[a.Action]:
        actions = self._enter(State.SAVING, "back-off is over")
        actions.append(self._unsaved)
        return actions

    # Logging in

    def _connect_again(self, event: e.TimerFired, now_s: float) -> list[a.Action]:
        return self._connect("back-off is over")

    def _connect(self, why: str) -> list[a.Action]:
        actions = self._enter(State.CONNECTING, why, self._settings.connect_timeout_s)
        actions.append(self._stored if self._renewed is NO_LOGIN else self._renewed)
        return actions

    def _connect_refused(self, event: e.ConnectRefused, now_s: float) -> list[a.Action]:
        why = f"login refused with reason code 0x{event.reason_code:02X}"
        if event.reason_code not in CREDENTIAL_REFUSALS:
            return self._back_off(State.WAITING_TO_CONNECT, why)
        self._refusals += 1
        if self._refusals < self._settings.refusals_before_reprovisioning:
            return self._back_off(State.WAITING_TO_CONNECT, why)
        if self._renewed is not NO_LOGIN and self._stored is not NO_LOGIN:
            self._renewed, self._refusals = NO_LOGIN, 0
            self._renewal.failed()
            return self._back_off(State.WAITING_TO_CONNECT, f"{why}: back to the credentials before the renewal")
        return self._back_off(State.WAITING_TO_PROVISION, f"{why}, {self._refusals} times")

    def _connect_lost(self, event: e.ConnectFailed | e.ConnectionLost, now_s: float) -> list[a.Action]:
        return self._back_off(State.WAITING_TO_CONNECT, f"no connection: {printable(event.text)}")

    def _connect_timed_out(self, event: e.TimerFired, now_s: float) -> list[a.Action]:
        return self._back_off(State.WAITING_TO_CONNECT, "no CONNACK in time", connected=True)

    # Online

    def _go_online(self, event: e.ConnectSucceeded, now_s: float) -> list[a.Action]:
        self._refusals = 0
        self._online_since_s = now_s
        self._renewal.online(now_s)
        actions = self._enter(State.ONLINE, "logged in", self._next_look_s(now_s, from_now=True))
        if self._renewed is not NO_LOGIN:
            self._stored, self._renewed = msgspec.structs.replace(self._renewed, renewed=False), NO_LOGIN
            self._renewal.succeeded()
            actions.append(a.AdoptRenewed())
        actions.append(_SUBSCRIBE_ONLINE)
        return actions

    def _next_look_s(self, now_s: float, *, from_now: bool = False) -> float | None:
        """Give the time until the next heartbeat or renewal; None: there is neither."""
        every_s, renewal_s = self._settings.heartbeat_s, self._renewal.next_look_s(now_s)
        if every_s is None:
            return renewal_s
        if from_now:
            self._heartbeat_at_s = now_s + every_s
        until_heartbeat_s = max(0.0, self._heartbeat_at_s - now_s)
        return until_heartbeat_s if renewal_s is None else min(until_heartbeat_s, renewal_s)

    def _online_lost(self, event: e.ConnectionLost, now_s: float) -> list[a.Action]:
        self._note_settled(now_s)
        return self._back_off(State.WAITING_TO_CONNECT, f"connection lost: {printable(event.text)}")

    def _note_settled(self, now_s: float) -> None:
        # Only a connection that held: one that is taken over or thrown out at once must not be retried every second.
        if now_s - self._online_since_s >= self._settings.settled_after_s:
            self._attempt = 0

    def _look_at_the_time(self, event: e.TimerFired, now_s: float) -> list[a.Action]:
        actions: list[a.Action] = []
        every_s = self._settings.heartbeat_s
        if every_s is not None and now_s >= self._heartbeat_at_s:
            self._heartbeats += 1
            self._heartbeat_at_s = now_s + every_s
            actions.append(a.Publish(rpc.TELEMETRY_TOPIC, msgspec.json.encode({"heartbeat": self._heartbeats}), 1))
        if self._renewal.is_due(now_s):
            actions.append(a.MakeRequest(self._renewal.new_key))
        look_s = self._next_look_s(now_s)
        return actions if look_s is None else [*actions, self._arm(look_s)]

    def _renew(self, event: e.RequestMade, now_s: float) -> list[a.Action]:
        self._request = a.Publish(REQUEST_TOPIC, event.request, 1)
        self._renewal.under_way = True
        self._note_settled(now_s)
        actions: list[a.Action] = [_DISCONNECT]
        return actions + self._connect_to_provision("the certificate runs out: asking for a new one")

    def _renewal_not_begun(self, event: e.RequestNotMade, now_s: float) -> list[a.Action]:
        self._renewal.failed()
        self._renewal.online(now_s)
        return []

    def _take_message(self, event: e.MessageReceived, now_s: float) -> list[a.Action]:
        call = rpc.parse_call(event.topic, event.payload)
        if call is None:
            return []
        if call.method == rpc.PING_METHOD:
            return [a.Publish(call.response_topic, rpc.PONG, 1)]
        if call.method != rpc.REMOVE_METHOD:
            return [a.Publish(call.response_topic, rpc.unsupported(call.method), 1)]
        self._removal = call
        self._note_settled(now_s)
        actions = self._enter(State.REMOVING, "told to remove the stored credentials")
        actions.append(a.RemoveCredentials())
        return actions

    # Removing the stored credentials; _removal is None once there is no connection to answer on

    def _nobody_to_answer(self, event: e.ConnectionLost, now_s: float) -> list[a.Action]:
        self._removal = None
        return []

    def _removed(self, event: e.CredentialsRemoved, now_s: float) -> list[a.Action]:
        call, self._removal = self._removal, None
        self._stored, self._renewed, self._refusals = NO_LOGIN, NO_LOGIN, 0
        if call is None:
            return self._connect_to_provision("stored credentials removed")
        actions = self._enter(State.ANSWERING_REMOVAL, "stored credentials removed", _REMOVAL_ANSWER_TIMEOUT_S)
        actions.append(a.Publish(call.response_topic, rpc.REMOVED, 1, _REMOVAL_TOKEN))
        return actions

    def _remove_failed(self, event: e.CredentialsRemoveFailed, now_s: float) -> list[a.Action]:
        call, self._removal = self._removal, None
        reason = printable(event.text)
        if call is None:
            return self._back_off(State.WAITING_TO_CONNECT, f"could not remove the stored credentials: {reason}")
        actions = self._enter(
            State.ONLINE,
            f"could not remove the stored credentials: {reason}",
            self._next_look_s(now_s, from_now=True),
        )
        actions.append(a.Publish(call.response_topic, rpc.not_removed(reason), 1))
        return actions

    def _removal_answered(
        self, event: e.PublishAcknowledged | e.ConnectionLost | e.TimerFired, now_s: float
    ) -> list[a.Action]:
        actions: list[a.Action] = [_DISCONNECT]
        return actions + self._connect_to_provision("removal answered")

    # Steps that all of them share

    def _stop(self, event: e.StopRequested, now_s: float) -> list[a.Action]:
        actions = self._enter(State.STOPPED, "asked to stop")
        actions += (_DISCONNECT, a.Stopped())
        return actions

    def _back_off(
        self, state: State, why: str, retry_after_s: float = 0.0, *, connected: bool = False
    ) -> list[a.Action]:
        delay_s = backoff_delay_s(self._attempt, retry_after_s, self._settings, self._rng)
        self._attempt += 1
        actions = self._enter(state, why, delay_s)
        if connected:
            actions.append(_DISCONNECT)
        return actions

    def _enter(self, state: State, why: str, timer_s: float | None = None) -> list[a.Action]:
        """Change the state; the old state's timer ends with it, `timer_s` arms the new one's."""
        actions: list[a.Action] = [a.StateChanged(self.state, state, why)]
        self.state = state
        if timer_s is not None:
            actions.append(self._arm(timer_s))
        elif self._armed:
            actions.append(a.CancelTimer(self._armed))
            self._armed = 0
        return actions

    def _arm(self, delay_s: float) -> a.SetTimer:
        self._last_timer += 1
        self._armed = self._last_timer
        return a.SetTimer(self._armed, delay_s)


_Handler = Callable[[GatewayMachine, Any, float], list[a.Action]]
_STEPS: Final[dict[tuple[State, e.EventType], tuple[_Handler, tuple[State, ...]]]] = {
    key: (getattr(GatewayMachine, row.handler), row.next_states) for key, row in TRANSITIONS.items()
}
