"""All that we use of amqtt's own objects, as types and a few functions; amqtt itself is not imported here.

What is not public in amqtt 0.12 is touched in this module alone: `transport_of` looks behind its adapters, because a
session that must end now cannot wait until its peer has read what it is owed.
"""

import asyncio
import hashlib
import logging
from collections.abc import Callable, MutableMapping
from typing import Any, Final, Protocol

STOP_TIMEOUT_S: Final = 2.0

_log: Final = logging.getLogger(__name__)


class AmqttSession(Protocol):
    """`amqtt.session.Session`: what CONNECT said, and what waits for a client that is away."""

    client_id: str | None
    username: str | None
    password: str | None
    clean_session: bool | None
    will_flag: bool
    will_topic: str | None
    will_retain: bool | None
    parent: int
    remote_address: str | None
    ssl_object: Any
    attributes: dict[str, Any]
    retained_messages: asyncio.Queue[Any]

    def clear_queues(self) -> None:
        """Drop what waits."""


class AmqttHandler(Protocol):
    """`amqtt.mqtt.protocol.broker_handler.BrokerProtocolHandler`: one connection."""

    writer: Any

    async def mqtt_publish(self, topic: str, data: bytes, qos: int | None, retain: bool) -> Any:
        """Send to this client alone; with QoS 1 and 2 it returns after the acknowledgement, or raises after 5 s."""

    async def stop(self) -> None:
        """End the connection."""


class AmqttBroker(Protocol):
    """`amqtt.broker.Broker`."""

    config: Any
    plugins_manager: Any

    @property
    def sessions(self) -> MutableMapping[str, tuple[AmqttSession, AmqttHandler]]:
        """All sessions by client id, as the broker itself uses them."""

    @property
    def subscriptions(self) -> MutableMapping[str, list[tuple[AmqttSession, int]]]:
        """All subscriptions by filter, as the broker itself uses them."""


def certificate_of(session: AmqttSession) -> str | None:
    """Give the SHA-256 of the client certificate that the TLS handshake has checked."""
    if session.ssl_object is None:
        return None
    der = session.ssl_object.getpeercert(binary_form=True)
    return hashlib.sha256(der).hexdigest() if der else None


def transport_of(handler: AmqttHandler) -> asyncio.Transport | None:
    """Give the transport below amqtt's adapters for TCP, TLS and websockets."""
    stream = getattr(handler.writer, "_writer", None) or getattr(handler.writer, "_protocol", None)
    transport: asyncio.Transport | None = getattr(stream, "transport", None)
    return transport


async def cut_off(handler: AmqttHandler) -> None:
    """End a connection now. amqtt's own way would first wait for a peer that may never read."""
    transport = transport_of(handler)
    if transport is not None:
        transport.abort()
    try:
        async with asyncio.timeout(STOP_TIMEOUT_S):
            await handler.stop()
    except Exception as error:  # noqa: BLE001 - the connection is gone in any case; amqtt raises many kinds
        _log.debug("amqtt did not end a connection cleanly: %r", error)


def remove_subscription(broker: AmqttBroker, topic_filter: str, session: AmqttSession) -> None:
    """End a subscription as amqtt would, but by the session itself and not by its client id."""
    subscribers = broker.subscriptions.get(topic_filter)
    if subscribers is None:
        return
    subscribers[:] = [entry for entry in subscribers if entry[0] is not session]
    if not subscribers:
        del broker.subscriptions[topic_filter]


def move_subscription(broker: AmqttBroker, topic_filter: str, old: AmqttSession, new: AmqttSession) -> None:
    """Let a session go on with the subscription of another one."""
    subscribers = broker.subscriptions.get(topic_filter, [])
    subscribers[:] = [(new if session is old else session, qos) for session, qos in subscribers]


def other_plugins(broker: AmqttBroker, own: object, is_kind: Callable[[object], bool]) -> list[str]:
    """Name the plugins of a kind that run beside ours."""
    plugins = broker.plugins_manager.plugins
    return [type(plugin).__name__ for plugin in plugins if plugin is not own and is_kind(plugin)]
