"""What the report finds, and which events a story is made of."""

from typing import Any

import pytest
from tests.responder.desk import NOW_MS, Answers, Desk

from mqttprov.core.audit import Event, EventKind
from mqttprov.core.hygiene import FindingKind
from mqttprov.core.login import LoginAttempt
from mqttprov.core.model import Profile, ReprovisionPolicy
from mqttprov.core.requests import Granted
from mqttprov.responder.administration import NotFound, TokenChange
from mqttprov.responder.device_import import ImportLine
from mqttprov.responder.jobs import LimitedJob, LoginJob, ProvisionJob, RecordJob
from mqttprov.responder.report import MAX_ROWS, report
from mqttprov.responder.story import MAX_MENTIONS, find_story
from mqttprov.wire.thingsboard import decode

HOUR_MS = 3_600_000


def ask(desk: Desk, name: str, source: str = "10.0.0.1", *, log_in: bool = True, **fields: Any) -> Any:
    """Provision a device from a source and let it log in; give the outcome."""
    told: list[Any] = []
    processor = desk.processor()
    answers = Answers()
    answers.deliver(processor.process([ProvisionJob(desk.request(name, **fields), source, told.append)]))
    outcome = told[0]
    if log_in and isinstance(outcome, Granted):
        attempt = LoginAttempt("", username=outcome.value)
        answers.deliver(processor.process([LoginJob(attempt, source, told.append)]))
    processor.close()
    return outcome


def found(desk: Desk, within_ms: int = 24 * HOUR_MS) -> dict[str, tuple[int, list[dict[str, Any]]]]:
    """Give findings by kind."""
    return {f.kind: (f.count, f.rows) for f in report(desk.reader, now_ms=desk.now_ms, within_ms=within_ms)}


