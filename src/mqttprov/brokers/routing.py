"""From a message to the sessions that get it: subscriptions, retained messages, delivery. Nothing here waits.

Inside there is no `me`: topics of devices are translated on their way in and out (`mqttprov.core.permissions`), those
in the response topic of a request too. Who may publish what was decided before; a message never reaches a session whose
principal could not have subscribed to it, because only granted subscriptions are here.
"""

import logging
from typing import TYPE_CHECKING, Final

import msgspec

from mqttprov.brokers.sessions import Session
from mqttprov.core.login import Principal, Role
from mqttprov.core.permissions import filters_of_device, inward, is_own_topic, may_subscribe, outward
from mqttprov.mqtt import (
    EMPTY_PROPERTIES,
    Grant,
    Message,
    ProtocolVersion,
    Publish,
    ReasonCode,
    Retained,
    RetainedLimits,
    RetainedStore,
    Subscribe,
    Subscription,
    SubscriptionTree,
    TopicError,
    Unsubscribe,
    Verdict,
    Will,
    grant,
    split_shared,
    validate_topic_filter,
)
from mqttprov.store.protocol import StoreUnavailable

if TYPE_CHECKING:
    from mqttprov.brokers.broker import EmbeddedBroker
    from mqttprov.brokers.connection import Connection

MAX_FILTERS_PER_SESSION: Final = 256
_GROUPS: Final = {Role.DEVICE: "devices", Role.GUEST: "guests"}
_CLOSED, _FULL, _DEVICE = Verdict.CLOSED, Verdict.FULL, Role.DEVICE  # looking members up costs as much as a call

_log = logging.getLogger(__name__)


class Backlog:
    """Retained messages that a new subscription is owed: given as the client takes them, however many there are."""

    __slots__ = ("_place", "_rows")

    def __init__(self) -> None:
        self._rows: list[tuple[Retained, Grant]] = []
        self._place = 0

    def add(self, retained: list[Retained], granted: Grant) -> None:
        """Add what one subscription found."""
        self._rows = [*self._rows[self._place :], *[(each, granted) for each in retained]]
        self._place = 0

    def next(self) -> tuple[Retained, Grant] | None:
        """Take the next one out."""
        if self._place >= len(self._rows):
            return None
        self._place += 1
        return self._rows[self._place - 1]


