"""Retained messages: the last one of each topic, found by filter, bounded in all and for each owner."""

import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.mqtt.test_subscription_tree import filters, topics
from tests.mqtt.test_topics import MATCHES

from mqttprov.mqtt import Message, Properties, Retained, RetainedLimits, RetainedStore, topic_matches

UNHURRIED = settings(deadline=None)  # a busy machine is no fault


def kept(topic: str, payload: bytes = b"x", owner: str = "o", expiry_s: int | None = None, at_s: float = 0) -> Retained:
    """Make a message to keep."""
    return Retained(Message(topic, payload, 1, True, Properties(message_expiry_interval_s=expiry_s), at_s), owner)


def found(store: RetainedStore, topic_filter: str, now_s: float = 0.0) -> dict[str, bytes]:
    """Give what is kept under a filter, by topic."""
    messages = [each.message for each in store.match(topic_filter, now_s)]
    assert len({message.topic for message in messages}) == len(messages)
    return {message.topic: message.payload for message in messages}


def is_empty(store: RetainedStore) -> bool:
    """Tell whether a store holds nothing at all."""
    return (len(store), store.size_bytes) == (0, 0) and not store._owners and not store._root.children


@pytest.mark.parametrize(("topic_filter", "topic", "expected"), MATCHES)
def test_retained_messages_follow_the_examples_of_the_specification(
    topic_filter: str, topic: str, expected: bool
) -> None:
    """MQTT section 4.7, the other way round."""
    store = RetainedStore(RetainedLimits())
    assert store.keep(kept(topic), 0)
    assert found(store, topic_filter) == ({topic: b"x"} if expected else {})


def test_the_last_message_of_a_topic_counts_and_an_empty_one_clears_it() -> None:
    """MQTT-3.3.1-5 to -7."""
    store = RetainedStore(RetainedLimits())
    for payload in (b"1", b"22"):
        assert store.keep(kept("a/b", payload), 0)
    assert found(store, "a/b") == {"a/b": b"22"}
    assert (len(store), store.size_bytes) == (1, 5)
    assert store.get("a/b") is not None
    assert store.get("a") is store.get("a/b/c") is None
    assert store.keep(kept("a/b", b""), 0)
    assert store.keep(kept("b", b""), 0)
    assert is_empty(store)


@pytest.mark.parametrize(
    ("limits", "fit"),
    [
        (RetainedLimits(max_messages=3), 3),
        (RetainedLimits(max_bytes=25), 2),
        (RetainedLimits(max_messages_per_owner=1), 2),
        (RetainedLimits(max_bytes_per_owner=10), 2),
    ],
    ids=["messages", "bytes", "messages-of-an-owner", "bytes-of-an-owner"],
)
def test_room_is_bounded_in_all_and_for_each_owner(limits: RetainedLimits, fit: int) -> None:
    """Past a bound nothing more is kept (P9); replacing needs no room; clearing gives it back."""
    store = RetainedStore(limits)
    taken = [store.keep(kept(f"t/{n}", b"1234567", owner=f"o{n % 2}"), 0) for n in range(6)]
    assert taken.count(True) == fit == len(store)
    assert store.keep(kept("t/0", b"7654321", owner="o0"), 0)
    assert not store.keep(kept("t/9", b"1234567", owner="o0"), 0)
    assert store.keep(kept("t/0", b"", owner="o1"), 0)
    assert store.keep(kept("t/9", b"1234567", owner="o0"), 0)


def test_a_message_without_room_does_not_leave_the_last_one_behind() -> None:
    """What was said before holds no longer, so it is not told to newcomers."""
    store = RetainedStore(RetainedLimits(max_bytes_per_owner=10))
    assert store.keep(kept("t", b"small"), 0)
    assert not store.keep(kept("t", b"too large by far"), 0)
    assert is_empty(store)


def test_expired_messages_are_not_given_and_make_room() -> None:
    """MQTT 5 section 3.3.2.3.3: past its expiry a message is not delivered; it makes room for others when it must."""
    store = RetainedStore(RetainedLimits(max_messages=2))
    assert store.keep(kept("a", expiry_s=10), 0)
    assert store.keep(kept("b", expiry_s=30), 0)
    assert set(found(store, "#", 9.9)) == {"a", "b"}
    assert set(found(store, "#", 10)) == {"b"}
    assert not store.keep(kept("c"), 9)
    assert store.keep(kept("c"), 10)
    assert not store.keep(kept("d"), 29)
    assert store.keep(kept("d"), 30)
    assert set(found(store, "#", 30)) == {"c", "d"}


def test_a_filter_walks_only_what_it_names() -> None:
    """With fifty thousand messages elsewhere a gateway's filters cost what they cost among fifty."""

    def cost_s(messages: int) -> float:
        store = RetainedStore(RetainedLimits(max_messages_per_owner=messages + 1, max_bytes_per_owner=10**9))
        for number in range(messages):
            assert store.keep(kept(f"v1/devices/gw-{number}/attributes"), 0)
        best = float("inf")
        for _ in range(20):
            began = time.thread_time()
            for _ in range(200):
                assert len(store.match("v1/devices/gw-7/attributes", 0)) == 1
                assert store.match("v1/devices/gw-7/rpc/request/+", 0) == []
            best = min(best, time.thread_time() - began)
        return best

    assert cost_s(50_000) < 5 * cost_s(50)


actions = st.lists(st.tuples(topics, st.sampled_from([b"", b"x", b"yy"]), st.sampled_from("ab")), max_size=20)


@UNHURRIED
@given(actions, filters)
def test_the_store_agrees_with_topic_matches(done: list[tuple[str, bytes, str]], topic_filter: str) -> None:
    """For any messages and any filter the store gives what the definition gives; cleared, nothing is left (P9)."""
    store = RetainedStore(RetainedLimits())
    last: dict[str, bytes] = {}
    for topic, payload, owner in done:
        assert store.keep(kept(topic, payload, owner), 0)
        last[topic] = payload
    expected: dict[Any, bytes] = {t: p for t, p in last.items() if p and topic_matches(topic_filter, t)}
    assert found(store, topic_filter) == expected
    assert len(store) == sum(bool(payload) for payload in last.values())
    for topic in last:
        store.forget(topic)
    assert is_empty(store)
