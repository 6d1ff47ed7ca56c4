"""Audit events over MQTT: in order, at least once, also those of other processes, to operators only (P5)."""

import asyncio
import json
import os
import sqlite3
import sys

import pytest
from tests.brokers.harness import Client, Running

from mqttprov.brokers.broker import EmbeddedBroker
from mqttprov.core.audit import ChainedEvent, verify
from mqttprov.core.checkpoint import open_note, read_checkpoints
from mqttprov.core.model import OperatorRole, Profile
from mqttprov.mqtt import ReasonCode
from mqttprov.pki.note_key import verify_signature

OTHER_PROCESS = """
import os, pathlib, sys, time
from mqttprov.core.model import OperatorRole
from mqttprov.responder.state_directory import StateDirectory
state = StateDirectory(pathlib.Path(sys.argv[1]))
admin = state.administration("cli:other", lambda: time.time_ns() // 1_000_000, os.urandom)
admin.create_operator("made-elsewhere", OperatorRole.OBSERVER)
"""


async def listen(broker: Running, role: OperatorRole = OperatorRole.OPERATOR) -> Client:
    """Log an operator in who listens to all audit events from now on."""
    operator = await broker.operator(role)
    assert await operator.subscribe("provision/audit/#") == (ReasonCode.GRANTED_QOS_1,)
    return operator


async def events_until(operator: Client, last_seq: int) -> list[dict[str, object]]:
    """Take events up to a place in the chain."""
    events: list[dict[str, object]] = []
    while not events or events[-1]["seq"] != last_seq:
        message = await operator.message()
        event = json.loads(message.payload)
        assert message.qos == 1
        assert message.topic == f"provision/audit/{event['event']['kind']}"
        events.append(event)
    return events


@pytest.mark.parametrize("role", list(OperatorRole))
async def test_operators_get_every_event_in_order(broker: Running, role: OperatorRole) -> None:
    """What is published is the chain itself: contiguous, with QoS 1, and it verifies (P5)."""
    operator = await listen(broker, role)
    for number in range(30):
        device = await broker.device(f"gw-{number}")
        device.disconnect()
    await broker.provision("gw/bad")
    reader = broker.state.store.reader()
    stored = {event.seq: event for event in reader.events()}
    head = reader.head()
    reader.close()
    events = await events_until(operator, head.seq)
    first = events[0]["seq"]
    assert isinstance(first, int)
    assert [event["seq"] for event in events] == list(range(first, head.seq + 1))
    assert [event["hash"] for event in events] == [stored[seq].hash for seq in range(first, head.seq + 1)]
    kinds = [kind for event in events for kind in [event["event"]["kind"]]]  # type: ignore[index] # JSON
    assert kinds.count("provisioned") == 30
    assert kinds.count("activated") == 30
    assert kinds[-1] == "refused"
    assert verify(stored.values()) == head


async def test_the_place_of_the_outbox_is_recorded_while_it_runs(broker: Running) -> None:
    """A crash repeats what was published last, not the whole history: the mark follows the chain (P5)."""
    await broker.provision("gw-1")
    reader = broker.state.store.reader()
    seq = reader.head().seq
    broker.server._run.responder.tick()
    await broker.provision("gw-2")  # its commit comes after the mark's
    assert reader.published_seq() >= seq
    reader.close()


async def test_actions_of_another_process_are_published_too(broker: Running) -> None:
    """The outbox follows the store, so an operator's command line beside a running broker is seen."""
    operator = await listen(broker)
    child = await asyncio.create_subprocess_exec(sys.executable, "-c", OTHER_PROCESS, str(broker.path))
    assert await child.wait() == 0
    while True:
        event = json.loads((await operator.message()).payload)
        if event["event"].get("actor") == "cli:other":
            break
    assert event["event"]["kind"] == "operator-created"


