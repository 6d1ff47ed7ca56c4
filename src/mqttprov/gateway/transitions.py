"""The states of a gateway and the table of what may lead where, as data.

`machine` dispatches by this table and `diagram` draws docs/gateway-machine.md from it. No behaviour lives here. Every
pair of a state and an event type is either in TRANSITIONS or, with the reason, in IGNORED.
"""

from collections.abc import Iterable
from enum import StrEnum
from typing import Final

import msgspec

from mqttprov.gateway import events
from mqttprov.gateway.events import EVENT_TYPES, EventType


class State(StrEnum):
    """Where a gateway is; MEANINGS says what each one is."""

    NEW = "new"
    CONNECTING_TO_PROVISION = "connecting_to_provision"
    AWAITING_REPLY = "awaiting_reply"
    SAVING = "saving"
    WAITING_TO_SAVE = "waiting_to_save"
    WAITING_TO_PROVISION = "waiting_to_provision"
    CONNECTING = "connecting"
    WAITING_TO_CONNECT = "waiting_to_connect"
    ONLINE = "online"
    REMOVING = "removing"
    ANSWERING_REMOVAL = "answering_removal"
    STOPPED = "stopped"


MEANINGS: Final[dict[State, str]] = {
    State.NEW: "made, not started",
    State.CONNECTING_TO_PROVISION: "CONNECT as `provision` sent, CONNACK due",
    State.AWAITING_REPLY: "provision request sent, reply due",
    State.SAVING: "reply is good, credentials are being saved",
    State.WAITING_TO_SAVE: "saving failed, back-off; the credentials are only in memory and not used",
    State.WAITING_TO_PROVISION: "back-off before the next provision request",
    State.CONNECTING: "CONNECT with the stored credentials sent, CONNACK due",
    State.WAITING_TO_CONNECT: "back-off before the next CONNECT with the stored credentials",
    State.ONLINE: "connected with the stored credentials",
    State.REMOVING: "told to remove the stored credentials, removal under way",
    State.ANSWERING_REMOVAL: "removed; the RPC answer is sent, its PUBACK due",
    State.STOPPED: "ended in good order",
}


class Transition(msgspec.Struct, frozen=True):
    """What `GatewayMachine` method handles the event, and the states it may leave the machine in."""

    handler: str
    next_states: tuple[State, ...]


