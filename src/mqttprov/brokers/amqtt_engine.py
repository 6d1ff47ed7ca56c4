"""Our engine with third parties' amqtt plugins: they are asked and told at the places where amqtt would do it.

Without plugins a connection and the router are the plain ones, and nothing here is on any message's way. A connection
that waits for a plugin's answer handles nothing else and is not read from; a session that one may hear for hears in
order. Sessions that may only provision are never shown to plugins: what they say and hear is secret (P3, P6).
"""

import asyncio
import logging
import os
from collections import Counter, deque
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from amqtt.contexts import Action
from amqtt.events import BrokerEvents

from mqttprov.brokers.amqtt_packet_news import ConnectionPackets
from mqttprov.brokers.amqtt_voices import SessionView, Voices, view_of
from mqttprov.brokers.broker import EmbeddedBroker
from mqttprov.brokers.connection import Connection
from mqttprov.brokers.routing import MAX_FILTERS_PER_SESSION, Router
from mqttprov.brokers.sessions import Session
from mqttprov.core.login import Login, LoginRefusal, Principal, Role
from mqttprov.core.permissions import REQUEST_TOPIC, may_publish, may_receive, outward
from mqttprov.core.requests import FactoryIdentity
from mqttprov.mqtt import (
    Connect,
    Grant,
    Message,
    Publish,
    ReasonCode,
    RetainedLimits,
    ServerEvent,
    Subscribe,
    Subscription,
    TopicError,
    Unsubscribe,
    grant,
    validate_topic_filter,
)

MAX_WAITING_MESSAGES: Final = 1_000  # of one session, behind a plugin's answer
_log: Final = logging.getLogger(__name__)
_BROKER_STATE: Final = "$SYS/"
_NOT_OURS: Final = frozenset({LoginRefusal.UNKNOWN, LoginRefusal.ANONYMOUS})


class AmqttEngine(EmbeddedBroker):
    """`EmbeddedBroker` with plugins."""

    def __init__(self, *arguments: Any, voices: Voices, **options: Any) -> None:
        self.voices = voices
        self.views: dict[Session, SessionView] = {}
        self._entrances: dict[Connection, object | None] = {}  # of listeners with a limit of their own
        self._inside: Counter[object] = Counter()
        super().__init__(*arguments, **options)

    def new_connection(self) -> Connection:
        """Make what serves one client."""
        return AmqttConnection(self) if self.voices.any else Connection(self)

    def limit(self, connection: Connection, entrance: object, most: int) -> None:
        """Count a new connection against its listener's own limit as well; past it the connection is not admitted."""
        if self._inside[entrance] < most:
            self._inside[entrance] += 1
            self._entrances[connection] = entrance
        else:
            self._entrances[connection] = None

    def admit(self, connection: Connection) -> bool:
        """Count a new connection."""
        if self._entrances.get(connection, self) is None:
            _log.warning("refused a connection from %s: its listener has no room", connection.source)
            del self._entrances[connection]
            return False
        admitted = super().admit(connection)
        if not admitted:
            self._leave(connection)
        return admitted

    def _leave(self, connection: Connection) -> None:
        entrance = self._entrances.pop(connection, None)
        if entrance is not None:
            self._inside[entrance] -= 1

    def closed(self, connection: Connection) -> None:
        """Note the end of a connection."""
        self._leave(connection)
        super().closed(connection)

    def new_router(self) -> Router:
        """Make what delivers messages."""
        return AmqttRouter(self) if self.voices.any else Router(self, RetainedLimits())

    def begun(self, connection: Connection, principal: Principal) -> None:
        """Note that a client has logged in."""
        super().begun(connection, principal)
        if isinstance(connection, AmqttConnection) and connection.member is not None and connection.view is not None:
            self.views[connection.member] = connection.view
            if connection.packets is not None:
                connection.packets.begun(connection.view)
            self.voices.tell(
                BrokerEvents.CLIENT_CONNECTED, client_id=connection.view.client_id, client_session=connection.view
            )


