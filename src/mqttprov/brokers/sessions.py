"""The sessions of those who have logged in, while they are connected and, as they asked, for a time after.

Here lives what makes a session the same one again: who it is of, its client id, its subscriptions, what waits for it.
Client ids are per principal, so nobody can take over or resume a stranger's. What a session receives is the router's;
what it may do is `core.permissions`'. Sessions are kept in memory: a broker that starts anew begins without them.
"""

import logging
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final

from mqttprov.brokers.wheel import DeadlineWheel
from mqttprov.core.audit import ChainedEvent
from mqttprov.core.limits import MAX_SESSIONS_PER_DEVICE
from mqttprov.core.login import Principal, identities_in
from mqttprov.mqtt import DeliveryState, Message, ReasonCode, Verdict, Will

if TYPE_CHECKING:
    from mqttprov.brokers.connection import Connection

# P9. MQTT 3.1.1 cannot say how long; a week lets an operator's listener miss a weekend.
MAX_SESSION_EXPIRY_S: Final = 7 * 86_400
MAX_SESSIONS_AWAY: Final = 50_000
MAX_BYTES_AWAY: Final = 64 * 1024 * 1024  # of messages, for all who are away together

_log = logging.getLogger(__name__)


class Session:
    """One session. `connection` is None while its client is away; `delivery` is what waits for it then.

    `filters` are its subscriptions in the broker's topics. `will` is one whose delay runs while the client is away.
    """

    __slots__ = (
        "_sessions",
        "client_id",
        "connection",
        "counted_bytes",
        "delivery",
        "expires_s",
        "filters",
        "may_be_kept",
        "principal",
        "slot",
        "will",
        "will_due_s",
    )

    def __init__(self, sessions: "Sessions", principal: Principal, client_id: str) -> None:
        self._sessions = sessions
        self.principal = principal
        self.client_id = client_id
        self.connection: Connection | None = None
        self.filters: tuple[str, ...] = ()  # few, and never changed by many: a set would weigh more than all else here
        self.delivery: DeliveryState | None = None
        self.counted_bytes = 0  # of what waits, as counted for all who are away
        self.expires_s = 0.0
        self.may_be_kept = True  # until it is ended for good, whatever its client asks for
        self.will: Will | None = None
        self.will_due_s = 0.0
        self.slot = 0  # the wheel's

    @property
    def is_away(self) -> bool:
        """Whether its client is gone and it waits for it."""
        return self.delivery is not None

    def deadline_s(self) -> float | None:
        """Give the time at which its will is due, or it has been kept long enough."""
        if self.delivery is None:
            return None
        return min(self.expires_s, self.will_due_s) if self.will is not None else self.expires_s

    def expire(self) -> None:
        """Publish the will that is due; end the session when its time is over."""
        self._sessions.overdue(self)


