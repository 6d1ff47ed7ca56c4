"""The decision, case by case: who gets what, what is counted, and what the event says."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqttprov.core.audit import EventKind
from mqttprov.core.credentials import Sign
from mqttprov.core.facts import CreateDevice
from mqttprov.core.limits import MAX_LIVE_GENERATIONS
from mqttprov.core.model import (
    CredentialStatus,
    CredentialsType,
    Device,
    LifecycleState,
    Profile,
    ReprovisionPolicy,
    Strategy,
)
from mqttprov.core.names import fold
from mqttprov.core.provisioning import Context, decide_malformed, lookup_fold
from mqttprov.core.requests import (
    Granted,
    Malformed,
    ProvisionRequest,
    Reason,
    Refused,
    Status,
    SuppliedCertificate,
    SuppliedCsr,
)

if TYPE_CHECKING:
    from tests.core.conftest import World

WorldMaker = Callable[..., "World"]


def reason_of(world: World, request: ProvisionRequest) -> Reason:
    """Decide a request that must be refused; check that nothing changed and the event says why (P1, P5)."""
    used = {key: token.used for key, token in world.facts.tokens.items()}
    live = [(c.device_id, c.generation, c.status) for c in world.live()]
    decision = world.decide(request)
    assert isinstance(decision.outcome, Refused)
    assert decision.effects == ()
    assert {key: token.used for key, token in world.facts.tokens.items()} == used
    assert [(c.device_id, c.generation, c.status) for c in world.live()] == live
    assert decision.event.kind is EventKind.REFUSED
    assert decision.event.reason == decision.outcome.reason
    assert decision.event.ref == decision.outcome.ref
    return decision.outcome.reason


def test_a_new_device_is_created_counted_and_told(world: World) -> None:
    """One device, one registration, one credential, one event (P1, P5)."""
    world.add_token("line-1", labels={"site": "a"}, max_registrations=5)
    decision = world.decide(world.request("GW 1", key="line-1", gateway=True))
    granted, known = decision.outcome, world.device("gw 1")
    assert isinstance(granted, Granted)
    assert (known.device.name, known.device.state) == ("GW 1", LifecycleState.PROVISIONED)
    assert (known.device.labels, known.device.gateway, known.device.token_id) == ({"site": "a"}, True, 2)
    assert (known.registered_by, known.last_generation) == ({2}, 1)
    event = decision.event
    assert (event.kind, event.device, event.device_id) == (EventKind.PROVISIONED, "GW 1", granted.device_id)
    assert (event.token, event.registration, event.generation, event.state) == ("line-1", 1, 1, "provisioned")
    assert (event.source, event.ref, event.profile) == ("192.0.2.7", granted.ref, "gateways")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"revoked_ms": 1}, Reason.REVOKED),
        ({"expires_ms": 1_784_000_000_000}, Reason.EXPIRED),
        ({"max_registrations": 3, "used": 3}, Reason.EXHAUSTED),
        ({"max_registrations": 1, "used": 3}, Reason.EXHAUSTED),
    ],
)
def test_a_token_that_may_not_register_is_refused(world: World, change: dict[str, Any], reason: Reason) -> None:
    """Revoked, expired at this very millisecond, exhausted (P1)."""
    world.add_token("t", **change)
    assert reason_of(world, world.request(key="t")) is reason


def test_a_token_works_until_the_millisecond_before_it_expires(world: World) -> None:
    """Expiry is exact."""
    world.add_token("t", expires_ms=world.now_ms + 1)
    world.grant(world.request(key="t"))


def test_who_was_answered_before_the_token_expired_gets_the_same_answer_after(world: World) -> None:
    """The reply may have been lost a moment before (P4); nobody new is let in."""
    token = world.add_token("t", expires_ms=world.now_ms + 1)
    first = world.grant(world.request(key="t"))
    world.now_ms += 10
    assert world.grant(world.request(key="t")).value == first.value
    assert reason_of(world, world.request(key="t", device_name="gw-2")) is Reason.EXPIRED
    assert token.used == 1


def test_an_unusable_certificate_is_the_devices_fault_and_told_with_its_token(world: World) -> None:
    """Who knows the secret is told what is wrong; the event names the token, and nothing is consumed (P1)."""
    bad = SuppliedCertificate("pem", fault="the certificate has expired")
    outcome = world.decide(world.request(certificate=bad)).outcome
    assert isinstance(outcome, Refused)
    assert outcome.reason is Reason.BAD_CREDENTIALS
    assert "expired" in outcome.text
    assert world.events[-1].token == "default"
    assert world.facts.devices == {}


def test_a_disabled_profile_provisions_nobody(make_world: WorldMaker) -> None:
    """ThingsBoard's DISABLED."""
    world = make_world(strategy=Strategy.DISABLED)
    assert reason_of(world, world.request()) is Reason.DISABLED


