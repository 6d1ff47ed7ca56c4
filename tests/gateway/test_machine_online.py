"""The gateway's state machine from the login on: heartbeats, calls, refused and removed credentials."""

import sys

import pytest
from tests.gateway.bench import (
    BASIC_REPLY,
    BY_TOKEN,
    REMOVE_CALL,
    REPLY_TOPIC,
    RPC_TOPIC,
    TO_PROVISION,
    TOKEN_REPLY,
    online,
    publishes,
    started,
    without_changes,
)

from mqttprov.gateway import actions as a
from mqttprov.gateway import events as e
from mqttprov.gateway.backoff import MachineSettings
from mqttprov.gateway.transitions import State


def test_going_online_subscribes_and_starts_the_heartbeat() -> None:
    """RPC requests and attributes are subscribed in one packet; telemetry counts heartbeats."""
    bench = online(MachineSettings(heartbeat_s=5))
    assert a.Subscribe(("v1/devices/me/rpc/request/+", "v1/devices/me/attributes"), 1) in bench.actions
    assert publishes(bench.fire_timer()) == [("v1/devices/me/telemetry", {"heartbeat": 1})]
    assert publishes(bench.fire_timer()) == [("v1/devices/me/telemetry", {"heartbeat": 2})]
    assert bench.delay_s() == 5


def test_without_heartbeats_no_timer_is_left_armed() -> None:
    """`heartbeat_s=None` cancels the CONNACK's timer and arms none."""
    assert without_changes(online(MachineSettings(heartbeat_s=None)).actions)[0] == a.CancelTimer(1)


def test_a_lost_connection_comes_back_with_the_stored_credentials() -> None:
    """Losing the network never leads to provisioning."""
    bench = online()
    bench.feed(e.ConnectionLost("reset"))
    assert BY_TOKEN in bench.fire_timer()


def test_a_missing_connack_ends_by_time_out() -> None:
    """A server that accepts and says nothing does not hang the gateway (P10)."""
    bench = started(TOKEN_REPLY)
    assert a.Disconnect() in bench.fire_timer()
    assert bench.state is State.WAITING_TO_CONNECT


@pytest.mark.parametrize("code", [0x85, 0x86, 0x87, 0x8A, 0x8C])
def test_refused_credentials_lead_to_provisioning_after_three_times(code: int) -> None:
    """Two refusals are tried again, the third one leads to the provision request (P10)."""
    bench = started(TOKEN_REPLY)
    for expected in (State.WAITING_TO_CONNECT, State.WAITING_TO_CONNECT, State.WAITING_TO_PROVISION):
        bench.feed(e.ConnectRefused(code))
        assert bench.state is expected
        bench.fire_timer()
    assert TO_PROVISION in bench.actions


@pytest.mark.parametrize("code", [0x88, 0x89, 0x97, 0x9C, 0x9F, 0x80, 0x81])
def test_an_unavailable_server_says_nothing_about_the_credentials(code: int) -> None:
    """However often: unavailable, busy, quota or moved never leads to provisioning."""
    bench = started(TOKEN_REPLY)
    for _ in range(10):
        bench.feed(e.ConnectRefused(code))
        assert bench.state is State.WAITING_TO_CONNECT
        bench.fire_timer()


def test_a_suspended_device_alternates_and_comes_back_when_it_is_resumed() -> None:
    """Stored credentials are kept and tried in turn with provisioning, without a person (P10)."""
    bench = started(TOKEN_REPLY)
    bench.refuse_logins(3)
    for _ in range(5):
        assert TO_PROVISION in bench.fire_timer()
        bench.feed(e.ConnectSucceeded(), e.MessageReceived(REPLY_TOPIC, b'{"status":"FAILURE","errorMsg":"no"}'))
        assert BY_TOKEN in bench.fire_timer()
        bench.feed(e.ConnectRefused(0x87))
        assert bench.state is State.WAITING_TO_PROVISION
    bench.fire_timer()
    bench.feed(e.ConnectFailed("down"))
    bench.fire_timer()
    bench.feed(e.ConnectSucceeded())
    assert bench.state is State.ONLINE


