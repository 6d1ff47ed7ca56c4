"""The rules against a model that remembers everything: any order of requests, retries, logins, losses and operators.

Promises P1 (exact limits), P4 (same proof, same answer), P5 (no event, no credential) and P9 (bounded generations).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from mqttprov.core.audit import ChainHead, EventKind, chain, verify
from mqttprov.core.facts import CountRegistration, IssueCredential
from mqttprov.core.limits import MAX_LIVE_GENERATIONS
from mqttprov.core.model import CredentialStatus, CredentialsType, ReprovisionPolicy
from mqttprov.core.requests import Granted, ProvisionRequest, Reason, Refused

if TYPE_CHECKING:
    from tests.core.conftest import World

NAMES = ["gw-1", "GW-1", "gw-2", "gw-3", "gw-4", None]
SUPPLIED: list[dict[str, Any]] = [
    {},
    {"token": "a-token-of-mine"},
    {"token": "another-token"},
    {"username": "user-1"},
    {"username": "user-1", "password": "password-1"},
    {"username": "user-1", "password": "password-2"},
    {"client_id": "client-1"},
    {"credentials_type": CredentialsType.MQTT_BASIC},
    {"request_id": "request-1"},
    {"token": "short"},
]
Told = tuple[str, str, str]


class Model(RuleBasedStateMachine):
    """Tokens `a` (limited), `b` (limited) and `default` (unlimited) of one profile; four devices and nameless ones."""

    make_world: Callable[..., World]

    @initialize(limit_a=st.integers(1, 3), limit_b=st.integers(1, 2), policy=st.sampled_from(ReprovisionPolicy))
    def begin(self, limit_a: int, limit_b: int, policy: ReprovisionPolicy) -> None:
        """Make the world."""
        self.world = self.make_world(reprovision=policy)
        self.world.add_token("a", max_registrations=limit_a)
        self.world.add_token("b", max_registrations=limit_b, expires_ms=self.world.now_ms + 50)
        self.registered: dict[str, set[str]] = {key: set() for key in self.world.facts.tokens}
        self.granted: list[tuple[ProvisionRequest, Granted]] = []
        self.last_generations: dict[str, int] = {}
        self.outcomes = 0

    @rule(
        key=st.sampled_from(["a", "a", "b", "default", "unknown"]),
        name=st.sampled_from(NAMES),
        supplied=st.sampled_from(SUPPLIED),
        secret=st.sampled_from([True, True, True, False]),
    )
    def ask(self, key: str, name: str | None, supplied: dict[str, Any], secret: bool) -> None:
        """Send a request; the reply may get lost: whether anybody reads it makes no difference here."""
        changes = {"key": key, **supplied} if secret else {"key": key, "secret": "wrong", **supplied}
        self.send(self.world.request(name, **changes))

    @precondition(lambda self: self.granted)
    @rule(data=st.data())
    def retry(self, data: st.DataObject) -> None:
        """Send a request again that was granted once."""
        request, _ = data.draw(st.sampled_from(self.granted))
        self.send(request)

    def send(self, request: ProvisionRequest) -> None:
        """Decide and hold the outcome against the model."""
        expected = self.promised(request)
        used = {key: token.used for key, token in self.world.facts.tokens.items()}
        generations = self.live_generations()
        decision = self.world.decide(request)
        self.outcomes += 1
        counted = [effect for effect in decision.effects if isinstance(effect, CountRegistration)]
        issued = [effect for effect in decision.effects if isinstance(effect, IssueCredential)]
        if isinstance(decision.outcome, Refused):
            assert expected is None
            assert decision.effects == ()
            assert decision.event.kind is EventKind.REFUSED
            assert used == {key: token.used for key, token in self.world.facts.tokens.items()}
            assert generations == self.live_generations()
            if decision.outcome.reason is Reason.EXHAUSTED:
                token = self.world.facts.tokens[request.key]
                assert token.max_registrations is not None
                assert token.used >= token.max_registrations
            return
        outcome = decision.outcome
        if expected is not None:
            assert self.told(outcome) == expected
            assert not counted
            assert not issued
        for effect in counted:
            assert effect.device_id not in self.registered[request.key]
            assert decision.event.registration == self.world.facts.tokens[request.key].used
        self.registered[request.key].add(outcome.device_id)
        assert bool(issued) == (decision.event.kind is not EventKind.REPEATED)
        self.granted.append((request, outcome))

    def promised(self, request: ProvisionRequest) -> Told | None:
        """Give the answer that this request was given before, if its credential lives and is unused (P4)."""
        token = self.world.facts.tokens.get(request.key)
        if (
            token is None
            or token.revoked_ms
            or (token.expires_ms is not None and token.expires_ms <= self.world.now_ms)
        ):
            return None
        for earlier, outcome in reversed(self.granted):
            if earlier == request and (request.device_name is not None or request.request_id or request.token):
                login = self.world.login(self.world.attempt(outcome))
                return self.told(outcome) if login.first else None
        return None

    @staticmethod
    def told(granted: Granted) -> Told:
        """Give what of an answer must not change."""
        return granted.device_id, granted.username + "/" + granted.client_id, granted.value

    def live_generations(self) -> list[tuple[str, int, CredentialStatus]]:
        """Give all live generations."""
        return [(c.device_id, c.generation, c.status) for c in self.world.live()]

    @precondition(lambda self: self.granted)
    @rule(data=st.data())
    def log_in(self, data: st.DataObject) -> None:
        """Log in with something that was granted once; only a first login changes anything."""
        _, granted = data.draw(st.sampled_from(self.granted))
        before = self.live_generations()
        login, activation = self.world.connect(granted)
        if activation is None:
            assert before == self.live_generations()
            return
        self.outcomes += 1
        assert login.principal is not None
        generation = login.principal.generation
        expected = []
        for device_id, number, status in before:
            if device_id != granted.device_id or number > generation:
                expected.append((device_id, number, status))
            elif number == generation:
                expected.append((device_id, number, CredentialStatus.ACTIVE))
        assert self.live_generations() == expected

    @rule(key=st.sampled_from(["a", "b"]), more=st.integers(1, 2))
    def raise_limit(self, key: str, more: int) -> None:
        """An operator raises a limit: exactly that many more may come."""
        token = self.world.facts.tokens[key]
        token.max_registrations = (token.max_registrations or 0) + more

    @rule()
    def revoke(self) -> None:
        """An operator revokes a token: nothing more comes from it, what it gave stays."""
        self.world.facts.tokens["b"].revoked_ms = self.world.now_ms
        before = self.live_generations()
        outcome = self.world.decide(self.world.request("gw-1", key="b")).outcome
        self.outcomes += 1
        assert isinstance(outcome, Refused)
        assert outcome.reason is Reason.REVOKED
        assert before == self.live_generations()

    @rule(ms=st.sampled_from([1, 10, 100]))
    def wait(self, ms: int) -> None:
        """Time passes; token `b` expires."""
        self.world.now_ms += ms

    @invariant()
    def limits_hold(self) -> None:
        """Never more registrations than the maximum, and each counted device is one that was registered (P1)."""
        for key, token in self.world.facts.tokens.items():
            assert token.max_registrations is None or token.used <= token.max_registrations
            registered = {k.device.id for k in self.world.facts.devices.values() if token.id in k.registered_by}
            assert token.used == len(registered)
            assert registered == self.registered[key]

    @invariant()
    def every_login_is_one_devices(self) -> None:
        """No login and password belongs to two live credentials, no login to two devices."""
        live = self.world.live()
        assert len({(c.login_key, c.verifier) for c in live}) == len(live)
        assert len({(c.login_key, c.device_id) for c in live}) == len({c.login_key for c in live})
        assert self.world.facts.logins == {c.login_key: c.device_id for c in live}

    @invariant()
    def generations_are_bounded_and_only_grow(self) -> None:
        """At most one active and few unused generations for each device; numbers never come back (P9)."""
        for known in self.world.facts.devices.values():
            assert 1 <= len(known.credentials) <= MAX_LIVE_GENERATIONS
            assert sum(c.status is CredentialStatus.ACTIVE for c in known.credentials) <= 1
            numbers = [c.generation for c in known.credentials]
            assert numbers == sorted(set(numbers))
            assert max(numbers) <= known.last_generation
            assert self.last_generations.get(known.device.id, 0) <= known.last_generation
            self.last_generations[known.device.id] = known.last_generation

    @invariant()
    def every_outcome_has_its_event(self) -> None:
        """One event for each, and the chain of them verifies (P5)."""
        assert len(self.world.events) == self.outcomes

    def teardown(self) -> None:
        """The chain of all events holds."""
        head, stored = ChainHead(), []
        for event in self.world.events if hasattr(self, "world") else ():
            one, head = chain(head, event)
            stored.append(one)
        assert verify(stored) == head


def test_no_order_of_things_breaks_a_promise(make_world: Callable[..., World]) -> None:
    """Limits stay exact, retries get the same answer, generations stay bounded (P1, P4, P5, P9)."""
    bound = type("BoundModel", (Model,), {"make_world": staticmethod(make_world)})
    run_state_machine_as_test(
        bound,
        settings=settings(
            max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
        ),
    )


@pytest.mark.parametrize("limit", [1, 7, 100])
def test_a_token_yields_exactly_its_maximum(make_world: Callable[..., World], limit: int) -> None:
    """Twice as many devices as uses, each asking three times (P1)."""
    world = make_world()
    token = world.add_token("t", max_registrations=limit)
    names = [f"gw-{hashlib.sha256(bytes([i])).hexdigest()[:8]}" for i in range(2 * limit)]
    outcomes = [world.decide(world.request(name, key="t")).outcome for _ in range(3) for name in names]
    granted = [outcome for outcome in outcomes if isinstance(outcome, Granted)]
    assert len({outcome.device_id for outcome in granted}) == token.used == limit
    assert len(granted) == 3 * limit
    assert len({outcome.value for outcome in granted}) == limit
    refused = {outcome.reason for outcome in outcomes if isinstance(outcome, Refused)}
    assert refused == {Reason.EXHAUSTED}
