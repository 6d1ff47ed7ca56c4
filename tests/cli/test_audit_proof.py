"""`audit export`, `verify`, `checkpoint` and `key`: what an outsider gets, and what is found with it (P5)."""

import csv
import io
import sqlite3
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.cli.command import Result, mqttprov

Cli = Callable[..., Result]


@pytest.fixture
def told(cli: Cli, state: Path, tmp_path: Path) -> Callable[..., Result]:
    """Give `audit verify` on an export with the checkpoints and the key that the outsider kept."""
    for name in ("gw-1", "gw-2"):
        cli("device", "create", name, "--profile", "default")
        assert cli("audit", "checkpoint").status == 0
    cli("device", "create", "gw-3", "--profile", "default")
    (tmp_path / "kept").write_bytes((state / "checkpoints").read_bytes())
    (tmp_path / "key").write_text(cli("audit", "key").out)
    assert cli("audit", "export", "--output", str(tmp_path / "export")).status == 0

    def verify(*arguments: str) -> Result:
        kept = ["--checkpoints", str(tmp_path / "kept"), "--key", str(tmp_path / "key")]
        return mqttprov("audit", "verify", "--from", str(tmp_path / "export"), *kept, *arguments)

    return verify


def lines_of(path: Path) -> list[dict[str, Any]]:
    """Read an export."""
    return [msgspec.json.decode(line) for line in path.read_bytes().splitlines()]


class TestExport:
    """`audit export`."""

    def test_jsonl_holds_all_that_verifying_needs(self, told: Cli, cli: Cli, tmp_path: Path) -> None:
        """seq, body and hash; on standard output the same as in a file, which is for its owner alone."""
        lines = lines_of(tmp_path / "export")
        assert [line["seq"] for line in lines] == [1, 2, 3, 4, 5, 6]
        assert all(line.keys() == {"seq", "body", "hash"} for line in lines)
        assert cli("audit", "export").out == (tmp_path / "export").read_text()
        assert stat.S_IMODE((tmp_path / "export").stat().st_mode) == 0o600
        assert told("--json").data == {
            "verified": True,
            "events": 6,
            "head": lines[-1]["hash"],
            "checkpoints": 2,
        }

    def test_csv_is_harmless_in_a_spreadsheet(self, cli: Cli, state: Path) -> None:
        """Every field is quoted, formulas are text, and nothing is lost (SD-15)."""
        connection = sqlite3.connect(state / "mqttprov.db")
        body = msgspec.json.encode(
            {"seq": 4, "event": {"kind": "refused", "atMs": 0, "actor": "=1+1", "text": '@a"\x1b\n,', "device": "\t=x"}}
        ).decode()
        connection.execute("INSERT INTO audit_event VALUES (4, 0, 'refused', NULL, ?, 'h')", (body,))
        connection.commit()
        connection.close()
        out = cli("audit", "export", "--format", "csv").out
        assert all(line.startswith('"') and line.endswith('"') for line in out.splitlines())
        rows = list(csv.DictReader(io.StringIO(out), strict=True))
        assert [row["kind"] for row in rows] == ["initialised", "profile-created", "token-created", "refused"]
        assert (rows[3]["actor"], rows[3]["text"], rows[3]["device"]) == ("'=1+1", "'@a\"\\u001b\\u000a,", "'\\u0009=x")
        assert (rows[3]["at"], rows[3]["hash"], rows[3]["generation"]) == ("1970-01-01T00:00:00.000Z", "h", "")

    def test_a_file_that_exists_is_kept(self, cli: Cli, tmp_path: Path) -> None:
        """The status is that of a conflict."""
        (tmp_path / "x").write_text("mine")
        result = cli("audit", "export", "--output", str(tmp_path / "x"))
        assert (result.status, (tmp_path / "x").read_text()) == (5, "mine")

    def test_a_broken_event_leaves_no_half_file(self, cli: Cli, state: Path, tmp_path: Path) -> None:
        """CSV needs what the event says; one that cannot be read is named."""
        connection = sqlite3.connect(state / "mqttprov.db")
        connection.execute("INSERT INTO audit_event VALUES (4, 0, 'refused', NULL, '{}', 'h')")
        connection.commit()
        connection.close()
        result = cli("audit", "export", "--format", "csv", "--output", str(tmp_path / "x"))
        assert (result.status, "audit event 4" in result.err, (tmp_path / "x").exists()) == (1, True, False)