def test_a_login_that_succeeds_forgets_the_refusals() -> None:
    """Refusals count only in a row."""
    bench = started(TOKEN_REPLY)
    bench.refuse_logins(2)
    bench.fire_timer()
    bench.feed(e.ConnectSucceeded(), e.ConnectionLost("x"))
    bench.fire_timer()
    for _ in range(2):
        bench.feed(e.ConnectRefused(0x87))
        assert bench.state is State.WAITING_TO_CONNECT
        bench.fire_timer()


def test_new_credentials_replace_refused_ones_only_when_saved() -> None:
    """Make before break: the old file is replaced by saving, never removed first (P10)."""
    bench = started(BASIC_REPLY)
    bench.refuse_logins(3)
    bench.fire_timer()
    actions = bench.feed(e.ConnectSucceeded(), e.MessageReceived(REPLY_TOPIC, TOKEN_REPLY))
    assert without_changes(actions)[1:] == [a.SaveCredentials(TOKEN_REPLY)]
    assert BY_TOKEN in bench.feed(e.CredentialsSaved())
    bench.feed(e.ConnectRefused(0x87))
    assert bench.state is State.WAITING_TO_CONNECT


def test_a_failed_save_is_repeated_and_unsaved_credentials_are_not_used() -> None:
    """Disk full: the reply stays in memory, saving is tried again, no login before it worked (P10)."""
    bench = started()
    bench.feed(e.ConnectSucceeded(), e.MessageReceived(REPLY_TOPIC, TOKEN_REPLY))
    for _ in range(3):
        actions = bench.feed(e.CredentialsSaveFailed("No space left on device"))
        assert bench.state is State.WAITING_TO_SAVE
        assert BY_TOKEN not in actions
        assert without_changes(bench.fire_timer()) == [a.SaveCredentials(TOKEN_REPLY)]
    assert BY_TOKEN in bench.feed(e.CredentialsSaved())


def test_losing_the_provisioning_connection_while_saving_does_no_harm() -> None:
    """The reply is in hand; a second reply or a lost connection changes nothing."""
    bench = started()
    bench.feed(e.ConnectSucceeded(), e.MessageReceived(REPLY_TOPIC, TOKEN_REPLY))
    assert bench.feed(e.ConnectionLost("closed after 60 s")) == []
    assert bench.feed(e.MessageReceived(REPLY_TOPIC, BASIC_REPLY)) == []
    assert BY_TOKEN in bench.feed(e.CredentialsSaved())


def test_ping_is_answered() -> None:
    """`gateway_ping` gets pong on the response topic with the same id."""
    actions = online().feed(e.MessageReceived(RPC_TOPIC, b'{"method":"gateway_ping","params":{}}'))
    assert publishes(actions) == [("v1/devices/me/rpc/response/7", {"code": 200, "resp": "pong"})]


@pytest.mark.parametrize("body", [b'{"method":"reboot"}', b"garbage", b"{}", b'{"method":5}', b'"x"'])
def test_unknown_calls_get_an_error_and_change_nothing(body: bytes) -> None:
    """Whatever is no method of ours is answered with code 404; the gateway stays online."""
    bench = online()
    ((topic, answer),) = publishes(bench.feed(e.MessageReceived(RPC_TOPIC, body)))
    assert topic == "v1/devices/me/rpc/response/7"
    assert isinstance(answer, dict)
    assert answer["code"] == 404
    assert bench.state is State.ONLINE


@pytest.mark.parametrize("topic", ["v1/devices/me/attributes", "v1/devices/me/rpc/request/", "x", RPC_TOPIC + "/8"])
def test_messages_that_are_no_calls_are_taken_in_silence(topic: str) -> None:
    """Attributes and strange topics get no answer."""
    assert online().feed(e.MessageReceived(topic, b'{"method":"gateway_ping"}')) == []