def test_wrong_key_and_wrong_secret_are_told_apart_in_the_event_only(world: World) -> None:
    """The operator learns what the wire does not tell; an unknown key is recorded as a hash only (P6)."""
    assert reason_of(world, world.request(secret="x")) is Reason.WRONG_SECRET
    assert reason_of(world, world.request(key="my-password")) is Reason.UNKNOWN_KEY
    assert reason_of(world, world.request(secret="")) is Reason.WRONG_SECRET
    assert reason_of(world, world.request(key="")) is Reason.UNKNOWN_KEY
    assert world.events[0].key == "default"
    assert "my-password" not in repr(world.events[1])
    assert all(event.device is None for event in world.events)


@pytest.mark.parametrize("name", ["", "  ", "a/b", "a+b", "#", "$SYS", "x" * 256, "a\x1b[2J"])
def test_a_bad_name_is_refused_without_a_trace_of_it(world: World, name: str) -> None:
    """It reaches no topic and no event (P8)."""
    assert reason_of(world, world.request(name)) is Reason.BAD_NAME
    assert world.events[-1].device is None


def test_a_name_outside_the_tokens_pattern_is_refused(world: World) -> None:
    """A token may be for some names only; case does not matter."""
    world.add_token("t", device_name_pattern="gw-*")
    assert reason_of(world, world.request("pump-1", key="t")) is Reason.NAME_NOT_ALLOWED
    world.grant(world.request("GW-1", key="t"))


def test_labels_need_a_profile_that_allows_them(make_world: WorldMaker) -> None:
    """What a device says of itself is limited to keys that the profile names."""
    world = make_world(label_keys=("rack", "bad key"))
    assert reason_of(world, world.request(labels={"owner": "me"})) is Reason.BAD_LABELS
    assert reason_of(world, world.request(labels={"bad key": "me"})) is Reason.BAD_LABELS
    world.grant(world.request(labels={"rack": "7"}))
    assert world.device().device.labels == {"rack": "7"}


def test_one_name_is_one_device_however_it_is_written(world: World) -> None:
    """Case and blanks make no second identity (P8)."""
    first = world.grant(world.request("GW-1"))
    assert world.grant(world.request(" gw-1 ")).device_id == first.device_id
    assert len(world.facts.devices) == 1


def test_a_name_of_another_profile_is_not_taken_over(world: World) -> None:
    """A key for one class of devices says nothing about another's (P8)."""
    world.grant(world.request())
    world.add_token("other", profile=Profile(2, "pumps"))
    assert reason_of(world, world.request(key="other")) is Reason.OTHER_PROFILE


@pytest.mark.parametrize("state", [LifecycleState.SUSPENDED, LifecycleState.DECOMMISSIONED])
def test_a_suspended_or_decommissioned_device_gets_nothing(world: World, state: LifecycleState) -> None:
    """Not even its own unused credentials again (P7, P8)."""
    world.grant(world.request())
    world.device().device.state = state
    assert reason_of(world, world.request()) is Reason.STATE


def test_pre_provisioned_devices_only(make_world: WorldMaker) -> None:
    """The operator's list decides; a manufactured device keeps its id and labels."""
    world = make_world(strategy=Strategy.PRE_PROVISIONED)
    assert reason_of(world, world.request()) is Reason.NOT_PRE_PROVISIONED
    device = Device("id-1", "gw-1", "gw-1", 1, LifecycleState.MANUFACTURED, 1, labels={"batch": "9"})
    CreateDevice(device).apply(world.facts)
    assert world.grant(world.request()).device_id == "id-1"
    assert world.device().device.labels == {"batch": "9"}
    assert world.events[-1].kind is EventKind.PROVISIONED


