"""Who is subscribed to what: overlapping filters, options, shared subscriptions, and that nothing is left behind."""

import sys
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.mqtt.test_topics import MATCHES

from mqttprov.mqtt import Grant, SubscriptionTree, grant, split_shared, topic_matches, validate_topic_filter

UNHURRIED = settings(deadline=None)  # a busy machine is no fault


def tree_of(*subscriptions: tuple[str, str, int]) -> SubscriptionTree[str]:
    """Make a tree of (filter, subscriber, QoS)."""
    tree: SubscriptionTree[str] = SubscriptionTree()
    for topic_filter, subscriber, qos in subscriptions:
        tree.add(topic_filter, subscriber, grant(qos))
    return tree


def found(tree: SubscriptionTree[Any], topic: str, publisher: Any = None) -> dict[Any, int]:
    """Give whom a message reaches, each once, and with which QoS."""
    pairs = tree.match(topic, publisher=publisher)
    assert len({subscriber for subscriber, _ in pairs}) == len(pairs)
    return {subscriber: granted.qos for subscriber, granted in pairs}


def is_empty(tree: SubscriptionTree[Any]) -> bool:
    """Tell whether a tree holds nothing at all."""
    return len(tree) == 0 and not any(
        index.direct or index.root.children or any(index.tails.values()) for index in (tree._plain, tree._shared)
    )


@pytest.mark.parametrize(("topic_filter", "topic", "expected"), MATCHES)
def test_the_tree_follows_the_examples_of_the_specification(topic_filter: str, topic: str, expected: bool) -> None:
    """MQTT section 4.7, for plain and for shared subscriptions."""
    assert found(tree_of((topic_filter, "s", 1)), topic) == ({"s": 1} if expected else {})
    assert found(tree_of((f"$share/g/{topic_filter}", "s", 1)), topic) == ({"s": 1} if expected else {})


def test_overlapping_subscriptions_deliver_once_with_the_highest_qos() -> None:
    """One message reaches one subscriber once (MQTT-3.3.4-2)."""
    tree = tree_of(("a/b", "s", 0), ("a/+", "s", 1), ("#", "s", 0), ("#", "other", 0))
    assert found(tree, "a/b") == {"s": 1, "other": 0}


def test_overlapping_subscriptions_tell_all_their_identifiers() -> None:
    """The one copy carries the identifier of each subscription that matches (MQTT-3.3.4-5)."""
    tree: SubscriptionTree[str] = SubscriptionTree()
    tree.add("a/b", "s", grant(0, identifiers=(7,)))
    tree.add("a/#", "s", grant(2, identifiers=(9,), retain_as_published=True))
    tree.add("+/b", "s", grant(1))
    ((subscriber, granted),) = tree.match("a/b")
    assert (subscriber, granted.qos, granted.retain_as_published) == ("s", 2, True)
    assert sorted(granted.identifiers) == [7, 9]
    assert tree.granted("a/b", "s") == granted
    assert tree.granted("a/b", "t") is None
    assert tree.granted("b", "s") is None


def test_adding_again_replaces_and_says_so() -> None:
    """A second SUBSCRIBE with the same filter replaces the first (MQTT-3.8.4-3)."""
    for topic_filter in ("a", "a/+", "+/a/#", "$share/g/a"):
        tree: SubscriptionTree[str] = SubscriptionTree()
        for other in ((), ("t",)):
            assert tree.add(topic_filter, "s", grant(1)) is not bool(other)
            assert not tree.add(topic_filter, "s", grant(0))
            for name in other:
                assert tree.add(topic_filter, name, grant(2))
                assert not tree.add(topic_filter, name, grant(1))
            assert len(tree) == 1 + len(other)


