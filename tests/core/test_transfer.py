"""Owners and transfer by the rules: who may offer, who completes it, and what is left of the old owner."""

from typing import Any

import msgspec
import pytest
from tests.core.conftest import SECRET, START_MS, World

from mqttprov.core import device_life as rules
from mqttprov.core.audit import EventKind
from mqttprov.core.explain import sentence
from mqttprov.core.lifecycle import IllegalTransition
from mqttprov.core.login import LoginRefusal
from mqttprov.core.model import LifecycleState, ReprovisionPolicy, Strategy, Transfer
from mqttprov.core.requests import Granted, ProvisionRequest, Reason, Refused, Status
from mqttprov.core.transfer import TRANSFER_TEXT, code_verifier

BY = rules.By("cli:anna", START_MS, "sold")
CODE = "mqp_cc_the-claim-code"
EXPIRES_MS = START_MS + 1000


def offer(world: World, to_owner: str = "globex", expires_ms: int = EXPIRES_MS) -> rules.Change:
    """Offer gw-1."""
    known = world.device()
    transfer = Transfer(to_owner, code_verifier(world.keys, known.device.id, CODE), expires_ms)
    return rules.offer(world.facts, known, rules.By("cli:anna", world.now_ms, "sold"), transfer)


def claim(
    world: World, key: str = "globex", code: str = CODE, name: str = "gw-1", **fields: object
) -> ProvisionRequest:
    """Make the request that completes it."""
    return world.request(name, key=key, claim_code=code, **fields)


def owned(**profile: object) -> tuple[World, Granted]:
    """Make a world in which acme's gw-1 is active, and two owners have a token; give it with gw-1's credentials."""
    world = World(**profile)
    world.add_token("acme", owner="acme", labels={"site": "north"})
    world.add_token("globex", owner="globex", labels={"site": "harbour"})
    granted = world.grant(world.request(key="acme"))
    world.connect(granted)
    return world, granted


def refusal(world: World, request: ProvisionRequest) -> Refused:
    """Decide a request that must fail; it has changed nothing but the audit."""
    before = msgspec.json.encode(world.facts.devices)
    decision = world.decide(request)
    assert isinstance(decision.outcome, Refused)
    assert (decision.effects, msgspec.json.encode(world.facts.devices)) == ((), before)
    return decision.outcome


def test_a_token_gives_its_owner_to_the_devices_that_it_registers() -> None:
    """New ones, and known ones without owner; no other owner's."""
    world, _ = owned()
    assert world.device().device.owner == "acme"
    world.add_device("bare")
    world.grant(world.request("bare", key="globex"))
    assert (world.device("bare").device.owner, world.device("bare").device.transferred_ms) == ("globex", None)
    assert refusal(world, world.request(key="globex")).reason is Reason.OTHER_OWNER


@pytest.mark.parametrize("policy", list(ReprovisionPolicy))
def test_completing_replaces_everything_of_the_old_owner(policy: ReprovisionPolicy) -> None:
    """Credentials, owner, labels and state in one decision with one event, whatever the policy (P5)."""
    world, old = owned(reprovision=policy, strategy=Strategy.ALLOW_CREATE)
    device_id = world.device().device.id
    offered = offer(world).event
    assert (offered.kind, offered.owner, offered.to_owner) == (EventKind.TRANSFER_OFFERED, "acme", "globex")
    assert world.login(world.attempt(old)).principal is not None  # nothing has changed so far
    decision = world.decide(claim(world))
    new = decision.outcome
    assert isinstance(new, Granted)
    assert new.value != old.value
    known = world.device()
    device = known.device
    assert (device.id, device.owner, device.labels) == (device_id, "globex", {"site": "harbour"})
    assert (device.state, device.transfer, device.transferred_ms) == (LifecycleState.PROVISIONED, None, START_MS)
    assert [c.generation for c in known.credentials] == [2]
    assert world.login(world.attempt(old)).refusal is LoginRefusal.UNKNOWN
    world.connect(new)
    assert world.device().device.state is LifecycleState.ACTIVE
    event = decision.event
    assert (event.kind, event.owner, event.to_owner) == (EventKind.TRANSFER_COMPLETED, "acme", "globex")
    assert (event.generation, event.registration, event.token) == (2, 1, "globex")
    assert "passed from owner 'acme' to owner 'globex'" in sentence(event)


