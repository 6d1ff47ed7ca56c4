"""What a stock amqtt broker is told by us: who may log in, who may do what, and who gets which message.

amqtt routes what the patterns of profiles allow and what operators say to each other. Topics of devices (`v1/...`) and
audit events we deliver ourselves, session by session: amqtt knows no `me`, and its own fan-out loses messages.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Any, Final

from mqttprov.brokers.amqtt_seam import AmqttBroker, AmqttSession, certificate_of
from mqttprov.brokers.answers import automatic_answer
from mqttprov.brokers.device_events import ask_to_rotate, ended_by, older, relabel
from mqttprov.brokers.farewell import WIPE_CALL, Farewells
from mqttprov.brokers.stock_session import (
    MAX_FILTERS_PER_SESSION,
    PROVISIONING_TIMEOUT_S,
    StockSession,
    session_of,
)
from mqttprov.brokers.stock_sessions import StockSessions
from mqttprov.core.audit import ENDS_SESSIONS, ChainedEvent, EventKind
from mqttprov.core.credentials import PROVISION_LOGIN
from mqttprov.core.login import Login, LoginAttempt, LoginRefusal, Principal, Role
from mqttprov.core.permissions import (
    AUDIT_PREFIX,
    CHECKPOINT_LEVEL,
    REQUEST_TOPIC,
    RESPONSE_TOPIC,
    inward,
    is_own_topic,
    may_publish,
    may_subscribe,
    outward,
    topic_of_device,
)
from mqttprov.core.requests import Granted, Outcome
from mqttprov.core.secrets import Keys
from mqttprov.mqtt import ServerLimits, TopicError, is_shared, validate_topic_filter, validate_topic_name
from mqttprov.responder.gathered import SEEN_INTERVAL_MS
from mqttprov.responder.service import Responder

MAX_PENDING_REQUESTS: Final = 8
MAX_PENDING_DELIVERIES: Final = 1_000  # to one client; also what waits for one that is away
_OURS: Final = ("v1/", "/provision/", "provision/")  # topics that nobody but us gives anybody a part in
_BROKER_STATE: Final = "$SYS/"
_DEVICES: Final = "v1/devices/"
_LATE_CALL: Final = 0  # number of a call whose audit event is long past; those have their event's place
# Another plugin may know who that is; for all other refusals our answer is final.
_NOT_OURS: Final = frozenset({LoginRefusal.UNKNOWN, LoginRefusal.ANONYMOUS})

_log: Final = logging.getLogger(__name__)


class StockDesk:
    """Decides and delivers. Everything runs in the event loop's thread; `later` makes amqtt's queue entry of a message.

    `alone` tells that no other plugin lets anybody in.
    """

    def __init__(
        self,
        broker: AmqttBroker,
        loop: asyncio.AbstractEventLoop,
        responder: Responder,
        keys: Keys,
        *,
        alone: bool,
        later: Callable[[str, bytes, int], Any],
    ) -> None:
        self.responder = responder
        self.farewells: Farewells[StockSession] = Farewells(self, loop)
        self.sessions = StockSessions(broker, loop, keys, self.farewells.left)
        self._loop = loop
        self._alone = alone
        self._later = later
        self._limits = ServerLimits()
        self._deliveries: set[asyncio.Task[None]] = set()
        self._tell_seen_s = loop.time() + SEEN_INTERVAL_MS / 1000

    def turn(self) -> None:
        """End what is overdue, and once an hour tell which devices are connected; to be called about once a second."""
        self.sessions.turn()
        now_s = self._loop.time()
        if now_s >= self._tell_seen_s:
            self._tell_seen_s = now_s + SEEN_INTERVAL_MS / 1000
            self.responder.seen(self.sessions.connected_devices())

    # --- logins ---

    async def authenticate(self, session: AmqttSession) -> bool | None:
        """Decide a CONNECT: True, False, or None when somebody else may know who that is."""
        if session.parent or session_of(session) is not None:
            # An old session of another plugin's user, or of ours if a key was guessed; what TLS says of it is stale.
            return None if session_of(session) is None and not self._alone else False
        if PROVISION_LOGIN in {session.username, session.client_id}:
            self.sessions.enter_guest(session)
            return True
        answer: asyncio.Future[StockSession | LoginRefusal] = self._loop.create_future()

        def decided(login: Login) -> None:
            if not answer.done():
                answer.set_result(self._enter(session, login))

        attempt = LoginAttempt(session.client_id or "", session.username, session.password, certificate_of(session))
        self.responder.login(attempt, session.remote_address or "", decided)
        entered = await answer
        if isinstance(entered, StockSession):
            if entered.ended:
                self.sessions.abandon(entered)
            return not entered.ended
        _log.info("login from %s refused: %s", session.remote_address, entered)
        if entered in _NOT_OURS and not self._alone:
            return None
        self.sessions.refuse(session)
        return False

    def _enter(self, session: AmqttSession, login: Login) -> StockSession | LoginRefusal:
        # At once, not when `authenticate` goes on: an event that ends the device's sessions must find this one (P7).
        principal = login.principal
        if principal is None:
            return login.refusal or LoginRefusal.UNKNOWN
        session.will_retain = False
        if session.will_flag:
            topic = session.will_topic or ""
            if not _is_name(topic) or not may_publish(principal, topic):
                # amqtt would publish it unchecked; to take it and never publish it would be worse than a refusal.
                _log.info("%s %s may not publish its will", principal.role, principal.name)
                return LoginRefusal.STATE
            session.will_topic = inward(principal, topic)
        return self.sessions.enter(session, principal)

    # --- permissions ---

    def may_subscribe(self, session: AmqttSession, topic_filter: str) -> bool:
        """Decide a subscription, and take note of it."""
        ours = session_of(session)
        if ours is None:
            return not topic_filter.startswith(_OURS)
        if ours.ended:
            return False
        if topic_filter not in ours.asked and len(ours.asked) >= MAX_FILTERS_PER_SESSION:
            return False
        if ours.principal is None:
            allowed = topic_filter == RESPONSE_TOPIC
        else:
            allowed = _is_filter(topic_filter) and _may_listen(ours.principal, topic_filter)
        if allowed:
            ours.asked.add(topic_filter)
        return allowed

    def may_route(self, session: AmqttSession, topic: str) -> bool:
        """Tell whether amqtt shall route a message of this session."""
        ours = session_of(session)
        if ours is None:
            return not topic.startswith(_OURS)
        principal = ours.principal
        if ours.ended or principal is None:
            return False
        if principal.role is Role.DEVICE and is_own_topic(topic):
            return False  # `heard` delivers it
        return may_publish(principal, topic)

    def may_receive(self, session: AmqttSession, topic: str) -> bool:
        """Tell whether a message that amqtt routes may reach this session."""
        ours = session_of(session)
        if ours is None:
            return not topic.startswith(_OURS)
        principal = ours.principal
        if ours.ended or principal is None:
            return False
        if ours.handler is None and ours.session.retained_messages.qsize() >= MAX_PENDING_DELIVERIES:
            return False  # its client is away, and enough waits for it (P9)
        if principal.role is Role.DEVICE and topic.startswith(_OURS):
            return False
        return _may_listen(principal, topic)

    # --- what sessions do ---

    def subscribed(self, key: str, topic_filter: str, qos: int) -> None:
        """Take note that a subscription stands: every plugin granted it."""
        ours = self.sessions.at(key)
        if ours is None or topic_filter not in ours.asked:
            return
        principal = ours.principal
        ours.filters[inward(principal, topic_filter) if principal else topic_filter] = qos
        if principal is not None and principal.rotation_due and self.responder.can_rotate(principal.name):
            self.call([ours], _LATE_CALL, WIPE_CALL)

    def unsubscribed(self, key: str, topic_filter: str) -> None:
        """Take note that a subscription has ended."""
        ours = self.sessions.at(key)
        if ours is not None:
            ours.asked.discard(topic_filter)
            ours.filters.pop(inward(ours.principal, topic_filter) if ours.principal else topic_filter, None)

    def heard(self, key: str, topic: str, payload: bytes, qos: int) -> None:
        """Handle what a client published. amqtt has acknowledged it already, allowed or not."""
        ours = self.sessions.at(key)
        if ours is None or ours.ended:
            return
        principal = ours.principal
        if not _is_name(topic) or len(payload) > self._limits.max_packet_bytes:
            self.sessions.end(ours)  # amqtt leaves such a client connected and deaf, or takes whatever it sends
        elif principal is None:
            self._asked(ours, topic, payload)
        elif not may_publish(principal, topic):
            _log.info("%s %s may not publish to the topic that it named", principal.role, principal.name)
        elif principal.role is Role.DEVICE and is_own_topic(topic):
            self._tell_listeners(inward(principal, topic), payload, qos)
            answer = automatic_answer(topic, payload, self._limits, principal.labels)
            if answer is not None and ours.granted(inward(principal, answer[0])) is not None:
                self._send(ours, answer[0], answer[1], min(qos, 1))
            self.farewells.heard(ours, topic, payload)
        elif principal.role is Role.OPERATOR and topic.startswith(_DEVICES):
            for device in self.sessions.of_device_named(topic[len(_DEVICES) :].partition("/")[0]):
                self._deliver(device, topic, payload, qos)

    def _asked(self, ours: StockSession, topic: str, payload: bytes) -> None:
        """Answer a provisioning request on the connection that it came on, and on no other (P3)."""
        if topic != REQUEST_TOPIC or ours.pending_requests >= MAX_PENDING_REQUESTS:
            self.sessions.end(ours)
            return
        ours.pending_requests += 1
        handler = ours.handler

        def reply(payload: bytes, outcome: Outcome) -> None:
            ours.pending_requests -= 1
            if isinstance(outcome, Granted) and outcome.ended_before:
                # What the last owner has open ends before the new one learns that the device is his (P7).
                for former in older(self.sessions.of_device(outcome.device_id), outcome.ended_before):
                    self.sessions.end(former)
            if ours.ended or handler is None or not self.sessions.holds(ours, handler):
                return
            ours.deadline = self._loop.time() + PROVISIONING_TIMEOUT_S
            self._send(ours, RESPONSE_TOPIC, payload, min(ours.filters.get(RESPONSE_TOPIC, 1), 1))

        self.responder.request(payload, ours.source, reply)

    # --- messages to sessions ---

    def _tell_listeners(self, inner: str, payload: bytes, qos: int) -> None:
        for listener in self.sessions.listeners():
            self._deliver(listener, inner, payload, qos)

    def _deliver(self, receiver: StockSession, inner: str, payload: bytes, qos: int) -> bool:
        granted = receiver.granted(inner)
        if granted is None or receiver.principal is None:
            return False
        self._send(receiver, outward(receiver.principal, inner), payload, min(qos, granted))
        return True

    def _send(self, receiver: StockSession, topic: str, payload: bytes, qos: int) -> None:
        if receiver.ended:
            return
        if receiver.handler is None:
            waiting = receiver.session.retained_messages
            if qos and receiver.kept and waiting.qsize() < MAX_PENDING_DELIVERIES:
                waiting.put_nowait(self._later(topic, payload, qos))
            return
        if receiver.pending_deliveries >= MAX_PENDING_DELIVERIES:
            if qos:
                # A message of QoS 1 must not be lost silently: the session ends, and with it the promise.
                _log.warning("a client at %s reads too slowly; its session is ended", receiver.source)
                self.sessions.end(receiver)
            return
        receiver.pending_deliveries += 1
        task = self._loop.create_task(self._publish(receiver, topic, payload, qos))
        self._deliveries.add(task)
        task.add_done_callback(self._deliveries.discard)

    async def _publish(self, receiver: StockSession, topic: str, payload: bytes, qos: int) -> None:
        try:
            if receiver.handler is not None:
                await receiver.handler.mqtt_publish(topic, payload, qos, retain=False)
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - amqtt raises many kinds for a peer that is gone
            _log.debug("a message to a client at %s was not confirmed: %r", receiver.source, error)
        finally:
            receiver.pending_deliveries -= 1

    def call(self, connections: Iterable[StockSession], number: int, payload: bytes) -> list[StockSession]:
        """Call a procedure of a device on those of its sessions that listen to calls; give them."""
        return [
            ours
            for ours in connections
            if ours.principal is not None
            and ours.handler is not None
            and self._deliver(ours, f"{topic_of_device(ours.principal.name)}rpc/request/{number}", payload, 1)
        ]

    # --- audit events ---

    def publish_event(self, event: ChainedEvent) -> None:
        """Act on a committed audit event, and publish it to the operators who listen (QoS 1)."""
        sessions = self.sessions.of_event(event)
        if event.kind in ENDS_SESSIONS:
            self.farewells.begin(event, ended_by(event, sessions))
        elif event.kind == EventKind.ROTATION_REQUESTED:
            ask_to_rotate(event, self, sessions)
        elif event.kind == EventKind.LABELLED:
            relabel(event, sessions)
        self._tell_listeners(AUDIT_PREFIX + event.kind, f'{event.body[:-1]},"hash":"{event.hash}"}}'.encode(), 1)

    def publish_checkpoint(self, note: str) -> None:
        """Publish a signed checkpoint of the audit to the operators who listen (QoS 1)."""
        self._tell_listeners(AUDIT_PREFIX + CHECKPOINT_LEVEL, note.encode(), 1)

    async def settle(self, seq: int) -> None:
        """Return when the sessions that this audit event ends are gone."""
        over = asyncio.Event()
        self.farewells.when_settled(seq, over.set)
        await over.wait()
        await self.sessions.settled()

    async def finish_deliveries(self) -> None:
        """Let what is on its way go out; what nobody acknowledges in time is amqtt's to drop."""
        if self._deliveries:
            await asyncio.wait(self._deliveries, timeout=1.0)


def _may_listen(principal: Principal, topic_or_filter: str) -> bool:
    """Tell whether it may subscribe; what amqtt's own plugin says of the broker, in `$SYS`, is for operators."""
    if principal.role is not Role.DEVICE and topic_or_filter.startswith(_BROKER_STATE):
        return True
    return may_subscribe(principal, topic_or_filter)


def _is_name(topic: str) -> bool:
    try:
        validate_topic_name(topic)
    except TopicError:
        return False
    return not topic.startswith("$")


def _is_filter(topic_filter: str) -> bool:
    try:
        validate_topic_filter(topic_filter)
    except TopicError:
        return False
    return not is_shared(topic_filter)
