"""Where a principal may publish and subscribe: a device never outside its own, whatever it is called (P7, P8)."""

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mqttprov.core.login import Principal, Role
from mqttprov.core.names import InvalidName, check_topic_patterns, normalise_device_name
from mqttprov.core.permissions import (
    inward,
    is_own_topic,
    may_publish,
    may_receive,
    may_subscribe,
    outward,
    topic_of_device,
)


def valid(text: str) -> bool:
    """Tell whether a device may be called so."""
    try:
        return normalise_device_name(text, unicode_names=True) == text
    except InvalidName:
        return False


def is_pattern(pattern: str) -> bool:
    """Tell whether a profile may hold this pattern."""
    try:
        return bool(check_topic_patterns("publish", (pattern,)))
    except InvalidName:
        return False


device_names = st.sampled_from(
    ["me", "v1", "provision", "devices", "gateway", "audit", "gw-1", "GW-1", "other", "v1:devices", "東京"]
) | st.text("aZ0._:- é東", min_size=1, max_size=6).filter(valid)
levels = st.sampled_from(
    ["v1", "devices", "me", "gateway", "provision", "audit", "request", "response", "other", "gw-1", "plant", "",
     "telemetry", "+", "#", "$SYS", "$share", "rpc"]
)  # fmt: skip
topics = st.lists(levels, min_size=1, max_size=6).map("/".join)
PATTERN_LEVELS = ["%d", "plant", "+", "#", "v1", "", "a%d"]
PATTERNS = ["/".join(parts) for size in (1, 2, 3) for parts in product(PATTERN_LEVELS, repeat=size)]
patterns = st.lists(st.sampled_from([p for p in PATTERNS if is_pattern(p)]), max_size=3).map(tuple)


def device(name: str, allowed: tuple[str, ...] = ()) -> Principal:
    """Make a device's principal as a login does."""
    filled = tuple(pattern.replace("%d", name) for pattern in allowed)
    return Principal(Role.DEVICE, name, "id", 1, filled, filled)


def matches(topic_filter: str, topic: str) -> bool:
    """Tell whether a filter selects a topic (MQTT 5.0 section 4.7), written here once more and differently."""
    if topic.startswith("$") and topic_filter[:1] in {"+", "#"}:
        return False
    f, t = topic_filter.split("/"), topic.split("/")
    if not f:
        return not t
    for i, level in enumerate(f):
        if level == "#":
            return True
        if i >= len(t) or level not in {"+", t[i]}:
            return False
    return len(f) == len(t)


FOREIGN = [
    "v1/devices/another-device/telemetry", "v1/devices/another-device/rpc/request/1", "v1/devices/gw-1x/telemetry",
    "provision/audit/provisioned", "/provision/request", "/provision/response", "provision/request/1",
    "$SYS/broker/uptime",
]  # fmt: skip


@st.composite
def devices_with_topics(draw: st.DrawFn) -> tuple[Principal, str]:
    """Give a device and a topic or filter that is often close to what its profile opens."""
    principal = device(draw(device_names.filter(lambda name: name != "another-device")), draw(patterns))
    near = []
    for pattern in principal.publish_topics:
        parts = pattern.split("/")
        changed = [part if draw(st.booleans()) else draw(levels) for part in parts]
        near.append("/".join(changed + draw(st.lists(levels, max_size=2))))
    return principal, draw(st.sampled_from(near + FOREIGN) | topics)


@settings(max_examples=200)
@given(devices_with_topics())
def test_a_device_reaches_no_topic_of_another(case: tuple[Principal, str]) -> None:
    """Whatever the device is called and the profile opens, topics of others and of the broker stay closed (P8)."""
    principal, topic = case
    if may_publish(principal, topic):
        inside = inward(principal, topic)
        own = topic_of_device(principal.name)
        assert inside.startswith(own) or not inside.startswith(("v1/", "provision/", "/provision/", "$"))


@settings(max_examples=200)
@given(devices_with_topics())
def test_a_device_subscribes_to_nothing_of_another(case: tuple[Principal, str]) -> None:
    """No filter that is granted selects a topic of another device, an audit event or a reply (P3, P8)."""
    principal, topic_filter = case
    if may_subscribe(principal, topic_filter):
        inside, own = inward(principal, topic_filter), topic_of_device(principal.name)
        assert [topic for topic in FOREIGN if matches(inside, topic) and not topic.startswith(own)] == []


@settings(max_examples=200)
@given(devices_with_topics(), st.lists(st.sampled_from(["v1", "plant", "x", "", "gw-1"]), min_size=1, max_size=5))
def test_a_filter_never_selects_more_than_the_profile_opens(case: tuple[Principal, str], parts: list[str]) -> None:
    """What a granted filter selects is within the patterns or the device's own topics (P8)."""
    (principal, topic_filter), topic = case, "/".join(parts)
    if may_subscribe(principal, topic_filter) and not is_own_topic(topic_filter) and matches(topic_filter, topic):
        assert any(matches(pattern, topic) for pattern in principal.subscribe_topics)


