"""The gate's topic rules, written in C, against those of `mqttprov.core.permissions`: one answer to every question."""

import ctypes
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.brokers.mosquitto.beside import GATE
from tests.core.test_permissions import device, device_names, is_pattern, levels, patterns, topics

from mqttprov.core import permissions
from mqttprov.core.login import Principal, Role

ROLES = {Role.DEVICE: 1, Role.OPERATOR: 2, Role.OBSERVER: 3}
PUBLISH, SUBSCRIBE, RECEIVE = range(3)
MAX_NAME_BYTES = 1020
MAX_TOPIC_BYTES = 65_535
Rule = Callable[..., bool]

wide_patterns = st.lists(st.sampled_from(["%d", "%dx", "x%d%d", "+", "plant", "a%d/%d", "", "%", "d"]), max_size=4).map(
    "/".join
)
own_patterns = patterns | st.tuples(
    wide_patterns.filter(is_pattern) | wide_patterns.map(lambda p: f"{p}/#").filter(is_pattern)
)


class CPrincipal(ctypes.Structure):
    """`struct principal` of gate.h."""

    _fields_ = (
        ("role", ctypes.c_int),
        ("name", ctypes.c_char_p),
        ("patterns", ctypes.c_char_p * 2),
        ("device_id", ctypes.c_char * 33),
        ("generation", ctypes.c_int64),
        ("seen", ctypes.c_long),
        ("first", ctypes.c_bool),
        ("rotation_due", ctypes.c_bool),
    )


