"""The embedded broker without its listeners: who is connected, what is refused and why, what audit events bring about.

Sessions are `sessions`', who gets which message is `routing`'s. Replies to provisioning requests never come here; they
go from the responder to the connection that asked (P3).
"""

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Final

from mqttprov.brokers.answers import automatic_answer
from mqttprov.brokers.connection import Connection
from mqttprov.brokers.device_events import ask_to_rotate, ended_by, older, relabel
from mqttprov.brokers.farewell import WIPE_CALL, Farewells, body_of
from mqttprov.brokers.outcomes import LoginRefused, Recorded, SessionBegun, SessionEnded
from mqttprov.brokers.outcomes import Outcome as Happened
from mqttprov.brokers.routing import Router, is_own
from mqttprov.brokers.sessions import Session, Sessions
from mqttprov.brokers.wheel import DeadlineWheel
from mqttprov.core.audit import ENDS_SESSIONS, ChainedEvent, EventKind
from mqttprov.core.login import Holder, Principal, Role
from mqttprov.core.permissions import AUDIT_PREFIX, CHECKPOINT_LEVEL, inward, may_publish, topic_of_device
from mqttprov.core.requests import Granted, Outcome
from mqttprov.mqtt import (
    Message,
    ProtocolError,
    Publish,
    ReasonCode,
    RetainedLimits,
    ServerLimits,
    Subscribe,
    Unsubscribe,
    Will,
)
from mqttprov.responder.gathered import SEEN_INTERVAL_MS
from mqttprov.responder.service import Responder

_LATE_CALL: Final = 0  # number of a call whose audit event is long past; those have their event's place

_log = logging.getLogger(__name__)