def test_no_local_leaves_out_the_publisher_alone() -> None:
    """A subscriber with No Local does not hear itself (MQTT-3.8.3-3), unless another subscription of it lets it."""
    tree = tree_of(("a/b", "t", 1))
    tree.add("a/+", "s", grant(1, no_local=True))
    assert found(tree, "a/b", "s") == {"t": 1}
    assert found(tree, "a/b", "t") == {"s": 1, "t": 1}
    assert found(tree, "a/b") == {"s": 1, "t": 1}
    assert found(tree, "a/c", "s") == {}
    tree.add("#", "s", grant(0))
    assert found(tree, "a/b", "s") == {"s": 0, "t": 1}


def test_a_shared_subscription_gives_each_message_to_one_member_in_turn() -> None:
    """MQTT 5 section 4.8.2: round robin within a group; groups and filters are apart."""
    tree = tree_of(*[("$share/g/a/+", name, 1) for name in ("s", "t", "u")], ("$share/h/a/+", "s", 0))
    turns = [sorted(name for name, _ in tree.match("a/b")) for _ in range(6)]
    assert turns == [["s", "s"], ["s", "t"], ["s", "u"]] * 2
    tree.remove("$share/h/a/+", "s")
    tree.remove("$share/g/a/+", "t")
    assert [tree.match("a/b")[0][0] for _ in range(4)] == ["s", "u", "s", "u"]


def test_a_shared_subscription_has_its_own_copy() -> None:
    """Who is subscribed plainly too gets both (MQTT 5 section 4.8.2)."""
    tree = tree_of(("$share/g/a", "s", 1), ("a", "s", 0), ("a", "t", 0))
    assert [(name, granted.qos) for name, granted in tree.match("a")] == [("s", 0), ("t", 0), ("s", 1)]


def test_members_that_are_away_are_passed_over_while_another_is_there() -> None:
    """A message waits in the queue of an absent member only if nobody else can take it now."""
    away = {"s", "u"}
    tree: SubscriptionTree[str] = SubscriptionTree(lambda name: name not in away)
    for name in ("s", "t", "u", "v"):
        tree.add("$share/g/a", name, grant(1))
    assert [tree.match("a")[0][0] for _ in range(4)] == ["t", "v", "t", "v"]
    away |= {"t", "v"}
    assert len({tree.match("a")[0][0] for _ in range(4)}) == 4


def test_removing_what_is_not_there_changes_nothing() -> None:
    """`remove` tells whether there was a subscription."""
    tree = tree_of(("a/+/c", "s", 1), ("$share/g/a", "s", 1))
    others = [("a/+/c", "t"), ("a/b/c", "s"), ("b/+/c", "s"), ("a/+/c/d", "s"), ("+", "s"), ("a", "s"), ("#", "s")]
    for topic_filter, subscriber in [*others, ("$share/g/a", "t"), ("$share/h/a", "s")]:
        assert not tree.remove(topic_filter, subscriber)
    assert len(tree) == 2
    assert tree.remove("a/+/c", "s")
    assert tree.remove("$share/g/a", "s")
    assert is_empty(tree)


def test_a_shorter_filter_survives_the_removal_of_a_longer_one() -> None:
    """Pruning stops at what is still needed."""
    tree = tree_of(("+/a", "s", 0), ("+/a/b/#", "s", 1))
    assert tree.remove("+/a/b/#", "s")
    assert found(tree, "x/a") == {"s": 0}
    assert tree.remove("+/a", "s")
    assert is_empty(tree)


def test_shared_filters_are_taken_apart() -> None:
    """Group and filter of `$share/group/filter`; any other filter has no group."""
    assert split_shared("$share/prov/_prov/request/+") == ("prov", "_prov/request/+")
    assert split_shared("$share/g//a") == ("g", "/a")
    assert split_shared("a/$share/b") == (None, "a/$share/b")


def test_alike_options_are_one_value() -> None:
    """Ten thousand gateways that subscribe alike share it."""
    assert grant(1) is grant(1)
    assert grant(1) != grant(1, no_local=True)
    assert grant(2) == Grant(2)


