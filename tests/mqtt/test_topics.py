"""Topic names and topic filters."""

import pytest

from mqttprov.mqtt import (
    TopicError,
    is_shared,
    topic_matches,
    validate_topic_filter,
    validate_topic_name,
)


@pytest.mark.parametrize("topic", ["/provision/request", "a", "/", "a//b", "$SYS/x", "é" * 512, "/" * 31, "x" * 1024])
def test_valid_topic_name_passes(topic: str) -> None:
    """Empty levels, $ and any Unicode are fine (MQTT section 4.7.3)."""
    validate_topic_name(topic)
    validate_topic_filter(topic)


@pytest.mark.parametrize(
    ("topic", "says"),
    [
        ("", "empty"),
        ("a/+", "wildcard"),
        ("#", "wildcard"),
        ("a\0b", "U\\+0000"),
        ("x" * 1025, "1024 bytes"),
        ("é" * 513, "1024 bytes"),
        ("/" * 32, "32 levels"),
    ],
)
def test_invalid_topic_name_is_refused_with_a_reason(topic: str, says: str) -> None:
    """The text says what is wrong; length and levels are bounded (P9)."""
    with pytest.raises(TopicError, match=says):
        validate_topic_name(topic)


@pytest.mark.parametrize(
    "topic_filter", ["#", "+", "a/#", "+/+/#", "/+", "$share/g/a/#", "v1/devices/me/rpc/request/+"]
)
def test_valid_topic_filter_passes(topic_filter: str) -> None:
    """Wildcards that are a level of their own (MQTT section 4.7.1)."""
    validate_topic_filter(topic_filter)


@pytest.mark.parametrize(
    ("topic_filter", "says"),
    [
        ("", "empty"),
        ("a/#/b", "before its last level"),
        ("a#", "level of its own"),
        ("a/b+", "level of its own"),
        ("++", "level of its own"),
        ("#/#", "before its last level"),
        ("\0", "U\\+0000"),
        ("x" * 1025, "1024 bytes"),
        ("+/" * 32, "32 levels"),
        ("$share/g", r"\$share/group/filter"),
        ("$share/g/", r"\$share/group/filter"),
        ("$share//a", r"\$share/group/filter"),
        ("$share/+/a", r"\$share/group/filter"),
    ],
)
def test_invalid_topic_filter_is_refused_with_a_reason(topic_filter: str, says: str) -> None:
    """The text says what is wrong; length and levels are bounded (P9)."""
    with pytest.raises(TopicError, match=says):
        validate_topic_filter(topic_filter)


def test_shared_subscription_is_recognised() -> None:
    """Only $share with a slash is one (MQTT 5 section 4.8.2)."""
    assert is_shared("$share/prov/_prov/request/+")
    assert not is_shared("$shared/a/b")
    assert not is_shared("a/$share/b")


MATCHES = [  # from MQTT section 4.7.1
    ("sport/tennis/player1/#", "sport/tennis/player1", True),
    ("sport/tennis/player1/#", "sport/tennis/player1/ranking", True),
    ("sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon", True),
    ("sport/#", "sport", True),
    ("sport/#", "sports", False),
    ("#", "a/b", True),
    ("sport/tennis/+", "sport/tennis/player1", True),
    ("sport/tennis/+", "sport/tennis/player1/ranking", False),
    ("sport/+", "sport", False),
    ("sport/+", "sport/", True),
    ("+/+", "/finance", True),
    ("/+", "/finance", True),
    ("+", "/finance", False),
    ("#", "$SYS/x", False),
    ("+/x", "$SYS/x", False),
    ("$SYS/#", "$SYS/x", True),
    ("$SYS/+", "$SYS/x", True),
    ("a/#", "a/$x", True),
    ("a", "a", True),
    ("a", "A", False),
    ("+/b/#", "a", False),
]


@pytest.mark.parametrize(("topic_filter", "topic", "expected"), MATCHES)
def test_matching_follows_the_examples_of_the_specification(topic_filter: str, topic: str, expected: bool) -> None:
    """`topic_matches` agrees with MQTT section 4.7; test_subscription_tree holds the tree to it."""
    assert topic_matches(topic_filter, topic) is expected
