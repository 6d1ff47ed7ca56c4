"""Packets as values: what they show of themselves."""

import pytest

from mqttprov.mqtt import Connect, ConnectReceived, Properties, Publish, PublishReceived, Will

SECRET = "s3cr3t-token"


@pytest.mark.parametrize(
    "value",
    [
        Connect("c", username=SECRET, password=SECRET.encode(), will=Will("w", SECRET.encode())),
        ConnectReceived(Connect("c", username=SECRET)),
        Publish("/provision/response", SECRET.encode()),
        PublishReceived(Publish("/provision/request", SECRET.encode())),
        Properties(authentication_data=SECRET.encode(), user_properties=(("token", SECRET),)),
    ],
)
def test_repr_shows_no_secret(value: object) -> None:
    """User names (an access token is one), passwords, payloads and property values stay out of logs (P6)."""
    assert SECRET not in repr(value)
    assert SECRET not in f"{value} {[value]}"


def test_repr_tells_what_helps_to_find_a_fault() -> None:
    """Client id, topic and sizes are shown, and which properties are there."""
    assert "client_id='c'" in repr(Connect("c"))
    shown = repr(Publish("a/b", b"123", properties=Properties(content_type="x")))
    assert "a/b" in shown
    assert "3 bytes" in shown
    assert "content_type" in shown