def test_an_idle_gateways_filters_cost_little() -> None:
    """A filter of its own is an entry of one dict, with a wildcard at its end too: no node per level, no dict (P9)."""
    tree: SubscriptionTree[int] = SubscriptionTree()
    for number in range(1000):
        for rest in ("attributes", "rpc/request/+", "rpc/#"):
            tree.add(f"v1/devices/gw-{number}/{rest}", number, grant(1))
    assert not tree._plain.root.children
    entries = tree._plain.direct
    assert {type(entry) for entry in entries.values()} == {tuple}
    size = sys.getsizeof(entries) + sum(sys.getsizeof(entry) for entry in entries.values())
    assert size / len(entries) < 160


def test_matching_takes_no_step_per_subscriber_of_other_filters() -> None:
    """A message costs the same among a hundred and among fifty thousand subscriptions."""

    def cost_s(subscriptions: int) -> float:
        tree: SubscriptionTree[int] = SubscriptionTree()
        for number in range(subscriptions):
            tree.add(f"v1/devices/gw-{number}/rpc/request/+", number, grant(1))
            tree.add(f"v1/devices/gw-{number}/attributes", number, grant(1))
        tree.add("v1/devices/+/telemetry", -1, grant(1))
        best = float("inf")
        for _ in range(20):
            began = time.thread_time()
            for _ in range(200):
                tree.match("v1/devices/gw-7/telemetry")
                tree.match("v1/devices/gw-7/rpc/request/1")
            best = min(best, time.thread_time() - began)
        return best

    assert cost_s(25_000) < 5 * cost_s(50)


levels = st.sampled_from(["", "a", "b", "$s"])
topics = st.lists(levels, min_size=1, max_size=5).map("/".join).filter(bool)
filters = st.builds(
    lambda parts, end: "/".join([*parts, *end]),
    st.lists(levels | st.just("+"), min_size=1, max_size=4),
    st.sampled_from([(), ("#",), ("+",)]),
).filter(bool) | st.just("#")
shares = st.sampled_from(["", "$share/g/", "$share/h/"])
subscriptions = st.lists(st.tuples(filters, st.integers(0, 3), st.integers(0, 2)), max_size=15)


@UNHURRIED
@given(subscriptions, topics)
def test_tree_agrees_with_topic_matches(subscribed: list[tuple[str, int, int]], topic: str) -> None:
    """For any filters and any topic the tree finds whom the definition finds, with the highest QoS."""
    tree: SubscriptionTree[int] = SubscriptionTree()
    granted: dict[tuple[str, int], int] = {}
    for topic_filter, subscriber, qos in subscribed:
        validate_topic_filter(topic_filter)
        assert tree.add(topic_filter, subscriber, grant(qos)) == ((topic_filter, subscriber) not in granted)
        granted[topic_filter, subscriber] = qos
    expected: dict[int, int] = {}
    for (topic_filter, subscriber), qos in granted.items():
        if topic_matches(topic_filter, topic):
            expected[subscriber] = max(qos, expected.get(subscriber, 0))
    assert found(tree, topic) == expected
    assert len(tree) == len(granted)
    for subscriber in range(4):
        single = tree.granted(topic, subscriber)
        assert (single.qos if single else None) == expected.get(subscriber)


@UNHURRIED
@given(st.lists(st.tuples(shares, filters, st.integers(0, 3)), max_size=15), st.randoms(use_true_random=False))
def test_nothing_is_left_when_everybody_has_gone(subscribed: list[tuple[str, str, int]], order: Any) -> None:
    """Empty branches and groups are forgotten, in whatever order subscriptions end (P9)."""
    tree: SubscriptionTree[int] = SubscriptionTree()
    for share, topic_filter, subscriber in subscribed:
        tree.add(share + topic_filter, subscriber, grant(1))
    pairs = list({(share + topic_filter, subscriber) for share, topic_filter, subscriber in subscribed})
    order.shuffle(pairs)
    assert all(tree.remove(topic_filter, subscriber) for topic_filter, subscriber in pairs)
    assert is_empty(tree)
