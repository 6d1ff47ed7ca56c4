"""Logins: who is it, may it, and what a first login changes (P7)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from mqttprov.core.audit import EventKind
from mqttprov.core.credentials import password_verifier
from mqttprov.core.login import (
    Holder,
    LoginAttempt,
    LoginRefusal,
    OperatorFacts,
    Role,
    SupersededLogin,
    activate,
    login_keys,
    operator_verifier,
    recognise,
)
from mqttprov.core.model import CredentialStatus, LifecycleState, OperatorRole
from mqttprov.core.requests import SuppliedCertificate

if TYPE_CHECKING:
    from tests.core.conftest import World


def test_a_device_logs_in_with_each_type(world: World) -> None:
    """Token as user name, basic, basic bound to a client id, certificate."""
    token = world.grant(world.request("gw-1"))
    basic = world.grant(world.request("gw-2", username="u1", password="pass-word"))
    bound = world.grant(world.request("gw-3", username="u1", client_id="c1", password="pass-word"))
    world.grant(world.request("gw-4", certificate=SuppliedCertificate("PEM", "finger", "key")))
    for name, attempt in {
        "gw-1": LoginAttempt("any", token.value),
        "gw-2": LoginAttempt("any", basic.username, basic.value),
        "gw-3": LoginAttempt("c1", bound.username, bound.value),
        "gw-4": LoginAttempt("any", certificate="finger"),
    }.items():
        login = world.login(attempt)
        assert login.principal is not None, name
        assert (login.principal.role, login.principal.name, login.first) == (Role.DEVICE, name, True)


def test_a_token_with_an_empty_password_still_logs_in(world: World) -> None:
    """Some client libraries send a password field always."""
    assert world.login(LoginAttempt("", world.grant(world.request()).value, "")).principal is not None


@pytest.mark.parametrize(
    ("attempt", "refusal"),
    [
        (LoginAttempt("c", "unknown"), LoginRefusal.UNKNOWN),
        (LoginAttempt("c", "u1", "wrong"), LoginRefusal.WRONG_PASSWORD),
        (LoginAttempt("c", "u1", ""), LoginRefusal.WRONG_PASSWORD),
        (LoginAttempt("c", "u1"), LoginRefusal.UNKNOWN),
        (LoginAttempt("c", certificate="other"), LoginRefusal.UNKNOWN),
        (LoginAttempt("u1"), LoginRefusal.UNKNOWN),
    ],
)
def test_a_wrong_login_is_refused(world: World, attempt: LoginAttempt, refusal: LoginRefusal) -> None:
    """A user name alone is nothing, and a password is always checked."""
    world.grant(world.request(username="u1", password="pass-word"))
    login = world.login(attempt)
    assert (login.principal, login.refusal) == (None, refusal)


def test_an_attempt_that_presents_nothing_has_no_login_keys(world: World) -> None:
    """Anonymous is refused before any look-up (thingsboard.md rule 16)."""
    assert login_keys(LoginAttempt("client"), world.keys) == ()
    assert login_keys(LoginAttempt("client", ""), world.keys) == ()


def test_a_bound_client_id_is_part_of_the_login(world: World) -> None:
    """The same name and password from another client id is somebody else."""
    world.grant(world.request(username="u1", client_id="c1", password="pass-word"))
    assert world.login(LoginAttempt("c2", "u1", "pass-word")).principal is None


@pytest.mark.parametrize("state", [LifecycleState.SUSPENDED, LifecycleState.DECOMMISSIONED])
def test_state_is_permission(world: World, state: LifecycleState) -> None:
    """A suspended or decommissioned device does not log in with right credentials (P7)."""
    granted = world.grant(world.request())
    world.device().device.state = state
    assert world.login(world.attempt(granted)).refusal is LoginRefusal.STATE


def test_a_superseded_credential_is_as_good_as_none(world: World) -> None:
    """Also when a reader still sees it (P7)."""
    granted = world.grant(world.request())
    world.live()[0].status = CredentialStatus.SUPERSEDED
    assert world.login(world.attempt(granted)).refusal is LoginRefusal.UNKNOWN


def test_topics_of_the_profile_are_filled_with_the_name(make_world: Callable[..., World]) -> None:
    """`%d` stands for the device's name."""
    world = make_world(publish_topics=("plant/%d/#",), subscribe_topics=("orders/%d",))
    principal = world.login(world.attempt(world.grant(world.request("GW 1")))).principal
    assert principal is not None
    assert (principal.publish_topics, principal.subscribe_topics) == (("plant/GW 1/#",), ("orders/GW 1",))


@pytest.mark.parametrize("role", OperatorRole)
def test_an_operator_logs_in_with_name_and_password(world: World, role: OperatorRole) -> None:
    """With its own role, and never without the password."""
    operator = OperatorFacts("ops", role, operator_verifier(world.keys, "ops", "pass-word"))
    principal = world.login(LoginAttempt("c", "ops", "pass-word"), operator).principal
    assert principal is not None
    assert (principal.role, principal.name, principal.device_id) == (Role(role), "ops", "")
    assert world.login(LoginAttempt("c", "ops", "wrong"), operator).refusal is LoginRefusal.WRONG_PASSWORD
    assert world.login(LoginAttempt("c", "ops"), operator).principal is None


