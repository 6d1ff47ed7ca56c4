"""Who may publish and subscribe where. Pure look-ups; topics of devices are built here, the second wall of SD-14.

`v1/devices/me/...` and `v1/gateway/...` mean "this session" (thingsboard.md rule 15). Inside the broker they are
`v1/devices/<name>/...` and `v1/devices/<name>/gateway/...`, which is where operators meet them (DESIGN 5.8).
"""

from collections.abc import Iterable
from typing import Final

from mqttprov.core.login import Principal, Role

REQUEST_TOPIC: Final = "/provision/request"
RESPONSE_TOPIC: Final = "/provision/response"
AUDIT_PREFIX: Final = "provision/audit/"
CHECKPOINT_LEVEL: Final = "checkpoint"  # behind that prefix, beside the kinds of events

_ME: Final = "v1/devices/me/"
_GATEWAY: Final = "v1/gateway/"
_DEVICES: Final = "v1/devices/"
_RESERVED: Final = ("$", "/provision/", "provision/")
# What a profile's pattern never opens, whatever a device's name makes of it: with `%d/#` a device named "v1" would
# reach the topics of all others, and one named "provision" the audit events.
_NOT_BY_PATTERN: Final = (*_RESERVED, "v1/")
_NOT_BY_GUEST: Final = ("/provision/", "provision/", "v1/")


def topic_of_device(name: str) -> str:
    """Give the prefix of a device's topics as operators see them. Raises ValueError for a name that leads elsewhere."""
    if not name or name[0] == "$" or any(c in name for c in "+#/\0"):
        raise ValueError("this name must not become part of a topic")
    return f"{_DEVICES}{name}/"


def filters_of_device(name: str, patterns: Iterable[str]) -> list[str]:
    """Give the filters of all topics that a device has by its name, with these patterns of profiles.

    Raises ValueError for a name that leads elsewhere.
    """
    own = f"{topic_of_device(name)}#"
    named = {pattern.replace("%d", name) for pattern in patterns if "%d" in pattern}
    return [own, *(each for each in named if not each.startswith(_NOT_BY_PATTERN))]


def inward(principal: Principal, topic: str) -> str:
    """Translate a device's topic or filter into the broker's: `me` becomes its name."""
    if principal.role is Role.DEVICE:
        if topic.startswith(_ME):
            return topic_of_device(principal.name) + topic[len(_ME) :]
        if topic.startswith(_GATEWAY):
            return f"{topic_of_device(principal.name)}gateway/{topic[len(_GATEWAY) :]}"
    return topic


def outward(principal: Principal, topic: str) -> str:
    """Translate a topic of the broker into what this session knows it by."""
    if principal.role is Role.DEVICE:
        own = topic_of_device(principal.name)
        if topic.startswith(own):
            rest = topic[len(own) :]
            return _GATEWAY + rest[len("gateway/") :] if rest.startswith("gateway/") else _ME + rest
    return topic


def is_own_topic(topic: str) -> bool:
    """Tell whether a device's topic means "this session", so that it is never delivered to a device that sent it."""
    return topic.startswith((_ME, _GATEWAY))


def may_publish(principal: Principal, topic: str) -> bool:
    """Tell whether the principal may publish on this topic (as it names it)."""
    if principal.role is Role.DEVICE:
        return is_own_topic(topic) or _by_pattern(principal.publish_topics, topic)
    if principal.role is Role.GUEST:
        return not topic.startswith(_NOT_BY_PATTERN)
    return principal.role is Role.OPERATOR and not topic.startswith(_RESERVED)


def may_subscribe(principal: Principal, topic_filter: str) -> bool:
    """Tell whether the principal may subscribe to this filter (as it names it)."""
    if principal.role is Role.DEVICE:
        return is_own_topic(topic_filter) or _by_pattern(principal.subscribe_topics, topic_filter)
    if principal.role is Role.GUEST:
        return not topic_filter.startswith(_NOT_BY_PATTERN)
    return not topic_filter.startswith("$")


def may_receive(principal: Principal, topic: str) -> bool:
    """Tell whether a message that a granted filter matches may be delivered: a guest's `#` does not mean our topics."""
    return principal.role is not Role.GUEST or not topic.startswith(_NOT_BY_GUEST)


def _by_pattern(patterns: tuple[str, ...], topic_or_filter: str) -> bool:
    if topic_or_filter.startswith(_NOT_BY_PATTERN):
        return False
    return any(_covers(pattern, topic_or_filter) for pattern in patterns)


def _covers(pattern: str, topic_or_filter: str) -> bool:
    """Tell whether every topic that the second names is within the first."""
    wanted = topic_or_filter.split("/")
    allowed = pattern.split("/")
    for i, level in enumerate(allowed):
        if level == "#":
            return True
        if i >= len(wanted) or wanted[i] == "#":
            return False
        if level not in {"+", wanted[i]}:
            return False
    return len(wanted) == len(allowed)
