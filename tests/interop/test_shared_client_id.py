"""Clients that share the client id `provision` and give no user name, as the vendor's C++ and asyncio SDKs do."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from paho.mqtt.enums import MQTTProtocolVersion

if TYPE_CHECKING:
    from tests.interop.brokers import Broker
    from tests.interop.conftest import SharedIdClient

pytestmark = pytest.mark.interop


V311, V5 = MQTTProtocolVersion.MQTTv311, MQTTProtocolVersion.MQTTv5


@pytest.mark.parametrize("broker", ["serve"], indirect=True, scope="session")
@pytest.mark.parametrize(
    "protocols",
    [(V311, V311), (V5, V5), (V311, V5)],
    ids=["3.1.1", "5", "both"],
)
def test_two_at_a_time_are_both_served(
    protocols: tuple[MQTTProtocolVersion, MQTTProtocolVersion],
    broker: Broker,
    open_shared_id_client: Callable[[MQTTProtocolVersion], SharedIdClient],
) -> None:
    """Neither session ends the other, and each gets the reply to its own request and nothing else (P3)."""
    bystander = open_shared_id_client(V5)
    clients = [open_shared_id_client(protocol) for protocol in protocols]
    for client in (bystander, *clients):
        client.wait_until_subscribed()
    names = [f"shared-{protocols[0]}{protocols[1]}-{i}" for i in range(2)]
    for client, name in zip(clients, names, strict=True):
        client.request(broker.token, deviceName=name)
    first = [client.wait_for_replies(1)[0] for client in clients]
    assert [(r["status"], r["deviceName"]) for r in first] == [("SUCCESS", name) for name in names]
    assert first[0]["credentialsValue"] != first[1]["credentialsValue"]

    # The sessions are still there: the same request again on the same connection gets the same answer (P4).
    for client, name in zip(clients, names, strict=True):
        client.request(broker.token, deviceName=name)
    for client, reply in zip(clients, first, strict=True):
        again = client.wait_for_replies(2)[1]
        assert again["credentialsValue"] == reply["credentialsValue"]
        assert len(client.replies) == 2

    # Whatever the broker had sent to the bystander would have come before the reply to its own request.
    bystander.request(broker.token._replace(secret="wrong"))
    assert [reply["status"] for reply in bystander.wait_for_replies(1)] == ["NOT_FOUND"]
    assert not any(client.disconnected for client in (bystander, *clients))


@pytest.mark.parametrize("broker", ["mosquitto"], indirect=True, scope="session")
def test_beside_mosquitto_they_are_served_one_after_another(
    broker: Broker, open_shared_id_client: Callable[[MQTTProtocolVersion], SharedIdClient]
) -> None:
    """Who comes second is refused until the first has gone, and ends nobody's session; each gets its own reply (P3)."""
    first = open_shared_id_client(V5)
    first.wait_until_subscribed()
    second = open_shared_id_client(V311)
    second.wait_until_refused()
    first.request(broker.token, deviceName="shared-first")
    (reply,) = first.wait_for_replies(1)
    assert (reply["status"], reply["deviceName"], first.disconnected) == ("SUCCESS", "shared-first", False)
    first.close()
    second.wait_until_subscribed()
    second.request(broker.token, deviceName="shared-second")
    assert [(r["status"], r["deviceName"]) for r in second.wait_for_replies(1)] == [("SUCCESS", "shared-second")]
    assert len(first.replies) == 1
