"""Topics of one's own, for brokers that route by topic alone."""

import pytest

from mqttprov.gateway.actions import Connect
from mqttprov.gateway.own_topics import OwnTopics, device_name_in, with_own_topics

TO_PROVISION = Connect("provisioning", "", "provision", None, 60, 4, False)
BY_TOKEN = Connect("operational", "", "token", None, 60, 5, False)
BY_PASSWORD = Connect("operational", "bound", "user", "password", 60, 5, False)
REPLY = b'{"status":"SUCCESS","deviceName":"gw-1"}'


def test_a_provisioning_connection_has_a_client_id_of_its_own() -> None:
    """A new one each time, in both topics (P3); and a password, although it is empty."""
    connect, topics = with_own_topics(TO_PROVISION, REPLY, "drawn", "session")
    assert (connect.client_id, connect.username, connect.password, connect.version) == ("drawn", "provision", "", 4)
    assert topics.outward("/provision/request") == "provision/request/drawn"
    assert topics.outward("/provision/response") == "provision/response/drawn"
    assert topics.inward("provision/response/drawn") == "/provision/response"
    assert topics.inward("provision/response/other") == "provision/response/other"


@pytest.mark.parametrize(("stored", "expected"), [(BY_TOKEN, ("session", "")), (BY_PASSWORD, ("bound", "password"))])
def test_a_login_keeps_what_its_credentials_are_bound_to(stored: Connect, expected: tuple[str, str]) -> None:
    """And speaks MQTT 3.1.1, as RabbitMQ before 3.13 does."""
    connect, _ = with_own_topics(stored, REPLY, "drawn", "session")
    assert (connect.client_id, connect.password, connect.version) == (*expected, 4)


def test_me_is_the_device_by_name() -> None:
    """In both directions, and only what is `me`."""
    _, topics = with_own_topics(BY_TOKEN, REPLY, "drawn", "session")
    for known, routed in (
        ("v1/devices/me/telemetry", "v1/devices/gw-1/telemetry"),
        ("v1/devices/me/rpc/request/+", "v1/devices/gw-1/rpc/request/+"),
        ("elsewhere", "elsewhere"),
    ):
        assert topics.outward(known) == routed
        assert topics.inward(routed) == known


def test_without_a_name_topics_stay_as_they_are() -> None:
    """A reply of another server need not tell it."""
    topics = OwnTopics("c")
    assert topics.outward("v1/devices/me/telemetry") == "v1/devices/me/telemetry"
    assert topics.inward("v1/devices/None/telemetry") == "v1/devices/None/telemetry"


@pytest.mark.parametrize(
    ("reply", "name"),
    [(REPLY, "gw-1"), (b"{}", None), (b'{"deviceName":7}', None), (b"\xff", None), (b"[" * 9999, None)],
)
def test_the_name_is_read_from_the_reply(reply: bytes, name: str | None) -> None:
    """Whatever the reply is (P10)."""
    assert device_name_in(reply) == name
