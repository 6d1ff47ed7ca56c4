"""What a stock amqtt 0.12 cannot give, whatever its plugins do: told at every start, listed in docs/how-to/amqtt.md.

Each entry is one row of that page's table, under the same key. Our own broker has none of them.
"""

import logging
from collections.abc import Sequence
from ipaddress import ip_address
from typing import Final

from mqttprov.brokers.amqtt_seam import AmqttBroker

# Key and sentence; those who run the broker read the sentence in its log.
ALWAYS: Final = {
    "mqtt-5": "it serves MQTT 3.1.1 only; ThingsBoard's gateway speaks MQTT 5 once it is provisioned and is refused",
    "eviction": "a CONNECT that names a client id of another plugin's user ends that session before any password is "
    "checked; sessions of devices and operators are safe from that",
    "acknowledgement": "it acknowledges a message before it asks whether it is allowed, and before anything is stored",
    "lost-messages": "messages that are followed at once by DISCONNECT, or routed while clients come and go, get lost",
    "no-limits": "it enforces no keep-alive, no CONNECT timeout and no packet size; slow readers cost memory",
    "retained": "it pushes retained messages to clients that did not ask; messages of devices and operators are "
    "therefore never retained",
    "backlog": "it lets 100 connections wait to be accepted; more that come at once wait for seconds",
    "growth": "each connect, subscribe and publish takes longer the more clients there are",
    "own-certificates": "client certificates must be signed by the listener's 'cafile'; those that devices made "
    "themselves are refused in the handshake",
}
SOMETIMES: Final = {
    "plain": "listener '{name}' is not on loopback and has no TLS: anybody on the way reads keys and secrets",
    "other-logins": "{names} decide logins too, and a False of theirs refuses our devices; who they let in may not "
    "use the topics of devices",
    "debug-log": "amqtt logs at level DEBUG: secrets of devices may be written to its log",
}

_log: Final = logging.getLogger(__name__)


def warn(broker: AmqttBroker, other_logins: Sequence[str]) -> None:
    """Log what this broker cannot give, once each."""
    for key, sentence in ALWAYS.items():
        _log.warning("stock amqtt, %s: %s", key, sentence)
    for name, listener in broker.config.listeners.items():
        if not listener.ssl and not is_loopback(str(listener.bind or "")):
            _log.warning("stock amqtt, plain: %s", SOMETIMES["plain"].format(name=name))
    if other_logins:
        names = ", ".join(other_logins)
        _log.warning("stock amqtt, other-logins: %s", SOMETIMES["other-logins"].format(names=names))
    if logging.getLogger("amqtt").isEnabledFor(logging.DEBUG):
        _log.warning("stock amqtt, debug-log: %s", SOMETIMES["debug-log"])


def is_loopback(bind: str) -> bool:
    """Tell whether what a listener is bound to ("host:port") is this machine alone."""
    host = bind.rpartition(":")[0].strip("[]")
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
