"""A database of an older version is brought up to date when it is opened, and keeps what is in it."""

import sqlite3
from importlib import resources
from pathlib import Path

import pytest

from mqttprov.store.sqlite import SqliteStore, _migrations

APPLICATION_ID = 0x6D717076


def test_a_database_of_the_first_version_is_updated(tmp_path: Path) -> None:
    """Its devices have no rotation due, and can be asked for one from then on."""
    script = (resources.files("mqttprov.store") / "migrations" / "0001_first.sql").read_text("utf-8")
    old = sqlite3.connect(tmp_path / "old.db")
    old.executescript(f"{script}\nPRAGMA application_id = {APPLICATION_ID};\nPRAGMA user_version = 1;")
    with old:
        profile = (1, "p", "p", "allow-create", "ACCESS_TOKEN", "reuse", 8, 0, "[]", "[]", "[]", 1)
        old.execute("INSERT INTO profile VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", profile)
        old.execute("INSERT INTO device VALUES ('id', 'GW', 'gw', 1, 'active', NULL, NULL, '{}', 0, 1, 3)")
        for generation, first_login_ms in ((1, 10), (2, 20), (3, None)):
            credential = ("id", generation, "ACCESS_TOKEN", "issued", "k", "p", 0, 1, first_login_ms)
            old.execute(
                "INSERT INTO credential (device_id, generation, type, status, login_key, proof, supplied, issued_ms, "
                "first_login_ms) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                credential,
            )
    old.close()
    store = SqliteStore(tmp_path / "old.db")
    reader = store.reader()
    (row,) = reader.devices()
    assert (row.name, row.state, row.rotation_due, row.last_seen_ms) == ("GW", "active", False, 20)
    with store.write() as transaction:
        known = transaction.load((), ("gw",), ()).devices["gw"]
    assert (row.transfer_to, known.device.transfer, known.device.transferred_ms) == (None, None, None)
    assert (known.device.rotate_from, known.last_generation, known.rotation_due) == (None, 3, False)
    reader.close()
    store.close()


def test_a_gap_in_the_numbers_is_no_obstacle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each script above the stored version runs once and in order, whatever numbers are missing."""
    scripts = [(1, "CREATE TABLE a (x);"), (4, "CREATE TABLE b AS SELECT * FROM a;"), (9, "DROP TABLE a;")]
    monkeypatch.setattr("mqttprov.store.sqlite._migrations", lambda: scripts)
    SqliteStore(tmp_path / "x.db", create=True).close()
    SqliteStore(tmp_path / "x.db").close()
    database = sqlite3.connect(tmp_path / "x.db")
    assert database.execute("SELECT name FROM sqlite_master").fetchall() == [("b",)]
    assert database.execute("PRAGMA user_version").fetchone() == (9,)
    database.close()


def test_the_status_of_credentials_survives_being_derived(tmp_path: Path) -> None:
    """What was issued, active or superseded still is; what is live is found by an index that a first login leaves."""
    old = sqlite3.connect(tmp_path / "old.db")
    for number, script in _migrations():
        if number < 9:
            old.executescript(f"{script}\nPRAGMA application_id = {APPLICATION_ID};\nPRAGMA user_version = {number};")
    states = [("superseded", None), ("superseded", 10), ("active", 20), ("active", None), ("issued", None)]
    with old:
        old.executemany(
            "INSERT INTO credential (device_id, generation, type, status, login_key, proof, supplied, issued_ms, "
            "first_login_ms) VALUES ('id', ?, 'ACCESS_TOKEN', ?, 'k', 'p', 0, 1, ?)",
            [(number, *state) for number, state in enumerate(states)],
        )
    old.close()
    store = SqliteStore(tmp_path / "old.db")
    reader = store.reader()
    assert [row.status for row in reader.credentials_of("id")] == [status for status, _ in states]
    plan = "EXPLAIN QUERY PLAN SELECT generation FROM credential WHERE login_key = 'k' AND ended = 0"
    assert "live_login" in reader._connection.execute(plan).fetchone()[3]
    (index,) = reader._connection.execute("SELECT sql FROM sqlite_schema WHERE name = 'live_login'").fetchone()
    assert "status" not in index
    assert "first_login_ms" not in index
    reader.close()
    store.close()
