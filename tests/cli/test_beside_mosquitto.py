"""Mosquitto as `mqttprov mosquitto install` sets it up, with `mqttprov respond` beside it: certificates, doctor."""

import contextlib
import os
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.brokers.certificates import DeviceKey, pem_of
from tests.cli.command import command, mqttprov
from tests.ports import free_port

from mqttprov.brokers.doctor.probe import Address, LoginRefused, NoBroker, Probe
from mqttprov.brokers.mosquitto.gate_build import missing_packages

MOSQUITTO = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
START_TIMEOUT_S = 20.0


class Installed:
    """A directory that was set up, with what runs from it."""

    def __init__(self, folder: Path, state: Path, token: Path, ports: tuple[int, int]) -> None:
        self.folder = folder
        self.state = state
        self.port, self.tls_port = ports
        self._token = token
        self._broker: subprocess.Popen[bytes] | None = None
        self._responder: subprocess.Popen[bytes] | None = None

    def start_broker(self) -> None:
        """Start Mosquitto and wait until it listens."""
        assert MOSQUITTO is not None
        with (self.folder / "mosquitto.log").open("ab") as log:
            self._broker = subprocess.Popen([MOSQUITTO, "-c", str(self.folder / "mosquitto.conf")], stderr=log)
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while True:
            with contextlib.suppress(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", self.port)).close()
                return
            assert self._broker.poll() is None, (self.folder / "mosquitto.log").read_text()
            assert time.monotonic() < deadline_s
            time.sleep(0.02)  # there is nothing else to wait for

    def stop_broker(self) -> None:
        """End Mosquitto."""
        if self._broker is not None:
            self._broker.terminate()
            self._broker.wait(30)

    def start_responder(self) -> None:
        """Start the responder with nothing but its configuration, and wait until it answers requests."""
        arguments = command("respond", "--config", str(self.folder / "responder.toml"), "--json")
        with (self.folder / "responder.log").open("ab") as log:
            self._responder = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=log)
        assert self._responder.stdout is not None
        assert self._responder.stdout.readline(), self.log

    def stop(self) -> None:
        """End both; the responder without an error."""
        if self._responder is not None:
            self._responder.terminate()
            status = self._responder.wait(30)
            assert self._responder.stdout is not None
            self._responder.stdout.close()
            self.stop_broker()
            assert status == 0, self.log

    @property
    def log(self) -> str:
        """What the responder said."""
        return (self.folder / "responder.log").read_text()

    def request(self, name: str, *options: str) -> dict[str, str]:
        """Provision a device over TLS; give the reply."""
        secure = ["--host", "localhost", "--port", str(self.tls_port)]
        secure += ["--tls-ca", str(self.state / "authority.pem"), "--secret-file", str(self._token)]
        result = mqttprov("request", *secure, "--device-name", name, "--json", *options)
        assert result.status == 0, result
        reply: dict[str, str] = result.data
        return reply

    def certificate_login(self, context: ssl.SSLContext) -> Probe:
        """Log in with a client certificate. Raises `NoBroker` and `LoginRefused`."""
        return Probe(Address("localhost", self.tls_port, context), username=None)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installed]:
    """Set Mosquitto up and run it, as the page for operators says."""
    if MOSQUITTO is None or missing_packages():
        reason = f"run as root: apt-get install mosquitto {' '.join(missing_packages())}"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    base = tmp_path_factory.mktemp("beside")
    state, token = base / "state", base / "token.json"
    token.write_text(mqttprov("init", "--state", str(state), "--json").out)
    ports = (free_port(), free_port())
    options = ["--prefix", str(base / "broker"), "--port", str(ports[0]), "--tls-port", str(ports[1])]
    done = mqttprov("mosquitto", "install", *options, "--state", str(state))
    assert done.status == 0, done.err
    one = Installed(base / "broker", state, token, ports)
    try:
        one.start_broker()
        one.start_responder()
        yield one
    finally:
        one.stop()


