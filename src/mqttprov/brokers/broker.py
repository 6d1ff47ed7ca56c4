"""The embedded broker without its listeners: who is connected, who gets which message, what is refused and why.

Topics of devices are translated on their way in and out (`mqttprov.core.permissions`): inside there is no `me`. Replies
to provisioning requests never come here; they go from the responder to the connection that asked (P3).
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable
from typing import Final

import msgspec

from mqttprov.brokers.answers import automatic_answer
from mqttprov.brokers.connection import Connection
from mqttprov.brokers.farewell import WIPE_CALL, Farewells
from mqttprov.brokers.outcomes import LoginRefused, Recorded, SessionBegun, SessionEnded
from mqttprov.brokers.outcomes import Outcome as Happened
from mqttprov.brokers.wheel import DeadlineWheel
from mqttprov.core.audit import ENDS_SESSIONS, ChainedEvent, EventKind, parse_body
from mqttprov.core.limits import MAX_SESSIONS_PER_DEVICE
from mqttprov.core.login import Holder, Principal, Role
from mqttprov.core.model import CredentialsType
from mqttprov.core.permissions import (
    AUDIT_PREFIX,
    CHECKPOINT_LEVEL,
    inward,
    is_own_topic,
    may_publish,
    may_subscribe,
    outward,
    topic_of_device,
)
from mqttprov.core.requests import Granted, Outcome
from mqttprov.mqtt import (
    EMPTY_PROPERTIES,
    Properties,
    ProtocolError,
    Publish,
    ReasonCode,
    ServerLimits,
    Subscribe,
    SubscriptionTree,
    TopicError,
    Unsubscribe,
    is_shared,
    validate_topic_filter,
)
from mqttprov.responder.gathered import SEEN_INTERVAL_MS
from mqttprov.responder.service import Responder

MAX_FILTERS_PER_SESSION: Final = 256
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
        trust_certificate: Callable[[str], None] | None = None,
        on_outcome: Callable[[Happened], None] | None = None,
        limits: ServerLimits | None = None,
    ) -> None:
        self.responder = responder
        self.limits = limits or ServerLimits()
        self.now_s = loop.time
        self.wheel = DeadlineWheel(loop.time())
        self.dirty: set[Connection] = set()  # sessions that may have something to write
        self.new_client_id = new_client_id
        self._loop = loop
        self._max_connections = max_connections
        self._trust_certificate = trust_certificate
        self._on_outcome = on_outcome  # None: nobody wants to know, and nothing is made for him
        self._connections: set[Connection] = set()
        self.empty = asyncio.Event()  # set while no connection is open
        self.empty.set()
        self._by_client: dict[tuple[str, str], Connection] = {}
        self._by_principal: dict[str, dict[Connection, None]] = {}
        self._tree: SubscriptionTree[Connection] = SubscriptionTree()
        self._flush_scheduled = False
        self._tell_seen_s = loop.time() + SEEN_INTERVAL_MS / 1000
        self.farewells = Farewells(self, loop)

    def turn(self) -> None:
        """End what is overdue, and once an hour tell which devices are connected; to be called about once a second."""
        now_s = self.now_s()
        self.wheel.turn(now_s)
        if now_s >= self._tell_seen_s:
            self._tell_seen_s = now_s + SEEN_INTERVAL_MS / 1000
            principals = (next(iter(sessions)).principal for sessions in self._by_principal.values())
            self.responder.seen(p.device_id for p in principals if p is not None and p.device_id)
        self.flush()

    # --- connections ---

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

    def enter(self, connection: Connection) -> None:
        """Take in a session that has logged in; only now may it displace another one of the same principal."""
        principal = connection.principal
        assert principal is not None  # noqa: S101 - entered after login only
        place = (_identity(principal), connection.session.client_id)
        if connection.session.client_id:
            displaced = self._by_client.get(place)
            if displaced is not None:
                displaced.end(ReasonCode.SESSION_TAKEN_OVER)
                if principal.device_id:
                    holder = Holder(principal.name, principal.device_id, principal.generation)
                    self.responder.taken_over(holder, connection.source)
            self._by_client[place] = connection
        others = self._by_principal.setdefault(place[0], {})
        for other in list(others):
            # The older generation ended in the commit that activated this one (DESIGN section 2).
            if other.principal is not None and other.principal.generation < principal.generation:
                other.end(ReasonCode.NOT_AUTHORIZED)
        others = self._by_principal.setdefault(place[0], {})
        others[connection] = None
        if self._on_outcome is not None:
            self._on_outcome(SessionBegun(principal, connection.source))
        if len(others) > MAX_SESSIONS_PER_DEVICE:
            next(iter(others)).end(ReasonCode.QUOTA_EXCEEDED)

    def forget(self, connection: Connection) -> None:
        """Take a session out of everything; its will is published if it is due."""
        principal = connection.principal
        if principal is None:
            return
        for topic_filter in connection.filters:
            self._tree.remove(topic_filter, connection)
        connection.filters.clear()
        identity = _identity(principal)
        if self._by_client.get((identity, connection.session.client_id)) is connection:
            del self._by_client[identity, connection.session.client_id]
        others = self._by_principal.get(identity, {})
        was_inside = connection in others
        others.pop(connection, None)
        if not others:
            self._by_principal.pop(identity, None)
        if was_inside and self._on_outcome is not None:
            self._on_outcome(SessionEnded(principal, connection.source))
        self.farewells.left(connection)
        will, connection.session.will = connection.session.will, None
        if will is not None and may_publish(principal, will.topic):
            self._route(connection, principal, will.topic, will.payload, will.qos, EMPTY_PROPERTIES)

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
        principal, session = connection.principal, connection.session
        assert principal is not None  # noqa: S101 - only sessions that have logged in publish here
        allowed = may_publish(principal, publish.topic)
        if publish.packet_id is not None:
            # MQTT 3.1.1 knows no refusal here; like other brokers we acknowledge and drop.
            session.acknowledge(publish.packet_id, ReasonCode.SUCCESS if allowed else ReasonCode.NOT_AUTHORIZED)
        if not allowed:
            # Not the topic: over HTTP ThingsBoard's topics hold the access token, and some devices mix that up (P6).
            _log.info("%s %s may not publish to the topic that it named", principal.role, principal.name)
            return
        self._route(connection, principal, publish.topic, publish.payload, publish.qos, publish.properties)
        if principal.role is Role.DEVICE:
            answer = automatic_answer(publish.topic, publish.payload, self.limits, principal.labels)
            if answer is not None and connection in self._tree.match(inward(principal, answer[0])):
                session.publish(answer[0], answer[1], min(publish.qos, 1))
            self.farewells.heard(connection, publish.topic, publish.payload)

    def _route(
        self, sender: Connection, principal: Principal, topic: str, payload: bytes, qos: int, properties: Properties
    ) -> None:
        own = principal.role is Role.DEVICE and is_own_topic(topic)
        inner = inward(principal, topic)
        for receiver, granted in self._tree.match(inner, publisher=sender).items():
            # What a device says on its own topics is for operators; it never hears itself (thingsboard.md rule 15).
            if own and receiver.principal is not None and receiver.principal.role is Role.DEVICE:
                continue
            self._deliver(receiver, inner, payload, min(qos, granted), properties)

    def _deliver(self, receiver: Connection, inner: str, payload: bytes, qos: int, properties: Properties) -> None:
        principal = receiver.principal
        if principal is None:
            return
        taken = receiver.session.publish(outward(principal, inner), payload, qos, properties=properties)
        if not taken and qos and not receiver.session.closed and self._is_full(receiver, len(payload)):
            # A message of QoS 1 must not be lost silently: the session ends, and with it the promise.
            _log.warning("%s %s reads too slowly; its session is ended", principal.role, principal.name)
            self._loop.call_soon(receiver.end, ReasonCode.QUOTA_EXCEEDED)
        self.dirty.add(receiver)

    def _is_full(self, receiver: Connection, size_bytes: int) -> bool:
        pending, limits = receiver.session.pending, self.limits
        held = pending.queued_bytes + pending.output_bytes + size_bytes
        return pending.queued_messages >= limits.max_queued_messages or held > limits.max_queued_bytes // 2

    def call(self, connections: Iterable[Connection], number: int, payload: bytes) -> list[Connection]:
        """Call a procedure of a device on those of its sessions that listen to calls; give them."""
        called = []
        for connection in connections:
            if connection.principal is not None:
                topic = f"{topic_of_device(connection.principal.name)}rpc/request/{number}"
                granted = self._tree.match(topic).get(connection)
                if granted is not None:
                    self._deliver(connection, topic, payload, granted, EMPTY_PROPERTIES)
                    called.append(connection)
        return called

    def publish_event(self, event: ChainedEvent) -> None:
        """Act on a committed audit event, and publish it to the operators who listen (QoS 1)."""
        if event.kind in ENDS_SESSIONS:
            self.farewells.begin(event, self._ended_by(event))
        elif event.kind == EventKind.ROTATION_REQUESTED:
            self._ask_to_rotate(event)
        elif event.kind == EventKind.LABELLED:
            self._relabel(event)
        elif self._trust_certificate is not None:
            for pem in self.responder.new_certificates(event):
                self._trust_certificate(pem)
        if self._on_outcome is not None:
            with contextlib.suppress(ValueError):  # damaged in the store, or of a newer release
                self._on_outcome(Recorded(event.seq, parse_body(event.body)[1]))
        self._publish_audit(event.kind, lambda: f'{event.body[:-1]},"hash":"{event.hash}"}}')

    def _ended_by(self, event: ChainedEvent) -> list[Connection]:
        """Give the sessions that an event ends: all of the device, or those from before its transfer.

        A device that completes its transfer may have logged in with its new credentials before we meet the event.
        """
        sessions = list(self._by_principal.get(event.device_id or "", ()))
        if event.kind != EventKind.TRANSFER_COMPLETED:
            return sessions
        try:
            generation = parse_body(event.body)[1].generation or 0
        except ValueError:  # damaged in the store: rather one login too many
            return sessions
        return self._older(event.device_id or "", generation)

    def publish_checkpoint(self, note: str) -> None:
        """Publish a signed checkpoint of the audit to the operators who listen (QoS 1)."""
        self._publish_audit(CHECKPOINT_LEVEL, lambda: note)
        self.flush()

    def _publish_audit(self, level: str, payload: Callable[[], str]) -> None:
        topic = AUDIT_PREFIX + level
        receivers = self._tree.match(topic)
        if receivers:
            content = payload().encode()
            for receiver, granted in receivers.items():
                self._deliver(receiver, topic, content, granted, EMPTY_PROPERTIES)

    def _ask_to_rotate(self, event: ChainedEvent) -> None:
        """Let a gateway give up its credentials, so that it asks for new ones; until those log in the old ones work."""
        sessions = self._by_principal.get(event.device_id or "", {})
        called = self.call(sessions, event.seq, WIPE_CALL)
        for connection in sessions:
            if connection not in called and connection.principal is not None:
                # It is told once it listens, as one that comes back later.
                connection.principal = msgspec.structs.replace(connection.principal, rotation_due=True)

    def _relabel(self, event: ChainedEvent) -> None:
        """Let the sessions of a device know its new labels; it is told when it asks."""
        try:
            labels = parse_body(event.body)[1].labels or {}
        except ValueError:  # damaged in the store: they keep what they had at their login
            return
        for connection in self._by_principal.get(event.device_id or "", ()):
            if connection.principal is not None:
                connection.principal = msgspec.structs.replace(connection.principal, labels=labels)

    # --- subscriptions ---

    def subscribe(self, connection: Connection, subscribe: Subscribe) -> None:
        """Grant or refuse each filter by itself."""
        principal = connection.principal
        assert principal is not None  # noqa: S101 - only sessions that have logged in subscribe here
        codes = []
        for wish in subscribe.subscriptions:
            try:
                validate_topic_filter(wish.topic_filter)
            except TopicError:
                codes.append(ReasonCode.TOPIC_FILTER_INVALID)
                continue
            if is_shared(wish.topic_filter) or not may_subscribe(principal, wish.topic_filter):
                codes.append(ReasonCode.NOT_AUTHORIZED)
                continue
            inner = inward(principal, wish.topic_filter)
            if inner not in connection.filters and len(connection.filters) >= MAX_FILTERS_PER_SESSION:
                codes.append(ReasonCode.QUOTA_EXCEEDED)
                continue
            granted = min(wish.qos, 1)
            self._tree.add(inner, connection, granted, no_local=wish.no_local)
            connection.filters.add(inner)
            codes.append(ReasonCode(granted))
        connection.session.suback(subscribe.packet_id, tuple(codes))
        if principal.rotation_due and self.responder.can_rotate(principal.name):
            self.call([connection], _LATE_CALL, WIPE_CALL)

    def unsubscribe(self, connection: Connection, unsubscribe: Unsubscribe) -> None:
        """End subscriptions."""
        principal = connection.principal
        assert principal is not None  # noqa: S101 - only sessions that have logged in unsubscribe here
        codes = []
        for topic_filter in unsubscribe.topic_filters:
            inner = inward(principal, topic_filter)
            connection.filters.discard(inner)
            had = self._tree.remove(inner, connection)
            codes.append(ReasonCode.SUCCESS if had else ReasonCode.NO_SUBSCRIPTION_EXISTED)
        connection.session.unsuback(unsubscribe.packet_id, tuple(codes))

    # --- the rest ---

    def trust(self, outcome: Outcome) -> None:
        """Let a device in by TLS that was just given a certificate of its own."""
        if (
            isinstance(outcome, Granted)
            and outcome.type is CredentialsType.X509_CERTIFICATE
            and self._trust_certificate
        ):
            self._trust_certificate(outcome.value)

    def end_former(self, outcome: Outcome) -> None:
        """End what the last owner of a device has open, before the new one learns that it is his (P7)."""
        if isinstance(outcome, Granted) and outcome.ended_before:
            for session in self._older(outcome.device_id, outcome.ended_before):
                session.end(ReasonCode.NOT_AUTHORIZED)

    def _older(self, device_id: str, generation: int) -> list[Connection]:
        sessions = self._by_principal.get(device_id, ())
        return [s for s in sessions if s.principal is None or s.principal.generation < generation]

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

    def log_violation(self, connection: Connection, error: ProtocolError) -> None:
        """Note that a client broke the protocol."""
        _log.info("connection from %s ended: %s", connection.source, error)

    def log_refusal(self, connection: Connection, refusal: str) -> None:
        """Note that a login was refused. Not the client id: some clients put their access token there (P6)."""
        _log.info("login from %s refused: %s", connection.source, refusal)
        if self._on_outcome is not None:
            self._on_outcome(LoginRefused(refusal, connection.source))


def _identity(principal: Principal) -> str:
    """Give what two sessions of the same principal share. Device ids are hex, so no operator can look like one."""
    return principal.device_id or f"{principal.role}:{principal.name}"
