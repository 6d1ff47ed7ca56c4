"""The gateway's state machine up to the login: requests, replies, saving, back-off."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.gateway.bench import (
    BASIC_REPLY,
    BY_TOKEN,
    REPLY_TOPIC,
    REQUEST,
    TO_PROVISION,
    TOKEN_REPLY,
    UNTIMED,
    X509_REPLY,
    started,
    without_changes,
)

from mqttprov.gateway import actions as a
from mqttprov.gateway import events as e
from mqttprov.gateway.backoff import MachineSettings, backoff_delay_s
from mqttprov.gateway.transitions import State


def test_without_stored_credentials_it_connects_to_provision() -> None:
    """A new gateway logs in as `provision` with MQTT 3.1.1 and a time-out for the CONNACK."""
    assert without_changes(started().actions) == [a.SetTimer(1, 10.0), TO_PROVISION]


@pytest.mark.parametrize(
    ("stored", "login"),
    [
        (TOKEN_REPLY, BY_TOKEN),
        (BASIC_REPLY, a.Connect("operational", "c1", "u1", "p1", 120, 5, False)),
        (X509_REPLY, a.Connect("operational", "", None, None, 120, 5, True)),
    ],
)
def test_stored_credentials_are_used_at_once(stored: bytes, login: a.Connect) -> None:
    """Each credentials type gives its own CONNECT, in MQTT 5."""
    assert login in started(stored, certificate=True).actions


@pytest.mark.parametrize("stored", [b"", b"{", TOKEN_REPLY[:40], b'{"status":"SUCCESS"}', X509_REPLY])
def test_unusable_stored_credentials_lead_to_provisioning(stored: bytes) -> None:
    """Half a file, or a type that cannot be used here, never bricks a gateway (P10)."""
    assert TO_PROVISION in started(stored).actions


def test_the_request_is_published_without_waiting_for_the_suback() -> None:
    """After CONNACK come SUBSCRIBE and PUBLISH (QoS 1) in one go, and the time-out for the reply."""
    bench = started()
    assert without_changes(bench.feed(e.ConnectSucceeded())) == [
        a.SetTimer(2, 10.0),
        a.Subscribe((REPLY_TOPIC,), 1),
        a.Publish("/provision/request", REQUEST, 1),
    ]


def test_credentials_are_saved_before_they_are_used() -> None:
    """SUCCESS leads to SaveCredentials alone; only CredentialsSaved leads to DISCONNECT and login (P10)."""
    bench = started()
    bench.feed(e.ConnectSucceeded())
    actions = bench.feed(e.MessageReceived(REPLY_TOPIC, TOKEN_REPLY))
    assert without_changes(actions) == [a.CancelTimer(2), a.SaveCredentials(TOKEN_REPLY)]
    actions = bench.feed(e.CredentialsSaved())
    assert without_changes(actions) == [a.Disconnect(), a.SetTimer(3, 10.0), BY_TOKEN]
    bench.feed(e.ConnectSucceeded())
    assert bench.state is State.ONLINE


def test_another_type_than_requested_is_used_as_it_came() -> None:
    """The server may answer with any type; the reply decides about the login."""
    bench = started()
    bench.feed(e.ConnectSucceeded(), e.MessageReceived(REPLY_TOPIC, BASIC_REPLY))
    assert a.Connect("operational", "c1", "u1", "p1", 120, 5, False) in bench.feed(e.CredentialsSaved())


@pytest.mark.parametrize(
    "reply",
    [
        b"not json",
        b"[]",
        b'{"status":"SUCCESS"}',
        b'{"status":"SUCCESS","credentialsType":"ACCESS_TOKEN"}',
        b'{"status":"SUCCESS","credentialsType":"MQTT_BASIC","credentialsValue":{"password":"p"}}',
        b'{"status":"SUCCESS","credentialsType":"LWM2M_CREDENTIALS"}',
        b'{"status":"NOT_FOUND","errorMsg":"Provision data was not found!"}',
        X509_REPLY,
    ],
)
def test_a_reply_without_usable_credentials_is_a_failed_attempt(reply: bytes) -> None:
    """Nothing is saved, the connection is closed, and the same request goes out after the back-off (P4, P10)."""
    bench = started()
    bench.feed(e.ConnectSucceeded())
    actions = bench.feed(e.MessageReceived(REPLY_TOPIC, reply))
    assert bench.state is State.WAITING_TO_PROVISION
    assert a.Disconnect() in actions
    assert not [action for action in actions if isinstance(action, a.SaveCredentials)]
    bench.fire_timer()
    assert a.Publish("/provision/request", REQUEST, 1) in bench.feed(e.ConnectSucceeded())


def test_messages_on_other_topics_are_no_reply() -> None:
    """Only `/provision/response` ends the wait for the reply."""
    bench = started()
    bench.feed(e.ConnectSucceeded())
    assert bench.feed(e.MessageReceived("other", TOKEN_REPLY)) == []
    assert bench.state is State.AWAITING_REPLY


@pytest.mark.parametrize("event", [e.ConnectRefused(0x88), e.ConnectFailed("no route"), e.ConnectionLost("reset")])
def test_a_failed_provisioning_connection_is_tried_again(event: e.Event) -> None:
    """Refused, unreachable or lost: back-off, then again."""
    bench = started()
    bench.feed(event)
    assert bench.state is State.WAITING_TO_PROVISION
    assert TO_PROVISION in bench.fire_timer()


@pytest.mark.parametrize("with_connack", [False, True])
def test_silence_while_provisioning_ends_by_time_out(with_connack: bool) -> None:
    """Neither a missing CONNACK nor a missing reply hangs a gateway (P10)."""
    bench = started()
    if with_connack:
        bench.feed(e.ConnectSucceeded())
    assert a.Disconnect() in bench.fire_timer()
    assert bench.state is State.WAITING_TO_PROVISION


def test_retry_after_is_a_lower_bound_with_jitter_on_top() -> None:
    """A fleet that is told the same number does not come back in the same instant."""
    bench = started()
    bench.feed(e.ConnectSucceeded())
    bench.feed(e.MessageReceived(REPLY_TOPIC, b'{"status":"FAILURE","errorMsg":"busy","retryAfter":30}'))
    assert bench.delay_s() == 30.5


@UNTIMED
@given(attempt=st.integers(0, 10_000), retry_after_s=st.floats(0, 1e9), jitter=st.floats(0, 1, exclude_max=True))
def test_the_back_off_stays_within_its_bounds(attempt: int, retry_after_s: float, jitter: float) -> None:
    """Full jitter: from what the server asked for (capped) to that plus base * 2**attempt (capped) (P9)."""
    settings = MachineSettings()
    delay_s = backoff_delay_s(attempt, retry_after_s, settings, lambda: jitter)
    floor_s = min(retry_after_s, settings.retry_after_cap_s)
    assert floor_s <= delay_s <= floor_s + min(settings.backoff_cap_s, settings.backoff_base_s * 2 ** min(attempt, 20))


def test_the_back_off_doubles_up_to_the_cap() -> None:
    """With jitter held at one half the waits are 0.5, 1, 2 ... 30, 30 seconds."""
    bench = started(TOKEN_REPLY)
    waits = []
    for _ in range(8):
        bench.feed(e.ConnectFailed("down"))
        waits.append(bench.delay_s())
        bench.fire_timer()
    assert waits == [0.5, 1, 2, 4, 8, 16, 30, 30]


@pytest.mark.parametrize(("online_s", "next_wait_s"), [(29.0, 2.0), (30.0, 0.5)])
def test_the_back_off_starts_over_after_being_online_for_a_while(online_s: float, next_wait_s: float) -> None:
    """A connection that is thrown out at once keeps the wait growing; one that held resets it."""
    bench = started(TOKEN_REPLY)
    for _ in range(2):
        bench.feed(e.ConnectFailed("down"))
        bench.fire_timer()
    bench.feed(e.ConnectSucceeded())
    bench.now_s += online_s
    bench.feed(e.ConnectionLost("gone"))
    assert bench.delay_s() == next_wait_s