def _rows() -> dict[tuple[State, EventType], Transition]:
    s, e = State, events
    failed_connect = (s.WAITING_TO_CONNECT, s.WAITING_TO_PROVISION)
    # With credentials in store a failed provisioning goes back to them; without, it can only try again.
    failed_provisioning = (s.WAITING_TO_PROVISION, s.WAITING_TO_CONNECT)
    again, to_provision = (s.CONNECTING,), (s.CONNECTING_TO_PROVISION,)
    table: dict[tuple[State, EventType], Transition] = {
        (s.NEW, e.Started): Transition("_start", again + to_provision),
        (s.CONNECTING_TO_PROVISION, e.ConnectSucceeded): Transition("_send_request", (s.AWAITING_REPLY,)),
        (s.CONNECTING_TO_PROVISION, e.ConnectRefused): Transition("_provisioning_refused", failed_provisioning),
        (s.CONNECTING_TO_PROVISION, e.ConnectFailed): Transition("_provisioning_lost", failed_provisioning),
        (s.CONNECTING_TO_PROVISION, e.ConnectionLost): Transition("_provisioning_lost", failed_provisioning),
        (s.CONNECTING_TO_PROVISION, e.TimerFired): Transition("_provisioning_timed_out", failed_provisioning),
        (s.AWAITING_REPLY, e.MessageReceived): Transition(
            "_take_reply", (s.AWAITING_REPLY, s.SAVING, *failed_provisioning)
        ),
        (s.AWAITING_REPLY, e.ConnectionLost): Transition("_provisioning_lost", failed_provisioning),
        (s.AWAITING_REPLY, e.TimerFired): Transition("_provisioning_timed_out", failed_provisioning),
        (s.SAVING, e.CredentialsSaved): Transition("_use_saved", again),
        # A renewal that cannot be saved is given up for now: the stored credentials still work.
        (s.SAVING, e.CredentialsSaveFailed): Transition("_save_failed", (s.WAITING_TO_SAVE, s.WAITING_TO_CONNECT)),
        (s.SAVING, e.CredentialsUnusable): Transition("_unusable", failed_provisioning),
        (s.WAITING_TO_SAVE, e.TimerFired): Transition("_save_again", (s.SAVING,)),
        (s.WAITING_TO_PROVISION, e.TimerFired): Transition("_provision_again", to_provision),
        (s.CONNECTING, e.ConnectSucceeded): Transition("_go_online", (s.ONLINE,)),
        (s.CONNECTING, e.ConnectRefused): Transition("_connect_refused", failed_connect),
        (s.CONNECTING, e.ConnectFailed): Transition("_connect_lost", (s.WAITING_TO_CONNECT,)),
        (s.CONNECTING, e.ConnectionLost): Transition("_connect_lost", (s.WAITING_TO_CONNECT,)),
        (s.CONNECTING, e.TimerFired): Transition("_connect_timed_out", (s.WAITING_TO_CONNECT,)),
        (s.WAITING_TO_CONNECT, e.TimerFired): Transition("_connect_again", again),
        (s.ONLINE, e.ConnectionLost): Transition("_online_lost", (s.WAITING_TO_CONNECT,)),
        (s.ONLINE, e.MessageReceived): Transition("_take_message", (s.ONLINE, s.REMOVING)),
        (s.ONLINE, e.TimerFired): Transition("_look_at_the_time", (s.ONLINE,)),
        (s.ONLINE, e.RequestMade): Transition("_renew", to_provision),
        (s.ONLINE, e.RequestNotMade): Transition("_renewal_not_begun", (s.ONLINE,)),
        (s.REMOVING, e.ConnectionLost): Transition("_nobody_to_answer", (s.REMOVING,)),
        (s.REMOVING, e.CredentialsRemoved): Transition("_removed", (s.ANSWERING_REMOVAL, *to_provision)),
        (s.REMOVING, e.CredentialsRemoveFailed): Transition("_remove_failed", (s.ONLINE, s.WAITING_TO_CONNECT)),
        (s.ANSWERING_REMOVAL, e.PublishAcknowledged): Transition("_removal_answered", to_provision),
        (s.ANSWERING_REMOVAL, e.ConnectionLost): Transition("_removal_answered", to_provision),
        (s.ANSWERING_REMOVAL, e.TimerFired): Transition("_removal_answered", to_provision),
    }
    for state in State:
        if state is not State.STOPPED:
            table[state, e.StopRequested] = Transition("_stop", (s.STOPPED,))
    return table


TRANSITIONS: Final = _rows()


def _ignored() -> dict[tuple[State, EventType], str]:
    """Everything that TRANSITIONS does not list must be named here, with the reason; a test counts the pairs."""
    e = events
    reasons: dict[tuple[State, EventType], str] = {}

    def ignore(reason: str, states: Iterable[State], types: Iterable[EventType]) -> None:
        wanted = set(types)
        for state in states:
            for kind in EVENT_TYPES:
                if kind in wanted and (state, kind) not in TRANSITIONS:
                    reasons.setdefault((state, kind), reason)

    everywhere = tuple(State)
    ignore("stopped: nothing matters any more", [State.STOPPED], EVENT_TYPES)
    ignore("not started: nothing was asked for yet", [State.NEW], EVENT_TYPES)
    ignore("started already", everywhere, [e.Started])
    ignore("the reply is in hand, its connection is not needed", [State.SAVING], [e.ConnectionLost, e.MessageReceived])
    ignore("leaving this connection", [State.REMOVING, State.ANSWERING_REMOVAL], [e.MessageReceived])
    of_a_connection: list[EventType] = [
        e.ConnectSucceeded,
        e.ConnectRefused,
        e.ConnectFailed,
        e.ConnectionLost,
        e.MessageReceived,
    ]
    ignore("about a connection that is not (or no longer) waited for", everywhere, of_a_connection)
    ignore("about a publish that nobody waits for", everywhere, [e.PublishAcknowledged])
    of_the_file: list[EventType] = [
        e.CredentialsSaved,
        e.CredentialsSaveFailed,
        e.CredentialsUnusable,
        e.CredentialsRemoved,
        e.CredentialsRemoveFailed,
    ]
    ignore("about a file operation that nobody waits for", everywhere, of_the_file)
    ignore("about a renewal that nobody waits for any more", everywhere, [e.RequestMade, e.RequestNotMade])
    ignore("a timer that is no longer armed", everywhere, [e.TimerFired])
    return reasons


IGNORED: Final = _ignored()
