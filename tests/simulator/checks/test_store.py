"""What the database alone shows: limits while a run goes on, lost devices and events at its end."""

import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from mqttprov.admin import Admin, TokenChange, initialise, now_ms
from mqttprov.core.requests import ProvisionRequest
from mqttprov.responder.jobs import BatchProcessor, ProvisionJob
from mqttprov.responder.state_directory import StateDirectory
from mqttprov_simulator.checks.ledger import ToldDevice
from mqttprov_simulator.checks.store import StoreWatch
from mqttprov_simulator.running.values import Broken, TokenKey

Vandal = Callable[[str], None]
TOLD = {f"dev-{n}": ToldDevice([f"a/{n}"], [f"f{n}"]) for n in range(3)}


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """Three devices of a token with a maximum of three; a fourth was refused."""
    path = tmp_path / "state"
    initialise(path)
    with Admin(path) as admin:
        token = admin.create_token("default", "few", TokenChange(max_registrations=3))
    directory = StateDirectory(path)
    processor = BatchProcessor(directory.store, directory.keys, now_ms=now_ms, entropy=os.urandom)
    for number in range(4):  # the last one is refused
        processor.process(
            [ProvisionJob(ProvisionRequest(token.key, token.secret, f"Dev-{number}"), "", lambda _: None)]
        )
    processor.close()
    directory.close()
    (tmp_path / "key").write_text(token.key)
    return path


@pytest.fixture
def watch(state: Path) -> StoreWatch:
    """A watch over that token."""
    return StoreWatch(state, {"default/few": TokenKey((state.parent / "key").read_text(), "")})


@pytest.fixture
def vandal(state: Path) -> Vandal:
    """Change the database behind the server's back."""

    def change(statement: str) -> None:
        with sqlite3.connect(state / "mqttprov.db") as database:
            database.execute("PRAGMA foreign_keys = OFF")
            for trigger in database.execute("SELECT name FROM sqlite_schema WHERE type = 'trigger'").fetchall():
                database.execute(f"DROP TRIGGER {trigger[0]}")
            database.execute(statement)
        database.close()

    return change


def found(watch: StoreWatch, promise: str, told: dict[str, ToldDevice] = TOLD) -> list[Broken]:
    """Give what the watch finds about a promise at the end."""
    return [broken for check in watch.close(told, 7.0) if check.promise == promise for broken in check.broken]


def test_a_store_that_is_right_holds(watch: StoreWatch) -> None:
    """A refusal is no registration (P1), and every telling has its event (P5)."""
    assert watch.look(1.0) == []
    checks = watch.close(TOLD, 7.0)
    assert [(check.promise, check.state) for check in checks] == [("limit-exceeded", "held"), ("no-event", "held")]
    assert [check.looked_at for check in checks] == [3, 8]


def test_a_token_over_its_maximum_is_found_once(watch: StoreWatch, vandal: Vandal) -> None:
    """P1: with the time at which it was seen first."""
    vandal("UPDATE token SET max_registrations = 2 WHERE name = 'few'")
    (broken,) = watch.look(3.0)
    assert (broken.promise, broken.at_s) == ("limit-exceeded", 3.0)
    assert "default/few has registered 3 devices, at most 2 are allowed" in broken.seen
    assert watch.look(4.0) == []
    assert found(watch, "limit-exceeded") == []


def test_a_use_that_registered_nothing_is_found(watch: StoreWatch, vandal: Vandal) -> None:
    """P1: no use is burnt by a refusal."""
    vandal("UPDATE token SET used = 2 WHERE name = 'few'")
    (broken,) = found(watch, "limit-exceeded")
    assert "counts 2 registrations, but has registered 3 devices" in broken.seen


def test_a_device_that_was_told_and_is_not_there_is_found(watch: StoreWatch) -> None:
    """P5: by its gateways; and so is a second telling of which the store knows nothing."""
    told = {"lost": ToldDevice(["a/9", "clones/9"], ["f9"]), "dev-0": ToldDevice(["a/0"], ["f0", "f7"])}
    lost, second = found(watch, "no-event", told)
    assert (lost.gateways, lost.at_s) == (("a/9", "clones/9"), 7.0)
    assert "1 different credentials were told, the store has 0 and the chain 0 events" in lost.seen
    assert second.gateways == ("a/0",)


def test_a_broken_chain_is_found(watch: StoreWatch, vandal: Vandal) -> None:
    """P5: an event that was changed."""
    vandal("UPDATE audit_event SET body = replace(body, 'Dev-1', 'Dev-9') WHERE body LIKE '%Dev-1%'")
    (broken,) = found(watch, "no-event")
    assert "the audit chain does not verify" in broken.seen


def test_a_registration_without_event_is_found(watch: StoreWatch, vandal: Vandal) -> None:
    """P5: the last events were cut off, and the rest verifies."""
    vandal("DELETE FROM audit_event WHERE seq > (SELECT min(seq) FROM audit_event WHERE kind = 'provisioned')")
    seen = [broken.seen for broken in found(watch, "no-event")]
    assert sum("and the chain 0 events" in text for text in seen) == 2
    assert sum("which no event grants" in text for text in seen) == 2


def test_a_database_that_cannot_be_read_is_not_checked(tmp_path: Path) -> None:
    """It says why; while the run goes on it is tried again."""
    watch = StoreWatch(tmp_path, {})
    assert watch.look(1.0) == []
    assert [(check.state, "cannot be read" in (check.why_not or "")) for check in watch.close({}, 2.0)] == [
        ("not checked", True)
    ] * 2
