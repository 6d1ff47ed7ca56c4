"""Unmodified tb-mqtt-client 1.13.14 against our brokers: `TBDeviceMqttClient.provision` with every kind of argument."""

from __future__ import annotations

import datetime as dt
import json
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from tests.interop.brokers import Program

if TYPE_CHECKING:
    from tests.interop.brokers import Broker, Mosquitto
    from tests.interop.conftest import Operator

pytestmark = pytest.mark.interop

SCRIPT = Path(__file__).with_name("vendor_device.py")
PATIENT = """import json, logging, sys
from tb_device_mqtt import TBDeviceMqttClient
logging.basicConfig(level=logging.INFO)
print(json.dumps(TBDeviceMqttClient.provision(**json.loads(sys.argv[1]))), flush=True)
"""
ARGUMENTS: dict[str, dict[str, str]] = {
    "nothing": {},
    "token": {"access_token": "token-of-a-device"},
    "basic": {"username": "device-user", "password": "device-password", "client_id": "device-client"},
    "user name": {"username": "lonely-user"},  # sends null as password and client id
    "certificate": {},
    "wrong secret": {"provision_device_secret": "wrong"},
}


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """Make a self-signed certificate; give the files of certificate and private key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "vendor device")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(minutes=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    files = folder / "cert.pem", folder / "key.pem"
    files[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    files[1].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return files


class Run:
    """All cases, handled at once by one process of the vendor's client."""

    def __init__(self, python: Path, broker: Broker, folder: Path) -> None:
        certificate, key = make_certificate(folder)
        self.pem = certificate.read_text()
        cases: dict[str, dict[str, Any]] = {}
        for name, arguments in ARGUMENTS.items():
            cases[name] = {
                "provision": {
                    "host": broker.host,
                    "port": broker.port,
                    "provision_device_key": broker.token.key,
                    "provision_device_secret": broker.token.secret,
                    "device_name": self.device(name),
                    **arguments,
                }
            }
        cases["certificate"]["provision"] |= {"port": broker.tls_port, "hash": self.pem}
        cases["certificate"]["port"] = broker.tls_port
        cases["certificate"]["tls"] = {
            "ca_certs": str(broker.authority),
            "cert_file": str(certificate),
            "key_file": str(key),
        }
        done = subprocess.run(
            [python, SCRIPT],
            input=json.dumps(list(cases.values())),
            capture_output=True,
            text=True,
            timeout=150,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        self.log = done.stderr
        self.results: dict[str, Any] = dict(zip(cases, json.loads(done.stdout), strict=True))

    @staticmethod
    def device(case: str) -> str:
        """Give the device name of a case."""
        return f"vendor device {case}"


@pytest.fixture(scope="module")
def run(
    device_client_python: Path, broker: Broker, operator: Operator, tmp_path_factory: pytest.TempPathFactory
) -> Run:
    """Run all cases while the operator listens."""
    return Run(device_client_python, broker, tmp_path_factory.mktemp("device"))


@pytest.mark.parametrize("case", [case for case in ARGUMENTS if case != "wrong secret"])
def test_provisions_logs_in_and_sends_telemetry(case: str, run: Run, broker: Broker, operator: Operator) -> None:
    """What the client got lets it in and is told its limits; its telemetry reaches operators under its name (P5)."""
    result = run.results[case]
    assert result["credentials"]["status"] == "SUCCESS"
    assert (result["connected"], result["limits"], result["sent"]) == (True, True, True)
    assert operator.wait_for(f"v1/devices/{run.device(case)}/telemetry") == [{"temperature": 21.5}]
    row = broker.device(run.device(case))
    assert (row["state"], row["credentialsType"]) == ("active", result["credentials"]["credentialsType"])
    assert broker.events(run.device(case)) == ["provisioned", "activated"]


def test_each_type_has_the_value_that_was_asked_for(run: Run) -> None:
    """Supplied values come back as they are; what was left out, or sent as null, is made here."""
    credentials = {case: result["credentials"] for case, result in run.results.items()}
    assert credentials["nothing"]["credentialsType"] == "ACCESS_TOKEN"
    assert credentials["nothing"]["credentialsValue"].startswith("mqp_at_")
    assert credentials["token"]["credentialsValue"] == "token-of-a-device"
    assert credentials["basic"]["credentialsValue"] == {
        "clientId": "device-client",
        "userName": "device-user",
        "password": "device-password",
    }
    lonely = credentials["user name"]["credentialsValue"]
    assert (lonely["userName"], lonely["clientId"]) == ("lonely-user", "")
    assert lonely["password"].startswith("mqp_pw_")
    assert credentials["certificate"]["credentialsType"] == "X509_CERTIFICATE"
    assert credentials["certificate"]["credentialsValue"] == "".join(run.pem.splitlines()[1:-1])


def test_a_refusal_is_told_and_does_not_hang(run: Run, broker: Broker) -> None:
    """A wrong secret gets NOT_FOUND with errorMsg: the client says so, and gives up long before its 60 s are over."""
    assert run.results["wrong secret"] == {"credentials": None}
    assert "Provisioning was unsuccessful with status NOT_FOUND and message: Provision data was not found!" in run.log
    assert broker.events(run.device("wrong secret")) == []


@pytest.mark.parametrize("broker", ["mosquitto"], indirect=True, scope="session")
def test_beside_mosquitto_it_waits_for_a_responder(device_client_python: Path, broker: Mosquitto) -> None:
    """Refused at CONNECT while nobody would answer, it comes again by itself until somebody does (P10)."""
    broker.stop_responders()
    arguments = {
        "host": broker.host,
        "port": broker.port,
        "provision_device_key": broker.token.key,
        "provision_device_secret": broker.token.secret,
        "device_name": "patient device",
    }
    client = Program(str(device_client_python), "-c", PATIENT, json.dumps(arguments))
    try:
        client.log.wait_for("Cannot connect")
        broker.start_responders()
        assert json.loads(client.output.wait_for("status"))["status"] == "SUCCESS"
    finally:
        client.stop()
