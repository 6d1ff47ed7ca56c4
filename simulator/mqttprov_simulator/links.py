"""Connections that differ from `driver.Link`: slow ones, and those to brokers that know no `me` and no private reply.

Each changes how bytes or topics pass, nothing else.
"""

import asyncio
import secrets
from collections import deque
from collections.abc import Callable

import msgspec

from mqttprov.gateway import actions
from mqttprov.gateway.own_topics import CLIENT_ID_BYTES, with_own_topics
from mqttprov_simulator.driver import Link, Owner, Route


class LateLink(Link):
    """Everything is `late_s` late in both directions, in order; the end of the connection too."""

    __slots__ = ("_late_s", "_on_their_way")

    def __init__(self, owner: Owner, action: actions.Connect, route: Route, late_s: float) -> None:
        super().__init__(owner, action, route)
        self._late_s = late_s
        self._on_their_way: deque[Callable[[], None]] = deque()

    def _later(self, arrive: Callable[[], None]) -> None:
        # A queue, so that what was sent first arrives first whatever the loop does with timers of the same instant.
        self._on_their_way.append(arrive)
        self._network.loop.call_later(self._late_s, self._arrive)

    def _arrive(self) -> None:
        self._on_their_way.popleft()()

    def data_received(self, data: bytes) -> None:
        """Take a read, later."""
        self._later(lambda: super(LateLink, self).data_received(data))

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the end, later; the socket is closed now."""
        self._network.count(-1)
        self._later(lambda: self._tell_end(exc))

    def flush(self) -> None:
        """Write what is in the output, later."""
        transport = self._transport
        if transport is not None and (output := self._session.take_output()):
            self._later(lambda: self._write(transport, output))

    def _write(self, transport: asyncio.Transport, output: bytes) -> None:
        if not transport.is_closing():
            super()._write(transport, output)

    def _close(self) -> None:
        transport = self._transport
        if transport is not None:
            self._later(transport.close)


class OwnTopicsLink(Link):
    """A connection to a broker that routes by topics alone (`Endpoint.own_topics`)."""

    __slots__ = ("_own_topics",)

    def __init__(
        self, owner: Owner, action: actions.Connect, route: Route, stored: bytes | None, session_id: str
    ) -> None:
        new_id = secrets.token_hex(CLIENT_ID_BYTES)
        action, self._own_topics = with_own_topics(action, stored, new_id, session_id)
        super().__init__(owner, action, route)

    def subscribe(self, action: actions.Subscribe) -> None:
        """Subscribe under the broker's topics."""
        filters = tuple([self._own_topics.outward(topic_filter) for topic_filter in action.filters])
        super().subscribe(msgspec.structs.replace(action, filters=filters))

    def publish(self, action: actions.Publish) -> None:
        """Publish under the broker's topics."""
        super().publish(msgspec.structs.replace(action, topic=self._own_topics.outward(action.topic)))

    def _message(self, owner: Owner, topic: str, payload: bytes) -> None:
        owner.message(self._own_topics.inward(topic), payload)
