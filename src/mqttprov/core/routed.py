"""Topics and rights on brokers that route every message by its topic alone, as EMQX, VerneMQ and RabbitMQ do.

Such a broker writes nothing to one connection, and knows no `me`: a reply is private because its topic holds the
requester's client id, which nobody can guess, and because nobody else may subscribe to it (P3). Devices name their
topics as operators do, `v1/devices/<name>/...`. Pure look-ups.
"""

import re
from enum import StrEnum
from typing import Final

import msgspec

from mqttprov.core.login import Principal, Role
from mqttprov.core.permissions import AUDIT_PREFIX, may_publish, may_subscribe, topic_of_device

REQUESTS: Final = "provision/request/"
RESPONSES: Final = "provision/response/"
# A listener with the mount point `provision/session/${clientid}/` puts the vendor's two topics below it.
MOUNTS: Final = "provision/session/"
MOUNTED_REQUEST: Final = "//provision/request"
MOUNTED_RESPONSE: Final = "//provision/response"
REQUEST_FILTERS: Final = (f"{REQUESTS}+", f"{MOUNTS}+{MOUNTED_REQUEST}")

_ME: Final = ("v1/devices/me/", "v1/gateway/")
_PRIVATE: Final = (REQUESTS, RESPONSES, MOUNTS, "/provision/")
# 22 characters of 62 or more are 131 bits. No other characters, as RabbitMQ takes '.' and '/' for the same.
_UNGUESSABLE: Final = re.compile(r"[A-Za-z0-9_-]{22,128}")


class Action(StrEnum):
    """What somebody wants to do with a topic or filter."""

    PUBLISH = "publish"
    SUBSCRIBE = "subscribe"


class Guest(msgspec.Struct, frozen=True):
    """A provisioning session: it may ask under its client id, and be answered."""

    client_id: str


class Service(msgspec.Struct, frozen=True):
    """The responder as a client of the broker."""


Who = Principal | Guest | Service


def is_unguessable(client_id: str) -> bool:
    """Tell whether a client id may stand for a provisioning session: whoever knows it could take the session over."""
    return _UNGUESSABLE.fullmatch(client_id) is not None


def requester_of(topic: str) -> tuple[str, str] | None:
    """Give the client id that a request's topic names, and the topic for the reply; None if it is no such topic."""
    if topic.startswith(REQUESTS):
        client_id = topic[len(REQUESTS) :]
        response = RESPONSES + client_id
    elif topic.startswith(MOUNTS) and topic.endswith(MOUNTED_REQUEST):
        client_id = topic[len(MOUNTS) : -len(MOUNTED_REQUEST)]
        response = MOUNTS + client_id + MOUNTED_RESPONSE
    else:
        return None
    return (client_id, response) if is_unguessable(client_id) else None


def authorize(who: Who, action: Action, topic: str) -> bool:
    """Tell whether somebody may publish on a topic or subscribe to a filter, both as the broker routes them."""
    match who:
        case Guest(client_id):
            own = REQUESTS if action is Action.PUBLISH else RESPONSES
            return is_unguessable(client_id) and topic == own + client_id
        case Service():
            if action is Action.SUBSCRIBE:
                return topic in REQUEST_FILTERS
            mounted = topic.startswith(MOUNTS) and topic.endswith(MOUNTED_RESPONSE)
            return mounted or topic.startswith((RESPONSES, AUDIT_PREFIX))
        case Principal(role=Role.DEVICE):
            return _device_may(who, action, topic)
    if action is Action.PUBLISH:
        return may_publish(who, topic)
    return may_subscribe(who, topic) and not any(_meets(topic, prefix) for prefix in _PRIVATE)


def _device_may(device: Principal, action: Action, topic: str) -> bool:
    if topic.startswith(_ME):
        return False  # on such a broker it is the same topic for all of them
    try:
        own = topic_of_device(device.name)
    except ValueError:
        return False
    if topic.startswith(own):
        return True
    return may_publish(device, topic) if action is Action.PUBLISH else may_subscribe(device, topic)


def _meets(topic_filter: str, prefix: str) -> bool:
    """Tell whether a filter can match a topic below this prefix, which ends with a slash."""
    wanted = topic_filter.split("/")
    for i, level in enumerate(prefix[:-1].split("/")):
        if i >= len(wanted):
            return False
        if wanted[i] == "#":
            return True
        if wanted[i] not in {"+", level}:
            return False
    return True