def test_a_device_cannot_shadow_an_operator(world: World) -> None:
    """A device that chose an operator's name as token or user name does not lock the operator out."""
    operator = OperatorFacts("ops-team", OperatorRole.OPERATOR, operator_verifier(world.keys, "ops-team", "pass-word"))
    world.grant(world.request("gw-1", token="ops-team"))
    world.grant(world.request("gw-2", username="ops-team", password="other-password"))
    principal = world.login(LoginAttempt("c", "ops-team", "pass-word"), operator).principal
    assert principal is not None
    assert principal.role is Role.OPERATOR


def test_a_device_cannot_shadow_another_ones_user_name(world: World) -> None:
    """What a password proves comes before a token that is the same text (P8)."""
    world.grant(world.request("gw-1", token="own-name"))
    world.grant(world.request("gw-2", username="own-name", password="pass-word"))
    for password, name in (("pass-word", "gw-2"), ("wrong", "gw-1"), (None, "gw-1")):
        principal = world.login(LoginAttempt("c", "own-name", password)).principal
        assert principal is not None
        assert principal.name == name


def test_the_first_login_activates_and_ends_older_generations(world: World) -> None:
    """Issued becomes active at its first login, and only then are older ones superseded (words.md)."""
    first = world.grant(world.request())
    login, activation = world.connect(first)
    assert login.first
    assert activation is not None
    assert activation.event is not None
    assert (activation.event.kind, activation.event.state) == (EventKind.ACTIVATED, "active")
    assert world.live()[0].first_login_ms == world.now_ms
    second = world.grant(world.request())
    assert [c.status for c in world.live()] == [CredentialStatus.ACTIVE, CredentialStatus.ISSUED]
    world.connect(second)
    assert [(c.generation, c.status) for c in world.live()] == [(2, CredentialStatus.ACTIVE)]


def test_a_newer_unused_generation_survives_the_login_with_an_older_one(world: World) -> None:
    """Another lost reply may still be on its way."""
    older = world.grant(world.request(token="token-number-1"))
    newer = world.grant(world.request(token="token-number-2"))
    world.connect(older)
    assert world.login(world.attempt(newer)).principal is not None


def test_a_second_first_login_changes_nothing(world: World) -> None:
    """Two sessions may log in at once; one event, one change (P5)."""
    granted = world.grant(world.request())
    world.connect(granted)
    again = activate("gw-1", 1, world.facts, now_ms=2, source=None)
    assert (again.ok, again.effects, again.event) == (True, (), None)


def test_activating_what_is_gone_fails(world: World) -> None:
    """Superseded or suspended between look-up and commit: no session (P7)."""
    world.grant(world.request())
    assert not activate("gw-1", 2, world.facts, now_ms=1, source=None).ok
    assert not activate("unknown", 1, world.facts, now_ms=1, source=None).ok
    assert not activate("gw-1", 1, world.facts, now_ms=1, source=None, device_id="of another, with this name before").ok
    world.device().device.state = LifecycleState.SUSPENDED
    suspended = activate("gw-1", 1, world.facts, now_ms=1, source=None)
    assert (suspended.ok, suspended.effects, suspended.event) == (False, (), None)


class TestRecognise:
    """Whose superseded credential a refused attempt came with."""

    def test_the_credential_itself_is_recognised_and_nothing_less(self, world: World) -> None:
        """A token by itself, a user name only with its password (P6)."""
        token = world.grant(world.request("gw-1"))
        basic = world.grant(world.request("gw-2", username="u1", password="pass-word"))
        known: dict[str, list[SupersededLogin]] = {}
        for facts in world.facts.devices.values():
            for c in facts.credentials:
                known[c.login_key] = [SupersededLogin(facts.device.name, facts.device.id, c.generation, c.verifier)]
        whose = {
            LoginAttempt("x", token.value): "gw-1",
            LoginAttempt("x", token.value, "some password"): "gw-1",
            LoginAttempt("x", "u1", basic.value): "gw-2",
            LoginAttempt("x", "u1", "other"): None,
            LoginAttempt("x", "u1"): None,
            LoginAttempt("x", "nobody", "pass-word"): None,
            LoginAttempt("x"): None,
        }
        for attempt, name in whose.items():
            holder = recognise(attempt, known, world.keys)
            assert (holder and holder.device) == name, attempt

    def test_among_several_passwords_the_right_one_tells_the_generation(self, world: World) -> None:
        """A device may have had one user name with many passwords."""
        attempt = LoginAttempt("x", "u1", "second")
        (_, key) = login_keys(attempt, world.keys)[1:]
        known = [
            SupersededLogin("gw", "id", i + 1, password_verifier(world.keys, key, password))
            for i, password in enumerate(("first", "second", "third"))
        ]
        assert recognise(attempt, {key: known}, world.keys) == Holder("gw", "id", 2)