@pytest.mark.parametrize(
    "fields",
    [{}, {"token": "a-token-of-mine"}, {"username": "u"}, {"username": "u", "password": "pass-word"},
     {"client_id": "c"}, {"credentials_type": CredentialsType.MQTT_BASIC}],
)  # fmt: skip
def test_a_repeated_request_gets_the_same_answer(world: World, fields: dict[str, Any]) -> None:
    """A lost reply costs no second device, use or generation (P1, P4)."""
    world.add_token("one", max_registrations=1)
    request = world.request(key="one", **fields)
    first, again = world.grant(request), world.grant(request)
    assert (again.value, again.username, again.client_id) == (first.value, first.username, first.client_id)
    assert again.device_id == first.device_id
    assert world.facts.tokens["one"].used == 1
    assert [event.kind for event in world.events] == [EventKind.PROVISIONED, EventKind.REPEATED]
    assert len(world.live()) == 1


def test_a_nameless_retry_meets_its_device_by_request_id(world: World) -> None:
    """A name is derived from what can be recognised (P4)."""
    one, other = world.request(None, request_id="boot-17"), world.request(None, request_id="boot-18")
    first = world.grant(one)
    assert world.grant(one).device_id == first.device_id
    assert world.grant(other).device_id != first.device_id


def test_nameless_and_unrecognisable_requests_get_a_device_each(world: World) -> None:
    """As with ThingsBoard, which makes a random name."""
    assert world.grant(world.request(None)).device_id != world.grant(world.request(None)).device_id


def test_the_next_generation_comes_after_the_first_login(world: World) -> None:
    """Policy reuse: make before break, and it costs no second registration (P1)."""
    world.add_token("one", max_registrations=1)
    request = world.request(key="one")
    first = world.grant(request)
    world.connect(first)
    second = world.grant(request)
    assert second.value != first.value
    assert world.events[-1].kind is EventKind.REPROVISIONED
    assert world.events[-1].registration is None
    assert world.login(world.attempt(first)).principal is not None
    world.connect(second)
    assert world.login(world.attempt(first)).principal is None
    assert world.facts.tokens["one"].used == 1


@pytest.mark.parametrize("fields", [{}, {"username": "u1"}, {"client_id": "c1"}])
def test_basic_credentials_have_next_generations_too(make_world: WorldMaker, fields: dict[str, Any]) -> None:
    """The user name stays, the password is new, and both work until the new one has logged in."""
    world = make_world(credentials_type=CredentialsType.MQTT_BASIC)
    first = world.grant(world.request(**fields))
    world.connect(first)
    second = world.grant(world.request(**fields))
    assert second.username == first.username
    assert second.value != first.value
    assert world.login(world.attempt(first)).principal is not None
    world.connect(second)
    assert world.login(world.attempt(first)).principal is None
    assert world.login(world.attempt(second)).principal is not None
    assert second.username == world.grant(world.request(**fields)).username


def test_another_device_cannot_take_a_shared_login_that_lives_on(make_world: WorldMaker) -> None:
    """When one of two generations with the same login ends, the login is still taken."""
    world = make_world()
    for password in ("password-1", "password-2"):
        world.connect(world.grant(world.request(username="u1", password=password)))
    assert reason_of(world, world.request("gw-2", username="u1", password="password-3")) is Reason.CREDENTIALS_TAKEN


def test_credentials_of_another_device_are_refused(world: World) -> None:
    """One login, one device; the use is not burnt (P1)."""
    world.grant(world.request(token="a-token-of-mine"))
    assert reason_of(world, world.request("gw-2", token="a-token-of-mine")) is Reason.CREDENTIALS_TAKEN
    assert "gw-2" not in world.facts.devices


