"""Unmodified thingsboard-gateway 3.8.5 through what an operator may do to it: suspend, resume, rotate, decommission."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.interop.conftest import Broker, Operator, StartGateway

pytestmark = [pytest.mark.interop, pytest.mark.xdist_group("interop")]

LIMITS_APPLIED = "Service configuration was successfully retrieved and applied."
STARTED = "Gateway started."
NAME = "Factory-Gateway-51"


def test_the_whole_life(broker: Broker, operator: Operator, start_gateway: StartGateway) -> None:
    """Kicked and refused while suspended, back when resumed, rotated by removal and restart, wiped at the end (P7)."""
    gateway = start_gateway(broker.token, NAME=NAME)
    gateway.log.wait_for(LIMITS_APPLIED)
    gateway.log.wait_for(STARTED)
    assert operator.call(NAME, "gateway_ping") == {"code": 200, "resp": "pong"}
    assert broker.command("device", "suspend", NAME)["state"] == "suspended"
    gateway.log.wait_for("Not authorized")
    assert broker.command("device", "resume", NAME)["state"] == "active"
    gateway.cut_power()  # its own next attempt may be two minutes away
    gateway.start()
    gateway.log.wait_for(LIMITS_APPLIED)
    gateway.log.wait_for(STARTED)
    assert operator.call(NAME, "gateway_ping") == {"code": 200, "resp": "pong"}

    credentials = gateway.config / ".credentials"
    before = gateway.credentials["credentialsValue"]
    asked = broker.command("device", "rotate", NAME)
    assert asked["rotationDue"] is True
    operator.wait_for(f"v1/devices/{NAME}/rpc/response/{asked['auditSeq']}", lambda c: c.get("code") == 200)
    assert not credentials.exists()
    gateway.cut_power()
    gateway.start()
    gateway.log.wait_for("Gateway provisioned")
    gateway.log.wait_for(LIMITS_APPLIED)
    gateway.log.wait_for(STARTED)
    assert gateway.credentials["credentialsValue"] != before
    assert (broker.device(NAME)["generation"], broker.device(NAME)["rotationDue"]) == (2, False)

    assert operator.call(NAME, "gateway_ping") == {"code": 200, "resp": "pong"}
    retired = broker.command("device", "decommission", NAME, "--yes")
    assert (retired["state"], retired["wiped"]) == ("decommissioned", True)
    assert not credentials.exists()
    assert broker.events(NAME)[-2:] == ["decommissioned", "wiped"]
