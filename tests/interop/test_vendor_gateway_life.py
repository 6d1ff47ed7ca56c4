"""Unmodified thingsboard-gateway 3.8.5 from its first request to its retirement, all by its manual and our commands."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.interop.brokers import Broker
    from tests.interop.conftest import Operator, StartGateway, VendorGateway

pytestmark = pytest.mark.interop

LIMITS_APPLIED = "Service configuration was successfully retrieved and applied."
STARTED = "Gateway started."
REFUSED = "Connection failed with result code 135 (Not authorized)"
NAME = "Factory-Gateway-51"


def comes_online(gateway: VendorGateway, operator: Operator) -> None:
    """Wait until it counts itself connected and answers a call."""
    gateway.log.wait_for(LIMITS_APPLIED)
    gateway.log.wait_for(STARTED)
    assert operator.call(NAME, "gateway_ping", params={}) == {"code": 200, "resp": "pong"}


def provisions_again(gateway: VendorGateway, operator: Operator, before: str) -> str:
    """Start it again without its credentials: it gets and uses others; give those."""
    assert not (gateway.config / ".credentials").exists()
    gateway.cut_power()
    gateway.start()
    gateway.log.wait_for("Gateway provisioned")
    comes_online(gateway, operator)
    value: str = gateway.credentials["credentialsValue"]
    assert value != before
    return value


def rotates(gateway: VendorGateway, broker: Broker, operator: Operator, before: str) -> str:
    """Have an operator ask for new credentials, which the gateway fetches at its next start; give those."""
    asked = broker.command("device", "rotate", NAME)
    assert asked["rotationDue"] is True
    operator.wait_for(f"v1/devices/{NAME}/rpc/response/{asked['auditSeq']}", lambda c: c.get("code") == 200)
    return provisions_again(gateway, operator, before)


@pytest.mark.parametrize("broker", ["serve"], indirect=True, scope="session")  # tests/brokers/mosquitto has its verbs
def test_the_whole_life(broker: Broker, operator: Operator, start_gateway: StartGateway) -> None:
    """Provisioned, suspended, resumed, rotated, provisioned again by RPC, given away, rotated, retired (P7, P10).

    Its new owner has no other place for the claim code than behind the secret, where it stays ever after.
    """
    acme = broker.new_token("acme", "--owner", "acme", "--label", "site=north")
    globex = broker.new_token("globex", "--owner", "globex", "--label", "site=harbour")
    gateway = start_gateway(acme, NAME=NAME)
    comes_online(gateway, operator)
    first = gateway.credentials["credentialsValue"]
    assert (broker.device(NAME)["state"], broker.device(NAME)["owner"]) == ("active", "acme")

    assert broker.command("device", "suspend", NAME)["state"] == "suspended"
    gateway.log.wait_for("Not authorized")  # kicked
    gateway.log.wait_for(REFUSED)
    assert broker.command("device", "resume", NAME)["state"] == "active"
    gateway.cut_power()  # its own next attempt may be two minutes away
    gateway.start()
    comes_online(gateway, operator)

    second = rotates(gateway, broker, operator, first)
    assert operator.call(NAME, "gateway_remove_provisioned_credentials", params=None)["code"] == 200
    third = provisions_again(gateway, operator, second)
    assert (broker.device(NAME)["generation"], broker.device(NAME)["rotationDue"]) == (3, False)

    code = broker.command("device", "transfer", NAME, "--to", "globex")["claimCode"]
    assert operator.call(NAME, "gateway_remove_provisioned_credentials", params=None)["code"] == 200
    gateway.configure(globex._replace(secret=f"{globex.secret}:{code}"))
    fourth = provisions_again(gateway, operator, third)
    row = broker.device(NAME)
    assert (row["owner"], row["labels"], row["token"], row["generation"]) == (
        "globex", {"site": "harbour"}, "globex", 4
    )  # fmt: skip
    rotates(gateway, broker, operator, fourth)

    retired = broker.command("device", "decommission", NAME, "--yes")
    assert (retired["state"], retired["wiped"]) == ("decommissioned", True)
    assert not (gateway.config / ".credentials").exists()
    assert broker.events(NAME) == [
        "provisioned", "activated", "suspended", "resumed", "rotation-requested", "reprovisioned", "activated",
        "reprovisioned", "activated", "transfer-offered", "transfer-completed", "activated", "rotation-requested",
        "reprovisioned", "activated", "decommissioned", "wiped",
    ]  # fmt: skip