class TestVerify:
    """`audit verify` for an outsider."""

    def test_an_empty_file_proves_nothing(self, told: Cli, tmp_path: Path) -> None:
        """A copy that was never written, or was emptied, is not 'verified' (P5)."""
        (tmp_path / "kept").write_bytes(b"")
        kept = told()
        assert (kept.status, kept.out) == (1, "")
        assert "kept holds no whole checkpoint" in kept.err
        (tmp_path / "export").write_bytes(b"")
        export = mqttprov("audit", "verify", "--from", str(tmp_path / "export"))
        assert (export.status, export.out, export.err) == (1, "", "error: the export is empty; export again\n")

    def test_a_cut_tail_is_found_against_checkpoints(self, told: Cli, tmp_path: Path) -> None:
        """Without them it verifies; with them the first missing event is named."""
        lines = (tmp_path / "export").read_bytes().splitlines(keepends=True)
        (tmp_path / "export").write_bytes(b"".join(lines[:4]))
        assert mqttprov("audit", "verify", "--from", str(tmp_path / "export")).status == 0
        result = told()
        assert (result.status, "audit event 5" in result.err, "a checkpoint says 5 events" in result.err) == (
            1,
            True,
            True,
        )
        assert told("--json").data["firstBad"] == 5

    def test_a_torn_end_is_told_apart(self, told: Cli, tmp_path: Path) -> None:
        """It is no change of the record, and the error says what to do."""
        whole = (tmp_path / "export").read_bytes()
        for cut in (1, 20, len(whole.splitlines()[-1]) + 30):
            (tmp_path / "export").write_bytes(whole[:-cut])
            result = told("--json")
            assert (result.status, result.data["verified"], result.data["torn"]) == (1, False, True)
            assert "torn" in told().err
            assert "chain is broken" not in told().err

    def test_a_change_is_named_also_before_a_torn_end(self, told: Cli, tmp_path: Path) -> None:
        """The worse finding is told."""
        whole = (tmp_path / "export").read_bytes()
        (tmp_path / "export").write_bytes(whole.replace(b"gw-1", b"gw-9")[:-5])
        assert told("--json").data["firstBad"] == 4

    def test_the_database_is_checked_against_its_own_checkpoints(self, told: Cli, cli: Cli, state: Path) -> None:
        """Unless others are given; a cut tail is found."""
        assert told().status == 0
        assert cli("audit", "verify", "--json").data["checkpoints"] == 2
        connection = sqlite3.connect(state / "mqttprov.db")
        connection.execute("DROP TRIGGER audit_event_is_append_only_d")
        connection.execute("DELETE FROM audit_event WHERE seq > 4")
        connection.commit()
        connection.close()
        assert cli("audit", "verify", "--json").data["firstBad"] == 5
        refused = cli("audit", "checkpoint")
        assert (refused.status, "does not fit its last checkpoint" in refused.err) == (1, True)

    @pytest.mark.parametrize(
        ("name", "content", "text"),
        [
            ("kept", "nonsense\n\n\N{EM DASH} x y\n", "line 1 cannot be believed"),
            ("kept", "\udcff", "utf-8"),
            ("key", "nonsense", "not the public key"),
            ("key", None, "cannot be read"),
            ("kept", None, "No such file"),
            ("export", None, "No such file"),
            ("export", "nonsense\n", "line 1 of the export"),
        ],
    )
    def test_what_cannot_be_used_is_told(
        self, told: Cli, tmp_path: Path, name: str, content: str | None, text: str
    ) -> None:
        """Each with the file and what is wrong with it."""
        (tmp_path / name).unlink()
        if content is not None:
            (tmp_path / name).write_bytes(content.encode("utf-8", "surrogateescape"))
        result = told()
        assert (result.status, text in result.err) == (1, True)

    def test_a_torn_checkpoint_is_left_out(self, told: Cli, tmp_path: Path) -> None:
        """The rest counts."""
        kept = (tmp_path / "kept").read_bytes()
        (tmp_path / "kept").write_bytes(kept[:-7])
        result = told("--json")
        assert (result.status, result.data["checkpoints"], "torn checkpoint" in result.err) == (0, 1, True)


class TestCheckpoint:
    """`audit checkpoint` and `audit key`."""

    def test_it_is_printed_and_appended(self, cli: Cli, state: Path) -> None:
        """What is printed can be kept elsewhere as it is; without news there is none."""
        first = cli("audit", "checkpoint")
        assert first.out == (state / "checkpoints").read_text()
        again = cli("audit", "checkpoint")
        assert (again.status, again.out, "Nothing happened since the last" in again.err) == (0, "", True)
        assert cli("audit", "checkpoint", "--json").data == {"written": False, "events": 3, "note": None}

    def test_the_key_is_the_one_in_the_file(self, cli: Cli, state: Path) -> None:
        """It is public and names itself."""
        assert cli("audit", "key").out == (state / "audit-key.pub").read_text()
        told = cli("audit", "key", "--json").data
        assert told["key"].startswith(told["name"] + "+")
