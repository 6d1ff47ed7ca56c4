"""What an operator does to a device: state, credentials, name and event, and that nothing happens where it cannot."""

from collections.abc import Callable
from typing import Any

import pytest
from tests.core.conftest import START_MS, World

from mqttprov.core.audit import EventKind
from mqttprov.core.device_life import (
    By,
    Change,
    check_remark,
    decommission,
    release,
    resume,
    rotate,
    suspend,
    tombstone_name,
)
from mqttprov.core.facts import DeviceFacts, Facts
from mqttprov.core.lifecycle import IllegalTransition
from mqttprov.core.login import LoginRefusal
from mqttprov.core.model import LifecycleState, ReprovisionPolicy
from mqttprov.core.names import InvalidName
from mqttprov.core.requests import Granted, Reason, Refused

BY = By("cli:anna", START_MS, "stolen")
Verb = Callable[[Facts, DeviceFacts, By], Change]


def retire(facts: Facts, known: DeviceFacts, by: By) -> Change:
    """Decommission with a wait."""
    return decommission(facts, known, by, wait_ms=5000)


VERBS: dict[str, Verb] = {"suspend": suspend, "resume": resume, "decommission": retire, "release": release,
                          "rotate": rotate}  # fmt: skip
# What each verb leads to, from every state; "-" cannot happen.
TABLE = """
                suspend    resume       decommission    release         rotate
manufactured    -          -            decommissioned  -               -
provisioned     suspended  -            decommissioned  -               -
active          suspended  -            decommissioned  -               active
suspended       -          provisioned  decommissioned  -               -
decommissioned  -          -            -               decommissioned  -
"""
HEAD, *ROWS = (line.split() for line in TABLE.strip().splitlines())


@pytest.mark.parametrize(
    ("state", "verb", "following"),
    [(row[0], verb, cell) for row in ROWS for verb, cell in zip(HEAD, row[1:], strict=True)],
)
def test_each_verb_in_each_state(world: World, state: str, verb: str, following: str) -> None:
    """One event that names the device, or an error that changes nothing (P5)."""
    world.grant(world.request())
    known = world.device()
    known.device.state = LifecycleState(state)
    if following == "-":
        with pytest.raises(IllegalTransition, match=f"a {state} device cannot {verb}"):
            VERBS[verb](world.facts, known, BY)
        assert (known.device.state, known.device.fold, known.rotation_due) == (state, "gw-1", False)
        return
    change = VERBS[verb](world.facts, known, BY)
    assert known.device.state == following
    event = change.event
    assert (event.device, event.device_id, event.state) == ("gw-1", known.device.id, following)
    assert (event.actor, event.at_ms, event.text) == ("cli:anna", START_MS, "stolen")


def test_a_suspended_device_neither_logs_in_nor_provisions_and_comes_back_as_what_it_was(world: World) -> None:
    """State is permission (P7), and suspending loses nothing: the same credentials work after resuming."""
    granted = world.grant(world.request())
    suspend(world.facts, world.device(), BY)
    assert world.login(world.attempt(granted)).refusal is LoginRefusal.STATE
    assert _reason(world.decide(world.request()).outcome) is Reason.STATE
    resume(world.facts, world.device(), BY)
    assert world.device().device.state is LifecycleState.PROVISIONED
    world.connect(granted)
    suspend(world.facts, world.device(), BY)
    change = resume(world.facts, world.device(), BY)
    assert (change.event.kind, change.event.state) == (EventKind.RESUMED, LifecycleState.ACTIVE)
    assert world.login(world.attempt(granted)).principal is not None


def _reason(outcome: object) -> Reason:
    assert isinstance(outcome, Refused), outcome
    return outcome.reason


def test_an_active_device_with_an_unused_newer_generation_resumes_as_active(world: World) -> None:
    """What counts is whether it ever logged in, not what it was given last."""
    world.connect(world.grant(world.request()))
    world.grant(world.request())
    suspend(world.facts, world.device(), BY)
    resume(world.facts, world.device(), BY)
    assert world.device().device.state is LifecycleState.ACTIVE


def test_decommissioning_ends_every_generation(world: World) -> None:
    """Neither the used nor the unused generation logs in, and asking again gives nothing (P7, P8)."""
    used = world.grant(world.request())
    world.connect(used)
    unused = world.grant(world.request())
    change = decommission(world.facts, world.device(), BY, wait_ms=5000)
    assert (change.event.kind, change.event.wait_s) == (EventKind.DECOMMISSIONED, 5.0)
    assert world.live() == []
    for granted in (used, unused):
        assert world.login(world.attempt(granted)).principal is None
    assert _reason(world.decide(world.request()).outcome) is Reason.STATE


