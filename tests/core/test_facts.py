"""Effects, one by one: what the next decision of the same transaction sees."""

import pytest

from mqttprov.core.facts import (
    ActivateCredential,
    CountRegistration,
    CreateDevice,
    Facts,
    IssueCredential,
    ProvisionDevice,
    SupersedeCredentials,
)
from mqttprov.core.model import (
    Credential,
    CredentialStatus,
    CredentialsType,
    Device,
    LifecycleState,
    Profile,
    Token,
)


@pytest.fixture
def facts() -> Facts:
    """One token and one device without credentials."""
    made = Facts({"key": Token(7, Profile(1, "p"), "default", "key", "v", max_registrations=2)}, {}, {})
    CreateDevice(Device("id", "GW", "gw", 1, LifecycleState.MANUFACTURED, 1)).apply(made)
    return made


def credential(generation: int, login_key: str) -> Credential:
    """Make a credential of the device."""
    return Credential("id", generation, CredentialsType.ACCESS_TOKEN, login_key, "proof")


def test_a_created_device_is_known_by_its_fold(facts: Facts) -> None:
    """Without credentials or registrations, and sharing nothing with another one."""
    CreateDevice(Device("id2", "X", "x", 1, LifecycleState.MANUFACTURED, 1)).apply(facts)
    IssueCredential("x", credential(1, "a")).apply(facts)
    known = facts.devices["gw"]
    assert (known.credentials, known.registered_by, known.last_generation) == ([], set(), 0)


def test_a_registration_is_counted_for_token_and_device(facts: Facts) -> None:
    """The next request of the batch sees the use (P1)."""
    CountRegistration(7, "key", "id", "gw", 1).apply(facts)
    assert facts.tokens["key"].used == 1
    assert facts.devices["gw"].registered_by == {7}


def test_provisioning_moves_the_device_on(facts: Facts) -> None:
    """State, labels, token and kind of device."""
    ProvisionDevice("id", "gw", LifecycleState.PROVISIONED, {"a": "b"}, 7, gateway=True).apply(facts)
    device = facts.devices["gw"].device
    assert (device.state, device.labels, device.token_id, device.gateway) == ("provisioned", {"a": "b"}, 7, True)


def test_an_issued_credential_takes_its_login(facts: Facts) -> None:
    """Another device of the same batch finds it taken."""
    IssueCredential("gw", credential(3, "login")).apply(facts)
    assert facts.logins == {"login": "id"}
    assert facts.devices["gw"].last_generation == 3


def test_a_first_login_activates_one_generation(facts: Facts) -> None:
    """And the device with it."""
    ProvisionDevice("id", "gw", LifecycleState.PROVISIONED, {}, 7, gateway=False).apply(facts)
    IssueCredential("gw", credential(1, "a")).apply(facts)
    IssueCredential("gw", credential(2, "b")).apply(facts)
    ActivateCredential("id", "gw", 2, 99).apply(facts)
    statuses = [(c.status, c.first_login_ms) for c in facts.devices["gw"].credentials]
    assert statuses == [(CredentialStatus.ISSUED, None), (CredentialStatus.ACTIVE, 99)]
    assert facts.devices["gw"].device.state is LifecycleState.ACTIVE


def test_superseding_frees_logins_that_no_other_generation_holds(facts: Facts) -> None:
    """Two generations may share a login with different passwords; the login is free when both are gone."""
    for generation, login in [(1, "shared"), (2, "own"), (3, "shared")]:
        IssueCredential("gw", credential(generation, login)).apply(facts)
    SupersedeCredentials("id", "gw", (1, 2)).apply(facts)
    assert facts.logins == {"shared": "id"}
    assert [c.generation for c in facts.devices["gw"].credentials] == [3]
    SupersedeCredentials("id", "gw", (3,)).apply(facts)
    assert facts.logins == {}
    assert facts.devices["gw"].last_generation == 3
