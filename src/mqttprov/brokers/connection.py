"""One TCP or TLS connection of the embedded broker: bytes to `ServerSession`, its events to the broker, output back.

Which rules apply to a session depends on what it is: `provisioning` sessions may only ask and be answered, and the
answer is written to this very connection (P3); all others are routed by the broker.
"""

import asyncio
import hashlib
import ssl
from typing import TYPE_CHECKING, Final, cast

from mqttprov.brokers.sessions import MAX_SESSION_EXPIRY_S, Session
from mqttprov.core.credentials import PROVISION_LOGIN
from mqttprov.core.login import Login, LoginAttempt, LoginRefusal, Principal
from mqttprov.core.permissions import REQUEST_TOPIC, RESPONSE_TOPIC, may_publish
from mqttprov.core.requests import FactoryIdentity, Outcome
from mqttprov.mqtt import (
    Connect,
    ConnectReceived,
    Message,
    ProtocolVersion,
    ProtocolViolated,
    Publish,
    PublishReceived,
    ReasonCode,
    ServerEvent,
    ServerSession,
    Subscribe,
    SubscribeReceived,
    Unsubscribe,
    UnsubscribeReceived,
)

if TYPE_CHECKING:
    from mqttprov.brokers.broker import EmbeddedBroker
    from mqttprov.brokers.routing import Backlog

CONNECT_TIMEOUT_S: Final = 10.0
CLOSING_TIMEOUT_S: Final = 10.0  # for a peer to read what it is still owed
PROVISIONING_TIMEOUT_S: Final = 60.0  # as ThingsBoard: it closes such a session 60 s after a reply
MAX_PENDING_REQUESTS: Final = 8
MAX_PROVISIONING_PACKET_BYTES: Final = 65_536  # as ThingsBoard; anybody may send it, so it is less than after login

_REFUSALS: Final = {
    LoginRefusal.ANONYMOUS: ReasonCode.NOT_AUTHORIZED,
    LoginRefusal.UNKNOWN: ReasonCode.BAD_USER_NAME_OR_PASSWORD,
    LoginRefusal.WRONG_PASSWORD: ReasonCode.BAD_USER_NAME_OR_PASSWORD,
    LoginRefusal.STATE: ReasonCode.NOT_AUTHORIZED,
    LoginRefusal.SUPERSEDED: ReasonCode.BAD_USER_NAME_OR_PASSWORD,  # as UNKNOWN; for the audit only
    LoginRefusal.UNAVAILABLE: ReasonCode.SERVER_UNAVAILABLE,
    LoginRefusal.CERTIFICATE: ReasonCode.NOT_AUTHORIZED,
    LoginRefusal.CHAIN: ReasonCode.NOT_AUTHORIZED,
    LoginRefusal.FACTORY_SPENT: ReasonCode.NOT_AUTHORIZED,
    LoginRefusal.FACTORY_SHARED: ReasonCode.NOT_AUTHORIZED,
}


