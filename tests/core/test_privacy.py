"""What nobody learns: the reason of a refusal on the wire, and secrets anywhere (P6)."""

from __future__ import annotations

import hmac
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqttprov.core.audit import ChainHead, chain
from mqttprov.core.credentials import Making
from mqttprov.core.login import LoginAttempt
from mqttprov.core.model import CredentialsType, Profile, Strategy
from mqttprov.core.provisioning import Context
from mqttprov.core.requests import ProvisionRequest, Reason, Refused, Status, refused
from mqttprov.core.secrets import Keys
from mqttprov.wire.thingsboard import Encoding, encode

if TYPE_CHECKING:
    from tests.core.conftest import World

NOT_FOUND = {
    Reason.UNKNOWN_KEY,
    Reason.WRONG_SECRET,
    Reason.DISABLED,
    Reason.REVOKED,
    Reason.EXPIRED,
    Reason.EXHAUSTED,
    Reason.CLAIM_SPENT,
}
PLANTED = "PLANTED"


def not_found_requests(world: World) -> list[ProvisionRequest]:
    """Make one request for each reason of NOT_FOUND."""
    world.add_token("disabled", profile=Profile(2, "off", strategy=Strategy.DISABLED))
    world.add_token("revoked", revoked_ms=1)
    world.add_token("expired", expires_ms=1)
    world.add_token("exhausted", max_registrations=1, used=1)
    spent = world.add_device("claimed", claim="claim-secret", used=True)
    return [
        world.request(spent, secret="claim-secret"),
        world.request(key="unknown"),
        world.request(secret="wrong"),
        *(world.request(key=key) for key in ("disabled", "revoked", "expired", "exhausted")),
    ]


@pytest.mark.parametrize("encoding", Encoding)
def test_not_found_has_the_same_bytes_for_every_reason(world: World, encoding: Encoding) -> None:
    """A guesser learns nothing from a refusal (SD-8); only the random `ref` differs, and it has one length."""
    outcomes = [world.decide(request).outcome for request in not_found_requests(world)]
    replies = set()
    for outcome in outcomes:
        assert isinstance(outcome, Refused)
        assert outcome.status is Status.NOT_FOUND
        replies.add(encode(outcome, encoding, server_time_ms=world.now_ms).replace(outcome.ref.encode(), b"REF"))
    assert {outcome.reason for outcome in outcomes if isinstance(outcome, Refused)} == NOT_FOUND
    assert len(replies) == 1


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("rotated", [True, False])
def test_not_found_takes_the_same_work_for_every_reason(
    world: World, monkeypatch: pytest.MonkeyPatch, named: bool, rotated: bool
) -> None:
    """Refusals cost the same keyed hashes and comparisons, with an older secret or without (SD-1, SD-8)."""
    requests = not_found_requests(world)
    if not named:  # a claim secret is nothing without its device's name
        requests = [msgspec.structs.replace(r, device_name=None, request_id="r") for r in requests[1:]]
    if rotated:
        for token in world.facts.tokens.values():
            token.previous_verifier, token.previous_until_ms = "old", world.now_ms + 1
    work: list[str] = []
    for owner, function in ((Keys, "mac"), (Keys, "derive"), (hmac, "compare_digest")):
        monkeypatch.setattr(owner, function, _counted(work, getattr(owner, function)))
    costs = set()
    for request in requests:
        work.clear()
        outcome = world.decide(request).outcome
        assert isinstance(outcome, Refused)
        assert outcome.status is Status.NOT_FOUND
        costs.add((work.count("mac") + work.count("derive"), work.count("compare_digest")))
    assert costs == {(4 if named else 6, 3)}


def _counted(work: list[str], real: Callable[..., Any]) -> Callable[..., Any]:
    def counted(*arguments: Any) -> Any:
        work.append(real.__name__)
        return real(*arguments)

    return counted