class EmbeddedBroker:
    """Sessions and routing. Everything runs in the event loop's thread; nothing here waits."""

    def __init__(
        self,
        responder: Responder,
        loop: asyncio.AbstractEventLoop,
        *,
        new_client_id: Callable[[], str],
        max_connections: int,
        on_outcome: Callable[[Happened], None] | None = None,
        limits: ServerLimits | None = None,
    ) -> None:
        self.responder = responder
        self.limits = limits or ServerLimits()
        self.now_s = loop.time
        self.wheel = DeadlineWheel(loop.time())
        self.dirty: set[Connection] = set()  # those that may have something to write
        self.new_client_id = new_client_id
        self._loop = loop
        self._max_connections = max_connections
        self._on_outcome = on_outcome  # None: nobody wants to know, and nothing is made for him
        self._connections: set[Connection] = set()
        self.empty = asyncio.Event()  # set while no connection is open
        self.empty.set()
        self.router = self.new_router()
        self.sessions = Sessions(self.wheel, self._time_s, self._publish_will, self.router.unsubscribe_all)
        self._flush_scheduled = False
        self._tell_seen_s = loop.time() + SEEN_INTERVAL_MS / 1000
        self.farewells: Farewells[Connection] = Farewells(self, loop)

    def _time_s(self) -> float:
        return self.now_s()

    def turn(self) -> None:
        """End what is overdue, and once an hour tell which devices are connected; to be called about once a second."""
        now_s = self.now_s()
        self.wheel.turn(now_s)
        if now_s >= self._tell_seen_s:
            self._tell_seen_s = now_s + SEEN_INTERVAL_MS / 1000
            self.responder.seen(self.sessions.connected_devices())
        self.flush()

    # --- connections ---

    def new_router(self) -> Router:
        """Make what delivers messages."""
        return Router(self, RetainedLimits())

    def new_connection(self) -> Connection:
        """Make what serves one client."""
        return Connection(self)

    def admit(self, connection: Connection) -> bool:
        """Count a new connection, at the latest when it is made; False when there are too many (P9)."""
        if connection in self._connections:
            return True
        if len(self._connections) >= self._max_connections:
            _log.warning("refused a connection from %s: %d are open already", connection.source, self._max_connections)
            return False
        self._connections.add(connection)
        self.empty.clear()
        return True

    def closed(self, connection: Connection) -> None:
        """Note the end of a connection."""
        self._connections.discard(connection)
        if not self._connections:
            self.empty.set()
        self.forget(connection)

    def enter(self, connection: Connection, principal: Principal, client_id: str, *, resume: bool) -> Session:
        """Give the session of a connection that has logged in (`Sessions.enter`)."""
        if principal.device_id and self.sessions.is_connected(principal, client_id):
            holder = Holder(principal.name, principal.device_id, principal.generation)
            self.responder.taken_over(holder, connection.source)
        return self.sessions.enter(principal, client_id, resume=resume)

    def begun(self, connection: Connection, principal: Principal) -> None:
        """Note that a client has logged in."""
        if self._on_outcome is not None:
            self._on_outcome(SessionBegun(principal, connection.source))

    def forget(self, connection: Connection) -> None:
        """Part a connection from its session, which ends or waits for its client; publish its will if it is due."""
        session = connection.member
        if session is None or session.connection is not connection:
            return
        session.connection = None
        if self._on_outcome is not None:
            self._on_outcome(SessionEnded(session.principal, connection.source))
        self.farewells.left(connection)
        mqtt = connection.session
        will, mqtt.will = mqtt.will, None
        if mqtt.session_expiry_s and session.may_be_kept:
            self.sessions.leave(session, mqtt.detach(), mqtt.session_expiry_s, will)
            self.router.put_off(connection, session)
        else:
            self.sessions.forget(session)
            if will is not None:
                self._publish_will(session, will)

    def end_soon(self, session: Session) -> bool:
        """End a session for good after this turn of the loop, in which it may still be in use; false if it ends so."""
        if not session.may_be_kept:
            return False
        session.may_be_kept = False
        self._loop.call_soon(self.sessions.end, session, ReasonCode.QUOTA_EXCEEDED)
        return True

    def disconnect_all(self, reason: ReasonCode) -> None:
        """End all sessions."""
        for connection in list(self._connections):
            connection.end(reason)

    def cut_off(self) -> None:
        """Cut off those that have ended, but do not read what is left for them."""
        for connection in list(self._connections):
            connection.expire()

    # --- messages ---

    def publish_from(self, connection: Connection, publish: Publish) -> None:
        """Route a client's message, if it may publish it, and acknowledge it."""
        principal, mqtt = connection.principal, connection.session
        assert principal is not None  # noqa: S101 - only sessions that have logged in publish here
        if not may_publish(principal, publish.topic):
            # MQTT 3.1.1 knows no refusal here; like other brokers we acknowledge and drop.
            if publish.packet_id is not None:
                mqtt.acknowledge(publish.packet_id, ReasonCode.NOT_AUTHORIZED, "you may not publish to this topic")
            # Not the topic: over HTTP ThingsBoard's topics hold the access token, and some devices mix that up (P6).
            _log.info("%s %s may not publish to the topic that it named", principal.role, principal.name)
            return
        message, own = self.router.message(principal, publish), is_own(principal, publish.topic)
        # A message that finds no room is delivered to who listens now, and its sender told that it is not kept.
        retires = connection.member is not None and not connection.member.may_be_kept  # and leaves nothing behind (P8)
        kept = not message.retain or (not retires and self.router.retain(principal, message, own=own))
        if publish.packet_id is not None:
            if kept:
                mqtt.acknowledge(publish.packet_id)
            else:
                mqtt.acknowledge(publish.packet_id, ReasonCode.QUOTA_EXCEEDED, "delivered, but not retained: no room")
        self.router.route(connection.member, message, own=own)
        if principal.role is Role.DEVICE:
            self._answer(connection, principal, publish)
            self.farewells.heard(connection, publish.topic, publish.payload)

    def _answer(self, connection: Connection, principal: Principal, publish: Publish) -> None:
        answer = automatic_answer(publish.topic, publish.payload, self.limits, principal.labels)
        session = connection.member
        if answer is not None and session is not None:
            message = Message(inward(principal, answer[0]), answer[1], min(publish.qos, 1), arrived_s=self.now_s())
            granted = self.router.tree.granted(message.topic, session)
            if granted is not None:
                self.router.deliver(session, message, granted)

    def _publish_will(self, session: Session, will: Will) -> None:
        principal = session.principal
        if may_publish(principal, will.topic):
            message, own = self.router.will(principal, will), is_own(principal, will.topic)
            if message.retain:
                self.router.retain(principal, message, own=own)
            self.router.route(session, message, own=own)

    def call(self, connections: Iterable[Connection], number: int, payload: bytes) -> list[Connection]:
        """Call a procedure of a device on those of its sessions that listen to calls; give them."""
        called = []
        for connection in connections:
            session = connection.member
            if session is not None and session.connection is connection:
                topic = f"{topic_of_device(session.principal.name)}rpc/request/{number}"
                granted = self.router.tree.granted(topic, session)
                if granted is not None:
                    self.router.deliver(session, Message(topic, payload, 1, arrived_s=self.now_s()), granted)
                    called.append(connection)
        return called

    def publish_event(self, event: ChainedEvent) -> None:
        """Act on a committed audit event, and publish it to the operators who listen (QoS 1)."""
        if event.kind in ENDS_SESSIONS:
            self._end_sessions(event)
        elif event.kind == EventKind.ROTATION_REQUESTED:
            ask_to_rotate(event, self, self._connections_of(event))
        elif event.kind == EventKind.LABELLED:
            relabel(event, [*self.sessions.of_device(event.device_id or ""), *self._connections_of(event)])
        if self._on_outcome is not None and (body := body_of(event)) is not None:
            self._on_outcome(Recorded(event.seq, body))
        self._publish_audit(event.kind, lambda: f'{event.body[:-1]},"hash":"{event.hash}"}}')

    def _end_sessions(self, event: ChainedEvent) -> None:
        """End what the event ends (P7): sessions of who is away at once, connections by way of a farewell.

        None of them leaves a will: its principal has lost the right to speak, and that it is offline is known.
        """
        connections = []
        for session in ended_by(event, self.sessions.of_event(event)):
            connection = session.connection
            if connection is None:
                self.sessions.end(session, ReasonCode.NOT_AUTHORIZED, with_will=False)
            else:
                session.may_be_kept = False
                connection.session.will = None
                connections.append(connection)
        self.farewells.begin(event, connections)
        body = body_of(event) if event.kind != EventKind.SUSPENDED else None
        if body is None or body.device is None:
            return
        # Who has completed a transfer may be here already, and have retained something new.
        here = self.sessions.of_device(event.device_id or "")
        if event.kind == EventKind.DECOMMISSIONED or len(ended_by(event, here)) == len(here):
            self.router.forget_device(body.device)

    def publish_checkpoint(self, note: str) -> None:
        """Publish a signed checkpoint of the audit to the operators who listen (QoS 1)."""
        self._publish_audit(CHECKPOINT_LEVEL, lambda: note)
        self.flush()

    def _publish_audit(self, level: str, payload: Callable[[], str]) -> None:
        topic = AUDIT_PREFIX + level
        receivers = self.router.tree.match(topic)
        if receivers:
            message = Message(topic, payload().encode(), 1, arrived_s=self.now_s())
            for receiver, granted in receivers:
                self.router.deliver(receiver, message, granted)

    def _connections_of(self, event: ChainedEvent) -> list[Connection]:
        sessions = self.sessions.of_device(event.device_id or "")
        return [session.connection for session in sessions if session.connection is not None]

    # --- subscriptions ---

    def subscribe(self, connection: Connection, subscribe: Subscribe) -> None:
        """Grant or refuse each filter by itself."""
        principal, session = connection.principal, connection.member
        if principal is None or session is None or (session.connection is not connection and not session.is_away):
            return  # its client said goodbye in the same segment, and nothing is kept for it
        self.router.subscribe(connection, session, subscribe)
        if principal.rotation_due and self.responder.can_rotate(principal.name):
            self.call([connection], _LATE_CALL, WIPE_CALL)

    def unsubscribe(self, connection: Connection, unsubscribe: Unsubscribe) -> None:
        """End subscriptions."""
        if connection.member is not None:
            self.router.unsubscribe(connection, connection.member, unsubscribe)

    # --- the rest ---

    def end_former(self, outcome: Outcome) -> None:
        """End what the last owner of a device has open, before the new one learns that it is his (P7)."""
        if isinstance(outcome, Granted) and outcome.ended_before:
            for session in older(self.sessions.of_device(outcome.device_id), outcome.ended_before):
                self.sessions.end(session, ReasonCode.NOT_AUTHORIZED, with_will=False)
            self.router.forget_device(outcome.device_name)

    def flush(self) -> None:
        """Write what sessions have to say: one write each, however many messages they got."""
        while self.dirty:
            dirty, self.dirty = self.dirty, set()
            for connection in dirty:
                connection.flush()

    def flush_soon(self) -> None:
        """Flush once after everything that is delivered in this turn of the loop."""
        if not self._flush_scheduled:
            self._flush_scheduled = True
            self._loop.call_soon(self._flush_now)

    def _flush_now(self) -> None:
        self._flush_scheduled = False
        self.flush()

    def log_will(self, connection: Connection) -> None:
        """Note that a login was refused for its will."""
        _log.info("login from %s refused: it may not publish to the topic of its will", connection.source)

    def log_violation(self, connection: Connection, error: ProtocolError) -> None:
        """Note that a client broke the protocol."""
        _log.info("connection from %s ended: %s", connection.source, error)

    def log_refusal(self, connection: Connection, refusal: str) -> None:
        """Note that a login was refused. Not the client id: some clients put their access token there (P6)."""
        _log.info("login from %s refused: %s", connection.source, refusal)
        if self._on_outcome is not None:
            self._on_outcome(LoginRefused(refusal, connection.source))
