"""What the broker says while its store cannot be used, that it recovers, and that a stop loses no accepted request."""

import asyncio
import json
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.brokers.harness import Running, ask, new_state

from mqttprov.core.permissions import REQUEST_TOPIC
from mqttprov.core.requests import FactoryIdentity, Outcome
from mqttprov.mqtt import Disconnected, ReasonCode
from mqttprov.responder.state_directory import StateDirectory, StateError

UNUSABLE = [
    "nothing was committed", "could not be decided", "wait to be published", "after the next start",
    "no checkpoint of the audit was written",
]  # fmt: skip


@pytest.fixture
def broken(broker: Running, expected_errors: list[str]) -> Running:
    """Give a broker whose store may fail: its errors are logged, in words, and waits are short."""
    expected_errors += [*UNUSABLE, "lists of ended certificates were not written"]
    broker.state.store._connection.execute("PRAGMA busy_timeout = 50")
    return broker


async def test_a_locked_database_refuses_and_recovers(broken: Running) -> None:
    """While another process holds the database nobody is told credentials (P2); afterwards the same request works."""
    fresh = (await broken.provision("gw-0"))["credentialsValue"]
    used = (await broken.provision("gw-2"))["credentialsValue"]
    (await broken.login(used)).disconnect()
    session = await broken.session()
    other = sqlite3.connect(broken.path / "mqttprov.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    reply = await ask(session, broken.payload("gw-1"))
    assert (reply["status"], reply["retryAfter"] > 0, "not available" in reply["errorMsg"]) == ("FAILURE", True, True)
    # A first login is an event that must be recorded (P5); a later one only reads.
    assert await broken.refusal(fresh) == ReasonCode.SERVER_UNAVAILABLE
    await broken.login(used)
    other.execute("ROLLBACK")
    other.close()
    assert (await ask(session, broken.payload("gw-1")))["status"] == "SUCCESS"
    await broken.login(fresh)
    assert [d.name for d in broken.state.store.reader().devices()] == ["gw-0", "gw-2", "gw-1"]


async def test_a_full_disk_refuses_and_recovers(broken: Running) -> None:
    """Without room nothing is committed and nothing told; with room again the same request works (P2, P5)."""
    connection = broken.state.store._connection
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.execute(f"PRAGMA max_page_count = {pages}")
    session = await broken.session()
    statuses = []
    for number in range(300):
        reply = await ask(session, broken.payload(f"gw-{number}"))
        statuses.append(reply["status"])
        if reply["status"] == "FAILURE":
            break
    assert reply["retryAfter"] > 0
    connection.execute("PRAGMA max_page_count = 1000000")
    assert (await ask(session, broken.payload(f"gw-{number}")))["status"] == "SUCCESS"
    assert len(list(broken.state.store.reader().devices())) == len(statuses)


async def test_a_database_that_turns_to_garbage_is_told_in_words(broken: Running) -> None:
    """A damaged database answers FAILURE with `retryAfter` and refuses logins as unavailable: no credential (P5)."""
    token = (await broken.provision("gw-0"))["credentialsValue"]
    broken.state.store._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    path = broken.path / "mqttprov.db"
    path.write_bytes(b"garbage!" * (path.stat().st_size // 8))
    # What a connection still has in memory is dropped when another one has written.
    broken.state.store._connection.execute("PRAGMA shrink_memory")
    session = await broken.session()
    reply = await ask(session, broken.payload("gw-1"))
    assert (reply["status"], reply["retryAfter"] > 0) == ("FAILURE", True)
    assert await broken.refusal(token) == ReasonCode.SERVER_UNAVAILABLE
    await session.ping()


def test_a_damaged_state_does_not_start(tmp_path: Path) -> None:
    """A database that is none is one clear error at start."""
    new_state(tmp_path / "state")
    (tmp_path / "state" / "mqttprov.db").write_bytes(b"garbage!" * 1000)
    with pytest.raises(StateError, match=r"mqttprov\.db"):
        StateDirectory(tmp_path / "state")


async def test_a_stop_answers_every_accepted_request(broker: Running) -> None:
    """What the broker has read is committed, answered and published before it goes; then sessions are told (P2)."""
    sessions = [await broker.session() for _ in range(40)]
    idle = await broker.device("idle")
    reached: list[int] = []
    original = broker.server._run.responder.request

    def counting(
        payload: bytes,
        source: str,
        reply: Callable[[bytes, Outcome], None],
        factory: FactoryIdentity | None = None,
    ) -> None:
        reached.append(1)
        original(payload, source, reply, factory)

    broker.server._run.responder.request = counting  # type: ignore[method-assign] # to see what was accepted
    for number, session in enumerate(sessions):
        for part in range(4):
            session.publish_nowait(REQUEST_TOPIC, broker.payload(f"gw-{number}-{part}"), 1)
    async with asyncio.timeout(30):
        while len(reached) < 160:  # noqa: ASYNC110 - the broker reads in turns of this loop
            await asyncio.sleep(0)
    await broker.server.stop()
    replies = []
    for session in sessions:
        replies += [json.loads((await session.message()).payload) for _ in range(4)]
        assert (await session.take(Disconnected)).reason_code == ReasonCode.SERVER_SHUTTING_DOWN
        await session.wait_closed()
    assert {reply["status"] for reply in replies} == {"SUCCESS"}
    assert (await idle.take(Disconnected)).reason_code == ReasonCode.SERVER_SHUTTING_DOWN
    reader = broker.state.store.reader()
    assert {reply["deviceId"] for reply in replies} <= {device.id for device in reader.devices()}
    assert reader.published_seq() == reader.head().seq
    reader.close()
    with pytest.raises(OSError, match=r"refused|Connect call failed"):
        await broker.open(None)
    broker.state.close()
    await broker.start()
