"""The rules of factory identities: what they open, what they stand for, and when they end."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.core.conftest import World

from mqttprov.core.factory import (
    ChainArrival,
    ChainFacts,
    FactoryFacts,
    PresentedCertificate,
    arrive_by_chain,
    asked_by,
    fitting_name,
    is_open,
    login_as_imported,
)
from mqttprov.core.facts import DeviceFacts
from mqttprov.core.login import LoginRefusal
from mqttprov.core.model import (
    Chain,
    Credential,
    CredentialStatus,
    CredentialsType,
    Device,
    LifecycleState,
    Profile,
    ReprovisionPolicy,
    Strategy,
)
from mqttprov.core.names import InvalidName
from mqttprov.core.requests import FactoryIdentity, Granted, ProvisionRequest, Reason, Refused

CERTIFICATE = PresentedCertificate("pem", "fp", "key-1", "gw-1", 0, 2**45)
ROTATES = Profile(1, "gateways", Strategy.CERTIFICATE_CHAIN, rotate_on_first_use=True)


def identity(name: str = "gw-1", *, key: str = "key-1", chain: bool = False, suffices: bool = True) -> FactoryIdentity:
    """Make what a session has shown."""
    return FactoryIdentity(name, name, "default", key, chain, suffices)


def ask(world: World, factory: FactoryIdentity, **fields: Any) -> Granted | Refused:
    """Ask in such a session without key and secret."""
    request = ProvisionRequest(**{"key": "", "secret": "", **fields})
    return world.decide(asked_by(factory, request)).outcome


def reason(world: World, factory: FactoryIdentity, **fields: Any) -> Reason:
    """Ask, and give why it is refused."""
    outcome = ask(world, factory, **fields)
    assert isinstance(outcome, Refused), outcome
    return outcome.reason


@pytest.fixture
def world(make_world: Callable[..., World]) -> World:
    """A profile that rotates on first use, with an imported device."""
    world = make_world(strategy=Strategy.PRE_PROVISIONED, rotate_on_first_use=True)
    world.add_device("gw-1", factory_key="key-1", claim="a secret of its own")
    return world


def test_the_key_stands_for_key_and_secret(world: World) -> None:
    """It counts on the `default` token once, and a repetition gets the same answer (P4), claim secret or not."""
    first, again = ask(world, identity()), ask(world, identity(), device_name="gw-1")
    assert isinstance(first, Granted)
    assert isinstance(again, Granted)
    assert first.value == again.value
    assert world.facts.tokens["default"].used == 1
    assert world.events[0].text == "factory identity"


def test_it_ends_with_the_first_login(world: World) -> None:
    """From then on the credentials are the identity."""
    granted = ask(world, identity())
    assert isinstance(granted, Granted)
    world.connect(granted)
    assert reason(world, identity()) is Reason.FACTORY_SPENT


def test_it_is_one_device_alone(world: World) -> None:
    """Another name, another key, a name that is gone: nothing (P8)."""
    world.add_device("gw-2", factory_key="key-2")
    assert reason(world, identity(), device_name="gw-2") is Reason.FACTORY_NAME
    assert reason(world, identity("gw-2")) is Reason.OTHER_KEY
    assert reason(world, identity("gw-3")) is Reason.NOT_PRE_PROVISIONED
    assert reason(world, identity("gw-2", chain=True)) is Reason.OTHER_KEY


def test_it_proves_no_other_token_and_no_wrong_secret(world: World) -> None:
    """A request that brings key or secret is judged by them; the identity binds only its name."""
    world.add_token("other")
    assert reason(world, identity(), key="other") is Reason.WRONG_SECRET
    assert reason(world, identity(), secret="wrong") is Reason.WRONG_SECRET
    assert reason(world, identity(suffices=False)) is Reason.WRONG_SECRET


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"max_registrations": 1, "used": 1}, Reason.EXHAUSTED),
        ({"revoked_ms": 1}, Reason.REVOKED),
        ({"expires_ms": 1}, Reason.EXPIRED),
        ({"device_name_pattern": "sensor-*"}, Reason.NAME_NOT_ALLOWED),
    ],
)
def test_the_default_token_rules_over_it(world: World, changes: dict[str, Any], expected: Reason) -> None:
    """Capped, revoked or expired like any other (P1)."""
    for name, value in changes.items():
        setattr(world.facts.tokens["default"], name, value)
    assert reason(world, identity()) is expected


def test_a_chain_makes_the_device_that_it_names(make_world: Callable[..., World]) -> None:
    """Bound to the key from then on, so that no second certificate of that name asks for more."""
    world = make_world(strategy=Strategy.CERTIFICATE_CHAIN, rotate_on_first_use=True)
    assert isinstance(ask(world, identity(chain=True)), Granted)
    assert world.device().device.factory_key == "key-1"
    assert reason(world, identity(key="key-2", chain=True)) is Reason.OTHER_KEY
    assert isinstance(world.decide(world.request("gw-2")).outcome, Refused)
    assert world.events[-1].reason == Reason.CHAIN_NEEDED


def test_a_listed_device_takes_the_chain_for_its_name(make_world: Callable[..., World]) -> None:
    """An operator who listed it without a key leaves it to the factory's authority."""
    world = make_world(strategy=Strategy.CERTIFICATE_CHAIN, rotate_on_first_use=True)
    world.add_device("gw-1")
    assert isinstance(ask(world, identity(chain=True)), Granted)


