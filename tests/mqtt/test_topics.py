"""Topic names, topic filters and who is subscribed to what."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mqttprov.mqtt import (
    SubscriptionTree,
    TopicError,
    is_shared,
    topic_matches,
    validate_topic_filter,
    validate_topic_name,
)

UNHURRIED = settings(deadline=None)  # a busy machine is no fault


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
    """`topic_matches` and the tree agree with MQTT section 4.7."""
    tree: SubscriptionTree[str] = SubscriptionTree()
    tree.add(topic_filter, "s", 1)
    assert topic_matches(topic_filter, topic) is expected
    assert (tree.match(topic) == {"s": 1}) is expected


def test_overlapping_subscriptions_deliver_once_with_the_highest_qos() -> None:
    """One message reaches one subscriber once (MQTT-3.3.4-2)."""
    tree: SubscriptionTree[str] = SubscriptionTree()
    tree.add("a/b", "s", 0)
    tree.add("a/+", "s", 1)
    tree.add("#", "s", 0)
    tree.add("#", "other", 0)
    assert tree.match("a/b") == {"s": 1, "other": 0}


def test_adding_again_replaces_and_says_so() -> None:
    """A second SUBSCRIBE with the same filter replaces the first (MQTT-3.8.4-3)."""
    tree: SubscriptionTree[str] = SubscriptionTree()
    assert tree.add("a", "s", 1)
    assert not tree.add("a", "s", 0)
    assert tree.match("a") == {"s": 0}
    assert len(tree) == 1


def test_no_local_leaves_out_the_publisher_alone() -> None:
    """A subscriber with No Local does not hear itself (MQTT-3.8.3-3), unless another subscription of it lets it."""
    tree: SubscriptionTree[str] = SubscriptionTree()
    tree.add("a/+", "s", 1, no_local=True)
    tree.add("a/b", "t", 1)
    assert tree.match("a/b", publisher="s") == {"t": 1}
    assert tree.match("a/b", publisher="t") == {"s": 1, "t": 1}
    assert tree.match("a/b") == {"s": 1, "t": 1}
    tree.add("#", "s", 0)
    assert tree.match("a/b", publisher="s") == {"s": 0, "t": 1}


def test_removing_what_is_not_there_changes_nothing() -> None:
    """`remove` tells whether there was a subscription."""
    tree: SubscriptionTree[str] = SubscriptionTree()
    tree.add("a/+", "s", 1)
    for topic_filter, subscriber in [("a/+", "t"), ("a/b", "s"), ("b/+", "s"), ("a/+/c", "s"), ("+", "s")]:
        assert not tree.remove(topic_filter, subscriber)
    assert len(tree) == 1
    assert tree.remove("a/+", "s")
    assert len(tree) == 0


def test_a_shorter_filter_survives_the_removal_of_a_longer_one() -> None:
    """Pruning stops at what is still needed."""
    tree: SubscriptionTree[str] = SubscriptionTree()
    tree.add("a/+", "s", 0)
    tree.add("a/+/c/#", "s", 1)
    assert tree.remove("a/+/c/#", "s")
    assert tree.match("a/x") == {"s": 0}
    assert tree.remove("a/+", "s")
    assert not tree._root.children


levels = st.sampled_from(["", "a", "b", "$s"])
topics = st.lists(levels, min_size=1, max_size=5).map("/".join).filter(bool)
filters = st.builds(
    lambda parts, end: "/".join([*parts, *end]),
    st.lists(levels | st.just("+"), min_size=1, max_size=4),
    st.sampled_from([(), ("#",)]),
).filter(bool) | st.just("#")
subscriptions = st.lists(st.tuples(filters, st.integers(0, 3), st.integers(0, 1)), max_size=15)


@UNHURRIED
@given(subscriptions, topics)
def test_tree_agrees_with_topic_matches(subscribed: list[tuple[str, int, int]], topic: str) -> None:
    """For any filters and any topic the tree finds whom the definition finds, with the highest QoS."""
    tree: SubscriptionTree[int] = SubscriptionTree()
    granted: dict[tuple[str, int], int] = {}
    for topic_filter, subscriber, qos in subscribed:
        validate_topic_filter(topic_filter)
        assert tree.add(topic_filter, subscriber, qos) == ((topic_filter, subscriber) not in granted)
        granted[topic_filter, subscriber] = qos
    expected: dict[int, int] = {}
    for (topic_filter, subscriber), qos in granted.items():
        if topic_matches(topic_filter, topic):
            expected[subscriber] = max(qos, expected.get(subscriber, 0))
    assert tree.match(topic) == expected
    assert len(tree) == len(granted)


@UNHURRIED
@given(subscriptions, st.randoms(use_true_random=False))
def test_nothing_is_left_when_everybody_has_gone(subscribed: list[tuple[str, int, int]], order: object) -> None:
    """Empty branches are forgotten, in whatever order subscriptions end (P9)."""
    tree: SubscriptionTree[int] = SubscriptionTree()
    for topic_filter, subscriber, qos in subscribed:
        tree.add(topic_filter, subscriber, qos)
    pairs = list({(topic_filter, subscriber) for topic_filter, subscriber, _ in subscribed})
    order.shuffle(pairs)  # type: ignore[attr-defined]  # Hypothesis types its randoms() as object-like
    assert all(tree.remove(topic_filter, subscriber) for topic_filter, subscriber in pairs)
    assert len(tree) == 0
    assert not tree._exact
    assert not tree._root.children