@pytest.mark.parametrize("reason", Reason)
def test_only_what_the_rules_name_is_not_found(reason: Reason) -> None:
    """Every other refusal is FAILURE and may tell why."""
    outcome = refused(reason, "why")
    assert (outcome.status is Status.NOT_FOUND) == (reason in NOT_FOUND)
    assert ("why" in outcome.text) == (reason not in NOT_FOUND)
    assert refused(Reason.STATE).text == "Failed to provision device!"


def test_refusing_checks_the_secret_before_anything_else(world: World) -> None:
    """Who lacks the secret learns nothing of names, labels or states (SD-8)."""
    for fields in ({"device_name": "a/b"}, {"labels": {"x": "y"}}, {"token": "short"}):
        outcome = world.decide(world.request(secret="wrong", **fields)).outcome
        assert isinstance(outcome, Refused)
        assert outcome.reason is Reason.WRONG_SECRET


def secrets_of(world: World) -> Sequence[ProvisionRequest]:
    """Make requests with a planted secret in every field that holds one."""
    return [
        world.request("gw-1", token=PLANTED + "-token"),
        world.request("gw-2", username="u", password=PLANTED + "-password"),
        world.request("gw-3", secret=PLANTED),
        world.request("gw-4", key=PLANTED + "-in-the-wrong-field"),
        world.request("gw-5", key=PLANTED, token=PLANTED * 50),
        world.request("gw-6", token=PLANTED * 50),
        world.request("gw-7", username="u", password=PLANTED + "\n"),
        world.request("gw-8", token=PLANTED + "-8", credentials_type=CredentialsType.X509_CERTIFICATE),
        world.request(f"gw/{PLANTED}"),
    ]


def shown(value: Any) -> str:
    """Give all that a log line or a traceback could show of a value."""
    return f"{value!r} {value!s}"


def test_planted_secrets_reach_no_event_effect_fact_or_refusal(world: World) -> None:
    """The database alone logs in nowhere, and neither does the audit chain (P6)."""
    head = ChainHead()
    for request in secrets_of(world):
        decision = world.decide(request)
        stored, head = chain(head, decision.event)
        everything = [stored.body, shown(decision.event), shown(decision.effects), shown(world.facts)]
        everything.append(msgspec.json.encode(list(world.live())).decode())
        if isinstance(decision.outcome, Refused):
            everything += [shown(decision.outcome), decision.outcome.text]
        else:
            everything.append(shown(decision.outcome))
        assert not [text for text in everything if PLANTED in text]


def test_secrets_that_we_make_are_in_no_fact(world: World) -> None:
    """They are derived, not stored (DESIGN 5.4)."""
    token = world.grant(world.request("gw-1"))
    basic = world.grant(world.request("gw-2", client_id="c"))
    kept = shown(world.facts) + shown(world.events)
    assert token.value not in kept
    assert basic.value not in kept


def test_nothing_that_carries_a_secret_shows_it(world: World) -> None:
    """repr and str, which tracebacks and careless log lines use (SD-27)."""
    request = world.request(secret=PLANTED, token=PLANTED, password=PLANTED)
    context = Context(1, bytes(48), world.keys)
    granted = world.grant(world.request(token=PLANTED + "-token"))
    making = Making(request, world.device().device, world.profile, 1, "proof", world.keys, 1, b"")
    attempt = LoginAttempt("c", PLANTED, PLANTED)
    for value in (request, granted, context, making, attempt, world.keys, [request], {"a": granted}):
        assert PLANTED not in shown(value)
        assert "pppp" not in shown(value)
        assert "iiii" not in shown(value)


@given(secret=st.text("0123456789abcdefXYZ", min_size=24, max_size=40))
def test_no_secret_of_any_request_reaches_an_event(make_world: Callable[..., World], secret: str) -> None:
    """For any secret in any place (P6)."""
    world = make_world()
    for fields in ({"token": secret}, {"password": secret, "username": "u"}, {"secret": secret}, {"key": secret}):
        event = world.decide(world.request(**fields)).event
        assert secret not in chain(ChainHead(), event)[0].body