def facts(**changes: Any) -> FactoryFacts:
    """Make an imported device as the store tells it."""
    given_ = {"state": LifecycleState.MANUFACTURED, "transferred": False, "rotating": False, "profile": ROTATES}
    return FactoryFacts(name="gw-1", fold="gw-1", token_key="default", **{**given_, **changes})


@pytest.mark.parametrize(
    ("changes", "refusal"),
    [
        ({}, None),
        ({"state": LifecycleState.PROVISIONED}, None),
        ({"state": LifecycleState.ACTIVE}, LoginRefusal.FACTORY_SPENT),
        ({"state": LifecycleState.ACTIVE, "rotating": True}, None),
        ({"state": LifecycleState.ACTIVE, "rotating": True, "transferred": True}, LoginRefusal.FACTORY_SPENT),
        ({"state": LifecycleState.PROVISIONED, "transferred": True}, LoginRefusal.FACTORY_SPENT),
        ({"state": LifecycleState.ACTIVE, "profile": Profile(1, "plain")}, None),
        ({"state": LifecycleState.SUSPENDED, "profile": Profile(1, "plain")}, LoginRefusal.STATE),
        ({"state": LifecycleState.DECOMMISSIONED}, LoginRefusal.STATE),
    ],
)
def test_what_an_imported_certificate_opens(changes: dict[str, Any], refusal: LoginRefusal | None) -> None:
    """A provisioning session or nothing, never more."""
    login = login_as_imported(CERTIFICATE, [facts(**changes)], 1)
    assert (login.principal, login.refusal, login.provisioning) == (None, refusal, refusal is None)
    if login.factory is not None:
        assert login.factory.suffices == facts(**changes).profile.rotate_on_first_use


def test_a_certificate_outside_its_dates_or_of_two_devices_opens_nothing() -> None:
    """Checked again, whatever the handshake said."""
    assert login_as_imported(CERTIFICATE, [facts()], 2**46).refusal is LoginRefusal.CERTIFICATE
    assert login_as_imported(CERTIFICATE, [facts(), facts()], 1).refusal is LoginRefusal.FACTORY_SHARED


def test_a_chain_names_a_device_by_its_subject() -> None:
    """To come in with, or only to provision; a name that cannot be one is refused, and one of elsewhere too."""
    plain = ChainFacts(Profile(1, "p", Strategy.CERTIFICATE_CHAIN), Chain("", "(gw-.*)"), "default")
    assert fitting_name(plain, CERTIFICATE) == "gw-1"
    arrival = arrive_by_chain(CERTIFICATE, plain, None, " GW-1 ", 1)
    assert isinstance(arrival, ChainArrival)
    assert (arrival.name, arrival.fold) == ("GW-1", "gw-1")
    with pytest.raises(InvalidName):
        arrive_by_chain(CERTIFICATE, plain, None, "gw/1", 1)
    rotating = ChainFacts(ROTATES, Chain("", "(.*)"), "default")
    login = arrive_by_chain(CERTIFICATE, rotating, None, "gw-1", 1)
    assert not isinstance(login, ChainArrival)
    assert login.factory == identity(chain=True)
    elsewhere = arrive_by_chain(CERTIFICATE, rotating, facts(profile=Profile(2, "other")), "gw-1", 1)
    assert not isinstance(elsewhere, ChainArrival)
    assert elsewhere.reason == Reason.OTHER_PROFILE


@given(
    st.sampled_from(LifecycleState),
    st.booleans(),
    st.none() | st.integers(1, 3),
    st.lists(st.sampled_from([CredentialStatus.ISSUED, CredentialStatus.ACTIVE]), max_size=4),
)
def test_a_device_that_logged_in_is_closed_unless_an_operator_opens_it(
    state: LifecycleState, transferred: bool, rotate_from: int | None, statuses: list[CredentialStatus]
) -> None:
    """Whatever else is so: after a transfer never, and when active only while a wished generation is awaited."""
    device = Device(
        "id", "gw-1", "gw-1", 1, state, 0, rotate_from=rotate_from, transferred_ms=1 if transferred else None
    )
    credentials = [
        Credential("id", i + 1, CredentialsType.ACCESS_TOKEN, f"k{i}", "", status) for i, status in enumerate(statuses)
    ]
    opened = is_open(DeviceFacts(device, credentials))
    newest = max((c.generation for c in credentials if c.status is CredentialStatus.ACTIVE), default=0)
    if transferred or state in {LifecycleState.SUSPENDED, LifecycleState.DECOMMISSIONED}:
        assert not opened
    elif state is LifecycleState.ACTIVE:
        assert opened == (rotate_from is not None and newest <= rotate_from)
    else:
        assert opened


def test_refuse_lets_the_same_identity_ask_again_only_by_an_operator(make_world: Callable[..., World]) -> None:
    """The policy holds for factory identities as for secrets; an operator's wish opens it once."""
    world = make_world(
        strategy=Strategy.PRE_PROVISIONED, reprovision=ReprovisionPolicy.REFUSE, rotate_on_first_use=True
    )
    world.add_device("gw-1", factory_key="key-1")
    granted = ask(world, identity())
    assert isinstance(granted, Granted)
    assert reason(world, identity(), token="a-token-of-its-own") is Reason.ALREADY_PROVISIONED
    world.connect(granted)
    world.device().device.rotate_from = 1
    again = ask(world, identity())
    assert isinstance(again, Granted)
    assert again.value != granted.value
