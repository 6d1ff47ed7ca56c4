"""Operator actions: each changes one thing and leaves exactly one event of it."""

from collections.abc import Callable
from typing import Any

import pytest
from tests.responder.desk import NOW_MS, Answers, Desk

from mqttprov.core.limits import MAX_REGISTRATIONS
from mqttprov.core.login import operator_verifier
from mqttprov.core.model import LifecycleState, OperatorRole, Profile
from mqttprov.core.names import InvalidName
from mqttprov.core.requests import Granted, Reason, Refused
from mqttprov.responder.administration import Administration, NotFound, TokenChange
from mqttprov.store.protocol import Conflict

Action = Callable[[Administration], Any]

ACTIONS: list[tuple[Action, list[str]]] = [
    (lambda a: a.create_profile(Profile(0, "plant")), ["profile-created", "token-created"]),
    (lambda a: a.create_token("default", None, TokenChange()), ["token-created"]),
    (lambda a: a.update_token("default", None, TokenChange(max_registrations=5)), ["token-updated"]),
    (lambda a: a.revoke_token("default", "default"), ["token-revoked"]),
    (lambda a: a.create_device("default", "gw-1", "anna", {"line": "A"}), ["device-created"]),
    (lambda a: a.create_operator("anna", OperatorRole.OBSERVER), ["operator-created"]),
]

REFUSED: list[tuple[Action, type[Exception]]] = [
    (lambda a: a.create_profile(Profile(0, "DEFAULT")), Conflict),
    (lambda a: a.create_profile(Profile(0, "a/b")), InvalidName),
    (lambda a: a.create_profile(Profile(0, "x", publish_topics=("#",))), InvalidName),
    (lambda a: a.create_profile(Profile(0, "x", subscribe_topics=("v1/x",))), InvalidName),
    (lambda a: a.create_profile(Profile(0, "x", label_keys=("not good",))), InvalidName),
    (lambda a: a.create_profile(Profile(0, "x", min_secret_chars=0)), InvalidName),
    (lambda a: a.create_profile(Profile(0, "x", min_secret_chars=10**30)), InvalidName),
    (lambda a: a.create_token("nobody", None, TokenChange()), NotFound),
    (lambda a: a.create_token("default", "Default", TokenChange()), Conflict),
    (lambda a: a.create_token("default", "a#b", TokenChange()), InvalidName),
    (lambda a: a.create_token("default", None, TokenChange(max_registrations=0)), InvalidName),
    (lambda a: a.create_token("default", None, TokenChange(max_registrations=MAX_REGISTRATIONS + 1)), InvalidName),
    (lambda a: a.create_token("default", None, TokenChange(labels={"": "x"})), InvalidName),
    (lambda a: a.create_token("default", None, TokenChange(device_name_pattern="")), InvalidName),
    (lambda a: a.update_token("nothing", None, TokenChange()), NotFound),
    (lambda a: a.revoke_token("nothing", None), NotFound),
    (lambda a: a.create_device("nobody", "gw-1", None, {}), NotFound),
    (lambda a: a.create_device("default", "gw+1", None, {}), InvalidName),
    (lambda a: a.create_device("default", "gw-1", "a\nb", {}), InvalidName),
    (lambda a: a.create_device("default", "gw-1", None, {"a": "\x1b[2J"}), InvalidName),
    (lambda a: a.create_operator("", OperatorRole.OPERATOR), InvalidName),
    (lambda a: a.create_operator("_responder", OperatorRole.OPERATOR), InvalidName),
    (lambda a: a.rotate_operator("_responder"), InvalidName),
    (lambda a: a.remove_operator("provision"), InvalidName),
    (lambda a: a.rotate_operator("nobody"), NotFound),
    (lambda a: a.remove_operator("nobody"), NotFound),
]


@pytest.mark.parametrize(("action", "kinds"), ACTIONS)
def test_an_action_leaves_one_event_for_each_thing_it_made(desk: Desk, action: Action, kinds: list[str]) -> None:
    """Every operator action is in the audit chain, with who did it (P5)."""
    before = desk.events()[-1].seq
    action(desk.administration)
    assert desk.kinds_after(before) == kinds
    assert all('"actor":"cli:test"' in event.body for event in desk.events())


@pytest.mark.parametrize(("action", "error"), REFUSED)
def test_an_action_that_is_refused_changes_nothing(desk: Desk, action: Action, error: type[Exception]) -> None:
    """What cannot be done leaves neither a change nor an event (P5)."""
    before = desk.events()[-1].seq
    with pytest.raises(error):
        action(desk.administration)
    assert desk.kinds_after(before) == []
    assert [len(desk.reader.profiles()), len(desk.reader.tokens()), len(list(desk.reader.devices()))] == [1, 1, 0]