@pytest.mark.parametrize(
    ("name", "pattern", "topic"),
    [
        ("v1", "%d/#", "v1/devices/another-device/rpc/request/1"),
        ("1", "v%d/#", "v1/devices/another-device/telemetry"),
        ("v1", "%d/#", "v1/#"),
        ("provision", "%d/#", "provision/audit/provisioned"),
        ("provision", "/%d/#", "/provision/request"),
        ("provision", "/%d/+", "/provision/+"),
    ],
)
def test_a_name_does_not_turn_a_pattern_into_the_topics_of_others(name: str, pattern: str, topic: str) -> None:
    """A device called "v1" or "provision" gets no more than any other from a pattern with `%d` (P8)."""
    principal = device(name, check_topic_patterns("publish", (pattern,)))
    assert not may_publish(principal, topic)
    assert not may_subscribe(principal, topic)
    assert may_publish(device("gw-1", (pattern,)), pattern.replace("%d", "gw-1").replace("#", "x").replace("+", "x"))


@given(device_names, st.sampled_from(["v1/devices/me/", "v1/gateway/"]), topics)
def test_inward_and_outward_are_inverse(name: str, own: str, rest: str) -> None:
    """A device hears of its own topics under the names that it used (thingsboard.md rule 15).

    `v1/devices/me/gateway/...` is the same place as `v1/gateway/...` and comes back as the latter.
    """
    principal = device(name)
    topic = own + rest
    there = inward(principal, topic)
    assert there.startswith(f"v1/devices/{name}/")
    assert outward(principal, there) == topic.replace("v1/devices/me/gateway/", "v1/gateway/", 1)
    assert inward(principal, outward(principal, there)) == there


@given(st.sampled_from([Role.OPERATOR, Role.OBSERVER]), topics)
def test_topics_of_operators_are_not_translated(role: Role, topic: str) -> None:
    """`me` is a word for devices only."""
    principal = Principal(role, "ops")
    assert inward(principal, topic) == outward(principal, topic) == topic


@pytest.mark.parametrize("name", ["", "+", "#", "a/b", "$a", "a\0", "a+"])
def test_a_name_that_leads_elsewhere_never_becomes_a_topic(name: str) -> None:
    """The second wall (SD-14, CVE-2017-7650): even a name that came around the first (P8)."""
    with pytest.raises(ValueError, match="must not become part of a topic"):
        topic_of_device(name)
    with pytest.raises(ValueError, match="must not become part of a topic"):
        inward(device(name), "v1/devices/me/telemetry")


@pytest.mark.parametrize(
    "topic", ["v1/devices/me/telemetry", "v1/devices/me/rpc/request/1", "v1/gateway/connect", "plant/gw-1/x/y"]
)
def test_a_device_publishes_what_it_should(topic: str) -> None:
    """Its `me` topics, its gateway topics and what the profile opens."""
    assert may_publish(device("gw-1", ("plant/%d/#",)), topic)


@pytest.mark.parametrize(
    "topic_filter", ["v1/devices/me/#", "v1/devices/me/rpc/request/+", "v1/gateway/rpc", "p/gw-1/+"]
)
def test_a_device_subscribes_to_what_it_should(topic_filter: str) -> None:
    """The filters of the vendor's gateway (thingsboard.md section 11.5) and what the profile opens."""
    assert may_subscribe(device("gw-1", ("p/%d/+",)), topic_filter)


@pytest.mark.parametrize(
    "topic_filter",
    ["#", "+/#", "v1/#", "v1/devices/+/telemetry", "v1/devices/me", "p/+/a", "p/#", "p/gw-1/#", "p/gw-1/a/b", "p/gw-1"],
)
def test_a_device_does_not_widen_its_filters(topic_filter: str) -> None:
    """A wildcard never reaches beyond what the pattern covers."""
    assert not may_subscribe(device("gw-1", ("p/%d/+",)), topic_filter)


@pytest.mark.parametrize("topic", ["$SYS/x", "/provision/request", "provision/audit/refused"])
def test_nobody_forges_audit_events_or_requests(topic: str) -> None:
    """Not even an operator publishes where the broker itself speaks (P5)."""
    assert not may_publish(Principal(Role.OPERATOR, "ops"), topic)
    assert may_publish(Principal(Role.OPERATOR, "ops"), "v1/devices/gw-1/rpc/request/1")


def test_operators_and_observers_listen_but_only_operators_speak() -> None:
    """Audit events are readable by operators only (DESIGN section 6)."""
    observer = Principal(Role.OBSERVER, "eye")
    assert may_subscribe(observer, "provision/audit/#")
    assert not may_subscribe(observer, "$SYS/#")
    assert not may_publish(observer, "v1/devices/gw-1/rpc/request/1")


def test_own_topics_are_recognised() -> None:
    """They mean "this session" and are never echoed to the device that sent them (DESIGN 5.8)."""
    assert is_own_topic("v1/devices/me/telemetry")
    assert is_own_topic("v1/gateway/connect")
    assert not is_own_topic("v1/devices/gw-1/telemetry")


@pytest.mark.parametrize(
    "topic", ["v1/devices/gw-1/telemetry", "v1/devices/me/x", "provision/audit/refused", "/provision/response"]
)
def test_guests_have_no_part_in_our_topics(topic: str) -> None:
    """Who another's plugin lets in neither speaks nor listens there; a `#` of theirs is not delivered it either."""
    guest = Principal(Role.GUEST, "alice/a")
    assert not may_publish(guest, topic)
    assert not may_subscribe(guest, topic)
    assert not may_receive(guest, topic)
    assert may_subscribe(guest, "#")
    assert may_publish(guest, "home/lamp")
    assert may_receive(guest, "home/lamp")
    assert may_receive(Principal(Role.OPERATOR, "ops"), topic)