class TestReport:
    """Findings."""

    def test_a_new_state_directory_has_none(self, desk: Desk) -> None:
        """The token of the first profile is unused, but not for long."""
        assert found(desk) == {}
        desk.now_ms += 25 * HOUR_MS
        assert found(desk)[FindingKind.TOKEN_UNUSED] == (
            1,
            [{"token": "default", "profile": "default", "used": 0, "max": None}],
        )

    def test_devices_without_owner_and_not_enrolled_in_time(self, desk: Desk) -> None:
        """Waiting counts from what came last: making, or the newest credentials."""
        desk.administration.create_device("default", "known", "ACME", {})
        ask(desk, "late", log_in=False)
        ask(desk, "fine")
        assert found(desk)[FindingKind.NO_OWNER][0] == 2
        assert FindingKind.NOT_LOGGED_IN not in found(desk)
        started_ms = desk.now_ms
        desk.now_ms += 25 * HOUR_MS
        waiting = {"profile": "default", "since_ms": started_ms}
        assert found(desk)[FindingKind.NOT_LOGGED_IN] == (1, [{"device": "late", **waiting}])
        assert found(desk)[FindingKind.NEVER_PROVISIONED] == (1, [{"device": "known", **waiting}])
        ask(desk, "late", "10.0.0.1", username="other", log_in=False)
        assert found(desk, 26 * HOUR_MS).keys() & {FindingKind.NOT_LOGGED_IN, FindingKind.NEVER_PROVISIONED} == set()

    def test_names_that_were_used_again_and_from_alternating_sources(self, desk: Desk) -> None:
        """A device that moves is one thing; two that take turns are another."""
        for source in ("10.0.0.1", "10.0.0.1", "10.0.0.2", "10.0.0.2"):
            ask(desk, "moved", source)
        for source in ("10.0.0.3", "10.0.0.4", "10.0.0.3"):
            ask(desk, "twins", source)
        ask(desk, "once")
        ask(desk, "asked-twice", log_in=False)
        ask(desk, "asked-twice", log_in=False)
        count, rows = found(desk)[FindingKind.REUSED_NAMES]
        assert count == 3
        assert [(r["device"], r["reprovisioned"], r["repeated"]) for r in rows] == [
            ("moved", 3, 0),
            ("twins", 2, 0),
            ("asked-twice", 0, 1),
        ]
        assert found(desk)[FindingKind.ALTERNATING_SOURCES] == (
            1,
            [{"device": "twins", "sources": ["10.0.0.3", "10.0.0.4"]}],
        )

    def test_a_key_under_two_names(self, desk: Desk) -> None:
        """Also when one of the two has moved on to another key meanwhile."""
        with desk.state.store.write() as transaction:
            connection = transaction._connection  # what no request could do
            for device, key in (("a", "k1"), ("b", "k1"), ("b", "k2"), ("c", "k3"), ("c", "k3")):
                connection.execute(
                    "INSERT OR IGNORE INTO device (id, name, fold, profile_id, state, token_id, owner, labels, "
                    "gateway, created_ms, last_generation) VALUES (?1, ?1, ?1, 1, 'active', 1, 'ACME', '{}', 0, 0, 1)",
                    (device,),
                )
                connection.execute(
                    "INSERT INTO credential (device_id, generation, type, ended, login_key, proof, public_key, "
                    "supplied, issued_ms) "
                    "VALUES (?1, (SELECT count(*) FROM credential), 'X509_CERTIFICATE', 1, '', '', ?2, 0, 0)",
                    (device, key),
                )
        assert found(desk)[FindingKind.SHARED_KEY] == (1, [{"public_key": "k1", "devices": ["a", "b"], "count": 2}])

    def test_a_factory_certificate_under_two_names(self, desk: Desk) -> None:
        """As soon as the second one is known, before any of them has come in."""
        lines = [
            ImportLine(i, f"gw-{i}", "default", "ACME", factory_key=key) for i, key in enumerate(("k1", "k1", "k2"))
        ]
        desk.administration.import_devices(lines, tell_fault=lambda fault: pytest.fail(fault.text))
        assert found(desk)[FindingKind.SHARED_KEY] == (
            1,
            [{"public_key": "k1", "devices": ["gw-0", "gw-1"], "count": 2}],
        )

    def test_fights_for_a_client_id(self, desk: Desk) -> None:
        """By device, over all intervals; lately only."""
        processor = desk.processor()
        for minute, (source, count) in enumerate((("10.0.0.1", 4), ("10.0.0.2", 5), ("10.0.0.1", 6))):
            event = Event(EventKind.TAKEN_OVER, NOW_MS + minute, "device", source=source, device="gw-1", device_id="d",
                          generation=1, count=count)  # fmt: skip
            further = Event(EventKind.TAKEN_OVER, NOW_MS + minute, "device", count=9)
            processor.process([RecordJob(each, lambda _: None) for each in (event, further)])
        row = {
            "device": "gw-1",
            "sources": ["10.0.0.1", "10.0.0.2"],
            "takeovers": 15,
            "first_ms": NOW_MS,
            "last_ms": NOW_MS + 2,
        }
        assert found(desk)[FindingKind.CLIENT_ID_FIGHTS] == (1, [row])
        desk.now_ms += 25 * HOUR_MS
        assert FindingKind.CLIENT_ID_FIGHTS not in found(desk)

    def test_tokens_near_their_limit(self, desk: Desk) -> None:
        """Revoked and expired ones are nobody's worry."""
        desk.administration.update_token("default", None, TokenChange(max_registrations=10))
        for i in range(9):
            ask(desk, f"gw-{i}")
        assert found(desk)[FindingKind.TOKEN_NEAR_LIMIT] == (
            1,
            [{"token": "default", "profile": "default", "used": 9, "max": 10}],
        )
        desk.administration.update_token("default", None, TokenChange(expires_ms=desk.now_ms))
        assert FindingKind.TOKEN_NEAR_LIMIT not in found(desk)

    def test_failed_attempts_of_the_last_time_by_source(self, desk: Desk) -> None:
        """Refused requests, those that were turned away unread, and refused logins together; the busiest first."""
        for _ in range(3):
            ask(desk, "a/b", "10.0.0.7")
        malformed, _ = decode(b"{")
        processor = desk.processor()
        processor.process([ProvisionJob(malformed, "10.0.0.8", lambda _: None), LimitedJob("10.0.0.8", 40)])
        processor.process([LimitedJob(None, 5)])
        at_ms = desk.now_ms
        expected = [("10.0.0.8", 41, ["limited", "malformed"]), (None, 5, ["limited"]), ("10.0.0.7", 3, ["bad-name"])]
        count, rows = found(desk)[FindingKind.FAILED_ATTEMPTS]
        assert (count, [(r["source"], r["attempts"], r["reasons"]) for r in rows]) == (3, expected)
        assert {r["last_ms"] for r in rows} == {at_ms}
        desk.now_ms += 25 * HOUR_MS
        assert FindingKind.FAILED_ATTEMPTS not in found(desk)

    def test_rows_are_bounded_and_the_count_is_not(self, desk: Desk) -> None:
        """However big the fleet is (P9)."""
        with desk.state.store.write() as transaction:
            connection = transaction._connection  # thousands at once
            connection.executemany(
                "INSERT INTO device (id, name, fold, profile_id, state, token_id, labels, gateway, created_ms, "
                "last_generation) VALUES (?1, ?1, ?1, 1, 'active', 1, '{}', 0, 0, 1)",
                [(f"d-{i:05}",) for i in range(MAX_ROWS + 7)],
            )
        count, rows = found(desk)[FindingKind.NO_OWNER]
        assert (count, len(rows)) == (MAX_ROWS + 7, MAX_ROWS)