class Sessions:
    """All sessions, by principal. No principal has more than a few, so none of this takes a step per session of others.

    `publish_will` gets a session and its will; `unsubscribe` ends all subscriptions of a session.
    """

    def __init__(
        self,
        wheel: DeadlineWheel,
        now_s: Callable[[], float],
        publish_will: Callable[[Session, Will], None],
        unsubscribe: Callable[[Session], None],
    ) -> None:
        self._wheel = wheel
        self._now_s = now_s
        self._publish_will = publish_will
        self._unsubscribe = unsubscribe
        self._by_principal: dict[str, tuple[Session, ...]] = {}
        self._away: dict[Session, None] = {}  # in the order in which they left
        self.bytes_away = 0

    def __len__(self) -> int:
        """Count the sessions, of who is away too."""
        return sum(len(of_one) for of_one in self._by_principal.values())

    @property
    def away(self) -> int:
        """How many sessions wait for their client."""
        return len(self._away)

    def of_device(self, device_id: str) -> tuple[Session, ...]:
        """Give the sessions of a device, the oldest first."""
        return self._by_principal.get(device_id, ())

    def of_event(self, event: ChainedEvent) -> list[Session]:
        """Give the sessions of the device or operator that an audit event names."""
        return [each for identity in identities_in(event) for each in self._by_principal.get(identity, ())]

    def is_connected(self, principal: Principal, client_id: str) -> bool:
        """Tell whether somebody is connected as this principal with this client id."""
        found = self._find(principal.identity, client_id)
        return found is not None and found.connection is not None

    def connected_devices(self) -> Iterator[str]:
        """Give the ids of the devices that are connected."""
        for of_one in self._by_principal.values():
            if of_one[0].principal.device_id and any(each.connection is not None for each in of_one):
                yield of_one[0].principal.device_id

    def enter(self, principal: Principal, client_id: str, *, resume: bool) -> Session:
        """Give the session of a login: the earlier one of this principal and client id if it may be resumed, or anew.

        Only now, after the login, may a connection displace another one, and only one of the same principal. The caller
        sets `connection` once the client has been told; what `delivery` holds is resumed until then.
        """
        identity = principal.identity
        for other in self._by_principal.get(identity, ()):
            # The older generation ended in the commit that activated this one (words.md).
            if other.principal.generation < principal.generation:
                self.end(other, ReasonCode.NOT_AUTHORIZED)
        earlier = self._find(identity, client_id)
        if earlier is not None and earlier.connection is not None:
            earlier.connection.end(ReasonCode.SESSION_TAKEN_OVER)  # it is away then, or ended
            earlier = self._find(identity, client_id)
        if earlier is not None and resume and _same_rights(earlier.principal, principal):
            self._come_back(earlier, principal)
            return earlier
        if earlier is not None:
            self.end(earlier, ReasonCode.SESSION_TAKEN_OVER)
        session = Session(self, principal, client_id)
        others = (*self._by_principal.get(identity, ()), session)
        self._by_principal[identity] = others
        if len(others) > MAX_SESSIONS_PER_DEVICE:
            self.end(next((each for each in others if each.is_away), others[0]), ReasonCode.QUOTA_EXCEEDED)
        return session

    def _find(self, identity: str, client_id: str) -> Session | None:
        if not client_id:
            return None
        return next((each for each in self._by_principal.get(identity, ()) if each.client_id == client_id), None)

    def _come_back(self, session: Session, principal: Principal) -> None:
        session.principal = principal
        session.will = None  # it is back before its will was due (MQTT-3.1.3-9)
        self._away.pop(session, None)

    def resumed(self, session: Session, connection: "Connection") -> None:
        """Note that the client of a session has been told: what comes now goes to its connection."""
        self.bytes_away -= session.counted_bytes
        session.counted_bytes = 0
        session.delivery = None
        session.connection = connection

    def leave(self, session: Session, delivery: DeliveryState, keep_s: int, will: Will | None) -> None:
        """Keep a session whose connection has ended for `keep_s` seconds; `will` is published after its delay."""
        now_s = self._now_s()
        session.connection = None
        session.delivery = delivery
        session.expires_s = now_s + min(keep_s, MAX_SESSION_EXPIRY_S)
        delay_s = (will.properties.will_delay_interval_s or 0) if will is not None else 0
        if will is not None and delay_s:
            session.will, session.will_due_s, will = will, now_s + delay_s, None
        self._away[session] = None
        self._count(session)
        if len(self._away) > MAX_SESSIONS_AWAY:
            oldest = next(iter(self._away))
            _log.warning("more than %d sessions wait for their clients; the longest away is ended", MAX_SESSIONS_AWAY)
            self.end(oldest, ReasonCode.QUOTA_EXCEEDED)
        if self.bytes_away > MAX_BYTES_AWAY:
            _log.warning("more than %d bytes wait for clients that are away; a session is ended", MAX_BYTES_AWAY)
            self.end(session, ReasonCode.QUOTA_EXCEEDED)
        self._wheel.watch(session)
        if will is not None:
            self._publish_will(session, will)

    def _count(self, session: Session) -> None:
        size = session.delivery.queued_bytes if session.delivery is not None else 0
        self.bytes_away += size - session.counted_bytes
        session.counted_bytes = size

    def enqueue(
        self, session: Session, message: Message, qos: int, *, retain: bool, subscription_ids: tuple[int, ...]
    ) -> bool:
        """Let a message of QoS 1 or 2 wait for who is away; false if there is no room, or nobody is waited for."""
        if session.delivery is None or self.bytes_away + message.size_bytes > MAX_BYTES_AWAY:
            return False
        verdict = session.delivery.enqueue(message, qos, retain=retain, subscription_ids=subscription_ids)
        if verdict is Verdict.FULL and session.delivery.drop_expired(self._now_s()):
            verdict = session.delivery.enqueue(message, qos, retain=retain, subscription_ids=subscription_ids)
        self._count(session)
        return verdict is not Verdict.FULL

    def overdue(self, session: Session) -> None:
        """See to a session whose deadline has passed."""
        now_s = self._now_s()
        if session.expires_s <= now_s:
            self.end(session, ReasonCode.UNSPECIFIED_ERROR)
            return
        self._will_of(session)
        self._wheel.watch(session)

    def _will_of(self, session: Session) -> None:
        will, session.will = session.will, None
        if will is not None:
            self._publish_will(session, will)

    def end(self, session: Session, reason: ReasonCode, *, with_will: bool = True) -> None:
        """End a session for good, with its connection if it has one.

        A will that waits is published then, since it waits for the end of the session at most (MQTT-3.1.2-8), unless
        its principal has lost the right to speak: `with_will` false.
        """
        session.may_be_kept = False
        connection = session.connection
        if connection is not None:
            if not with_will:
                connection.session.will = None
            connection.end(reason)  # which comes back here through `forget`
            return
        if not with_will:
            session.will = None
        self.forget(session)

    def forget(self, session: Session) -> None:
        """Take a session out of everything; a will that waits is published."""
        identity = session.principal.identity
        others = tuple([each for each in self._by_principal.get(identity, ()) if each is not session])
        if others:
            self._by_principal[identity] = others
        else:
            self._by_principal.pop(identity, None)
        self._away.pop(session, None)
        self._unsubscribe(session)
        session.connection = session.delivery = None
        self._count(session)
        self._will_of(session)


def _same_rights(before: Principal, now: Principal) -> bool:
    """Tell whether what a session subscribed to, and what waits for it, may still be read by its principal.

    With other rights it is not resumed: the client is told so, and subscribes again under the rights that it has now.
    """
    return (before.role, before.name, before.generation, before.subscribe_topics) == (
        now.role,
        now.name,
        now.generation,
        now.subscribe_topics,
    )
