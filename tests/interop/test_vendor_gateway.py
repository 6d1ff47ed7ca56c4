"""Unmodified thingsboard-gateway 3.8.5 against our brokers: every selection of credentials that its manual offers.

They all run at once, so that a reply that went to the wrong one would show.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

import pytest

if TYPE_CHECKING:
    from tests.interop.brokers import Broker
    from tests.interop.conftest import Operator, StartGateway, VendorGateway

pytestmark = pytest.mark.interop

LIMITS_APPLIED = "Service configuration was successfully retrieved and applied."
STARTED = "Gateway started."
REFUSED = "Connection failed with result code 135 (Not authorized)"
NOT_FOUND = "Provisioning was unsuccessful with status NOT_FOUND and message: Provision data was not found!"


class Selection(NamedTuple):
    """What is selected in the gateway's environment, and the credentials type that it must come to."""

    provisioning: dict[str, str]
    credentials_type: str
    tls: bool = False


SELECTIONS = {
    "access-token": Selection({"NAME": "Factory-Gateway-01", "ACCESS_TOKEN": "my-access-token-1"}, "ACCESS_TOKEN"),
    "mqtt-basic": Selection(
        {"NAME": "Factory Gateway 02", "USERNAME": "user-2", "PASSWORD": "password-2", "CLIENT_ID": "client-2"},
        "MQTT_BASIC",
    ),
    "x509": Selection(
        {"NAME": "Factory-Gateway-03", "CA_CERT_FILENAME": "authority.pem"}, "X509_CERTIFICATE", tls=True
    ),
    "x509-too": Selection(
        {"NAME": "Factory-Gateway-04", "CA_CERT_FILENAME": "authority.pem"}, "X509_CERTIFICATE", tls=True
    ),
    "nothing": Selection({}, "ACCESS_TOKEN"),
    "nothing-either": Selection({}, "ACCESS_TOKEN"),
}


@pytest.fixture(scope="module")
def fleet(broker: Broker, start_gateway: StartGateway) -> dict[str, VendorGateway]:
    """One gateway for each selection, all started at once with the same key."""
    gateways = {
        name: start_gateway(broker.token, tls=selection.tls, **selection.provisioning)
        for name, selection in SELECTIONS.items()
    }
    for gateway in gateways.values():
        gateway.log.wait_for("[Provisioning client] Received data from ThingsBoard")
        gateway.log.wait_for("Gateway provisioned")
    return gateways


@pytest.mark.parametrize("name", SELECTIONS)
def test_provisions_connects_and_counts_itself_connected(
    name: str, fleet: dict[str, VendorGateway], broker: Broker, operator: Operator
) -> None:
    """The gateway applies the reply to getSessionLimits, answers a call and sends telemetry; the device is active (P5).

    It answers calls only while its own `is_connected()` is true, which takes that reply.
    """
    gateway = fleet[name]
    gateway.log.wait_for(LIMITS_APPLIED)
    gateway.log.wait_for(STARTED)
    device = gateway.credentials["deviceName"]
    assert operator.call(device, "gateway_ping", params={}) == {"code": 200, "resp": "pong"}
    operator.wait_for(f"v1/devices/{device}/telemetry", lambda content: "machineStats" in str(content))
    row = broker.device(device)
    assert (row["state"], row["credentialStatus"], row["generation"]) == ("active", "active", 1)
    assert row["credentialsType"] == gateway.credentials["credentialsType"] == SELECTIONS[name].credentials_type
    assert (row["id"], row["token"], row["gateway"]) == (gateway.credentials["deviceId"], "default", True)
    assert broker.events(device) == ["provisioned", "activated"]


def test_it_gets_the_access_token_that_it_asked_for(fleet: dict[str, VendorGateway]) -> None:
    """An access token from the environment is taken and saved."""
    gateway = fleet["access-token"]
    assert gateway.credentials["credentialsValue"] == "my-access-token-1"
    assert gateway.credentials["deviceName"] == "Factory-Gateway-01"


def test_it_gets_all_three_of_mqtt_basic(fleet: dict[str, VendorGateway]) -> None:
    """User name, password and client id come back whole, or the gateway could not use any of them."""
    gateway = fleet["mqtt-basic"]
    assert gateway.credentials["credentialsValue"] == {
        "clientId": "client-2",
        "userName": "user-2",
        "password": "password-2",
    }


