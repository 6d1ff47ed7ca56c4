"""Planted bug: a reply goes to every provisioning session that is subscribed, as if their topic were one (P3)."""

from typing import Any

from mqttprov.brokers.connection import Connection
from mqttprov.cli.main import main
from mqttprov.core.permissions import RESPONSE_TOPIC
from mqttprov.mqtt import Message
from mqttprov.responder.service import Responder

_subscribed: set[Connection] = set()
_on_subscribe, _connection_lost, _request = Connection._on_subscribe, Connection.connection_lost, Responder.request


def on_subscribe(self: Connection, subscribe: Any) -> None:
    """Remember who waits for a reply."""
    _on_subscribe(self, subscribe)
    if self.principal is None:
        _subscribed.add(self)


def connection_lost(self: Connection, exc: Exception | None) -> None:
    """Forget who has gone."""
    _subscribed.discard(self)
    _connection_lost(self, exc)


def request(self: Responder, payload: bytes, source: str, reply: Any, factory: Any) -> None:
    """Reply to all of them."""

    def to_all(answer: bytes, outcome: Any) -> None:
        for connection in _subscribed:
            if not connection.session.closed:
                connection.session.publish(Message(RESPONSE_TOPIC, answer), 1)
                connection._broker.dirty.add(connection)
        reply(answer, outcome)

    _request(self, payload, source, to_all, factory)


if __name__ == "__main__":
    Connection._on_subscribe = on_subscribe  # type: ignore[method-assign] # the planted bug
    Connection.connection_lost = connection_lost  # type: ignore[method-assign] # the planted bug
    Responder.request = request  # type: ignore[method-assign, assignment] # the planted bug
    main()