class AmqttConnection(Connection):
    """A connection about which plugins are asked."""

    __slots__ = ("_asking", "_events", "_voices", "_was_ended", "_will_agreed", "denied", "packets", "view")

    def __init__(self, broker: AmqttEngine) -> None:
        super().__init__(broker)
        self._voices = broker.voices
        self._events: deque[ServerEvent] = deque()
        self._asking = False
        self._was_ended = False
        self._will_agreed = False
        packets = broker.voices.packets
        self.packets = ConnectionPackets(packets) if packets is not None else None  # if plugins want to know of them
        self.view: SessionView | None = None  # once it has logged in
        self.denied: frozenset[str] = frozenset()  # filters of the SUBSCRIBE that is handled now

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell of the end."""
        had_begun = self.member is not None
        super().connection_lost(exc)
        if had_begun and self.view is not None:
            self.view.transitions.state = "disconnected"
            self._voices.tell(BrokerEvents.CLIENT_DISCONNECTED, client_id=self.view.client_id, client_session=self.view)

    def end(self, reason: ReasonCode) -> None:
        """End the session from our side: what a plugin still thinks about does not happen any more (P7)."""
        self._was_ended = True
        self._events.clear()
        super().end(reason)

    # --- packets ---

    def data_received(self, data: bytes) -> None:
        """Handle one read, of which plugins may be told."""
        if self.packets is not None and not self.session.closed:
            self.packets.received(data)
        super().data_received(data)

    def _write(self, transport: asyncio.Transport, output: bytes) -> None:
        super()._write(transport, output)
        if self.packets is not None:
            self.packets.sent(output)

    def _begin_provisioning(self, connect: Connect, factory: FactoryIdentity | None) -> None:
        if self.packets is not None:
            self.packets.hide()
        super()._begin_provisioning(connect, factory)

    # --- one thing at a time ---

    def _handle(self, events: list[ServerEvent]) -> None:
        self._events.extend(events)
        while self._events and not self._asking:
            super()._handle([self._events.popleft()])
        self._broker.dirty.add(self)

    def _ask(self, question: Callable[[Callable[[Any], None]], bool], then: Callable[[Any], None]) -> None:
        """Ask, and go on with `then`. Until then no other event is handled.

        What a client sent before it left happens, as without plugins; not so when it was ended by us.
        """
        waited = False

        def done(answer: Any) -> None:
            self._asking = False
            if not self._was_ended:
                then(answer)
            if waited:
                if self._transport is not None and self.session.wants_input:
                    self._transport.resume_reading()
                self._handle([])
                self._broker.flush()

        self._asking = True
        if not question(done):
            waited = True
            if self._transport is not None:
                self._transport.pause_reading()

    # --- what they are asked ---

    def _on_login(self, connect: Connect, login: Login) -> None:
        tls = self._transport.get_extra_info("ssl_object") if self._transport is not None else None
        if login.principal is not None:
            view = view_of(connect, self.source, tls, login.principal)
            # Decided anew after a plugin has spoken: meanwhile the device may have been suspended (P7).
            self._unless_will_is_denied(connect, view, lambda: self._on_connect(connect), login)
            return
        if login.refusal not in _NOT_OURS or not self._voices.decide_logins:
            super()._on_login(connect, login)
            return
        view = view_of(connect, self.source, tls, None)

        def then(allowed: bool) -> None:
            view.password = None
            if self.session.closed:
                return
            if not allowed:
                super(AmqttConnection, self)._on_login(connect, login)
                return
            # Client ids are per user; without a name, or an id, nobody can come back as the same.
            name = f"{connect.username or ''}/{connect.client_id or os.urandom(8).hex()}"
            guest = Login(Principal(Role.GUEST, name))
            again = partial(super(AmqttConnection, self)._on_login, connect, guest)
            self._unless_will_is_denied(connect, view, again, guest)

        self._ask(lambda done: self._voices.authenticate(view, done), then)

    def _unless_will_is_denied(
        self, connect: Connect, view: SessionView, again: Callable[[], None], login: Login
    ) -> None:
        """Go on with a login; `again` if plugins had to be asked about its will."""
        self.view = view
        will = connect.will
        if will is None or self._will_agreed or not self._voices.decide_topics:
            super()._on_login(connect, login)
            return

        def then(allowed: bool) -> None:
            if self.session.closed:
                return
            if allowed:
                self._will_agreed = True
                again()
                return
            self._broker.log_will(self)
            self.session.refuse(ReasonCode.NOT_AUTHORIZED)
            self._broker.dirty.add(self)

        self._ask(lambda done: self._voices.may(view, will.topic, Action.PUBLISH, done), then)

    def _on_publish(self, publish: Publish) -> None:
        view, principal = self.view, self.principal
        if view is None or principal is None:
            super()._on_publish(publish)
            return
        if publish.topic != REQUEST_TOPIC:  # which is refused here, but it may hold a key and a secret (P6)
            self._voices.tell_of_message(BrokerEvents.MESSAGE_RECEIVED, view, publish)

        def then(allowed: bool) -> None:
            if not allowed:
                if publish.packet_id is not None:
                    self.session.acknowledge(publish.packet_id, ReasonCode.NOT_AUTHORIZED)
                return
            if may_publish(principal, publish.topic):
                self._voices.tell_of_message(BrokerEvents.MESSAGE_BROADCAST, view, publish)
            super(AmqttConnection, self)._on_publish(publish)

        if self._voices.decide_topics:
            self._ask(lambda done: self._voices.may(view, publish.topic, Action.PUBLISH, done), then)
        else:
            then(allowed=True)

    def _on_subscribe(self, subscribe: Subscribe) -> None:
        view = self.view
        if view is None:
            super()._on_subscribe(subscribe)
            return
        wishes = [wish.topic_filter for wish in subscribe.subscriptions]

        def then(denied: frozenset[str] | None) -> None:
            if self.session.closed:
                return
            self.denied = frozenset(wishes) if denied is None else denied
            super(AmqttConnection, self)._on_subscribe(subscribe)
            self.denied = frozenset()

        if self._voices.decide_topics:
            self._ask(lambda done: self._voices.denied(view, wishes, done), then)
        else:
            then(frozenset())

    def _on_unsubscribe(self, unsubscribe: Unsubscribe) -> None:
        super()._on_unsubscribe(unsubscribe)
        if self.view is not None:
            for topic_filter in unsubscribe.topic_filters:
                self._voices.tell(BrokerEvents.CLIENT_UNSUBSCRIBED, client_id=self.view.client_id, topic=topic_filter)


class AmqttRouter(Router):
    """A router that asks plugins before each delivery, if there are any who decide about topics."""

    def __init__(self, broker: AmqttEngine) -> None:
        super().__init__(broker, RetainedLimits())
        self._engine = broker
        self._waiting: dict[Session, deque[tuple[Message, Grant, bool]]] = {}

    def deliver(self, session: Session, message: Message, granted: Grant, *, retain: bool = False) -> None:
        """Give one session a message, if everybody agrees; in the order in which they came."""
        principal = session.principal
        if not may_receive(principal, message.topic):
            return
        view = self._engine.views.get(session)
        if view is None or not self._engine.voices.decide_topics:
            super().deliver(session, message, granted, retain=retain)
            return
        waiting = self._waiting.get(session)
        if waiting is not None:
            if len(waiting) < MAX_WAITING_MESSAGES:
                waiting.append((message, granted, retain))
            elif message.qos and granted.qos:
                self._lose(session)
            return

        def done(allowed: bool) -> None:
            if allowed:
                super(AmqttRouter, self).deliver(session, message, granted, retain=retain)
            self._go_on(session)

        if not self._engine.voices.may(view, outward(principal, message.topic), Action.RECEIVE, done):
            self._waiting[session] = deque()

    def _go_on(self, session: Session) -> None:
        """Deliver what came while a plugin thought about the message before."""
        waiting = self._waiting.pop(session, None)
        if waiting is None:
            return
        for message, granted, retain in waiting:
            self.deliver(session, message, granted, retain=retain)
        self._engine.flush_soon()

    def retain(self, principal: Principal, message: Message, *, own: bool) -> bool:
        """Keep a retained message, and tell of it."""
        kept = super().retain(principal, message, own=own)
        if kept:
            self._engine.voices.tell_of_retained(None, message)
        return kept

    def subscribe(self, connection: Connection, session: Session, subscribe: Subscribe) -> None:
        """Grant or refuse each filter by itself, and tell of those that were granted."""
        super().subscribe(connection, session, subscribe)
        view = self._engine.views.get(session)
        if view is None or not isinstance(connection, AmqttConnection):
            return
        for wish in subscribe.subscriptions:
            if wish.topic_filter not in connection.denied and self._stands(session, wish):
                self._engine.voices.tell(
                    BrokerEvents.CLIENT_SUBSCRIBED, client_id=view.client_id, topic=wish.topic_filter, qos=wish.qos
                )

    def subscribe_for(self, session: Session, topic_filter: str, qos: int) -> int:
        """Subscribe a connected client that did not ask, if it may; give the granted QoS, or 0x80."""
        if session.connection is None:
            return ReasonCode.UNSPECIFIED_ERROR
        inner = self._allowed(session.connection, session, Subscription(topic_filter, qos))
        if isinstance(inner, ReasonCode):
            return ReasonCode.UNSPECIFIED_ERROR
        if self.tree.add(inner, session, grant(qos)):
            session.filters = (*session.filters, inner)
        return qos

    def _stands(self, session: Session, wish: Subscription) -> bool:
        try:
            validate_topic_filter(wish.topic_filter)
        except TopicError:
            return False
        return self._inner(session.principal, wish.topic_filter) in session.filters

    def _allowed(self, connection: Connection, session: Session, wish: Subscription) -> str | ReasonCode:
        if isinstance(connection, AmqttConnection) and wish.topic_filter in connection.denied:
            return ReasonCode.NOT_AUTHORIZED
        if session.principal.role is Role.DEVICE or not wish.topic_filter.startswith(_BROKER_STATE):
            return super()._allowed(connection, session, wish)
        # What amqtt's own plugin says of the broker: nobody but such a plugin publishes there.
        try:
            validate_topic_filter(wish.topic_filter)
        except TopicError:
            return ReasonCode.TOPIC_FILTER_INVALID
        if wish.topic_filter not in session.filters and len(session.filters) >= MAX_FILTERS_PER_SESSION:
            return ReasonCode.QUOTA_EXCEEDED
        return wish.topic_filter

    def unsubscribe_all(self, session: Session) -> None:
        """End all subscriptions of a session, which ends."""
        super().unsubscribe_all(session)
        self._engine.views.pop(session, None)
        self._waiting.pop(session, None)
