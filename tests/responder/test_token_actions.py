"""Registration tokens by the thousand, rotated, and revoked with what they registered."""

from collections.abc import Sequence

import pytest
from tests.responder.desk import NOW_MS, Answers, Desk

from mqttprov.core.login import Login, LoginAttempt, LoginRefusal
from mqttprov.core.names import InvalidName
from mqttprov.core.requests import Granted, Reason, Refused
from mqttprov.responder.acting import PartlyMade
from mqttprov.responder.administration import IssuedToken, TokenChange
from mqttprov.responder.jobs import LoginJob
from mqttprov.store.protocol import Conflict


def ask(desk: Desk, name: str, **fields: str) -> Granted | Refused:
    """Give the outcome of a request with the first token."""
    answers = Answers()
    request = desk.request(name)
    request = type(request)(request.key, fields.get("secret", request.secret), name)
    return answers.deliver(desk.processor().process([answers.job(request)]))[-1]  # type: ignore[no-any-return] # told values are loosely typed


def granted(desk: Desk, name: str) -> Granted:
    """Provision a device."""
    outcome = ask(desk, name)
    assert isinstance(outcome, Granted)
    return outcome


class TestRotate:
    """`rotate_token`."""

    def test_the_old_secret_works_until_the_overlap_ends(self, desk: Desk) -> None:
        """Key, uses and devices stay; the exact end is in the listed row; one event tells it (P5)."""
        first = granted(desk, "gw-1")
        before = desk.events()[-1].seq
        issued = desk.administration.rotate_token("default", None, overlap_ms=1000)
        assert desk.kinds_after(before) == ["token-rotated"]
        assert issued.key == desk.token.key
        (row,) = desk.reader.tokens()
        assert (row.used, row.old_secret_until_ms) == (1, NOW_MS + 1000)
        again = ask(desk, "gw-1"), ask(desk, "gw-1", secret=issued.secret)
        assert [outcome.value for outcome in again if isinstance(outcome, Granted)] == [first.value] * 2  # P4
        desk.now_ms += 1000
        late = ask(desk, "gw-2")
        assert isinstance(late, Refused)
        assert late.reason is Reason.WRONG_SECRET
        assert isinstance(ask(desk, "gw-2", secret=issued.secret), Granted)

    def test_without_overlap_the_old_secret_ends_with_the_commit(self, desk: Desk) -> None:
        """The token `default` rotates like any other; the new secret is nowhere at rest (P6)."""
        issued = desk.administration.rotate_token("default", None)
        refused = ask(desk, "gw-1")
        assert isinstance(refused, Refused)
        assert refused.reason is Reason.WRONG_SECRET
        assert isinstance(ask(desk, "gw-1", secret=issued.secret), Granted)
        content = b"".join(p.read_bytes() for p in desk.state.path.glob("mqttprov.db*"))
        assert issued.secret.encode() not in content

    def test_only_two_secrets_are_ever_good(self, desk: Desk) -> None:
        """Rotating within an overlap ends the oldest; proofs outlive it (P4)."""
        first = granted(desk, "gw-1")
        second = desk.administration.rotate_token("default", None, overlap_ms=1000)
        third = desk.administration.rotate_token("default", None, overlap_ms=1000)
        assert isinstance(ask(desk, "gw-1"), Refused)
        for secret in (second.secret, third.secret):
            outcome = ask(desk, "gw-1", secret=secret)
            assert isinstance(outcome, Granted)
            assert outcome.value == first.value

    def test_a_revoked_token_stays_revoked(self, desk: Desk) -> None:
        """It gets no new secret."""
        desk.administration.revoke_token("default", None)
        with pytest.raises(Conflict, match="revoked"):
            desk.administration.rotate_token("default", None)


class TestRevokeWithDevices:
    """`revoke_token_with_devices`."""

    def test_suspends_what_the_token_registered_and_nothing_else(self, desk: Desk) -> None:
        """One event for the token and one for each device; nobody of them logs in any more (P5, P7)."""
        held = [granted(desk, f"gw-{i}") for i in range(3)]
        desk.administration.create_device("default", "other", None, {})
        before = desk.events()[-1].seq
        row, suspended = desk.administration.revoke_token_with_devices("default", None)
        assert (row.revoked_ms, suspended) == (NOW_MS, 3)
        assert desk.kinds_after(before) == ["token-revoked", *["suspended"] * 3]
        states = {device.name: device.state for device in desk.reader.devices()}
        assert states == {"gw-0": "suspended", "gw-1": "suspended", "gw-2": "suspended", "other": "manufactured"}
        answers = Answers()
        jobs = [LoginJob(LoginAttempt("", g.value), "10.0.0.1", answers.told.append) for g in held]
        logins: list[Login] = answers.deliver(desk.processor().process(jobs))
        assert [login.refusal for login in logins] == [LoginRefusal.STATE] * 3

    def test_can_be_completed(self, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
        """What was interrupted goes on where it stopped, beyond one transaction; done twice it changes nothing."""
        monkeypatch.setattr("mqttprov.responder.token_actions._DEVICES_PER_TRANSACTION", 2)
        for i in range(5):
            granted(desk, f"gw-{i}")
        desk.administration.revoke_token("default", None)
        assert desk.administration.revoke_token_with_devices("default", None)[1] == 5
        before = desk.events()
        assert desk.administration.revoke_token_with_devices("default", None)[1] == 0
        assert desk.events() == before


class TestMany:
    """`create_tokens`."""

    def test_each_is_a_token_with_an_event_of_its_own(self, desk: Desk) -> None:
        """Named in order, told before its commit, revocable alone (P5)."""
        told: list[IssuedToken] = []
        before = desk.events()[-1].seq
        settings = TokenChange(max_registrations=1)
        desk.administration.create_tokens("default", "lot", 12, settings, told.extend)
        assert [t.name for t in told] == [f"lot-{i:02}" for i in range(1, 13)]
        assert desk.kinds_after(before) == ["token-created"] * 12
        assert {row.max_registrations for row in desk.reader.tokens() if row.name != "default"} == {1}
        desk.administration.revoke_token("lot-03", None)
        assert [row.name for row in desk.reader.tokens() if row.revoked_ms] == ["lot-03"]

    def test_an_error_leaves_what_was_committed(self, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
        """It says how many exist; what was told later does not."""
        monkeypatch.setattr("mqttprov.responder.token_actions._TOKENS_PER_TRANSACTION", 2)
        desk.administration.create_token("default", "lot-4", TokenChange())
        told: list[IssuedToken] = []
        with pytest.raises(PartlyMade, match="2 of 5") as failure:
            desk.administration.create_tokens("default", "lot", 5, TokenChange(), told.extend)
        assert failure.value.made == 2
        names = {row.name for row in desk.reader.tokens()}
        assert names == {"default", "lot-1", "lot-2", "lot-4"}

    def test_nothing_is_made_that_nobody_was_told(self, desk: Desk) -> None:
        """If the secrets cannot be written down, the tokens do not exist."""

        def full(_: Sequence[IssuedToken]) -> None:
            raise OSError(28, "no space left")

        before = desk.events()
        with pytest.raises(OSError, match="no space"):
            desk.administration.create_tokens("default", "lot", 5, TokenChange(), full)
        assert desk.events() == before
        for count in (0, 100_001):
            with pytest.raises(InvalidName, match="at once"):
                desk.administration.create_tokens("default", None, count, TokenChange(), full)