async def test_a_slow_window_keeps_the_order(broker: Running) -> None:
    """Hundreds of events at once, more than the operator's window takes, come in order and all of them (P5)."""
    operator = await listen(broker)
    for number in range(200):
        broker.admin.create_profile(Profile(0, f"p-{number}"))
    reader = broker.state.store.reader()
    head = reader.head()
    reader.close()
    events = await events_until(operator, head.seq)
    assert [e["seq"] for e in events] == list(range(head.seq - len(events) + 1, head.seq + 1))
    assert len(events) >= 400


async def test_after_a_crash_events_are_published_again(broker: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was not recorded as published is published again by the next start, in order: at least once (P5)."""
    await broker.provision("gw-1")
    await broker.stop()
    # A crash between publishing and recording it leaves the mark behind.
    database = sqlite3.connect(broker.path / "mqttprov.db")
    with database:
        database.execute("UPDATE outbox SET published_seq = 2")
        stored = [seq for (seq,) in database.execute("SELECT seq FROM audit_event WHERE seq > 2 ORDER BY seq")]
    database.close()
    published: list[int] = []
    original = EmbeddedBroker.publish_event

    def spy(self: EmbeddedBroker, event: ChainedEvent) -> None:
        published.append(event.seq)
        original(self, event)

    monkeypatch.setattr(EmbeddedBroker, "publish_event", spy)
    await broker.start()
    assert published == stored
    assert len(stored) >= 2


async def test_published_events_are_not_published_again_after_a_clean_stop(broker: Running) -> None:
    """A clean stop publishes everything and records it."""
    await broker.provision("gw-1")
    await broker.stop()
    database = sqlite3.connect(broker.path / "mqttprov.db")
    (mark,) = database.execute("SELECT published_seq FROM outbox").fetchone()
    (last,) = database.execute("SELECT max(seq) FROM audit_event").fetchone()
    database.close()
    assert mark == last
    await broker.start()


async def test_refused_attempts_are_told_in_one_event(broker: Running) -> None:
    """What the limiter turns away is one event with a count, not one each (P5 with P9)."""
    operator = await listen(broker)
    source = "127.0.0.77"
    for _ in range(30):
        session = await broker.session(source=source)
        for _ in range(8):
            session.publish_nowait("/provision/request", b"not json", 0)
        replies = [json.loads((await session.message()).payload) for _ in range(8)]
        session.disconnect()
    assert replies[-1]["retryAfter"] > 0
    broker.server._run.responder._flush_limited()
    while True:
        event = json.loads((await operator.message()).payload)["event"]
        if event["kind"] == "limited":
            break
    assert (event["source"], event["count"] > 10) == (source, True)
    assert (await broker.provision("gw-1", source="127.0.0.78"))["status"] == "SUCCESS"


async def test_checkpoints_are_signed_written_and_published(broker: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """A running broker signs what happened when it is time, for operators to keep; also what came last (P5)."""
    monkeypatch.setattr("mqttprov.responder.checkpoints.EVERY_S", 0.0)
    operator = await broker.operator()
    await operator.subscribe("provision/audit/checkpoint")
    await broker.provision("gw-1")
    note = (await operator.message()).payload.decode()
    monkeypatch.setattr("mqttprov.responder.checkpoints.EVERY_S", 1e9)
    await broker.provision("gw-2")
    signer = broker.state.audit_signer(os.urandom)
    path = broker.state.checkpoints_path
    open_note(note, signer.verifier_key, verify_signature)
    assert note in path.read_text()
    await broker.stop()
    marks, torn = read_checkpoints(path.read_text().splitlines(keepends=True), signer.verifier_key, verify_signature)
    await broker.start()
    reader = broker.state.store.reader()
    assert (max(marks), torn) == (reader.head().seq, False)
    verify(reader.events(), checkpoints=marks)
    reader.close()


async def test_a_device_gets_no_checkpoints(broker: Running) -> None:
    """What lies below provision/audit/ is for operators."""
    device = await broker.device("gw-1")
    assert await device.subscribe("provision/audit/checkpoint") == (ReasonCode.NOT_AUTHORIZED,)
