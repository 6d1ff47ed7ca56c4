"""The rules of coming in by a certificate: who becomes a device, the next generation, or nothing."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.core.conftest import World

from mqttprov.core.audit import EventKind
from mqttprov.core.chain import Enrolment, enrol
from mqttprov.core.factory import ChainArrival, PresentedCertificate
from mqttprov.core.model import Credential, CredentialStatus, LifecycleState, ReprovisionPolicy, Strategy
from mqttprov.core.provisioning import Context
from mqttprov.core.requests import Reason


def certificate(number: int = 1, *, key: int | None = None, from_ms: int = 0, until_ms: int = 2**45) -> Any:
    """Make what a handshake showed: certificate `number`, of a key of its own unless told."""
    return PresentedCertificate(f"pem {number}", f"fp-{number}", f"key-{key or number}", "x", from_ms, until_ms)


def come(world: World, name: str = "gw-1", shown: PresentedCertificate | None = None) -> Enrolment:
    """Come in as the responder lets it."""
    arrival = ChainArrival(shown or certificate(), name, name.lower(), "default")
    return enrol(arrival, world.facts, Context(world.now_ms, world.entropy(), world.keys, "192.0.2.7"))


@pytest.fixture
def chain(make_world: Callable[..., World]) -> World:
    """A world whose profile has a chain."""
    return make_world(strategy=Strategy.CERTIFICATE_CHAIN)


def refused(enrolment: Enrolment) -> str | None:
    """Give why nothing was changed."""
    assert (enrolment.login.principal, enrolment.effects, enrolment.event) == (None, (), None)
    return enrolment.login.reason


def test_a_device_comes_in_active_with_its_certificate(chain: World) -> None:
    """One registration, one event with all of it (P5), and the certificate is in use at once."""
    chain.facts.tokens["default"].labels = {"line": "3"}
    enrolment = come(chain)
    known = chain.device()
    assert enrolment.login.principal is not None
    assert (enrolment.login.principal.name, enrolment.login.first) == ("gw-1", False)
    assert (known.device.state, known.device.labels) == (LifecycleState.ACTIVE, {"line": "3"})
    (credential,) = known.credentials
    assert (credential.status, credential.public_key, credential.first_login_ms) == (
        CredentialStatus.ACTIVE, "key-1", chain.now_ms
    )  # fmt: skip
    assert enrolment.event is not None
    assert (enrolment.event.kind, enrolment.event.registration, enrolment.event.state) == (
        EventKind.PROVISIONED, 1, "active"
    )  # fmt: skip
    assert chain.facts.tokens["default"].used == 1


def test_the_same_certificate_again_changes_nothing(chain: World) -> None:
    """Two connections at once are one device: the second finds what the first made."""
    come(chain)
    again = come(chain)
    assert again.login.principal is not None
    assert (again.effects, again.event) == ((), None)


@pytest.mark.parametrize(
    ("policy", "key", "reason"),
    [
        (ReprovisionPolicy.REUSE, 2, None),
        (ReprovisionPolicy.SAME_KEY, 1, None),
        (ReprovisionPolicy.SAME_KEY, 2, Reason.OTHER_KEY),
        (ReprovisionPolicy.REFUSE, 1, Reason.ALREADY_PROVISIONED),
    ],
)
def test_another_certificate_is_for_the_policy(
    make_world: Callable[..., World], policy: ReprovisionPolicy, key: int, reason: Reason | None
) -> None:
    """What takes over supersedes at once what was before, and is no second registration."""
    world = make_world(strategy=Strategy.CERTIFICATE_CHAIN, reprovision=policy)
    come(world)
    enrolment = come(world, shown=certificate(2, key=key))
    if reason is not None:
        assert refused(enrolment) == reason
        return
    assert enrolment.event is not None
    assert (enrolment.event.kind, enrolment.event.registration) == (EventKind.REPROVISIONED, None)
    assert [c.generation for c in world.device().credentials] == [2]
    assert refused(come(world, shown=certificate(1))) == Reason.CERTIFICATE_ENDED


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"max_registrations": 1, "used": 1}, Reason.EXHAUSTED),
        ({"revoked_ms": 1}, Reason.REVOKED),
        ({"expires_ms": 1}, Reason.EXPIRED),
        ({"device_name_pattern": "sensor-*"}, Reason.NAME_NOT_ALLOWED),
    ],
)
def test_the_token_rules_over_certificates_too(chain: World, changes: dict[str, Any], reason: Reason) -> None:
    """Capped, revoked, expired or bound to names like any other token (P1)."""
    for name, value in changes.items():
        setattr(chain.facts.tokens["default"], name, value)
    assert refused(come(chain)) == reason


def test_a_certificate_is_good_within_its_dates_only(chain: World) -> None:
    """Whatever the handshake said some moments ago."""
    for shown in (certificate(until_ms=chain.now_ms - 1), certificate(from_ms=chain.now_ms + 1)):
        assert refused(come(chain, shown=shown)) == Reason.BAD_CREDENTIALS


@pytest.mark.parametrize("state", [LifecycleState.SUSPENDED, LifecycleState.DECOMMISSIONED])
def test_state_is_permission(chain: World, state: LifecycleState) -> None:
    """Neither the old certificate nor another one of the chain changes what an operator decided (P7)."""
    come(chain)
    chain.device().device.state = state
    assert refused(come(chain)) == Reason.STATE
    assert refused(come(chain, shown=certificate(2))) == Reason.STATE


@pytest.mark.parametrize(
    ("listed", "reason"),
    [
        ({}, None),
        ({"factory_key": "key-1"}, None),
        ({"factory_key": "key-2"}, Reason.OTHER_KEY),
        ({"claim": "secret-of-its-own"}, Reason.CLAIM_NEEDED),
        ({"owner": "ACME", "transferred_ms": 1}, Reason.OTHER_OWNER),
    ],
)
def test_a_listed_device_is_held_to_what_its_factory_gave_it(
    chain: World, listed: dict[str, Any], reason: Reason | None
) -> None:
    """A chain vouches for a name; it does not replace a key, a secret or an owner."""
    chain.add_device("gw-1", **listed)
    if reason is None:
        assert come(chain).login.principal is not None
    else:
        assert refused(come(chain)) == reason


def test_a_name_of_another_profile_is_not_taken(chain: World) -> None:
    """One name, one identity (P8)."""
    chain.add_device("gw-1")
    chain.device().device.profile_id = 2
    assert refused(come(chain)) == Reason.OTHER_PROFILE


def test_a_certificate_that_is_a_credential_elsewhere_names_no_second_device(chain: World) -> None:
    """One certificate is one device (P8)."""
    come(chain)
    assert refused(come(chain, "gw-2")) == Reason.CREDENTIALS_TAKEN


def test_a_profile_that_was_changed_meanwhile_lets_nobody_in(make_world: Callable[..., World]) -> None:
    """What was looked up before the transaction is decided again within it."""
    for settings_ in ({"strategy": Strategy.DISABLED}, {"rotate_on_first_use": True}):
        world = make_world(**{"strategy": Strategy.CERTIFICATE_CHAIN, **settings_})
        assert refused(come(world)) == Reason.DISABLED


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 5)), max_size=40), st.integers(1, 4))
def test_no_run_of_arrivals_breaks_a_promise(arrivals: list[tuple[int, int]], limit: int) -> None:
    """Any order of names and certificates: exact limit (P1), one live generation each, no ended one comes back."""
    world = World(strategy=Strategy.CERTIFICATE_CHAIN)
    world.facts.tokens["default"].max_registrations = limit
    ended: set[str] = set()
    events = 0
    for device, number in arrivals:
        before = {credential.login_key for credential in world.live()}
        enrolment = come(world, f"gw-{device}", certificate(number))
        live: list[Credential] = world.live()
        ended |= before - {credential.login_key for credential in live}
        events += enrolment.event is not None
        assert all(len(known.credentials) == 1 for known in world.facts.devices.values())
        assert not ended & {credential.login_key for credential in live}
        assert len({credential.login_key for credential in live}) == len(live)
        assert (enrolment.login.principal is None) == (enrolment.login.refusal is not None)
    token = world.facts.tokens["default"]
    assert token.used == len(world.facts.devices) <= limit
    assert events == sum(known.last_generation for known in world.facts.devices.values())