def test_the_same_request_gets_the_same_answer_until_it_is_used_and_then_none() -> None:
    """A lost reply can be asked for again (P4), but nothing is finished twice."""
    world, _ = owned()
    offer(world)
    first = world.grant(claim(world))
    world.now_ms = EXPIRES_MS + 1
    again = world.grant(claim(world))
    assert (first.value, world.events[-1].kind) == (again.value, EventKind.REPEATED)
    world.connect(again)
    assert refusal(world, claim(world)).reason is Reason.TRANSFER_CODE


def test_an_unused_credential_of_the_new_owners_token_is_no_answer_to_a_claim() -> None:
    """The code asks for more than what the same request without it was given."""
    world = World()
    world.add_token("globex", owner="globex")
    world.add_device("gw-1")
    world.device().device.owner = "globex"
    old = world.grant(world.request(key="globex"))
    world.device().device.owner = "acme"
    offer(world)
    assert world.grant(claim(world)).value != old.value


def test_every_code_that_completes_nothing_gets_one_answer() -> None:
    """Wrong, expired, cancelled, of another owner, for another or no device: one text, and no device is made."""
    world, _ = owned()
    world.add_token("third", owner="third")
    refusals = [refusal(world, claim(world))]
    offer(world)
    refusals += [
        refusal(world, claim(world, code="mqp_cc_another-code")),
        refusal(world, claim(world, code="")),
        refusal(world, claim(world, key="third")),
        refusal(world, claim(world, key="acme")),
        refusal(world, claim(world, key="default")),
        refusal(world, claim(world, name="nobody")),
    ]
    world.now_ms = EXPIRES_MS
    refusals.append(refusal(world, claim(world)))
    world.now_ms = START_MS
    cancelled = rules.cancel_transfer(world.facts, world.device(), BY).event
    assert (cancelled.kind, cancelled.owner, cancelled.to_owner) == (EventKind.TRANSFER_CANCELLED, "acme", "globex")
    refusals.append(refusal(world, claim(world)))
    assert {(r.status, r.text) for r in refusals} == {(Status.FAILURE, f"Failed to provision device: {TRANSFER_TEXT}")}
    wrong, owner = Reason.TRANSFER_CODE, Reason.TRANSFER_OWNER
    assert [r.reason for r in refusals] == [
        wrong, wrong, wrong, owner, owner, owner, wrong, Reason.TRANSFER_EXPIRED, wrong
    ]  # fmt: skip


def test_the_old_owner_does_not_get_a_transferred_device_back() -> None:
    """Neither with his token nor with one without owner; the new owner provisions as before, and may offer it again."""
    world, _ = owned()
    offer(world)
    world.connect(world.grant(claim(world)))
    for key in ("acme", "default"):
        assert refusal(world, world.request(key=key)).reason is Reason.OTHER_OWNER
    world.connect(world.grant(world.request(key="globex")))
    offer(world, "acme")
    world.grant(claim(world, key="acme"))
    assert (world.device().device.owner, world.device().device.labels) == ("acme", {"site": "north"})
    assert refusal(world, world.request(key="globex")).reason is Reason.OTHER_OWNER


def test_a_claim_secret_of_the_device_is_not_the_new_owners_token() -> None:
    """A manufactured device can be transferred too; who has only its secret and the code does not complete it."""
    world = World()
    world.add_token("globex", owner="globex")
    world.add_device("gw-1", claim="the-claim-secret", owner="acme")
    offer(world)
    own = ProvisionRequest("globex", "the-claim-secret", "gw-1", claim_code=CODE)
    assert refusal(world, own).reason is Reason.TRANSFER_OWNER
    world.grant(claim(world))
    assert (world.device().device.owner, world.device().device.state) == ("globex", LifecycleState.PROVISIONED)


