"""Rights on brokers that route by topic alone."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqttprov.core.login import Principal, Role
from mqttprov.core.routed import Action, Guest, Service, authorize, is_unguessable, requester_of
from mqttprov.mqtt.topics import topic_matches

ID = "a1B2c3D4e5F6g7H8i9J0k-_x"
GUEST = Guest(ID)
OPERATOR = Principal(Role.OPERATOR, "ops")
OBSERVER = Principal(Role.OBSERVER, "eyes")
DEVICE = Principal(Role.DEVICE, "gw-1", "id-1", 1, ("plant/gw-1/up",), ("plant/gw-1/#",))
PRIVATE = (f"provision/response/{ID}", f"provision/request/{ID}", f"provision/session/{ID}//provision/response")

level = st.sampled_from(["provision", "response", "request", "session", "v1", "devices", "gw-1", "gw-2", "+", "", ID])
filters = st.builds(
    lambda levels, end: "/".join([*levels, *end]), st.lists(level, min_size=1, max_size=6), st.sampled_from([[], ["#"]])
)


def test_a_guest_may_ask_and_be_answered() -> None:
    """Under its own client id."""
    assert authorize(GUEST, Action.PUBLISH, f"provision/request/{ID}")
    assert authorize(GUEST, Action.SUBSCRIBE, f"provision/response/{ID}")
    assert not authorize(GUEST, Action.SUBSCRIBE, f"provision/request/{ID}")
    assert not authorize(GUEST, Action.PUBLISH, f"provision/response/{ID}")


@given(filters)
def test_nobody_subscribes_to_the_replies_of_others(topic_filter: str) -> None:
    """Whoever is allowed a filter does not receive by it what a provisioning session is sent or sends (P3)."""
    stranger = Guest("another-unguessable-client-id")
    for who in (stranger, OPERATOR, OBSERVER, DEVICE):
        if authorize(who, Action.SUBSCRIBE, topic_filter):
            assert not any(topic_matches(topic_filter, topic) for topic in PRIVATE)


@given(filters)
def test_a_device_subscribes_to_nothing_of_another(topic_filter: str) -> None:
    """Nor to `me`, which is the same topic for all devices there."""
    if authorize(DEVICE, Action.SUBSCRIBE, topic_filter):
        for topic in ("v1/devices/gw-2/rpc/request/1", "v1/devices/me/rpc/request/1", "provision/audit/provisioned"):
            assert not topic_matches(topic_filter, topic)


@pytest.mark.parametrize(
    ("who", "action", "topic", "allowed"),
    [
        (DEVICE, Action.PUBLISH, "v1/devices/gw-1/telemetry", True),
        (DEVICE, Action.SUBSCRIBE, "v1/devices/gw-1/rpc/request/+", True),
        (DEVICE, Action.PUBLISH, "plant/gw-1/up", True),
        (DEVICE, Action.SUBSCRIBE, "plant/gw-1/#", True),
        (DEVICE, Action.PUBLISH, "v1/devices/me/telemetry", False),
        (DEVICE, Action.PUBLISH, "v1/gateway/telemetry", False),
        (DEVICE, Action.PUBLISH, "v1/devices/gw-10/telemetry", False),
        (DEVICE, Action.PUBLISH, f"provision/request/{ID}", False),
        (OPERATOR, Action.PUBLISH, "v1/devices/gw-1/rpc/request/1", True),
        (OPERATOR, Action.PUBLISH, f"provision/response/{ID}", False),
        (OPERATOR, Action.SUBSCRIBE, "v1/#", True),
        (OPERATOR, Action.SUBSCRIBE, "provision/audit/#", True),
        (OBSERVER, Action.PUBLISH, "v1/devices/gw-1/rpc/request/1", False),
        (Service(), Action.SUBSCRIBE, "provision/request/+", True),
        (Service(), Action.SUBSCRIBE, "provision/session/+//provision/request", True),
        (Service(), Action.SUBSCRIBE, "#", False),
        (Service(), Action.PUBLISH, f"provision/response/{ID}", True),
        (Service(), Action.PUBLISH, f"provision/session/{ID}//provision/response", True),
        (Service(), Action.PUBLISH, "provision/audit/provisioned", True),
        (Service(), Action.PUBLISH, "v1/devices/gw-1/rpc/request/1", False),
        (Principal(Role.DEVICE, "a/b"), Action.PUBLISH, "v1/devices/a/b/x", False),
    ],
)
def test_rights(who: Principal | Service, action: Action, topic: str, allowed: bool) -> None:
    """Each for its own, and no more."""
    assert authorize(who, action, topic) is allowed


def test_a_request_names_where_its_reply_goes() -> None:
    """For both forms of topic; for no other topic, and for no client id that could be guessed."""
    assert requester_of(f"provision/request/{ID}") == (ID, f"provision/response/{ID}")
    mounted = f"provision/session/{ID}//provision/"
    assert requester_of(f"{mounted}request") == (ID, f"{mounted}response")
    for topic in (
        "provision/request/short",
        f"provision/request/{ID}/x",
        "provision/session/a/b//provision/request",
        "",
    ):
        assert requester_of(topic) is None


@given(st.text(string.printable, max_size=40))
def test_an_unguessable_client_id_is_long_and_plain(text: str) -> None:
    """22 or more letters, digits, '-' and '_': as many choices as a random number of 128 bits."""
    plain = all(c.isascii() and (c.isalnum() or c in "-_") for c in text)
    assert is_unguessable(text) is (plain and len(text) >= 22)