def test_a_device_that_brings_what_it_holds_gets_no_new_generation(world: World) -> None:
    """A gateway with a fixed token asks again after each loss of its file; nothing piles up (P9)."""
    request = world.request(token="a-token-of-mine")
    world.connect(world.grant(request))
    assert world.grant(request).value == "a-token-of-mine"
    assert [c.generation for c in world.live()] == [1]
    assert world.events[-1].kind is EventKind.REPEATED


def test_another_token_counts_the_device_once_more(world: World) -> None:
    """A registration is counted once per token and device, also without a new credential (P1)."""
    world.grant(world.request(token="a-token-of-mine"))
    world.add_token("second", max_registrations=1, labels={"line": "2"})
    for _ in range(3):
        world.grant(world.request(key="second", token="a-token-of-mine"))
    assert world.facts.tokens["second"].used == 1
    assert world.device().registered_by == {1, 2}
    assert world.device().device.labels == {"line": "2"}
    assert len(world.live()) == 1


def test_policy_refuse_answers_like_thingsboard(make_world: WorldMaker) -> None:
    """After the first login, and for another proof, there is nothing more (DESIGN 5.6); a retry is still answered."""
    world = make_world(reprovision=ReprovisionPolicy.REFUSE)
    granted = world.grant(world.request())
    assert world.grant(world.request()).value == granted.value
    assert reason_of(world, world.request(username="other")) is Reason.ALREADY_PROVISIONED
    world.connect(granted)
    assert reason_of(world, world.request()) is Reason.ALREADY_PROVISIONED


def test_policy_same_key_asks_for_a_signature(make_world: WorldMaker, signer: Sign) -> None:
    """Only a CSR signed with a key that the device holds gets the next generation."""
    world = make_world(reprovision=ReprovisionPolicy.SAME_KEY)
    world.sign = signer
    world.grant(world.request(csr=SuppliedCsr("first", "key-a")))
    world.device().credentials[0].public_key = "key-a"
    world.device().credentials[0].status = CredentialStatus.ACTIVE
    assert reason_of(world, world.request(csr=SuppliedCsr("x", "key-b"))) is Reason.OTHER_KEY
    assert reason_of(world, world.request()) is Reason.OTHER_KEY
    world.now_ms += 1
    world.grant(world.request(csr=SuppliedCsr("second", "key-a")))
    assert world.device().last_generation == 2


def test_unused_generations_are_bounded_and_the_active_one_is_kept(world: World) -> None:
    """Somebody who asks and asks with other credentials fills nothing and breaks nothing (P9)."""
    first = world.grant(world.request())
    world.connect(first)
    for i in range(20):
        world.grant(world.request(token=f"another-token-{i}"))
    assert len(world.live()) == MAX_LIVE_GENERATIONS
    assert world.login(world.attempt(first)).principal is not None
    assert [c.generation for c in world.live()] == [1, 19, 20, 21]


def test_a_malformed_request_has_its_event_too(world: World) -> None:
    """No outcome without an event (P5)."""
    outcome, effects, event = decide_malformed(Malformed("why"), Context(1, bytes(48), world.keys, "src"))
    assert isinstance(outcome, Refused)
    assert (outcome.status, outcome.text) == (Status.FAILURE, "Failed to provision device: why")
    assert effects == ()
    assert (event.kind, event.reason, event.source) == (EventKind.REFUSED, "malformed", "src")


@given(name=st.none() | st.text(max_size=20), request_id=st.none() | st.text(max_size=3), unicode_names=st.booleans())
def test_the_fold_to_load_is_the_fold_that_is_decided_on(
    make_world: WorldMaker, name: str | None, request_id: str | None, unicode_names: bool
) -> None:
    """A store that loads by `lookup_fold` never misses a device (P8); deciding never raises (P5)."""
    world = make_world(unicode_names=unicode_names)
    request = world.request(name, request_id=request_id)
    entropy = world.entropy()
    wanted = lookup_fold(request, world.keys, entropy)
    world.entropy = lambda: entropy  # type: ignore[method-assign] # the same request, the same entropy
    outcome = world.decide(request).outcome
    if isinstance(outcome, Granted):
        assert wanted == fold(outcome.device_name)
        assert list(world.facts.devices) == [wanted]
    else:
        assert outcome.reason is Reason.BAD_NAME


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