def test_credentials_that_the_device_held_are_refused_at_a_transfer() -> None:
    """All of them are replaced, also those that it brings itself; the offer stands."""
    world, _ = owned()
    world.connect(world.grant(world.request(key="acme", token="my-own-token")))
    offer(world)
    assert refusal(world, claim(world, token="my-own-token")).reason is Reason.BAD_CREDENTIALS
    assert world.grant(claim(world, token="my-new-token")).value == "my-new-token"


BROUGHT: list[dict[str, Any]] = [
    {"token": "an-old-secret"},
    {"username": "user-1", "password": "an-old-secret"},
    {"username": "user-1", "password": "an-old-secret", "client_id": "client-1"},
    {"username": "user-2", "password": "an-old-secret"},
]


@pytest.mark.parametrize("new", BROUGHT)
@pytest.mark.parametrize("old", BROUGHT)
@pytest.mark.parametrize("ended", [False, True])
def test_no_secret_of_before_comes_back_at_a_transfer(old: dict[str, Any], new: dict[str, Any], ended: bool) -> None:
    """Whether its credential still lives or has ended, and under whatever login it comes."""
    world, _ = owned()
    offer(world)
    world.connect(world.grant(world.request(key="acme", **old)))
    if ended:
        world.connect(world.grant(world.request(key="acme")))
    assert refusal(world, claim(world, **new)).reason is Reason.BAD_CREDENTIALS


def test_a_code_behind_the_secret_completes_a_transfer_and_then_means_nothing() -> None:
    """A gateway keeps its settings: its owner's token goes on working with a code that is spent (P10)."""
    world, _ = owned()
    offer(world)
    kept = claim(world, code_with_secret=True)
    first = world.grant(kept)
    assert world.events[-1].kind is EventKind.TRANSFER_COMPLETED
    assert world.grant(kept).value == first.value  # P4
    world.connect(first)
    second = world.grant(kept)
    assert (world.events[-1].kind, second.value == first.value) == (EventKind.REPROVISIONED, False)
    assert world.grant(kept).value == second.value
    offer(world, "acme")
    world.connect(world.grant(kept))
    assert world.device().device.owner == "globex"
    world.connect(world.grant(claim(world, key="acme")))
    assert refusal(world, kept).reason is Reason.TRANSFER_CODE
    assert refusal(world, claim(world, key="default", code_with_secret=True)).reason is Reason.TRANSFER_CODE


@pytest.mark.parametrize("state", [LifecycleState.SUSPENDED, LifecycleState.DECOMMISSIONED])
def test_what_cannot_be_offered(state: LifecycleState) -> None:
    """A stopped or retired device, one that is offered already, to its own owner; and nothing to cancel."""
    world, _ = owned()
    with pytest.raises(IllegalTransition, match="offered to nobody"):
        rules.cancel_transfer(world.facts, world.device(), BY)
    with pytest.raises(IllegalTransition, match="belongs to this owner"):
        offer(world, "acme")
    offer(world)
    with pytest.raises(IllegalTransition, match="offered to 'globex' already"):
        offer(world, "third")
    world.now_ms = EXPIRES_MS
    offer(world, "third", EXPIRES_MS + 1)
    world.device().device.state = state
    assert refusal(world, claim(world)).reason is Reason.STATE
    with pytest.raises(IllegalTransition, match=f"a {state} device cannot transfer"):
        offer(world)


def test_a_code_is_kept_as_a_hash_that_is_bound_to_its_device() -> None:
    """No secret is at rest (P6), and a code opens no other device."""
    world, _ = owned()
    offer(world)
    transfer = world.device().device.transfer
    assert transfer is not None
    assert CODE not in transfer.code
    assert code_verifier(world.keys, "another", CODE) != transfer.code
    assert SECRET not in repr(claim(world)) + repr(transfer)
    assert CODE not in repr(claim(world))
