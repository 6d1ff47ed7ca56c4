"""What is gathered and written at once: bounded, nothing lost, nothing twice."""

import pytest
from tests.responder.desk import NOW_MS, Counter, Desk

from mqttprov.core.audit import parse_body
from mqttprov.core.hygiene import FIGHT, FindingKind
from mqttprov.core.login import Holder, LoginAttempt, LoginRefusal
from mqttprov.responder import gathered
from mqttprov.responder.gathered import SEEN_INTERVAL_MS, SEEN_PER_JOB, Counts, SeenDevices, Takeovers
from mqttprov.responder.report import report

HOUR_MS = 3_600_000


class TestCounts:
    """Counts by place."""

    def test_what_is_beyond_the_bound_is_counted_together(self) -> None:
        """Nothing goes uncounted (P9)."""
        counts: Counts[str] = Counts(2, lambda _: "others")
        for place in "abcabcd":
            counts.add(place)
        assert counts.take() == {"a": 2, "b": 2, "others": 3}
        assert counts.take() == {}
        for place in "abc":
            counts.add(place, 5)
        assert counts.take() == {"a": 5, "b": 5, "others": 5}


class TestTakeovers:
    """Two connections that fight for a client id."""

    def test_reconnecting_is_no_fight(self) -> None:
        """A device that lost its connection takes over from itself."""
        takeovers = Takeovers()
        for name in ("gw-1", "gw-2"):
            for _ in range(FIGHT - 1):
                takeovers.add(Holder(name, name, 1), "10.0.0.1")
        assert takeovers.take(NOW_MS) == []

    def test_a_fight_is_told_for_each_of_its_sources(self) -> None:
        """Whatever the share of each; then counting begins anew."""
        takeovers = Takeovers()
        for source in ["10.0.0.1"] * FIGHT + ["10.0.0.2"]:
            takeovers.add(Holder("gw-1", "id", 2), source)
        events = takeovers.take(NOW_MS)
        assert [(e.kind, e.device, e.device_id, e.generation, e.source, e.count, e.at_ms) for e in events] == [
            ("taken-over", "gw-1", "id", 2, "10.0.0.1", FIGHT, NOW_MS),
            ("taken-over", "gw-1", "id", 2, "10.0.0.2", 1, NOW_MS),
        ]
        assert takeovers.take(NOW_MS) == []

    def test_very_many_fights_are_bounded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Those beyond are told together, without a device (P9)."""
        monkeypatch.setattr(gathered, "MAX_FIGHTING", 1)
        takeovers = Takeovers()
        for i in range(FIGHT + 1):
            takeovers.add(Holder("gw-0", "id-0", 1), "10.0.0.1")
            takeovers.add(Holder(f"gw-{i}", f"id-{i}", 1), "10.0.0.9")
        events = takeovers.take(NOW_MS)
        assert [(e.device, e.device_id, e.source, e.count) for e in events] == [
            ("gw-0", "id-0", "10.0.0.1", FIGHT + 1),
            (None, None, None, FIGHT + 1),
        ]


class TestSeenDevices:
    """Devices to be marked."""

    def test_each_is_given_once_a_batch_at_a_time(self) -> None:
        """However often it was met."""
        seen = SeenDevices()
        for _ in range(2):
            seen.add(f"d{i}" for i in range(SEEN_PER_JOB + 1))
        assert [len(seen.take()), seen.take(), seen.take()] == [SEEN_PER_JOB, [f"d{SEEN_PER_JOB}"], []]

    def test_there_are_not_more_than_the_bound(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Those beyond are met again within an hour (P9)."""
        monkeypatch.setattr(gathered, "MAX_SEEN", 3)
        seen = SeenDevices()
        seen.add("abcdef")
        assert seen.take() == ["a", "b", "c"]


def provisioned(desk: Desk, name: str = "gw-1") -> str:
    """Provision a device and let it log in for the first time; give its access token."""
    counter = Counter(desk)
    counter.ask(counter.payload(name))
    token = str(counter.settle()[0]["credentialsValue"])
    counter.responder.release()
    log_in(desk, token)
    return token


def log_in(
    desk: Desk, *usernames: str, password: str | None = None, source: str = "10.0.0.1"
) -> list[LoginRefusal | None]:
    """Log in with each through a responder of its own, which writes what it gathered; give what each was told."""
    told: list[LoginRefusal | None] = []
    counter = Counter(desk)
    for username in usernames:
        counter.responder.login(LoginAttempt("", username, password), source, lambda login: told.append(login.refusal))
    counter.pump()
    counter.pump()  # what refused logins ask in turn
    counter.settle()
    counter.responder.finish()
    counter.responder.release()
    return told


def last_seen_ms(desk: Desk, name: str = "gw-1") -> int | None:
    """Give what is known of a device's last use."""
    return next(desk.reader.devices(name)).last_seen_ms