class TestStory:
    """Which events belong together."""

    def kinds(self, desk: Desk, what: str) -> list[str]:
        """Give the kinds of a story's events."""
        return [str(event.kind) for event in find_story(desk.reader, what).events]

    def test_a_device_by_name_or_id(self, desk: Desk) -> None:
        """From its making on, refusals that it met included, and nothing of others."""
        desk.administration.create_profile(Profile(0, "strict", reprovision=ReprovisionPolicy.REFUSE))
        ask(desk, "GW-1")
        ask(desk, "gw-2")
        desk.administration.create_device("strict", "gw-3", None, {})
        ask(desk, "gw-3")
        ask(desk, "gw-1")
        device = find_story(desk.reader, "gw-1").device
        assert device is not None
        assert (device.name, device.state) == ("GW-1", "active")
        expected = ["provisioned", "activated", "reprovisioned", "activated"]
        assert self.kinds(desk, "gw-1") == self.kinds(desk, device.id) == expected
        assert find_story(desk.reader, device.id).device == device
        assert self.kinds(desk, "gw-3") == ["device-created", "refused"]

    def test_an_answer_by_its_ref(self, desk: Desk) -> None:
        """Granted or refused, it is one event."""
        granted, refused = ask(desk, "gw-1"), ask(desk, "a/b")
        assert self.kinds(desk, granted.ref) == ["provisioned"]
        assert self.kinds(desk, refused.ref) == ["refused"]
        assert find_story(desk.reader, refused.ref).device is None

    def test_a_name_that_never_became_a_device(self, desk: Desk) -> None:
        """Its refusals, oldest first, a bounded number of them."""
        desk.administration.update_token("default", None, TokenChange(expires_ms=desk.now_ms))
        for _ in range(MAX_MENTIONS + 3):
            ask(desk, 'n "1"', log_in=False)
            ask(desk, "other", log_in=False)
        with pytest.raises(NotFound):
            find_story(desk.reader, 'n "1"')  # a name with quotes is none, so it was not recorded
        events = list(find_story(desk.reader, "other").events)
        assert len(events) == MAX_MENTIONS
        assert [e.seq for e in events] == sorted(e.seq for e in events)
        assert events[-1].seq == desk.reader.head().seq

    @pytest.mark.parametrize("what", ["", "nobody", '","actor":"', "%", "0" * 16, "0" * 32])
    def test_what_is_nothing_is_told(self, desk: Desk, what: str) -> None:
        """Whatever it looks like, also a piece of an event's own text."""
        with pytest.raises(NotFound, match="no audit event has the ref"):
            find_story(desk.reader, what)

    def test_a_device_is_looked_up_by_an_index(self, desk: Desk) -> None:
        """The look-up of a device does not walk through all events."""
        with desk.state.store.write() as transaction:
            plan = transaction._connection.execute(  # only SQLite knows its plans
                "EXPLAIN QUERY PLAN SELECT seq FROM audit_event WHERE device_id = ? ORDER BY seq", ("x",)
            ).fetchall()
        assert "audit_event_device" in str(plan)
