"""Which credentials a device gets, by what it supplies and what its profile says."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from mqttprov.core.credentials import (
    CredentialsRefused,
    Sign,
    claimed_login_keys,
    is_recognisable,
    proof_of,
    wanted_type,
)
from mqttprov.core.model import CredentialsType, Profile
from mqttprov.core.requests import ProvisionRequest, Reason, Refused, SuppliedCertificate, SuppliedCsr
from mqttprov.core.secrets import Keys

if TYPE_CHECKING:
    from tests.core.conftest import World

TOKEN, BASIC, X509 = CredentialsType.ACCESS_TOKEN, CredentialsType.MQTT_BASIC, CredentialsType.X509_CERTIFICATE
CERTIFICATE = SuppliedCertificate("PEM", "fingerprint", "key")
CSR = SuppliedCsr("CSR", "key")


def ask(**fields: Any) -> ProvisionRequest:
    """Make a request."""
    return ProvisionRequest("key", "secret", **fields)


@pytest.mark.parametrize(
    ("fields", "default", "expected"),
    [
        ({}, TOKEN, TOKEN),
        ({}, BASIC, BASIC),
        ({"credentials_type": BASIC}, TOKEN, BASIC),
        ({"token": "t"}, BASIC, TOKEN),
        ({"client_id": "c"}, TOKEN, BASIC),
        ({"password": "p"}, TOKEN, BASIC),
        ({"certificate": CERTIFICATE}, TOKEN, X509),
        ({"csr": CSR}, TOKEN, X509),
        ({"token": "t", "username": "u", "certificate": CERTIFICATE}, X509, TOKEN),
        ({"username": "u", "certificate": CERTIFICATE}, TOKEN, BASIC),
        ({"token": "t", "username": "u", "credentials_type": BASIC}, TOKEN, BASIC),
    ],
)
def test_the_type_follows_what_is_supplied(
    fields: dict[str, Any], default: CredentialsType, expected: CredentialsType
) -> None:
    """The vendor's precedence: token, basic, certificate; what is named wins among what is there."""
    assert wanted_type(ask(**fields), Profile(1, "p", credentials_type=default)) is expected


def test_naming_a_type_and_supplying_another_is_refused() -> None:
    """The text says both, and nothing of what was supplied (P6)."""
    with pytest.raises(CredentialsRefused, match="is X509_CERTIFICATE but the request supplies ACCESS_TOKEN"):
        wanted_type(ask(token="hush-hush", credentials_type=X509), Profile(1, "p"))


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"token": "short"}, "token must have 8 to 255"),
        ({"token": "x" * 256}, "token must have 8 to 255"),
        ({"token": "tab\tinside"}, "token must not hold control"),
        ({"token": "provision"}, "must not be 'provision'"),
        ({"username": "provision", "password": "long-enough"}, "username must not be 'provision'"),
        ({"client_id": "provision"}, "clientId must not be 'provision'"),
        ({"username": "u", "password": "short"}, "password must have 8 to 255"),
        ({"password": "long-enough"}, "a password needs a username"),
        ({"client_id": "c", "password": "long-enough"}, "a password needs a username"),
        ({"credentials_type": X509}, "needs a certificate"),
        ({"csr": CSR}, "needs a certificate"),  # there is no authority in this world
    ],
)
def test_credentials_that_cannot_be_used_are_refused(world: World, fields: dict[str, Any], why: str) -> None:
    """Bounded, printable, strong enough, and never the way into a provisioning session (P9); no use is burnt (P1)."""
    decision = world.decide(world.request(**fields))
    assert isinstance(decision.outcome, Refused)
    assert decision.outcome.reason is Reason.BAD_CREDENTIALS
    assert why in decision.outcome.text
    assert decision.effects == ()
    assert world.facts.tokens["default"].used == 0


def test_a_profile_may_allow_shorter_secrets(make_world: Callable[..., World]) -> None:
    """At least 8 characters unless the profile allows less (DESIGN 5.11)."""
    world = make_world(min_secret_chars=1)
    assert world.grant(world.request(token="abc")).value == "abc"