class TestLastSeen:
    """When a device was last in use, to about an hour."""

    def test_a_first_login_marks_it_and_later_ones_once_an_hour(self, desk: Desk) -> None:
        """Without an audit event; a login within the hour writes nothing."""
        desk.administration.create_device("default", "never", None, {})
        token = provisioned(desk)
        assert (last_seen_ms(desk), last_seen_ms(desk, "never")) == (NOW_MS, None)
        seq = desk.reader.head().seq
        desk.now_ms += SEEN_INTERVAL_MS - 1
        log_in(desk, token)
        assert last_seen_ms(desk) == NOW_MS
        desk.now_ms += 1
        log_in(desk, token)
        assert last_seen_ms(desk) == NOW_MS + SEEN_INTERVAL_MS
        assert desk.kinds_after(seq) == []

    def test_a_connected_device_is_marked_without_a_login(self, desk: Desk) -> None:
        """By a tick, in batches that hold nobody up; ids that are none do no harm."""
        provisioned(desk)
        device_id = next(desk.reader.devices("gw-1")).id
        counter = Counter(desk)
        desk.now_ms += 2 * HOUR_MS
        counter.responder.seen([*(f"x{i}" for i in range(SEEN_PER_JOB)), device_id])
        desk.now_s += 10
        counter.responder.tick()
        counter.responder.tick()
        counter.settle()
        assert last_seen_ms(desk) == NOW_MS + 2 * HOUR_MS
        counter.responder.release()

    def test_what_a_full_queue_does_not_take_is_marked_later(self, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
        """Nothing is lost before the end (P9)."""
        provisioned(desk)
        desk.now_ms += HOUR_MS
        counter = Counter(desk)
        counter.responder.seen([next(desk.reader.devices("gw-1")).id])
        monkeypatch.setattr("mqttprov.responder.pipeline.MAX_QUEUED", 0)
        desk.now_s += 10
        counter.responder.tick()
        counter.settle()
        assert last_seen_ms(desk) == NOW_MS
        counter.responder.finish()
        assert last_seen_ms(desk) == NOW_MS + HOUR_MS
        counter.responder.release()

    def test_the_next_generation_marks_it_too(self, desk: Desk) -> None:
        """And provisioning alone does not: a device that only asks is not in use."""
        provisioned(desk)
        desk.now_ms += 2 * HOUR_MS
        counter = Counter(desk)
        counter.ask(counter.payload("gw-1"))
        token = counter.settle()[0]["credentialsValue"]
        counter.responder.release()
        assert last_seen_ms(desk) == NOW_MS
        log_in(desk, token)
        assert last_seen_ms(desk) == NOW_MS + 2 * HOUR_MS


class TestSuperseded:
    """Superseded credentials that are still in use."""

    def test_they_are_told_with_device_generation_sources_and_times(self, desk: Desk) -> None:
        """Whoever holds them is told the same as for unknown ones."""
        old = provisioned(desk)
        provisioned(desk)
        began_ms = desk.now_ms
        assert log_in(desk, old, "nobody") == [LoginRefusal.UNKNOWN] * 2
        desk.now_ms += 60_000
        assert log_in(desk, old, source="10.0.0.2") == [LoginRefusal.UNKNOWN]
        told = [parse_body(e.body)[1] for e in desk.events() if e.kind == "login-refused"]
        assert [(e.reason, e.device, e.generation, e.source, e.count) for e in told] == [
            ("superseded", "gw-1", 1, "10.0.0.1", 1),
            ("unknown", None, None, "10.0.0.1", 1),
            ("superseded", "gw-1", 1, "10.0.0.2", 1),
        ]
        assert {e.device_id for e in told} == {None, next(desk.reader.devices("gw-1")).id}
        findings = {f.kind: f for f in report(desk.reader, now_ms=desk.now_ms, within_ms=HOUR_MS)}
        assert findings[FindingKind.SUPERSEDED_IN_USE].rows == [
            {
                "device": "gw-1",
                "generation": 1,
                "sources": ["10.0.0.1", "10.0.0.2"],
                "attempts": 2,
                "first_ms": began_ms,
                "last_ms": desk.now_ms,
            }
        ]
        later = report(desk.reader, now_ms=desk.now_ms + 2 * HOUR_MS, within_ms=HOUR_MS)
        assert FindingKind.SUPERSEDED_IN_USE not in {f.kind for f in later}

    def test_a_user_name_needs_its_old_password(self, desk: Desk) -> None:
        """Else it is a wrong password, whatever the user name once was."""
        counter = Counter(desk)
        for password in ("password-1", "password-2"):
            counter.ask(counter.payload("gw-1", username="u", password=password))
            counter.pump()
            counter.responder.login(LoginAttempt("", "u", password), "10.0.0.1", lambda _: None)
            counter.pump()
        counter.settle()
        counter.responder.release()
        assert log_in(desk, "u", password="password-1") == [LoginRefusal.WRONG_PASSWORD]
        assert log_in(desk, "u", password="password-3") == [LoginRefusal.WRONG_PASSWORD]
        told = [parse_body(e.body)[1] for e in desk.events() if e.kind == "login-refused"]
        assert [(e.reason, e.device, e.generation) for e in told] == [
            ("superseded", "gw-1", 1),
            ("wrong-password", None, None),
        ]

    def test_a_retired_device_that_still_tries_is_told(self, desk: Desk) -> None:
        """All of its generations are superseded."""
        token = provisioned(desk)
        life = desk.state.device_life("cli:test", desk.clock)
        life.decommission("gw-1")
        assert log_in(desk, token) == [LoginRefusal.UNKNOWN]
        (event,) = [parse_body(e.body)[1] for e in desk.events() if e.kind == "login-refused"]
        assert (event.reason, event.device) == ("superseded", "gw-1")