def own(installed: Installed, key: DeviceKey, folder: Path, pem: str | None = None) -> ssl.SSLContext:
    """Make the TLS context of a device that shows its certificate."""
    return key.context(installed.state / "authority.pem", folder, pem)


def file_with(folder: Path, text: str) -> str:
    """Write a file for the command line; give its name."""
    path = folder / f"{len(list(folder.iterdir()))}.pem"
    path.write_text(text)
    return str(path)


def may_come_in(installed: Installed, context: ssl.SSLContext) -> bool:
    """Tell whether a login by certificate succeeds."""
    try:
        with installed.certificate_login(context) as session:
            session.publish("v1/devices/me/telemetry", b"{}")
            return not session.closed
    except (NoBroker, LoginRefused):
        return False


@pytest.mark.parametrize("scheme", ["mqtt", "mqtts"])
def test_the_doctor_finds_everything_right(scheme: str, installed: Installed) -> None:
    """Private replies, devices apart, no delays, sessions ended at once: shown on a real Mosquitto (P3, P7)."""
    port = installed.port if scheme == "mqtt" else installed.tls_port
    result = mqttprov("doctor", "--broker", f"{scheme}://localhost:{port}", "--state", str(installed.state), "--json")
    assert result.status == 0, result.out
    assert {row["verdict"] for row in result.data["findings"]} == {"right"}


def test_a_self_signed_certificate_logs_in_as_soon_as_it_is_registered(installed: Installed, tmp_path: Path) -> None:
    """No restart lies between SUCCESS and the first login; before it, it is nobody's."""
    key = DeviceKey("gw-self")
    context = own(installed, key, tmp_path)
    with pytest.raises(LoginRefused):
        installed.certificate_login(context)
    reply = installed.request("gw-self", "--certificate-file", file_with(tmp_path, key.certificate_pem))
    assert reply["credentialsType"] == "X509_CERTIFICATE"
    assert may_come_in(installed, context)


def test_a_certificate_from_a_signing_request_logs_in(installed: Installed, tmp_path: Path) -> None:
    """What our authority signed is registered like what a device made itself."""
    key = DeviceKey("gw-csr")
    reply = installed.request("gw-csr", "--csr-file", file_with(tmp_path, key.csr_pem()))
    assert may_come_in(installed, own(installed, key, tmp_path, pem_of(reply["credentialsValue"])))


def test_a_certificate_alone_is_no_identity(installed: Installed, tmp_path: Path) -> None:
    """One of our authority that no credential names is refused at CONNECT, and so is a suspended device's."""
    key = DeviceKey("gw-held")
    reply = installed.request("gw-held", "--csr-file", file_with(tmp_path, key.csr_pem()))
    context = own(installed, key, tmp_path, pem_of(reply["credentialsValue"]))
    assert may_come_in(installed, context)
    assert mqttprov("device", "suspend", "gw-held", "--state", str(installed.state)).status == 0
    with pytest.raises(LoginRefused):
        installed.certificate_login(context)
    assert mqttprov("device", "resume", "gw-held", "--state", str(installed.state)).status == 0
    assert may_come_in(installed, context)


def test_tokens_and_certificates_share_a_port(installed: Installed) -> None:
    """A client without certificate comes in by its token where others show one."""
    anonymous = ssl.create_default_context(cafile=installed.state / "authority.pem")
    reply = installed.request("gw-token")
    with Probe(Address("localhost", installed.tls_port, anonymous), username=reply["credentialsValue"]) as session:
        assert not session.closed
    with pytest.raises(LoginRefused):
        installed.certificate_login(anonymous)


def test_a_new_authority_counts_at_once(installed: Installed, tmp_path: Path) -> None:
    """After `ca rotate` the running responder signs with the new one, whose certificates log in."""
    assert mqttprov("ca", "rotate", "--name", "the next", "--state", str(installed.state)).status == 0
    key = DeviceKey("gw-next")
    reply = installed.request("gw-next", "--csr-file", file_with(tmp_path, key.csr_pem()))
    assert may_come_in(installed, own(installed, key, tmp_path, pem_of(reply["credentialsValue"])))