class Router:
    """Who is subscribed to what, what is retained, and delivery to sessions."""

    def __init__(self, broker: "EmbeddedBroker", retained_limits: RetainedLimits) -> None:
        self._broker = broker
        self.tree: SubscriptionTree[Session] = SubscriptionTree(lambda session: session.connection is not None)
        self.retained = RetainedStore(retained_limits)

    # --- messages ---

    def message(self, principal: Principal, publish: Publish) -> Message:
        """Give a client's message as the broker knows it."""
        properties = publish.properties
        if properties is not EMPTY_PROPERTIES and properties.response_topic is not None:
            response_topic = inward(principal, properties.response_topic)
            properties = msgspec.structs.replace(properties, response_topic=response_topic)
        topic = inward(principal, publish.topic)
        return Message(topic, publish.payload, publish.qos, publish.retain, properties, self._broker.now_s())

    def will(self, principal: Principal, will: Will) -> Message:
        """Give a will as the message that it becomes now."""
        message = Message.from_will(will)
        publish = Publish(message.topic, message.payload, message.qos, message.retain, properties=message.properties)
        return self.message(principal, publish)

    def retain(self, principal: Principal, message: Message, *, own: bool) -> bool:
        """Keep a retained message, or clear its topic; false if there is no room for it (P9)."""
        kept = self.retained.keep(Retained(message, principal.identity, own), self._broker.now_s())
        if not kept:
            _log.warning("a retained message of %s %s is not kept: no room", principal.role, principal.name)
        return kept

    def route(self, sender: Session | None, message: Message, *, own: bool) -> None:
        """Deliver a message to everybody who is subscribed to its topic.

        `own` tells that it is what a device said on a topic of its own, which is for operators; the device never hears
        itself (thingsboard.md rule 15).
        """
        retain = message.retain
        for receiver, granted in self.tree.match(message.topic, publisher=sender):
            if own and receiver.principal.role is _DEVICE:
                continue
            self.deliver(receiver, message, granted, retain=retain and granted.retain_as_published)

    def deliver(self, session: Session, message: Message, granted: Grant, *, retain: bool = False) -> None:
        """Give one session a message, now or when its client is back."""
        if session.principal.role is _DEVICE:
            message = _translated(session.principal, message)
        qos = message.qos if message.qos < granted.qos else granted.qos  # min() costs as much as the rest of this
        connection = session.connection
        if connection is not None:
            now_s = 0.0 if message.properties is EMPTY_PROPERTIES else self._broker.now_s()  # for expiry
            verdict = connection.session.publish(
                message, qos, retain=retain, subscription_ids=granted.identifiers, now_s=now_s
            )
            self._broker.dirty.add(connection)
            if verdict is _FULL and qos:
                self._lose(session)
            if verdict is not _CLOSED:
                return
            self._broker.forget(connection)  # its client has said goodbye, in this very turn
        if (
            qos
            and session.is_away
            and not self._broker.sessions.enqueue(
                session, message, qos, retain=retain, subscription_ids=granted.identifiers
            )
        ):
            self._lose(session)

    def _lose(self, session: Session) -> None:
        """End a session that a message of QoS 1 or 2 has no room in: not silently, and with it ends the promise."""
        what = "reads too slowly" if session.connection is not None else "has been away for too many messages"
        if self._broker.end_soon(session):
            _log.warning("%s %s %s; its session is ended", session.principal.role, session.principal.name, what)

    # --- subscriptions ---

    def subscribe(self, connection: "Connection", session: Session, subscribe: Subscribe) -> None:
        """Grant or refuse each filter by itself; then give what is retained."""
        identifiers = subscribe.properties.subscription_identifiers
        codes = []
        owed: list[tuple[str, Grant]] = []
        for wish in subscribe.subscriptions:
            inner = self._allowed(connection, session, wish)
            if isinstance(inner, ReasonCode):
                codes.append(inner)
                continue
            granted = grant(
                wish.qos,
                no_local=wish.no_local,
                retain_as_published=wish.retain_as_published,
                identifiers=identifiers,
            )
            is_new = self.tree.add(inner, session, granted)
            if is_new:
                session.filters = (*session.filters, inner)
            codes.append(ReasonCode(wish.qos))
            wanted = wish.retain_handling == 0 or (wish.retain_handling == 1 and is_new)
            if wanted and len(self.retained) and split_shared(inner)[0] is None:  # MQTT 5 section 4.8.2
                owed.append((inner, granted))
        connection.session.suback(subscribe.packet_id, tuple(codes))
        for inner, granted in owed:
            self._owe(connection, session, inner, granted)

    def _allowed(self, connection: "Connection", session: Session, wish: Subscription) -> str | ReasonCode:
        """Give the filter in the broker's topics, or why it is refused.

        Groups of operators and of devices are apart: no device takes a message from an operator's consumers.
        """
        principal = session.principal
        try:
            validate_topic_filter(wish.topic_filter)
        except TopicError:
            return ReasonCode.TOPIC_FILTER_INVALID
        group, plain = split_shared(wish.topic_filter)
        if not may_subscribe(principal, plain) or (
            group is not None and connection.session.version is not ProtocolVersion.V5
        ):
            return ReasonCode.NOT_AUTHORIZED
        inner = self._inner(principal, wish.topic_filter)
        if inner not in session.filters and len(session.filters) >= MAX_FILTERS_PER_SESSION:
            return ReasonCode.QUOTA_EXCEEDED
        return inner

    @staticmethod
    def _inner(principal: Principal, topic_filter: str) -> str:
        group, plain = split_shared(topic_filter)
        inner = inward(principal, plain)
        if group is None:
            return inner
        return f"$share/{_GROUPS.get(principal.role, 'operators')}:{group}/{inner}"

    def unsubscribe(self, connection: "Connection", session: Session, unsubscribe: Unsubscribe) -> None:
        """End subscriptions."""
        codes = []
        for topic_filter in unsubscribe.topic_filters:
            try:
                validate_topic_filter(topic_filter)
            except TopicError:
                codes.append(ReasonCode.TOPIC_FILTER_INVALID)
                continue
            inner = self._inner(session.principal, topic_filter)
            had = self.tree.remove(inner, session)
            if had:
                session.filters = tuple([each for each in session.filters if each != inner])
            codes.append(ReasonCode.SUCCESS if had else ReasonCode.NO_SUBSCRIPTION_EXISTED)
        connection.session.unsuback(unsubscribe.packet_id, tuple(codes))

    def unsubscribe_all(self, session: Session) -> None:
        """End all subscriptions of a session."""
        for inner in session.filters:
            self.tree.remove(inner, session)
        session.filters = ()

    # --- retained messages ---

    def _owe(self, connection: "Connection", session: Session, inner: str, granted: Grant) -> None:
        found = self.retained.match(inner, self._broker.now_s())
        if session.principal.role is Role.DEVICE:
            found = [each for each in found if not each.own]
        if found:
            if connection.backlog is None:
                connection.backlog = Backlog()
            connection.backlog.add(found, granted)

    def pay(self, connection: "Connection", session: Session) -> None:
        """Give retained messages that are owed, as many as find room before the client has taken some."""
        backlog, mqtt = connection.backlog, connection.session
        if backlog is None or mqtt.closed:
            return
        room = self._broker.limits.max_queued_bytes // 2
        while True:
            pending = mqtt.pending
            if pending.queued_messages or pending.output_bytes > room:
                return
            row = backlog.next()
            if row is None:
                break
            self._give_retained(session, *row)
        connection.backlog = None

    def put_off(self, connection: "Connection", session: Session) -> None:
        """Let the retained messages that are owed wait with the rest for a client that has gone."""
        backlog, connection.backlog = connection.backlog, None
        while session.is_away and backlog is not None and (row := backlog.next()) is not None:
            self._give_retained(session, *row)

    def _give_retained(self, session: Session, retained: Retained, granted: Grant) -> None:
        # Unless it was replaced: then the newer one was delivered already, and the older must not follow it.
        if self.retained.get(retained.message.topic) is retained:
            self.deliver(session, retained.message, granted, retain=True)

    def forget_device(self, name: str) -> None:
        """Clear what is retained for and of a device, so that nobody who gets it or its name finds it (P8).

        Who gets the name may be of any profile, and so count the patterns of all.
        """
        if not len(self.retained):
            return
        patterns: list[str] = []
        try:
            for row in self._broker.responder.chain().profiles():
                patterns += [*row.profile.publish_topics, *row.profile.subscribe_topics]
        except StoreUnavailable as error:
            _log.error("what is retained for %s by the patterns of profiles is not cleared: %s", name, error)
        for topic_filter in filters_of_device(name, patterns):
            for each in self.retained.match(topic_filter, self._broker.now_s()):
                self.retained.forget(each.message.topic)


def is_own(principal: Principal, topic: str) -> bool:
    """Tell whether a topic, as the principal names it, is one of a device's own."""
    return principal.role is Role.DEVICE and is_own_topic(topic)


def _translated(principal: Principal, message: Message) -> Message:
    """Give the message in the topics that a device knows."""
    topic, properties = outward(principal, message.topic), message.properties
    if properties is not EMPTY_PROPERTIES and properties.response_topic is not None:
        properties = msgspec.structs.replace(properties, response_topic=outward(principal, properties.response_topic))
    elif topic is message.topic:
        return message
    return msgspec.structs.replace(message, topic=topic, properties=properties)