def test_nothing_supplied_gives_a_token_of_ours(world: World) -> None:
    """Entropy of ours, and nothing of it in the facts (P6)."""
    granted = world.grant(world.request())
    assert granted.type is TOKEN
    assert granted.value == world.keys.derived_access_token(granted.device_id, 1)
    assert world.live()[0].supplied is False


def test_what_basic_credentials_lack_is_filled_in(world: World) -> None:
    """Never an identity without a secret: the device id as user name, a password of ours, the client id kept."""
    granted = world.grant(world.request(client_id="c1"))
    assert (granted.username, granted.client_id) == (granted.device_id, "c1")
    assert granted.value == world.keys.derived_password(granted.device_id, 1)


def test_supplied_basic_credentials_come_back_as_they_are(world: World) -> None:
    """All three, as the vendor's gateway needs them (thingsboard.md rule 10)."""
    granted = world.grant(world.request(client_id="c1", username="u1", password="pass-word"))
    assert (granted.client_id, granted.username, granted.value) == ("c1", "u1", "pass-word")


def test_a_certificate_is_kept_and_told_as_it_is(world: World) -> None:
    """X.509: what the device brought, found later by its fingerprint."""
    granted = world.grant(world.request(certificate=CERTIFICATE))
    assert (granted.type, granted.value) == (X509, "PEM")
    assert world.live()[0].public_key == "key"


def test_a_csr_is_signed_for_the_device(world: World, signer: Sign) -> None:
    """The authority is asked for this device, with entropy of the request; a retry gets the same certificate (P4)."""
    world.sign = signer
    granted = world.grant(world.request(csr=CSR))
    assert granted.value.startswith(f"certificate of gw-1 ({granted.device_id}) for CSR")
    again = world.grant(world.request(csr=SuppliedCsr("another signature", "key")))
    assert again.value == granted.value


def test_the_proof_tells_every_field_that_counts() -> None:
    """Equal key, secret, name and credentials, or the same public key, and nothing else (P4)."""
    keys = Keys(pepper=b"p" * 32, issuing_key=b"i" * 32)
    base = ask()
    proofs = [
        proof_of(keys, base, "gw", base="b"),
        proof_of(keys, base, "gx", base="b"),
        proof_of(keys, base, None, base="b"),
    ]
    for field, value in {"token": "t", "username": "t", "password": "t", "client_id": "t", "credentials_type": TOKEN,
                         "certificate": CERTIFICATE, "csr": CSR}.items():  # fmt: skip
        proofs.append(proof_of(keys, ask(**{field: value}), "gw", base="b"))
    proofs.append(proof_of(keys, ProvisionRequest("key2", "secret"), "gw", base="b"))
    proofs.append(proof_of(keys, base, "gw", base="another secret"))
    assert len(set(proofs)) == len(proofs)
    assert proof_of(keys, ask(request_id="r", gateway=True, labels={"a": "b"}), "gw", base="b") == proofs[0]
    assert proof_of(keys, ask(request_id="r"), None, base="b") != proofs[2]
    assert proof_of(keys, ask(csr=SuppliedCsr("other", "key")), "gw", base="b") == proof_of(
        keys, ask(csr=CSR), "gw", base="b"
    )


def test_a_nameless_request_is_recognised_by_what_it_brings() -> None:
    """Key and secret alone are shared by the whole factory and recognise nobody."""
    assert not is_recognisable(ask())
    for field, value in {"token": "t", "username": "u", "client_id": "c", "certificate": CERTIFICATE, "csr": CSR,
                         "request_id": "r"}.items():  # fmt: skip
        assert is_recognisable(ask(**{field: value})), field


@pytest.mark.parametrize(
    "fields",
    [{"token": "a-token-of-mine"}, {"username": "u", "password": "pass-word"}, {"username": "u", "client_id": "c"},
     {"certificate": CERTIFICATE}],
)  # fmt: skip
def test_every_login_that_a_request_can_take_is_claimed_for_loading(world: World, fields: dict[str, Any]) -> None:
    """A store that loads the claimed logins sees every collision with another device."""
    request = world.request(**fields)
    world.grant(request)
    assert world.live()[0].login_key in claimed_login_keys(request, world.keys)
