"""The gateway's state machine as a whole: its table, any order of events, its settings, stopping."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.gateway.bench import (
    BASIC_REPLY,
    REMOVE_CALL,
    REPLY_TOPIC,
    RPC_TOPIC,
    TOKEN_REPLY,
    UNTIMED,
    Bench,
    online,
    started,
    without_changes,
)

from mqttprov.gateway import actions as a
from mqttprov.gateway import events as e
from mqttprov.gateway.backoff import MachineSettings
from mqttprov.gateway.machine import GatewayMachine, MachineError
from mqttprov.gateway.transitions import IGNORED, TRANSITIONS, State


@pytest.mark.parametrize("code", [None, 0x87])
def test_stop_ends_in_good_order(code: int | None) -> None:
    """Timer cancelled, disconnected, Stopped last; nothing is done afterwards."""
    bench = online()
    if code is not None:
        bench = started()
        bench.feed(e.ConnectRefused(code))
    actions = without_changes(bench.feed(e.StopRequested()))
    assert [type(action) for action in actions] == [a.CancelTimer, a.Disconnect, a.Stopped]
    assert bench.feed(e.ConnectSucceeded()) == []
    assert bench.feed(e.StopRequested()) == []


def test_a_timer_that_was_replaced_on_its_way_is_harmless() -> None:
    """TimerFired with an old number does nothing."""
    bench = started()
    bench.feed(e.ConnectSucceeded())
    assert bench.feed(e.TimerFired(1)) == []
    assert bench.state is State.AWAITING_REPLY


def test_something_that_is_no_event_is_a_programming_error() -> None:
    """The machine names what it does not know."""
    with pytest.raises(MachineError, match="no rule for str"):
        Bench().machine.handle("boo", 0.0)  # type: ignore[arg-type]  # on purpose


def test_a_step_that_the_table_denies_is_a_programming_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """The table is the truth: a handler that leads elsewhere is found out at once."""

    def go_elsewhere(machine: GatewayMachine, *_: object) -> list[a.Action]:
        machine.state = State.ONLINE
        return []

    monkeypatch.setattr(GatewayMachine, "_enter", go_elsewhere)
    with pytest.raises(MachineError, match="denies"):
        Bench().feed(e.Started(None))


def test_every_pair_of_state_and_event_is_ruled_or_ignored_once() -> None:
    """No pair is forgotten, none is in both tables."""
    pairs = {(state, kind) for state in State for kind in e.EVENT_TYPES}
    assert set(TRANSITIONS) | set(IGNORED) == pairs
    assert not set(TRANSITIONS) & set(IGNORED)


ARMED_TIMER = e.TimerFired(-1)  # stands for the one that is armed when its turn comes
EVENTS: st.SearchStrategy[e.Event] = st.one_of(
    st.builds(e.Started, st.sampled_from([None, TOKEN_REPLY, b"junk"])),
    st.just(e.ConnectSucceeded()),
    st.builds(e.ConnectRefused, st.sampled_from([0x86, 0x87, 0x88])),
    st.builds(e.ConnectFailed, st.text(max_size=5)),
    st.builds(e.ConnectionLost, st.text(max_size=5)),
    st.builds(
        e.MessageReceived,
        st.sampled_from([REPLY_TOPIC, RPC_TOPIC, "x"]),
        st.sampled_from([TOKEN_REPLY, b'{"status":"FAILURE"}', REMOVE_CALL.payload]) | st.binary(max_size=20),
    ),
    st.builds(e.PublishAcknowledged, st.integers(0, 2)),
    st.just(e.CredentialsSaved()),
    st.builds(e.CredentialsSaveFailed, st.text(max_size=5)),
    st.just(e.CredentialsRemoved()),
    st.builds(e.CredentialsRemoveFailed, st.text(max_size=5)),
    st.just(ARMED_TIMER),
    st.builds(e.TimerFired, st.integers(0, 5)),
)


@UNTIMED
@given(st.lists(EVENTS, max_size=40))
def test_any_sequence_of_events_is_survived(events: list[e.Event]) -> None:
    """No order of events raises, waits without a timer, or uses what is not saved (P10)."""
    bench, armed, saved = Bench(), 0, False
    for event in (e.Started(None), *events):
        fed = e.TimerFired(armed) if event == ARMED_TIMER else event
        if isinstance(fed, e.CredentialsSaved) and bench.state is State.SAVING:
            saved = True
        for action in bench.feed(fed):
            match action:
                case a.SetTimer(timer, delay_s):
                    armed = timer
                    assert delay_s >= 0
                case a.CancelTimer():
                    armed = 0
                case a.Connect(role="operational"):
                    assert saved
                case _:
                    pass
        if isinstance(fed, e.TimerFired) and not any(isinstance(action, a.SetTimer) for action in bench.actions):
            armed = 0 if fed.timer == armed else armed
        if bench.state not in {State.SAVING, State.REMOVING}:
            assert armed, bench.state


@pytest.mark.parametrize(
    ("name", "value"),
    [("reply_timeout_s", 0), ("backoff_base_s", -1), ("heartbeat_s", float("inf")), ("keep_alive_s", 70_000)],
)
def test_settings_that_make_no_sense_are_refused(name: str, value: float) -> None:
    """Each names itself."""
    with pytest.raises(ValueError, match=name):
        MachineSettings(**{name: value})  # type: ignore[arg-type]  # the type is what is tested


def test_a_cap_below_the_base_is_refused() -> None:
    """The back-off could not be what both say."""
    with pytest.raises(ValueError, match="below"):
        MachineSettings(backoff_base_s=5, backoff_cap_s=2)


def test_no_secret_shows_in_events_and_actions() -> None:
    """Neither the request, a reply, nor a login can be read from a repr (P6)."""
    bench = started()
    shown = [*bench.actions, *bench.feed(e.ConnectSucceeded())]
    event = e.MessageReceived(REPLY_TOPIC, BASIC_REPLY)
    shown += [*bench.feed(event), *bench.feed(e.CredentialsSaved())]
    text = repr([*shown, event, e.Started(BASIC_REPLY)])
    assert "SECRET" not in text
    assert "p1" not in text
    assert "u1" not in text
