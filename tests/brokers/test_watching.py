"""What a running broker notices of its devices: who is in use, who comes with what has ended, who fights."""

import json
import sqlite3
from contextlib import closing

import pytest
from tests.brokers.harness import Client, Running
from tests.brokers.test_device_life import act, life, token_of

from mqttprov.core.hygiene import FIGHT
from mqttprov.mqtt import ProtocolVersion, ReasonCode
from mqttprov.responder.gathered import SEEN_INTERVAL_MS

LABELS = "v1/devices/me/attributes/response/1"
LONG_AGO_MS = 1


def forget_use(broker: Running) -> None:
    """Let all devices have been in use long ago."""
    with closing(sqlite3.connect(broker.path / "mqttprov.db")) as database, database:
        database.execute("UPDATE device SET last_seen_ms = ?", (LONG_AGO_MS,))


async def in_use(broker: Running) -> set[str]:
    """End the broker, which writes what it has gathered; give who was in use lately, and start it again."""
    await broker.stop()
    with closing(sqlite3.connect(broker.path / "mqttprov.db")) as database:
        found = database.execute("SELECT name FROM device WHERE last_seen_ms > ?", (LONG_AGO_MS,)).fetchall()
    await broker.start()
    return {name for (name,) in found}


def told(broker: Running, kind: str) -> list[dict[str, object]]:
    """Give the audit events of a kind."""
    reader = broker.state.store.reader()
    try:
        return [json.loads(event.body)["event"] for event in reader.events() if event.kind == kind]
    finally:
        reader.close()


async def labels(device: Client) -> dict[str, str]:
    """Let a device ask for its labels."""
    await device.publish("v1/devices/me/attributes/request/1", b"{}")
    answer = await device.message()
    assert answer.topic == LABELS
    found: dict[str, str] = json.loads(answer.payload)["shared"]["labels"]
    return found


async def test_a_login_shows_that_a_device_is_in_use(broker: Running) -> None:
    """The first one by itself, a later one too; a device that never logged in is not."""
    token = await token_of(broker, "gw-1")
    await token_of(broker, "gw-2")
    await broker.login(token)
    assert await in_use(broker) == {"gw-1"}
    forget_use(broker)
    await broker.login(token)
    assert await in_use(broker) == {"gw-1"}


async def test_a_device_that_stays_connected_is_in_use(broker: Running) -> None:
    """Eight days without a login are no silence; who has left is not in use, and operators are no devices."""
    (await broker.device("leaves")).disconnect()
    await broker.broker.empty.wait()
    await broker.device("stays", keep_alive_s=0)
    await broker.operator()
    forget_use(broker)
    broker.advance(SEEN_INTERVAL_MS / 1000 - 60)
    broker.advance(61)
    assert await in_use(broker) == {"stays"}


async def test_two_that_fight_for_a_client_id_are_told(broker: Running) -> None:
    """One event for each source; who only reconnects is not told."""
    token = await token_of(broker, "gw-1")
    other = await token_of(broker, "gw-2")
    for _ in range(FIGHT):
        for source in ("127.0.0.2", "127.0.0.3"):
            await broker.login(token, client_id="same", source=source)
    for _ in range(2):
        await broker.login(other, client_id="same")
    await in_use(broker)
    events = told(broker, "taken-over")
    assert {(e["device"], e["source"]) for e in events} == {("gw-1", "127.0.0.2"), ("gw-1", "127.0.0.3")}
    assert sorted(str(e["count"]) for e in events) == [str(FIGHT - 1), str(FIGHT)]


@pytest.mark.parametrize("version", list(ProtocolVersion))
async def test_superseded_and_unknown_credentials_get_the_same_bytes(broker: Running, version: ProtocolVersion) -> None:
    """What the audit knows, the wire does not tell."""
    old = await token_of(broker, "gw-1")
    await broker.login(old)
    await broker.login(await token_of(broker, "gw-1"))
    answers = []
    for username in (old, "mqp_at_never-issued"):
        assert await broker.refusal(username, version=version) == ReasonCode.BAD_USER_NAME_OR_PASSWORD
        answers.append(bytes(broker.clients[-1].raw))
    assert answers[0] == answers[1] != b""
    await in_use(broker)
    assert sorted((str(e["reason"]), e.get("device")) for e in told(broker, "login-refused")) == [
        ("superseded", "gw-1"),
        ("unknown", None),
    ]


async def test_an_open_session_has_new_labels_when_the_verb_returns(broker: Running) -> None:
    """It asks and gets them, without a new login; another device keeps its own."""
    token = await token_of(broker, "gw-1")
    device, other = await broker.login(token), await broker.device("gw-2")
    for each in (device, other):
        await each.subscribe(LABELS)
    assert await labels(device) == {}
    done = await act(life(broker).label, "gw-1", {"site": "berlin"})
    assert (done.device.labels, done.brokers) == ({"site": "berlin"}, 1)
    assert await labels(device) == {"site": "berlin"}
    assert await labels(other) == {}
    await act(life(broker).label, "gw-1", {"site": None, "line": "A"})
    assert await labels(device) == {"line": "A"}
    device.disconnect()
    again = await broker.login(token)
    await again.subscribe(LABELS)
    assert await labels(again) == {"line": "A"}
