"""Topic names and topic filters (MQTT section 4.7): what is valid and what matches. No subscribers live here."""

from typing import Final

# P9. The longest topic of ThingsBoard's gateway has seven levels; 1024 bytes leave room for the longest device name.
MAX_TOPIC_BYTES: Final = 1024
MAX_TOPIC_LEVELS: Final = 32

_SHARE_PREFIX = "$share/"


class TopicError(ValueError):
    """A topic name or topic filter that MQTT or our limits forbid."""


def _check_size(topic: str, what: str) -> None:
    if not topic:
        raise TopicError(f"{what} is empty: give at least one character (MQTT-4.7.3-1)")
    if len(topic) > MAX_TOPIC_BYTES or (not topic.isascii() and len(topic.encode()) > MAX_TOPIC_BYTES):
        raise TopicError(f"{what} is longer than {MAX_TOPIC_BYTES} bytes: shorten it")
    if topic.count("/") >= MAX_TOPIC_LEVELS:
        raise TopicError(f"{what} has more than {MAX_TOPIC_LEVELS} levels: use fewer slashes")
    if "\0" in topic:
        raise TopicError(f"{what} contains U+0000: remove it (MQTT-4.7.3-2)")


def validate_topic_name(topic: str) -> None:
    """Raise TopicError unless a message may be published to this topic."""
    if (
        "+" not in topic
        and "#" not in topic
        and "\0" not in topic
        and 0 < len(topic) <= MAX_TOPIC_BYTES
        and topic.isascii()
        and topic.count("/") < MAX_TOPIC_LEVELS
    ):
        return  # the common case at a third of the price: this is asked for every message
    _check_size(topic, "topic name")
    if "+" in topic or "#" in topic:
        raise TopicError("topic name contains a wildcard, + or #: publish to one topic (MQTT-3.3.2-2)")


def validate_topic_filter(topic_filter: str) -> None:
    """Raise TopicError unless one may subscribe to this; `$share/group/filter` is valid (MQTT 5 section 4.8.2)."""
    _check_size(topic_filter, "topic filter")
    if is_shared(topic_filter):
        group, slash, topic_filter = topic_filter.removeprefix(_SHARE_PREFIX).partition("/")
        if not group or not slash or not topic_filter or "+" in group or "#" in group:
            raise TopicError("shared subscription is not $share/group/filter with a plain group name (MQTT-4.8.2-1)")
    if "#" not in topic_filter and "+" not in topic_filter:
        return
    levels = topic_filter.split("/")
    for level in levels:
        if len(level) > 1 and ("#" in level or "+" in level):
            raise TopicError("topic filter has a wildcard that is not a level of its own (MQTT-4.7.1-2, -3)")
    if "#" in levels[:-1]:
        raise TopicError("topic filter has # before its last level (MQTT-4.7.1-2)")


def is_shared(topic_filter: str) -> bool:
    """Tell whether a filter is a shared subscription of MQTT 5. To 3.1.1 it means nothing: refuse it there."""
    return topic_filter.startswith(_SHARE_PREFIX)


def topic_matches(topic_filter: str, topic: str) -> bool:
    """Tell whether a message to a valid topic reaches a subscriber of a valid, not shared filter (section 4.7)."""
    if topic_filter == topic:
        return True
    if topic.startswith("$") and topic_filter[:1] in {"+", "#"}:
        return False
    wanted = topic_filter.split("/")
    levels = topic.split("/")
    if wanted[-1] == "#":
        wanted.pop()
        if len(levels) < len(wanted):
            return False
    elif len(levels) != len(wanted):
        return False
    return all(want in {"+", level} for want, level in zip(wanted, levels, strict=False))