@pytest.mark.parametrize("name", ["x509", "x509-too"])
def test_it_logs_in_with_the_certificate_that_it_made(name: str, fleet: dict[str, VendorGateway]) -> None:
    """The registered certificate is the gateway's own self-signed one; all of them have the subject `localhost`.

    It verifies the broker by our authority.
    """
    gateway = fleet[name]
    pem = (gateway.config / "cert.pem").read_text()
    assert gateway.credentials["credentialsValue"] == "".join(
        line for line in pem.splitlines() if not line.startswith("-----")
    )
    assert gateway.credentials["caCert"] == "authority.pem"
    gateway.log.wait_for(LIMITS_APPLIED)
    assert "without TLS" not in gateway.log.text


def test_two_at_once_without_a_selection_get_different_credentials(fleet: dict[str, VendorGateway]) -> None:
    """Each of two gateways gets what itself asked for, though both waited on the same topic (P3)."""
    names, values = set(), set()
    for name in ("nothing", "nothing-either"):
        gateway = fleet[name]
        asked = re.search(r'"token":"([a-z]{15})".*"deviceName":"(Gateway [a-z]{5})"', gateway.log.text)
        assert asked is not None
        assert (gateway.credentials["credentialsValue"], gateway.credentials["deviceName"]) == asked.groups()
        assert gateway.log.text.count("Received data from ThingsBoard") == 1
        names.add(gateway.credentials["deviceName"])
        values.add(gateway.credentials["credentialsValue"])
    assert len(names) == len(values) == 2


# Its whole life beside Mosquitto, with power cuts, is in test_vendor_gateway_life.
@pytest.mark.parametrize("broker", ["serve"], indirect=True, scope="session")
def test_a_restart_keeps_the_credentials_even_when_the_token_is_revoked(
    broker: Broker, start_gateway: StartGateway
) -> None:
    """Power cut and restart: same credentials, no second request; a revoked token only stops new gateways (P10)."""
    token = broker.new_token("line-1")
    gateway = start_gateway(token, NAME="Factory-Gateway-11")
    gateway.log.wait_for(STARTED)
    saved = (gateway.config / ".credentials").read_bytes()
    gateway.cut_power()
    broker.command("token", "revoke", "line-1", "--yes")
    gateway.start()
    newcomer = start_gateway(token, NAME="Factory-Gateway-12")
    gateway.log.wait_for(LIMITS_APPLIED)
    gateway.log.wait_for(STARTED)
    assert "Starting provisioning gateway" not in gateway.log.text
    assert (gateway.config / ".credentials").read_bytes() == saved
    assert broker.events("Factory-Gateway-11") == ["provisioned", "activated"]
    newcomer.log.wait_for(NOT_FOUND)
    assert newcomer.exit_status() == 1
    assert not (newcomer.config / ".credentials").exists()


def test_a_wrong_secret_ends_it_at_once_instead_of_after_a_minute(broker: Broker, start_gateway: StartGateway) -> None:
    """A refusal carries errorMsg, without which the gateway's thread dies and it hangs for 60 s."""
    gateway = start_gateway(broker.token._replace(secret="wrong"), NAME="Factory-Gateway-21")
    gateway.log.wait_for(NOT_FOUND)
    assert gateway.exit_status() == 1
    assert not (gateway.config / ".credentials").exists()


# Mosquitto resets a connection that begins with TLS on its plain port; the gateway then tries nothing else.
@pytest.mark.parametrize("broker", ["serve"], indirect=True, scope="session")
def test_its_fall_back_to_a_plain_nameless_login_is_refused(broker: Broker, start_gateway: StartGateway) -> None:
    """X.509 on the plain port: after TLS fails it tries without any credentials, and must not count as connected."""
    gateway = start_gateway(broker.token, NAME="Factory-Gateway-31", CA_CERT_FILENAME="authority.pem")
    gateway.log.wait_for("Client will try to connect without TLS")
    gateway.log.wait_for(REFUSED)
    assert LIMITS_APPLIED not in gateway.log.text
    assert STARTED not in gateway.log.text
    assert broker.device("Factory-Gateway-31")["state"] == "provisioned"
