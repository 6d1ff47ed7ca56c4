"""Events in plain sentences: every kind and every reason has its own, and nothing of a stranger becomes a command."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqttprov.core.audit import Event, EventKind
from mqttprov.core.explain import advice, sentence, state_sentence
from mqttprov.core.factory import BY_CHAIN, BY_FACTORY_IDENTITY
from mqttprov.core.login import LoginRefusal
from mqttprov.core.model import LifecycleState
from mqttprov.core.requests import Reason

FULL = Event(
    EventKind.PROVISIONED, 1, "cli:anna", source="10.0.0.1", ref="r", device="gw-1", device_id="d", profile="plant",
    token="lot7", credentials_type="ACCESS_TOKEN", generation=2, registration=3, count=17, text="role x",
)  # fmt: skip
# What is told to the device at once and leaves no event of its own.
WITHOUT_EVENT = {Reason.LIMITED, Reason.OVERLOADED, Reason.INTERNAL}
REASONS = sorted(set(Reason) - WITHOUT_EVENT)


def told(**fields: object) -> str:
    """Say an event with these fields."""
    return sentence(msgspec.structs.replace(FULL, **fields))


@pytest.mark.parametrize("kind", list(EventKind))
def test_every_kind_is_one_sentence_of_its_own(kind: EventKind) -> None:
    """With everything that an event can hold, and with nothing but what it must hold."""
    others = {told(kind=other, reason="x") for other in EventKind if other is not kind}
    text = told(kind=kind, reason="x")
    assert text not in others
    assert (text[-1], "\n" in text, "None" in text) == (".", False, False)
    assert sentence(Event(kind, 1, "device"))


@pytest.mark.parametrize("reason", REASONS)
def test_every_refusal_says_why_and_what_to_do(reason: Reason) -> None:
    """No two reasons read the same, and none leaves the operator alone."""
    refused = msgspec.structs.replace(FULL, kind=EventKind.REFUSED, reason=reason)
    assert "was refused: " in sentence(refused)
    assert "the reason is" not in sentence(refused)
    assert sentence(refused) not in {told(kind=EventKind.REFUSED, reason=r) for r in REASONS if r != reason}
    text = advice(refused)
    assert text
    assert "{" not in text + sentence(refused)


@pytest.mark.parametrize("refusal", sorted(set(LoginRefusal) - {LoginRefusal.UNAVAILABLE}))
def test_every_refused_login_says_how_and_what_to_do(refusal: LoginRefusal) -> None:
    """In one sentence for all of a source."""
    text = told(kind=EventKind.LOGIN_REFUSED, reason=refusal)
    assert text.startswith("17 logins from 10.0.0.1 ")
    assert "for the reason" not in text
    assert advice(msgspec.structs.replace(FULL, kind=EventKind.LOGIN_REFUSED, reason=refusal))


def test_sentences_say_who_what_when_and_how_often() -> None:
    """Examples, as a person reads them."""
    assert told() == (
        "'gw-1' asked from 10.0.0.1 with registration token 'lot7' of profile 'plant', registration 3 of it, and was "
        "given its first credentials, an access token (generation 2)."
    )
    assert told(text=BY_CHAIN) == (
        "'gw-1' connected from 10.0.0.1 with its certificate chain, which stands for registration token 'lot7' of "
        "profile 'plant', registration 3 of it: the certificate is now its credential (generation 2), and it is active."
    )
    assert "with its factory identity, which stands for" in told(text=BY_FACTORY_IDENTITY)
    assert told(kind=EventKind.REFUSED, reason=Reason.EXHAUSTED) == (
        "A request from 10.0.0.1 as 'gw-1' with registration token 'lot7' of profile 'plant' was refused: the "
        "registration token has reached its limit."
    )
    labelled = {"kind": EventKind.LABELLED, "actor": "cli:anna", "text": None}
    assert told(**labelled, labels={"site": "b", "line": "A"}) == (
        "cli:anna labelled 'gw-1'; it now has line=A, site=b."
    )
    assert told(**labelled, labels={}).endswith("it now has no labels.")
    assert told(kind=EventKind.OWNER_ASSIGNED, to_owner="ACME", text="sold") == (
        "cli:anna gave 'gw-1', which had no owner, to owner 'ACME' (sold)."
    )
    assert told(kind=EventKind.TAKEN_OVER) == (
        "17 takeovers from 10.0.0.1 of the session of 'gw-1': two connections use one client id."
    )
    assert told(kind=EventKind.LOGIN_REFUSED, reason="superseded", count=1) == (
        "1 login from 10.0.0.1 with superseded credentials of 'gw-1' (generation 2) was refused."
    )
    assert told(kind=EventKind.LIMITED, count=1).startswith("1 request from 10.0.0.1 was turned away")
    assert told(kind=EventKind.LOGIN_REFUSED, reason="unknown", source=None).startswith(
        "17 logins from further sources "
    )


def test_what_needs_nothing_has_no_advice() -> None:
    """Advice is for refusals."""
    for kind in set(EventKind) - {EventKind.REFUSED, EventKind.LIMITED, EventKind.LOGIN_REFUSED}:
        assert advice(msgspec.structs.replace(FULL, kind=kind)) is None
    assert advice(msgspec.structs.replace(FULL, kind=EventKind.LIMITED))
    assert advice(msgspec.structs.replace(FULL, kind=EventKind.REFUSED, reason="of a newer release")) is None


@given(st.sampled_from(REASONS), st.text(min_size=1, max_size=20))
def test_a_name_that_a_device_chose_is_never_part_of_a_command(reason: Reason, name: str) -> None:
    """Advice is pasted into shells: it says NAME where the name is a stranger's."""
    event = msgspec.structs.replace(FULL, kind=EventKind.REFUSED, reason=reason, device=name)
    assert advice(event) == advice(msgspec.structs.replace(event, device="gw-1"))


def test_a_state_is_explained_with_owner_and_profile() -> None:
    """Why a device is as it is, and whose."""
    texts = {state_sentence("gw-1", state, "plant", None) for state in LifecycleState}
    assert len(texts) == len(LifecycleState)
    assert all("has no owner" in text and "see its story" not in text for text in texts)
    assert "belongs to 'ACME'" in state_sentence("gw-1", "active", "plant", "ACME")