@pytest.fixture(scope="module")
def rules(plugin: Path, tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """Build topics.c alone, with the sanitizers' checks that need no runtime library."""
    library = tmp_path_factory.mktemp("topics") / "topics.so"
    command = ("gcc", "-std=c11", "-D_GNU_SOURCE", "-shared", "-fPIC", "-O1", "-fsanitize=undefined",
               "-fsanitize-undefined-trap-on-error", str(GATE / "topics.c"), "-o", str(library))  # fmt: skip
    subprocess.run(command, check=True, timeout=60)
    loaded = ctypes.CDLL(str(library))
    for name in ("may", "is_own_topic", "is_name", "topic_inward", "topic_outward"):
        getattr(loaded, name).restype = ctypes.c_bool
    return loaded


def in_c(principal: Principal, allowed: tuple[str, ...] = ()) -> CPrincipal:
    """Give the principal as the gate has it: with patterns in one text."""
    listed = "\n".join(pattern.replace("%d", principal.name) for pattern in allowed).encode() or None
    return CPrincipal(role=ROLES[principal.role], name=principal.name.encode(), patterns=(listed, listed))


def may(rules: ctypes.CDLL, c: CPrincipal, action: int, topic: str) -> bool:
    """Ask the gate."""
    return bool(rules.may(ctypes.byref(c), action, topic.encode()))


def near(name: str) -> st.SearchStrategy[str]:
    """Give topics and filters that are often close to what a device of this name may use."""
    return topics | st.lists(
        st.sampled_from([name, f"{name}x", f"a{name}", f"x{name}{name}"]) | levels, max_size=5
    ).map("/".join)


@given(name=device_names, allowed=own_patterns, data=st.data())
@settings(max_examples=300)
def test_devices_may_the_same_in_both(
    rules: ctypes.CDLL, name: str, allowed: tuple[str, ...], data: st.DataObject
) -> None:
    """Publish and subscribe, for every name, pattern and topic; a pattern never opens what is internal (P3)."""
    topic = data.draw(near(name))
    principal, c = device(name, allowed), in_c(device(name, allowed), allowed)
    assert rules.is_own_topic(topic.encode()) == permissions.is_own_topic(topic)
    assert may(rules, c, PUBLISH, topic) == permissions.may_publish(principal, topic)
    assert may(rules, c, SUBSCRIBE, topic) == permissions.may_subscribe(principal, topic)
    if may(rules, c, RECEIVE, topic):
        assert permissions.may_subscribe(principal, topic)
        assert not permissions.is_own_topic(topic)


@pytest.mark.parametrize(
    ("pattern", "topic", "covered"),
    [
        ("a/#", "a", True),
        ("a/#", "a/", True),
        ("a/+/#", "a", False),
        ("%d/#", "gw", True),
        ("a", "a/", False),
        ("a/", "a", False),
        ("+", "", True),
        ("#", "_prov/request/1", False),
        ("_prov/#", "_prov/request/1", False),
        ("#", "$CONTROL/provision/v1", False),
        ("#", "/provision/response", False),
    ],
)
def test_the_edges_of_patterns(rules: ctypes.CDLL, pattern: str, topic: str, *, covered: bool) -> None:
    """The parent level, empty levels, and what no pattern opens."""
    c = in_c(device("gw"), (pattern,))
    assert may(rules, c, SUBSCRIBE, topic) is covered
    assert may(rules, c, PUBLISH, topic) is covered


@given(role=st.sampled_from([Role.OPERATOR, Role.OBSERVER]), topic=topics)
def test_operators_may_the_same_in_both(rules: ctypes.CDLL, role: Role, topic: str) -> None:
    """But for `me` topics and the gate's own, which mean nothing on an operator's connection."""
    principal = Principal(role, "alice")
    c = in_c(principal)
    assert may(rules, c, SUBSCRIBE, topic) == permissions.may_subscribe(principal, topic)
    apart = permissions.is_own_topic(topic) or topic.startswith("_prov/")
    expected = permissions.may_publish(principal, topic) and not apart
    assert may(rules, c, PUBLISH, topic) == expected
    if topic.startswith(("$", "/provision/", "_prov/")):
        assert not may(rules, c, RECEIVE, topic)


def inward(rules: ctypes.CDLL, name: str, topic: str) -> str | None:
    """Turn a device's topic round; None when the gate does not."""
    out = ctypes.create_string_buffer(MAX_TOPIC_BYTES + 1)
    return out.value.decode() if rules.topic_inward(name.encode(), topic.encode(), out) else None


def outward(rules: ctypes.CDLL, topic: str) -> tuple[str, str] | None:
    """Turn it back; give whose it is, too."""
    device, out = ctypes.create_string_buffer(MAX_NAME_BYTES + 3), ctypes.create_string_buffer(MAX_TOPIC_BYTES + 1)
    if not rules.topic_outward(topic.encode(), device, out):
        return None
    return out.value.decode(), device.value.decode().removeprefix("d:")


@given(name=device_names, rest=st.lists(levels, max_size=4).map("/".join), gateway=st.booleans())
@example(name="gateway", rest="gateway/x", gateway=False)
def test_topics_are_turned_round_alike(rules: ctypes.CDLL, name: str, rest: str, *, gateway: bool) -> None:
    """`me` becomes the name and the name becomes `me`, as in the other brokers."""
    topic = ("v1/gateway/" if gateway else "v1/devices/me/") + rest
    principal = device(name)
    inner = permissions.inward(principal, topic)
    assert inward(rules, name, topic) == inner
    assert outward(rules, inner) == (permissions.outward(principal, inner), name)


def test_nothing_grows_past_what_a_topic_can_be(rules: ctypes.CDLL) -> None:
    """What would not fit is no topic; a name that would not fit is no name (P9)."""
    prefix = "v1/devices/me/"
    longest = prefix + "x" * (MAX_TOPIC_BYTES - len(prefix))
    assert inward(rules, "gw", longest) == longest.replace("me", "gw")
    assert inward(rules, "gw1", longest) is None
    assert outward(rules, longest.replace("me", "g")[:-1]) is not None
    assert outward(rules, longest.replace("me", "g") + "x") is None
    assert rules.is_name(("é" * (MAX_NAME_BYTES // 2)).encode())
    assert not rules.is_name(b"x" * (MAX_NAME_BYTES + 1))
    assert outward(rules, f"v1/devices/{'x' * (MAX_NAME_BYTES + 1)}/y") is None
