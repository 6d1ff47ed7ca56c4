"""The responder on a broker that routes by topic: takes requests, replies to the requester's own topic, ends sessions.

It is one client among others there (`link`), let in by our own answers over HTTP. A session is ended as MQTT ends it
when another connection comes with its client id (MQTT-3.1.4-2): no broker's own interface is needed for it.
"""

import asyncio
import logging
from typing import Final

from mqttprov.brokers.http_auth.desk import SERVICE_LOGIN, Desk
from mqttprov.brokers.http_auth.link import BrokerAddress, Link
from mqttprov.core.audit import ENDS_SESSIONS, ChainedEvent
from mqttprov.core.permissions import AUDIT_PREFIX
from mqttprov.core.requests import Outcome
from mqttprov.core.routed import REQUEST_FILTERS, requester_of
from mqttprov.mqtt import Publish
from mqttprov.responder.service import Responder
from mqttprov.store.protocol import StoreUnavailable

MAX_PENDING_REQUESTS: Final = 8  # of one client id

_log = logging.getLogger(__name__)


class RoutedResponder:
    """Joins one responder with one broker."""

    def __init__(self, responder: Responder, desk: Desk, address: BrokerAddress) -> None:
        self._responder = responder
        self._desk = desk
        self.link: Final = Link(
            address,
            username=SERVICE_LOGIN,
            password=desk.password,
            filters=REQUEST_FILTERS,
            on_message=self._on_message,
        )
        self._pending: dict[str, int] = {}
        self._endings: set[asyncio.Task[bool]] = set()

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
            if not self.link.publish(response_topic, payload):
                _log.warning("a reply could not be sent; the device asks again")

        self._responder.request(publish.payload, self._desk.source_of(client_id), reply)

    def publish_event(self, event: ChainedEvent) -> None:
        """Act on a committed audit event, and publish it to the operators who listen."""
        if event.kind in ENDS_SESSIONS and event.device_id:
            for client_id in self._desk.client_ids_of(event.device_id):
                task = asyncio.get_running_loop().create_task(self._end(client_id))
                self._endings.add(task)
                task.add_done_callback(self._endings.discard)
        payload = f'{event.body[:-1]},"hash":"{event.hash}"}}'.encode()
        if not self.link.publish(f"{AUDIT_PREFIX}{event.kind}", payload):
            _log.warning("the audit event %d was not published; it is in the audit trail", event.seq)

    async def _end(self, client_id: str) -> bool:
        try:
            await self.link.take_over(client_id)
        except OSError as error:
            _log.error("a session could not be ended: %s; end it on the broker", error)
            return False
        return True

    async def act(self, seq: int) -> None:
        """Return when what the chain says up to this place had its effect. Raises `StoreUnavailable`."""
        self._responder.catch_up(seq)
        if not all(await asyncio.gather(*self._endings)):
            raise StoreUnavailable("a session could not be ended on the broker")
