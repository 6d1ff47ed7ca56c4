"""The responder as a broker uses it: bytes in, private bytes out; logins in, principals out."""

import logging
import sqlite3
from collections import Counter as Counted

import msgspec
import pytest
from tests.responder.desk import Counter, Desk

from mqttprov.core.audit import parse_body
from mqttprov.core.login import Login, LoginAttempt, LoginRefusal
from mqttprov.core.model import OperatorRole
from mqttprov.core.requests import Reason, Refused
from mqttprov.responder import pipeline
from mqttprov.responder.limiter import PER_SOURCE, PER_SOURCE_AND_KEY


def log_in(counter: Counter, username: str | None, password: str | None = None, client_id: str = "") -> list[Login]:
    """Try a login; give the answers, of which there must be one at most."""
    answers: list[Login] = []
    counter.responder.login(LoginAttempt(client_id, username, password), "10.0.0.1", answers.append)
    return answers


class TestRequests:
    """Provisioning requests."""

    def test_a_request_is_answered_after_its_commit(self, desk: Desk) -> None:
        """The reply is ThingsBoard's and comes through the broker's thread, when the device is in the store (P2)."""
        counter = Counter(desk)
        counter.ask(counter.payload("gw-1"))
        assert counter.replies == []
        (reply,) = counter.settle()
        assert reply["status"] == "SUCCESS"
        assert reply["credentialsType"] == "ACCESS_TOKEN"
        assert [row.name for row in desk.reader.devices()] == ["gw-1"]
        counter.responder.release()

    def test_a_repeated_request_gets_the_same_answer_after_a_restart(self, desk: Desk) -> None:
        """A lost reply costs nothing: same proof, same credentials, no second use, also after a restart (P1, P4)."""
        replies = []
        for _ in range(2):
            counter = Counter(desk)
            counter.ask(counter.payload("gw-1"))
            replies += counter.settle()
            counter.responder.release()
        assert replies[0]["credentialsValue"] == replies[1]["credentialsValue"]
        assert desk.reader.tokens()[0].used == 1

    def test_the_reply_is_encoded_as_the_request_was(self, desk: Desk) -> None:
        """A msgpack request gets a msgpack reply."""
        counter = Counter(desk)
        received: list[bytes] = []
        payload = msgspec.msgpack.encode(msgspec.json.decode(counter.payload("gw-1")))
        counter.responder.request(payload, "10.0.0.1", lambda content, outcome: received.append(content))
        counter.settle()
        assert msgspec.msgpack.decode(received[0])["status"] == "SUCCESS"
        counter.responder.release()

    def test_a_full_queue_is_told_at_once(self, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
        """Past the queue's bound the answer is FAILURE with retryAfter, without waiting (P9)."""
        monkeypatch.setattr(pipeline, "MAX_QUEUED", 0)
        counter = Counter(desk)
        counter.ask(counter.payload("gw-1"))
        assert (counter.replies[0]["status"], counter.replies[0]["retryAfter"]) == ("FAILURE", 2)
        counter.settle()
        counter.responder.release()

    def test_guessing_is_slowed_down_and_recorded_once(self, desk: Desk) -> None:
        """Refused attempts lock their source out; what was turned away is one event with a count (P5, P9)."""
        counter = Counter(desk)
        guess = counter.payload(provisionDeviceSecret="guess")
        for number in range(PER_SOURCE.burst):
            counter.ask(guess.replace(b'"provisionDeviceKey":"', b'"provisionDeviceKey":"%d-' % number))
        counter.settle()
        locked = len(counter.outcomes)
        for _ in range(3):
            counter.ask(counter.payload("gw-1"))
        refused = counter.outcomes[locked:]
        assert [o.reason for o in refused if isinstance(o, Refused)] == [Reason.LIMITED] * 3
        assert counter.replies[-1]["retryAfter"] > 0
        counter.responder.release()

        second = Counter(desk)
        second.responder._limiter = counter.responder._limiter
        second.ask(second.payload("gw-1"))
        second.ask(second.payload("gw-1"), source="10.0.0.2")
        second.settle()
        assert [reply["status"] for reply in second.replies] == ["FAILURE", "SUCCESS"]
        (event,) = [e for e in desk.events() if e.kind == "limited"]
        assert '"count":1' in event.body
        second.responder.release()

    def test_guesses_that_come_at_once_are_judged_no_further_than_the_burst(self, desk: Desk) -> None:
        """The right secret among them as well: it is not looked at (P9)."""
        counter = Counter(desk)
        guess = counter.payload("gw-1", provisionDeviceSecret="guess")
        for _ in range(2 * PER_SOURCE_AND_KEY.burst):
            counter.ask(guess)
        counter.ask(counter.payload("gw-1"))
        counter.ask(counter.payload("gw-2"), source="10.0.0.2")
        counter.settle()
        counter.responder.release()
        reasons = Counted(o.reason if isinstance(o, Refused) else "granted" for o in counter.outcomes)
        burst = PER_SOURCE_AND_KEY.burst
        assert reasons == {Reason.WRONG_SECRET: burst, Reason.LIMITED: burst + 1, "granted": 1}
        assert Counted(event.kind for event in desk.events())["refused"] == burst


class TestLogins:
    """Logins with operational credentials."""

    def provisioned(self, desk: Desk, **fields: str) -> str:
        """Provision gw-1; give its access token."""
        counter = Counter(desk)
        counter.ask(counter.payload("gw-1", **fields))
        value = counter.settle()[0]["credentialsValue"]
        counter.responder.release()
        assert isinstance(value, str)
        return value

    def test_the_first_login_is_recorded_before_it_is_answered(self, desk: Desk) -> None:
        """The first login activates the credential durably; the next ones need no commit (P2)."""
        token = self.provisioned(desk)
        counter = Counter(desk)
        answers = log_in(counter, token)
        assert answers == []
        counter.settle()
        counter.responder.release()
        seq = desk.reader.head().seq
        assert answers[0].principal is not None
        assert answers[0].principal.name == "gw-1"
        assert desk.reader.states() == {"active": 1}
        counter = Counter(desk)
        again = log_in(counter, token)
        counter.settle()
        assert again[0].principal == answers[0].principal
        assert desk.kinds_after(seq) == []
        counter.responder.release()

    @pytest.mark.parametrize(
        ("username", "password", "refusal"),
        [
            (None, None, LoginRefusal.ANONYMOUS),
            ("", "", LoginRefusal.ANONYMOUS),
            ("nobody", None, LoginRefusal.UNKNOWN),
            ("nobody", "nothing", LoginRefusal.UNKNOWN),
            ("anna", "guess", LoginRefusal.WRONG_PASSWORD),
        ],
    )
    def test_what_opens_nothing_is_refused_and_counted(
        self, desk: Desk, username: str | None, password: str | None, refusal: LoginRefusal
    ) -> None:
        """Anonymous, unknown and wrong logins change nothing; all of a source are one event (P5, P7, P9)."""
        desk.administration.create_operator("anna", OperatorRole.OBSERVER)
        counter = Counter(desk)
        seq = desk.reader.head().seq
        first, second = log_in(counter, username, password), log_in(counter, username, password)
        counter.settle()
        counter.responder.finish()
        assert {(login.principal, login.refusal) for login in first + second} == {(None, refusal)}
        assert desk.kinds_after(seq) == ["login-refused"]
        _, event = parse_body(desk.events()[-1].body)
        assert (event.source, event.count, event.reason) == ("10.0.0.1", 2, refusal)
        counter.responder.release()

    def test_refused_logins_of_very_many_sources_are_bounded(self, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
        """Sources beyond the bound are told together, so that nobody fills the disk and none goes uncounted (P9)."""
        monkeypatch.setattr("mqttprov.responder.service.MAX_LIMITED_SOURCES", 3)
        counter = Counter(desk)
        for i in range(10):
            counter.responder.login(LoginAttempt(""), f"10.0.0.{i}", lambda _: None)
        counter.responder.login(LoginAttempt(""), "2001:db8::1", lambda _: None)
        desk.now_s += 10
        counter.responder.tick()
        counter.settle()
        counter.responder.release()
        events = [parse_body(e.body)[1] for e in desk.events() if e.kind == "login-refused"]
        assert [(e.source, e.count) for e in events] == [("10.0.0.0", 1), ("10.0.0.1", 1), ("10.0.0.2", 1), (None, 8)]

    def test_an_operator_logs_in_with_the_password_that_was_made(self, desk: Desk) -> None:
        """An operator's login works beside a running broker as soon as it is made."""
        counter = Counter(desk)
        password = desk.administration.create_operator("anna", OperatorRole.OPERATOR)
        answers = log_in(counter, "anna", password)
        counter.settle()
        principal = answers[0].principal
        assert principal is not None
        assert (principal.name, str(principal.role)) == ("anna", "operator")
        counter.responder.release()

    def test_a_first_login_that_cannot_be_recorded_is_refused_for_now(self, desk: Desk) -> None:
        """No event, no login: a device is told to come back, not that its credentials are wrong (P5, P10)."""
        token = self.provisioned(desk)
        counter = Counter(desk)
        counter.settle()
        (login,) = log_in(counter, token)
        assert login.refusal is LoginRefusal.UNAVAILABLE
        counter.responder.release()

    def test_a_store_that_cannot_be_read_refuses_for_now(self, desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
        """Without its database the responder answers, and says so in the log (P10)."""
        token = self.provisioned(desk)
        counter = Counter(desk)
        connection = sqlite3.connect(desk.state.path / "mqttprov.db")
        connection.execute("UPDATE device SET state = 'no state'")
        connection.commit()
        connection.close()
        answers = log_in(counter, token)
        counter.settle()
        assert answers[0].refusal is LoginRefusal.UNAVAILABLE
        assert caplog.record_tuples[-1][1] == logging.ERROR
        counter.responder.release()


def test_an_answer_that_cannot_be_delivered_does_not_hold_up_the_next(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    """One connection's trouble is not another's."""
    counter = Counter(desk)

    def broken(content: bytes, outcome: object) -> None:
        raise RuntimeError("connection is gone")

    counter.responder.request(counter.payload("gw-1"), "10.0.0.1", broken)
    counter.ask(counter.payload("gw-2"))
    assert [reply["deviceName"] for reply in counter.settle()] == ["gw-2"]
    assert "connection is gone" in caplog.text
    counter.responder.release()
