"""What must hold on a state directory after any crash, whatever broker it was. No test lives here."""

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

from tests.brokers.harness import Client

from mqttprov.core.audit import EventKind, parse_body, verify
from mqttprov.mqtt import Connect, ReasonCode
from mqttprov.responder.state_directory import StateDirectory


async def logs_in(port: int, credentials: bytes) -> ReasonCode:
    """Log in as the device that was told this reply."""
    reply = json.loads(credentials)
    value: Any = reply["credentialsValue"]
    if reply["credentialsType"] == "ACCESS_TOKEN":
        connect = Connect(reply["deviceName"], username=value)
    else:
        client_id = value["clientId"] or reply["deviceName"]
        connect = Connect(client_id, username=value["userName"], password=value["password"].encode())
    client = await Client.open(port, connect)
    reason = await client.connack()
    client.abort()
    return reason


def check_store(state: StateDirectory, limits: Mapping[str, int]) -> None:
    """See that limits, devices, credentials and audit events agree with each other (security.md section 11.2).

    `limits`: the registration tokens, each used up; all devices are theirs, and each of them has logged in.
    """
    reader = state.store.reader()
    try:
        events = list(reader.events())
        assert verify(events) == reader.head()
        devices = {device.id: device for device in reader.devices()}
        issued = {(d, row.generation) for d in devices for row in reader.credentials_of(d)}
        used = {row.name: row.used for row in reader.tokens() if row.name in limits}
        assert used == limits
        assert Counter(device.token for device in devices.values()) == used
        assert reader.states() == {"active": sum(limits.values())}
    finally:
        reader.close()
    parsed = [parse_body(stored.body)[1] for stored in events]
    made = {EventKind.PROVISIONED, EventKind.REPROVISIONED}
    told = Counter((event.device_id, event.generation) for event in parsed if event.kind in made)
    assert set(told.values()) == {1}
    assert set(told) == issued
    first_logins = Counter(event.device_id for event in parsed if event.kind is EventKind.ACTIVATED)
    assert first_logins == Counter(devices.keys())
