"""The responder on a broker that routes by topic: takes requests, replies to the requester's own topic, ends sessions.

It is one client among others there, let in by our own answers over HTTP; with MQTT 3.1.1, which all of them speak. A
session is ended as MQTT ends it when another connection comes with its client id (MQTT-3.1.4-2): no broker's own
interface is needed for it.
"""

import asyncio
import logging
import os
import ssl
from collections.abc import Callable
from typing import Final

from mqttprov.brokers.broker_link import KEEP_ALIVE_S, BrokerAddress, Link, LinkLost
from mqttprov.brokers.http_auth.answering import Answering
from mqttprov.brokers.http_auth.desk import Desk
from mqttprov.brokers.standing_link import CONNECT_TIMEOUT_S, StandingLink
from mqttprov.core.audit import ENDS_SESSIONS, ChainedEvent
from mqttprov.core.credentials import RESPONDER_LOGIN
from mqttprov.core.login import identities_in
from mqttprov.core.permissions import AUDIT_PREFIX
from mqttprov.core.requests import Outcome
from mqttprov.core.routed import REQUEST_FILTERS, requester_of
from mqttprov.mqtt import Connect, LimitReachedError, ProtocolVersion, Publish
from mqttprov.responder.service import Responder
from mqttprov.store.protocol import StoreUnavailable

MAX_PENDING_REQUESTS: Final = 8  # of one client id
_FAILED_FROM: Final = 0x80

_log = logging.getLogger(__name__)


class RoutedResponder:
    """Joins one responder with one broker."""

    def __init__(
        self, responder: Responder, desk: Desk, answering: Answering, address: BrokerAddress, tls: ssl.SSLContext | None
    ) -> None:
        self._responder = responder
        self._desk = desk
        self._answering = answering
        self._address = address
        self._tls = tls
        self.link: Final = StandingLink(address, self._new_link, tls=tls, prepare=self._prepare)
        self._pending: dict[str, int] = {}
        self._endings: set[asyncio.Task[bool]] = set()

    def _new_link(self) -> Link:
        return self._login(f"mqttprov-{os.urandom(16).hex()}", self._on_message)

    def _login(self, client_id: str, on_message: Callable[[Publish], None] | None = None) -> Link:
        connect = Connect(
            client_id,
            version=ProtocolVersion.V311,
            keep_alive_s=KEEP_ALIVE_S,
            username=RESPONDER_LOGIN,
            password=self._desk.password.encode(),
        )
        return Link(connect, on_message)

    async def _prepare(self, link: Link) -> None:
        codes = await link.subscribe(*REQUEST_FILTERS)
        if any(code >= _FAILED_FROM for code in codes):
            raise LinkLost(f"the broker does not let us subscribe to {', '.join(REQUEST_FILTERS)}; see its how-to")
        self._answering.begin()
        link.ended.add_done_callback(lambda _: self._answering.end())

    def _publish(self, topic: str, payload: bytes) -> bool:
        """Publish with QoS 1; False when there is no session or too much waits for the broker."""
        link = self.link.link
        try:
            if link is not None:
                link.publish(topic, payload)
        except (LinkLost, LimitReachedError):
            return False
        return link is not None

    def _on_message(self, publish: Publish) -> None:
        requester = None if publish.retain else requester_of(publish.topic)  # a retained one is from another time
        if requester is None:
            return
        client_id, response_topic = requester
        if self._pending.get(client_id, 0) >= MAX_PENDING_REQUESTS:
            return
        self._pending[client_id] = self._pending.get(client_id, 0) + 1

        def reply(payload: bytes, _outcome: Outcome) -> None:
            self._pending[client_id] -= 1
            if not self._pending[client_id]:
                del self._pending[client_id]
            if not self._publish(response_topic, payload):
                _log.warning("a reply could not be sent; the device asks again")

        self._responder.request(publish.payload, self._desk.source_of(client_id), reply)

    def publish_event(self, event: ChainedEvent) -> None:
        """Act on a committed audit event, and publish it to the operators who listen."""
        if event.kind in ENDS_SESSIONS:
            for client_id in self._desk.client_ids_of(*identities_in(event)):
                task = asyncio.get_running_loop().create_task(self._end(client_id))
                self._endings.add(task)
                task.add_done_callback(self._endings.discard)
        payload = f'{event.body[:-1]},"hash":"{event.hash}"}}'.encode()
        if not self._publish(f"{AUDIT_PREFIX}{event.kind}", payload):
            _log.warning("the audit event %d was not published; it is in the audit trail", event.seq)

    async def _end(self, client_id: str) -> bool:
        """End somebody's session by a connection with its client id, as every broker does."""
        link = self._login(client_id)
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                await link.open(self._address, self._tls)
        except (OSError, LinkLost) as error:
            _log.error("a session could not be ended: %s; end it on the broker", error or "no answer")
            return False
        finally:
            link.close()
        return True

    async def act(self, seq: int) -> None:
        """Return when what the chain says up to this place had its effect. Raises `StoreUnavailable`."""
        self._responder.catch_up(seq)
        if not all(await asyncio.gather(*self._endings)):
            raise StoreUnavailable("a session could not be ended on the broker")