def test_a_released_name_begins_again_and_the_tombstone_stays(world: World) -> None:
    """The new device has a new id and counts as a new registration; the old record keeps its own (P8)."""
    old = world.grant(world.request())
    decommission(world.facts, world.device(), BY, wait_ms=0)
    change = release(world.facts, world.device(), BY)
    assert (change.event.kind, change.event.device) == (EventKind.RELEASED, "gw-1")
    new = world.grant(world.request())
    assert new.device_id != old.device_id
    assert new.value != old.value
    tombstone = world.device(tombstone_name("gw-1", old.device_id))
    assert (tombstone.device.id, tombstone.device.state) == (old.device_id, LifecycleState.DECOMMISSIONED)
    assert world.facts.tokens["default"].used == 2


@pytest.mark.parametrize("unicode_names", [False, True])
def test_no_request_can_name_a_released_tombstone(make_world: Callable[..., World], unicode_names: bool) -> None:
    """The mark in its name is in no device name (P8)."""
    world = make_world(unicode_names=unicode_names)
    old = world.grant(world.request())
    decommission(world.facts, world.device(), BY, wait_ms=0)
    release(world.facts, world.device(), BY)
    request = world.request(tombstone_name("gw-1", old.device_id))
    assert _reason(world.decide(request).outcome) is Reason.BAD_NAME


@pytest.mark.parametrize("policy", [ReprovisionPolicy.REUSE, ReprovisionPolicy.REFUSE])
def test_rotation_gives_the_next_generation_once(make_world: Callable[..., World], policy: ReprovisionPolicy) -> None:
    """Whatever the policy: make before break, the same answer to a retry (P4), and the policy again after it."""
    world = make_world(reprovision=policy)
    first = world.grant(world.request())
    world.connect(first)
    rotate(world.facts, world.device(), BY)
    assert world.device().rotation_due
    second = world.grant(world.request())
    assert second.value != first.value
    assert world.grant(world.request()).value == second.value
    assert not world.device().rotation_due
    assert world.login(world.attempt(first)).principal is not None
    world.connect(second)
    assert world.login(world.attempt(first)).principal is None
    third = world.decide(world.request()).outcome
    assert isinstance(third, Granted if policy is ReprovisionPolicy.REUSE else Refused)


def test_rotation_does_not_tell_an_older_unused_generation_again(world: World) -> None:
    """What was issued and never used may be what leaked, so the answer is a newer one; that one is kept (P4)."""
    world.connect(world.grant(world.request()))
    leaked = world.grant(world.request())
    rotate(world.facts, world.device(), BY)
    fresh = world.grant(world.request())
    assert fresh.value != leaked.value
    assert world.grant(world.request()).value == fresh.value


def test_a_device_that_comes_with_an_older_generation_is_to_be_told(world: World) -> None:
    """The broker learns it from the login, so that a device that was offline when it was asked is asked again."""
    first = world.grant(world.request())
    world.connect(first)
    assert _principal(world, first).rotation_due is False
    rotate(world.facts, world.device(), BY)
    assert _principal(world, first).rotation_due is True
    second = world.grant(world.request())
    world.connect(second)
    assert _principal(world, second).rotation_due is False


def test_a_device_that_brings_what_it_has_is_not_told_to_rotate_for_ever(world: World) -> None:
    """It gets its own credentials again, with which the wish is over: it would bring them at every call."""
    request = world.request(token="its-own-token-of-20")
    first = world.grant(request)
    world.connect(first)
    leaked = world.grant(world.request())
    rotate(world.facts, world.device(), BY)
    assert _principal(world, first).rotation_due is True
    assert world.grant(request).value == first.value
    assert not world.device().rotation_due
    assert _principal(world, first).rotation_due is False
    assert world.login(world.attempt(leaked)).principal is None


def _principal(world: World, granted: Granted) -> Any:
    return world.login(world.attempt(granted)).principal


def test_rotation_keeps_a_same_key_profile_strict(make_world: Callable[..., World]) -> None:
    """An operator's wish opens the policy `refuse`, never the proof of the key."""
    world = make_world(reprovision=ReprovisionPolicy.SAME_KEY)
    world.connect(world.grant(world.request()))
    rotate(world.facts, world.device(), BY)
    assert _reason(world.decide(world.request()).outcome) is Reason.OTHER_KEY


@pytest.mark.parametrize("text", ["", "x" * 256, "two\nlines", "\x1b[2J"])
def test_a_remark_that_cannot_be_shown_is_refused(text: str) -> None:
    """It ends up in events and on terminals (P9)."""
    check_remark("stolen from line 3")
    with pytest.raises(InvalidName, match="one line of 1 to 255"):
        check_remark(text)