def test_initialising_again_changes_nothing(desk: Desk) -> None:
    """A state that has profiles is left as it is."""
    before = desk.events()
    assert desk.administration.initialise() is None
    assert desk.events() == before


def test_secrets_are_told_once_and_show_nowhere(desk: Desk) -> None:
    """A token's secret is in what creating returns, not in its repr, and not in the database (P6)."""
    issued = desk.administration.create_token("default", "line", TokenChange())
    password = desk.administration.create_operator("anna", OperatorRole.OPERATOR)
    assert issued.secret not in repr(issued)
    content = b"".join(p.read_bytes() for p in desk.state.path.glob("mqttprov.db*"))
    assert issued.key.encode() in content
    assert issued.secret.encode() not in content
    assert password.encode() not in content


def test_a_password_ends_when_its_login_is_rotated_removed_or_made_again(desk: Desk) -> None:
    """Of all passwords that a name ever had the newest alone is good, and none when it is removed; each is an event."""
    admin = desk.administration

    def verifier() -> str | None:
        with desk.state.store.write() as transaction:
            found = transaction.reader().find_operator("anna")
        return None if found is None else found.verifier

    before = desk.events()[-1].seq
    passwords = [admin.create_operator("anna", OperatorRole.OBSERVER)]
    for renew in (admin.rotate_operator, lambda name: admin.create_operator(name, OperatorRole.OPERATOR)):
        passwords.append(renew("anna"))
        good = [verifier() == operator_verifier(desk.state.keys, "anna", each) for each in passwords]
        assert good == [False] * (len(passwords) - 1) + [True]
        if len(passwords) == 2:
            admin.remove_operator("anna")
            assert verifier() is None
    assert desk.kinds_after(before) == ["operator-created", "operator-rotated", "operator-removed", "operator-created"]


def test_a_name_that_several_profiles_use_must_be_told_apart(desk: Desk) -> None:
    """Every profile has a token 'default': without profile or key it is a conflict, and nothing is revoked."""
    issued = desk.administration.create_profile(Profile(0, "plant"))
    with pytest.raises(Conflict, match="default, plant"):
        desk.administration.revoke_token("default", None)
    assert desk.administration.revoke_token(issued.key, None).profile == "plant"
    with pytest.raises(Conflict, match="revoked already"):
        desk.administration.revoke_token("default", "plant")


def test_a_changed_token_is_what_the_next_request_meets(desk: Desk) -> None:
    """Limit, labels, pattern, expiry and revocation hold from the commit on (P1)."""
    answers, processor = Answers(), desk.processor()

    def ask(name: str) -> Granted | Refused:
        return answers.deliver(processor.process([answers.job(desk.request(name))]))[-1]  # type: ignore[no-any-return] # told values are loosely typed

    change = TokenChange(
        max_registrations=1, labels={"line": "B"}, device_name_pattern="GW-*", expires_ms=NOW_MS + 1000
    )
    row = desk.administration.update_token("default", None, change)
    assert (row.max_registrations, row.labels, row.device_name_pattern) == (1, {"line": "B"}, "GW-*")
    assert isinstance(ask("gw-1"), Granted)
    assert next(desk.reader.devices()).labels == {"line": "B"}
    refusals = [ask("other"), ask("gw-2")]
    desk.now_ms = NOW_MS + 1000
    refusals.append(ask("gw-2"))
    assert isinstance(ask("gw-1"), Granted)  # its answer may have been lost (P4)
    desk.administration.revoke_token("default", None)
    refusals.append(ask("gw-1"))
    reasons = [outcome.reason for outcome in refusals if isinstance(outcome, Refused)]
    assert reasons == [Reason.NAME_NOT_ALLOWED, Reason.EXHAUSTED, Reason.EXPIRED, Reason.REVOKED]
    lifted = desk.administration.update_token("default", None, TokenChange(max_registrations=None, expires_ms=None))
    assert (lifted.max_registrations, lifted.expires_ms, lifted.labels) == (None, None, {"line": "B"})


def test_a_made_device_waits_to_be_provisioned(desk: Desk) -> None:
    """A manufactured device keeps owner and labels and its name cannot be made twice, whatever the case (P8)."""
    device = desk.administration.create_device("default", " Gateway 1 ", "anna", {"line": "A"})
    assert (device.name, device.state) == ("Gateway 1", LifecycleState.MANUFACTURED)
    with pytest.raises(Conflict, match="Gateway 1"):
        desk.administration.create_device("default", "GATEWAY 1", None, {})
    answers = Answers()
    answers.deliver(desk.processor().process([answers.job(desk.request("gateway 1"))]))
    (row,) = desk.reader.devices()
    assert (row.name, row.state, row.owner, row.id) == ("Gateway 1", "provisioned", "anna", device.id)
