"""`audit explain` and `audit report`: what a person reads and what a machine gets."""

import sqlite3
from collections.abc import Callable
from pathlib import Path

from tests.cli.command import Result

Cli = Callable[..., Result]


def backdate(state: Path) -> None:
    """Let everything have been made long ago."""
    connection = sqlite3.connect(state / "mqttprov.db")
    for table in ("device", "token"):
        connection.execute(f"UPDATE {table} SET created_ms = 0")  # noqa: S608 - the two names above
    connection.commit()
    connection.close()


class TestExplain:
    """`audit explain`."""

    def test_a_device_is_explained_in_sentences(self, cli: Cli) -> None:
        """One line for each event, and at the end how things stand."""
        cli("device", "create", "gw-1", "--profile", "default", "--owner", "ACME")
        first, last = cli("audit", "explain", "GW-1").out.splitlines()
        assert "#4  cli:" in first
        assert first.endswith("made 'gw-1' in profile 'default'; it may now provision itself.")
        assert last.startswith("'gw-1' is manufactured: ")
        assert last.endswith("belongs to 'ACME'.")
        (told,) = cli("audit", "explain", "gw-1", "--json").data
        assert told.keys() == {"seq", "at", "kind", "sentence", "advice"}

    def test_a_refusal_says_what_to_do(self, cli: Cli, state: Path) -> None:
        """By the ref that the device was told."""
        body = '{"seq":4,"event":{"kind":"refused","atMs":0,"actor":"device","ref":"00ff","reason":"malformed"}}'
        for event in (body, '{"seq":5,"event":{"kind":"from-the-future","ref":"00fe"}}'):
            connection = sqlite3.connect(state / "mqttprov.db")
            connection.execute(
                "INSERT INTO audit_event (at_ms, kind, body, hash) VALUES (0, 'refused', ?, 'h')", (event,)
            )
            connection.commit()
            connection.close()
        sentence, what_to_do = cli("audit", "explain", "00ff").out.splitlines()
        assert sentence.endswith("A request was refused: the request could not be understood.")
        assert what_to_do.startswith("    What to do: ")
        assert "Unreadable" in cli("audit", "explain", "00fe").out

    def test_what_is_not_there_has_the_status_of_that(self, cli: Cli) -> None:
        """A mistyped ref is not found."""
        result = cli("audit", "explain", "nobody")
        assert (result.status, "no audit event has the ref 'nobody'" in result.err) == (3, True)


class TestReport:
    """`audit report`."""

    def test_nothing_found_is_said(self, cli: Cli) -> None:
        """The exit status is 0."""
        assert cli("audit", "report") == Result(0, "Nothing to report.\n", "")
        assert cli("audit", "report", "--json").data == []

    def test_what_is_found_has_the_status_7(self, cli: Cli, state: Path) -> None:
        """With the count, what it means and the first of them; for machines all of it."""
        for i in range(13):
            cli("device", "create", f"gw-{i:02}", "--profile", "default")
        backdate(state)
        result = cli("audit", "report", "--within", "1h")
        assert result.status == 7
        lines = result.out.splitlines()
        assert lines[0] == "no-owner: 13 devices have no owner"
        assert lines[1] == "    device=gw-00  profile=default  state=manufactured"
        assert lines[11] == "    ... and 3 more"
        assert lines[12].startswith("never-provisioned: 13 ")
        assert lines[24].startswith("token-unused: 1 ")
        told = cli("audit", "report", "--json")
        assert (told.status, [(f["finding"], f["count"], len(f["rows"])) for f in told.data]) == (
            7,
            [("no-owner", 13, 13), ("never-provisioned", 13, 13), ("token-unused", 1, 1)],
        )
        assert told.data[1]["rows"][0] == {
            "device": "gw-00",
            "profile": "default",
            "sinceAt": "1970-01-01T00:00:00.000Z",
        }

    def test_a_duration_that_is_none_is_told(self, cli: Cli) -> None:
        """As everywhere."""
        assert cli("audit", "report", "--within", "soon").status == 2