class Connection(asyncio.Protocol):
    """A client's connection from accept to close."""

    __slots__ = (
        "_accepted",
        "_broker",
        "_congested",
        "_deadline_s",
        "_factory",
        "_paused",
        "_pending_requests",
        "_response_qos",
        "_seen_s",
        "_transport",
        "backlog",
        "member",
        "principal",
        "session",
        "slot",
        "source",
    )

    def __init__(self, broker: "EmbeddedBroker") -> None:
        self._broker = broker
        self._transport: asyncio.Transport | None = None
        self._accepted = False
        self._congested = False
        self._paused = False
        self._pending_requests = 0
        self._factory: FactoryIdentity | None = None  # which device a provisioning session has shown to be
        self._response_qos: int | None = None  # of its subscription to the response topic
        self._seen_s = broker.now_s()
        self._deadline_s: float | None = self._seen_s + CONNECT_TIMEOUT_S
        self.session = ServerSession(broker.limits)
        self.principal: Principal | None = None
        self.member: Session | None = None  # what it is in the broker after its login; stays when that has ended
        self.backlog: Backlog | None = None  # retained messages that it is owed
        self.source = ""
        self.slot = 0  # the wheel's

    # --- asyncio.Protocol ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take up a connection, if there is room for one more."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's transports are not subclasses of it
        peer = transport.get_extra_info("peername")
        self.source = str(peer[0]) if peer else ""
        if self._broker.admit(self):
            self._broker.wheel.watch(self)
        else:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        """Handle one read: all its packets, then one write."""
        self._seen_s = self._broker.now_s()
        self._handle(self.session.receive(data, self._seen_s))
        if self._pending_requests and not self.session.closed:
            # The reply is a commit away: what is owed until then (SUBACK) leaves in the same segment.
            self._broker.dirty.discard(self)
        self._broker.flush()

    def connection_lost(self, exc: Exception | None) -> None:
        """Clean up; a will that is still due is published."""
        self.session.connection_lost()
        self._deadline_s = None
        self._transport = None
        self._broker.closed(self)
        self._broker.flush()

    def pause_writing(self) -> None:
        """Leave output in the session while the client does not read: there it is bounded (P9)."""
        self._congested = True

    def resume_writing(self) -> None:
        """Write what has gathered."""
        self._congested = False
        self.flush()

    # --- deadlines (wheel) ---

    def deadline_s(self) -> float | None:
        """Give the time at which this connection has been silent, or undecided, for too long."""
        if self._transport is None:
            return None
        if self.session.closed:
            return self._deadline_s
        timeout = self.session.keep_alive_timeout_s if self._accepted else None
        alive_until = self._seen_s + timeout if timeout is not None else None
        if alive_until is None or self._deadline_s is None:
            return alive_until if self._deadline_s is None else self._deadline_s
        return min(alive_until, self._deadline_s)

    def expire(self) -> None:
        """End it for silence; cut it off when it has ended but the peer does not read the rest."""
        if not self.session.closed:
            self.end(ReasonCode.KEEP_ALIVE_TIMEOUT)
        elif self._transport is not None:
            self._transport.abort()

    # --- output ---

    def flush(self) -> None:
        """Write what the session has to say and close when it is over."""
        transport = self._transport
        if transport is None:
            return
        if self.session.closed or not self._congested:
            if self.backlog is not None and self.member is not None:
                self._broker.router.pay(self, self.member)
            output = self.session.take_output()
            if output:
                self._write(transport, output)
        if self.session.closed:
            self._close(transport)
        elif self._paused is self.session.wants_input:
            self._paused = not self._paused
            (transport.pause_reading if self._paused else transport.resume_reading)()

    def _write(self, transport: asyncio.Transport, output: bytes) -> None:
        transport.write(output)

    def _close(self, transport: asyncio.Transport) -> None:
        self._broker.forget(self)  # at once: what comes for its session from now on waits for the next connection
        if transport.is_closing():
            return
        transport.close()
        if transport.get_write_buffer_size():
            # Closing waits for the peer to read, and a peer that never does would hold its place for ever (P9).
            self._deadline_s = self._broker.now_s() + CLOSING_TIMEOUT_S
            self._broker.wheel.watch(self)

    def end(self, reason: ReasonCode) -> None:
        """End the session from our side."""
        self.session.disconnect(reason)
        self._broker.forget(self)
        self.flush()
        if self._congested and self._transport is not None:
            self._transport.abort()  # it would wait for a reader that does not read

    # --- events ---

    def _handle(self, events: list[ServerEvent]) -> None:
        for event in events:
            if isinstance(event, PublishReceived):
                self._on_publish(event.publish)
            elif isinstance(event, ConnectReceived):
                self._on_connect(event.connect)
            elif isinstance(event, SubscribeReceived):
                self._on_subscribe(event.subscribe)
            elif isinstance(event, UnsubscribeReceived):
                self._on_unsubscribe(event.unsubscribe)
            elif isinstance(event, ProtocolViolated):
                self._broker.log_violation(self, event.error)
        self._broker.dirty.add(self)

    def _on_connect(self, connect: Connect) -> None:
        certificate = self._certificate()
        hashed = hashlib.sha256(certificate).hexdigest() if certificate else None
        if PROVISION_LOGIN in {connect.username, connect.client_id}:
            if certificate is None:
                self._begin_provisioning(connect, None)
                return
            attempt = LoginAttempt(connect.client_id, None, None, hashed, certificate, provisioning=True)
        else:
            password = connect.password.decode("utf-8", "surrogateescape") if connect.password is not None else None
            attempt = LoginAttempt(connect.client_id, connect.username, password, hashed, certificate)

        def decided(login: Login) -> None:
            if not self.session.closed:
                self._on_login(connect, login)
                self._broker.flush()

        self._broker.responder.login(attempt, self.source, decided)

    def _begin_provisioning(self, connect: Connect, factory: FactoryIdentity | None) -> None:
        # Many share the client id `provision`: no session is taken over here (thingsboard.md rule 4).
        self._factory = factory
        self._deadline_s = self._seen_s + PROVISIONING_TIMEOUT_S
        events = self.session.accept(
            assigned_client_id=self._assigned_id(connect), max_packet_bytes=MAX_PROVISIONING_PACKET_BYTES
        )
        self._keep_alive()
        self._handle(events)

    def _on_login(self, connect: Connect, login: Login) -> None:
        if login.provisioning:
            self._begin_provisioning(connect, login.factory)
            return
        if login.principal is None:
            refusal = login.refusal or LoginRefusal.UNKNOWN
            self._broker.log_refusal(self, login.reason or str(refusal))
            self.session.refuse(_REFUSALS[refusal])
            self._broker.dirty.add(self)
            return
        if connect.will is not None and not may_publish(login.principal, connect.will.topic):
            # Rather than to find out when it is too late to say so.
            self._broker.log_will(self)
            self.session.refuse(ReasonCode.NOT_AUTHORIZED, "you may not publish to the topic of your will")
            self._broker.dirty.add(self)
            return
        self.principal = login.principal
        self._deadline_s = None
        assigned = self._assigned_id(connect)
        client_id = assigned or connect.client_id
        member = self._broker.enter(self, login.principal, client_id, resume=not connect.clean_start)
        events = self.session.accept(
            assigned_client_id=assigned,
            max_packet_bytes=self._broker.limits.max_packet_bytes,
            max_session_expiry_s=MAX_SESSION_EXPIRY_S,
            session_present=member.is_away,
            state=member.delivery,
            now_s=self._broker.now_s(),
        )
        self.member = member
        self._broker.sessions.resumed(member, self)
        self._broker.begun(self, login.principal)
        self._keep_alive()
        self._handle(events)

    def _keep_alive(self) -> None:
        """Hold the client to its keep alive from now on."""
        self._accepted = True
        if (self.session.keep_alive_timeout_s or CONNECT_TIMEOUT_S) < CONNECT_TIMEOUT_S:
            self._broker.wheel.watch(self)

    def _assigned_id(self, connect: Connect) -> str | None:
        needs_one = not connect.client_id and connect.version is ProtocolVersion.V5
        return self._broker.new_client_id() if needs_one else None

    def _certificate(self) -> bytes | None:
        """Give the client certificate (DER) that the TLS handshake has checked."""
        tls = self._transport.get_extra_info("ssl_object") if self._transport else None
        if not isinstance(tls, ssl.SSLObject):
            return None
        return tls.getpeercert(binary_form=True) or None

    def _on_publish(self, publish: Publish) -> None:
        if self.principal is not None:
            self._broker.publish_from(self, publish)
        elif publish.topic == REQUEST_TOPIC:
            self._on_request(publish)
        else:
            # ThingsBoard acknowledges and closes; the wrong topic is no place for a request.
            if publish.packet_id is not None:
                self.session.acknowledge(publish.packet_id, ReasonCode.TOPIC_NAME_INVALID)
            self.session.disconnect(ReasonCode.NOT_AUTHORIZED)

    def _on_request(self, publish: Publish) -> None:
        if self._pending_requests >= MAX_PENDING_REQUESTS:
            self.session.disconnect(ReasonCode.MESSAGE_RATE_TOO_HIGH)
            return
        self._pending_requests += 1

        def reply(payload: bytes, outcome: Outcome) -> None:
            self._pending_requests -= 1
            self._broker.end_former(outcome)
            if self.session.closed:
                return
            if publish.packet_id is not None:
                self.session.acknowledge(publish.packet_id)  # before the response (thingsboard.md rule 6)
            qos = 1 if self._response_qos is None else self._response_qos
            self.session.publish(Message(RESPONSE_TOPIC, payload), qos)
            self._deadline_s = self._broker.now_s() + PROVISIONING_TIMEOUT_S
            self._broker.dirty.add(self)
            self._broker.flush_soon()

        self._broker.responder.request(publish.payload, self.source, reply, self._factory)

    def _on_subscribe(self, subscribe: Subscribe) -> None:
        if self.principal is not None:
            self._broker.subscribe(self, subscribe)
            return
        codes = []
        for wish in subscribe.subscriptions:
            allowed = wish.topic_filter == RESPONSE_TOPIC
            if allowed:
                self._response_qos = min(wish.qos, 1)
            codes.append(ReasonCode(self._response_qos or 0) if allowed else ReasonCode.TOPIC_FILTER_INVALID)
        self.session.suback(subscribe.packet_id, tuple(codes))

    def _on_unsubscribe(self, unsubscribe: Unsubscribe) -> None:
        if self.principal is not None:
            self._broker.unsubscribe(self, unsubscribe)
            return
        codes = []
        for topic_filter in unsubscribe.topic_filters:
            had = topic_filter == RESPONSE_TOPIC and self._response_qos is not None
            self._response_qos = None if had else self._response_qos
            codes.append(ReasonCode.SUCCESS if had else ReasonCode.NO_SUBSCRIPTION_EXISTED)
        self.session.unsuback(unsubscribe.packet_id, tuple(codes))