@pytest.mark.parametrize("params", [b',"params":null', b',"params":[]', b',"params":{}', b',"params":"{}"', b""])
def test_removal_works_with_any_parameters(params: bytes) -> None:
    """Remove, answer, and on the PUBACK provision again at once."""
    bench = online()
    actions = bench.feed(
        e.MessageReceived(RPC_TOPIC, b'{"method":"gateway_remove_provisioned_credentials"' + params + b"}")
    )
    assert without_changes(actions) == [a.CancelTimer(2), a.RemoveCredentials()]
    actions = bench.feed(e.CredentialsRemoved())
    text = "Provisioned credentials file removed successfully."
    assert publishes(actions) == [("v1/devices/me/rpc/response/7", {"code": 200, "resp": text})]
    (answer,) = [action for action in actions if isinstance(action, a.Publish)]
    assert answer.token is not None
    actions = bench.feed(e.PublishAcknowledged(answer.token))
    assert [type(action) for action in without_changes(actions)] == [a.Disconnect, a.SetTimer, a.Connect]
    assert TO_PROVISION in actions


def test_removal_does_not_wait_for_ever_for_the_puback() -> None:
    """Two seconds without PUBACK are enough."""
    bench = online()
    bench.feed(REMOVE_CALL, e.CredentialsRemoved())
    assert bench.delay_s() == 2.0
    assert TO_PROVISION in bench.fire_timer()


def test_after_a_removal_nothing_of_the_old_credentials_is_left() -> None:
    """A refused provisioning after a removal waits to provision, not to log in with what was removed."""
    bench = online()
    bench.feed(REMOVE_CALL, e.CredentialsRemoved(), e.ConnectionLost("x"), e.ConnectFailed("down"))
    assert bench.state is State.WAITING_TO_PROVISION


def test_a_removal_after_being_online_for_a_while_starts_the_back_off_over() -> None:
    """Earlier failures do not slow down the provisioning that an operator ordered."""
    bench = started(TOKEN_REPLY)
    for _ in range(4):
        bench.feed(e.ConnectFailed("down"))
        bench.fire_timer()
    bench.feed(e.ConnectSucceeded())
    bench.now_s += 30
    bench.feed(REMOVE_CALL, e.CredentialsRemoved(), e.PublishAcknowledged(1), e.ConnectFailed("down"))
    assert bench.delay_s() == 0.5


def test_a_saved_reply_is_not_kept_in_memory() -> None:
    """Ten thousand gateways of one process need the login only, not the reply that it came in (P9)."""
    reply = bytes(bytearray(TOKEN_REPLY))  # an object that nobody else holds
    bench = started()
    before = sys.getrefcount(reply)
    bench.feed(e.ConnectSucceeded(), e.MessageReceived(REPLY_TOPIC, reply))
    assert sys.getrefcount(reply) > before
    bench.feed(e.CredentialsSaved())
    assert sys.getrefcount(reply) == before


def test_a_connection_lost_during_the_removal_leads_to_provisioning_without_an_answer() -> None:
    """There is nobody to answer; the removal still counts."""
    bench = online()
    bench.feed(REMOVE_CALL, e.ConnectionLost("x"))
    actions = bench.feed(e.CredentialsRemoved())
    assert TO_PROVISION in actions
    assert publishes(actions) == []


def test_a_failed_removal_is_answered_and_the_gateway_stays_online() -> None:
    """Read-only disk: error 500, the stored credentials stay in force, the heartbeat goes on."""
    bench = online()
    actions = bench.feed(REMOVE_CALL, e.CredentialsRemoveFailed("Read-only file system"))
    ((_, answer),) = publishes(actions)
    assert isinstance(answer, dict)
    assert answer["code"] == 500
    assert bench.state is State.ONLINE
    assert bench.delay_s() == 60


def test_a_failed_removal_after_the_connection_was_lost_reconnects() -> None:
    """Still the stored credentials, after the back-off."""
    bench = online()
    bench.feed(REMOVE_CALL, e.ConnectionLost("x"), e.CredentialsRemoveFailed("Read-only file system"))
    assert BY_TOKEN in bench.fire_timer()
