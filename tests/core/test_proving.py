"""Who knows the secret: a token's, its older one during an overlap, a device's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from mqttprov.core.audit import EventKind
from mqttprov.core.model import LifecycleState, ReprovisionPolicy, Token
from mqttprov.core.requests import Granted, ProvisionRequest, Reason, Refused, SuppliedCertificate, SuppliedCsr

if TYPE_CHECKING:
    from tests.core.conftest import World

NEW = "mqp_rs_the-new-secret"
OVERLAP_MS = 7 * 86_400_000


def rotate(world: World, *, overlap_ms: int = OVERLAP_MS) -> Token:
    """Give the default token a new secret, as the store does."""
    token = world.facts.tokens["default"]
    kept = overlap_ms > 0
    token.proof_base = (token.proof_base or token.verifier) if kept else None
    token.previous_verifier = token.verifier if kept else None
    token.previous_until_ms = world.now_ms + overlap_ms if kept else None
    token.verifier = world.keys.registration_verifier("default", NEW)
    return token


def refusal(world: World, request: ProvisionRequest) -> Reason:
    """Decide a request that must be refused."""
    outcome = world.decide(request).outcome
    assert isinstance(outcome, Refused)
    return outcome.reason


class TestRotation:
    """A token with a new secret."""

    def test_both_secrets_work_until_the_overlap_ends(self, world: World) -> None:
        """The old one ends at the very millisecond; the new one goes on."""
        rotate(world)
        world.grant(world.request("gw-1"))
        world.grant(world.request("gw-2", secret=NEW))
        world.now_ms += OVERLAP_MS - 1
        world.grant(world.request("gw-3"))
        world.now_ms += 1
        assert refusal(world, world.request("gw-4")) is Reason.WRONG_SECRET
        world.grant(world.request("gw-4", secret=NEW))

    def test_without_overlap_the_old_secret_ends_at_once(self, world: World) -> None:
        """A leaked secret must not live a moment longer."""
        rotate(world, overlap_ms=0)
        assert refusal(world, world.request()) is Reason.WRONG_SECRET
        world.grant(world.request(secret=NEW))

    @pytest.mark.parametrize("policy", [ReprovisionPolicy.REUSE, ReprovisionPolicy.REFUSE])
    @pytest.mark.parametrize("name", ["gw-1", None])
    def test_the_proof_survives_a_planned_rotation(
        self, make_world: Callable[..., World], policy: ReprovisionPolicy, name: str | None
    ) -> None:
        """A device whose reply was lost gets the same answer with old and new secret, and costs no second use (P4)."""
        world = make_world(reprovision=policy)
        first = world.grant(world.request(name, request_id="r"))
        token = rotate(world)
        assert world.grant(world.request(name, request_id="r")).value == first.value
        assert world.grant(world.request(name, request_id="r", secret=NEW)).value == first.value
        assert token.used == 1

    def test_after_a_leak_nobody_shares_credentials_with_who_had_the_old_secret(self, world: World) -> None:
        """Who proves the new secret gets a generation of its own, and the older one ends at its first login (P4)."""
        for name in ("gw-1", None):
            stolen = world.grant(world.request(name, request_id="r"))
            rotate(world, overlap_ms=0)
            fresh = world.grant(world.request(name, request_id="r", secret=NEW))
            assert fresh.device_id == stolen.device_id
            assert fresh.value != stolen.value
            world.connect(fresh)
            assert world.connect(stolen)[0].principal is None
            world.facts.tokens.clear()
            world.add_token("default")


class TestClaimSecret:
    """A device that its factory gave a secret of its own."""

    def test_proves_the_device_once(self, world: World) -> None:
        """It opens its own device; a lost reply is told again; after the first login it is spent (P4)."""
        request = world.request(world.add_device("gw-1", claim="own-secret"), secret="own-secret")
        granted = world.grant(request)
        assert world.grant(request).value == granted.value
        assert world.events[-1].kind is EventKind.REPEATED
        assert world.facts.tokens["default"].used == 1
        world.connect(granted)
        assert world.device().device.state is LifecycleState.ACTIVE
        assert refusal(world, request) is Reason.CLAIM_SPENT

    def test_opens_no_other_device_and_no_new_one(self, world: World) -> None:
        """The secret is bound to its name."""
        world.add_device("gw-1", claim="own-secret")
        world.add_device("gw-2", claim="other-secret")
        for name in ("gw-2", "gw-3", None):
            assert refusal(world, world.request(name, secret="own-secret")) is Reason.WRONG_SECRET
        assert refusal(world, world.request("gw-1", key="nothing", secret="own-secret")) is Reason.UNKNOWN_KEY

    def test_the_secret_of_the_whole_line_does_not_open_it(self, world: World) -> None:
        """Who knows only the token's secret cannot take the place of a device that has one of its own."""
        world.add_device("gw-1", claim="own-secret")
        assert refusal(world, world.request("gw-1")) is Reason.CLAIM_NEEDED

    def test_ends_with_its_token(self, world: World) -> None:
        """Revoked, expired and exhausted hold for claim secrets, too (P1)."""
        request = world.request(world.add_device("gw-1", claim="own-secret"), secret="own-secret")
        token = world.facts.tokens["default"]
        token.revoked_ms = 1
        assert refusal(world, request) is Reason.REVOKED
        token.revoked_ms, token.expires_ms = None, 1
        assert refusal(world, request) is Reason.EXPIRED
        token.expires_ms, token.max_registrations, token.used = None, 1, 1
        assert refusal(world, request) is Reason.EXHAUSTED


def test_a_device_with_a_factory_certificate_must_show_its_key(world: World) -> None:
    """A request signed with another key, or with none, gets nothing the first time."""
    world.add_device("gw-1", factory_key="factory")
    assert refusal(world, world.request()) is Reason.OTHER_KEY
    assert refusal(world, world.request(csr=SuppliedCsr("csr", "other"))) is Reason.OTHER_KEY
    granted = world.decide(world.request(certificate=SuppliedCertificate("pem", "print", "factory"))).outcome
    assert isinstance(granted, Granted)
