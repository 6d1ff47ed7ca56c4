"""The real gateway over real sockets on 127.0.0.1: paho-mqtt on one side, the harness's broker on the other."""

import json
import logging
import select
import socket
from pathlib import Path

import pytest
from tests.gateway.harness import (
    BASIC_REPLY,
    PATIENCE_S,
    TOKEN_REPLY,
    Broker,
    Login,
    Message,
    Peer,
    Running,
    Start,
    settings,
    success,
)

from mqttprov.gateway.actions import Connect
from mqttprov.gateway.backoff import MachineSettings
from mqttprov.gateway.client import GatewayClient
from mqttprov.gateway.connection import Connection
from mqttprov.gateway.credentials_file import CredentialsFile
from mqttprov.gateway.events import ConnectRefused, Event
from mqttprov.gateway.settings import SecretText, SettingsError


def test_a_new_gateway_provisions_saves_and_comes_online(start: Start, broker: Broker, tmp_path: Path) -> None:
    """Two connections: 3.1.1 as `provision`, then MQTT 5 with the token that is on the disk by then (P10)."""
    stored_at_login = []
    file = CredentialsFile(tmp_path)

    def note(login: Login) -> int:
        stored_at_login.append(file.path.exists())
        return 0

    broker.on_login = note
    gateway = start()
    assert broker.login() == Login(4, "", "provision", None, 60)
    request = broker.message()
    assert (request.topic, request.qos) == ("/provision/request", 1)
    assert json.loads(request.payload) == {
        "provisionDeviceKey": "KEY-1",
        "provisionDeviceSecret": "SECRET-1",
        "deviceName": "gw-1",
        "gateway": True,
    }
    assert broker.login() == Login(5, "", "token-1", None, 120)
    gateway.until("online")
    assert gateway.seen == ["connecting_to_provision", "awaiting_reply", "saving", "connecting", "online"]
    assert stored_at_login == [False, True]
    assert file.read() == TOKEN_REPLY
    assert [broker.subscriptions.get(timeout=PATIENCE_S) for _ in range(3)] == [
        "/provision/response",
        "v1/devices/me/rpc/request/+",
        "v1/devices/me/attributes",
    ]


def test_a_restarted_gateway_uses_what_is_stored(start: Start, broker: Broker, tmp_path: Path) -> None:
    """No provisioning; heartbeats are telemetry."""
    CredentialsFile(tmp_path).save(BASIC_REPLY)
    start(MachineSettings(heartbeat_s=0.01))
    assert broker.login() == Login(5, "c1", "u1", "p1", 120)
    assert [broker.message() for _ in range(2)] == [
        Message("v1/devices/me/telemetry", b'{"heartbeat":1}', 1),
        Message("v1/devices/me/telemetry", b'{"heartbeat":2}', 1),
    ]


def test_refused_credentials_are_replaced(start: Start, broker: Broker, tmp_path: Path) -> None:
    """Three refusals, one provisioning, online with the new ones (P10)."""
    CredentialsFile(tmp_path).save(BASIC_REPLY)
    broker.on_login = lambda login: 0x87 if login.username == "u1" else 0
    start().until("online")
    usernames = [broker.login().username for _ in range(5)]
    assert usernames == ["u1", "u1", "u1", "provision", "token-1"]


def test_an_old_refusal_code_counts_the_same(start: Start, broker: Broker) -> None:
    """MQTT 3.1.1 return code 5 on the provisioning connection is a refusal with 0x87."""
    broker.on_login = lambda login: 0x87 if broker.logins.empty() and not broker.peers else 0
    assert "0x87" in start().until("waiting_to_provision").why


def test_removal_by_rpc_is_answered_and_leads_to_provisioning(start: Start, broker: Broker, tmp_path: Path) -> None:
    """The file is gone before the answer; then a new provisioning follows at once."""

    def remove(peer: Peer) -> None:
        broker.reply = BASIC_REPLY
        peer.call(3, "gateway_remove_provisioned_credentials")

    broker.scripts.append(remove)
    gateway = start()
    assert broker.message().topic == "/provision/request"
    answer = broker.message()
    assert (answer.topic, answer.qos) == ("v1/devices/me/rpc/response/3", 1)
    assert json.loads(answer.payload)["code"] == 200
    gateway.until("answering_removal")
    gateway.until("online")
    assert CredentialsFile(tmp_path).read() == BASIC_REPLY


def test_a_lost_connection_comes_back(start: Start, broker: Broker) -> None:
    """The broker hangs up; the gateway logs in again."""
    broker.scripts.append(Peer.hang_up)
    gateway = start()
    gateway.until("waiting_to_connect")
    gateway.until("online")


@pytest.mark.parametrize(
    "garbage", [b"\xf0\x00", b"\x30\x05\x00\x02\xff\xfe\x00", b"\x30\x01\x00", b"\x20\xff\xff\xff\xff\x7f"]
)
def test_garbage_from_the_broker_is_survived(start: Start, broker: Broker, garbage: bytes) -> None:
    """Whatever paho's parser makes of it: the gateway closes, waits, and comes back (P10)."""

    def send_garbage(peer: Peer) -> None:
        peer.sock.sendall(garbage)
        peer.hang_up()

    broker.scripts.append(send_garbage)
    gateway = start()
    gateway.until("waiting_to_connect")
    gateway.until("online")


def test_a_full_disk_delays_the_login(
    start: Start, broker: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Saving fails twice, then works; there is no login before (P10)."""
    real, failures = CredentialsFile.save, iter([True, True, False])

    def save(file: CredentialsFile, content: bytes) -> None:
        if next(failures):
            raise OSError(28, "No space left on device")
        real(file, content)

    monkeypatch.setattr(CredentialsFile, "save", save)
    gateway = start()
    gateway.until("online")
    assert gateway.seen.count("waiting_to_save") == 2
    assert [broker.login().username for _ in range(2)] == ["provision", "token-1"]
    assert CredentialsFile(tmp_path).read() == TOKEN_REPLY


def test_a_failed_removal_leaves_the_gateway_online(
    start: Start, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The caller is told with code 500."""

    def remove(_: CredentialsFile) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(CredentialsFile, "remove", remove)
    broker.scripts.append(lambda peer: peer.call(3, "gateway_remove_provisioned_credentials"))
    gateway = start()
    broker.message()
    assert json.loads(broker.message().payload)["code"] == 500
    gateway.until("removing")
    gateway.until("online")


def test_a_connection_ends_with_one_event(broker: Broker) -> None:
    """paho calls back twice for a refused login (CONNACK, disconnected); the machine is told once."""
    broker.on_login = lambda _: 0x87
    events: list[Event] = []
    connect = Connect("operational", "", "u", None, 60, 5, False)
    connection = Connection(
        connect, host="127.0.0.1", port=broker.port, tls=None, connect_timeout_s=PATIENCE_S, report=events.append
    )
    connection.open()
    while connection.socket is not None:
        ready, _, _ = select.select([connection.socket], [], [], PATIENCE_S)
        assert ready
        connection.service(readable=True, writable=False)
    connection.close()
    assert events == [ConnectRefused(0x87)]


def test_nobody_listening_is_waited_out_and_stop_is_prompt(tmp_path: Path) -> None:
    """A connection that is refused leads to the back-off; stop wakes the longest wait at once."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    gateway = Running(settings(tmp_path, port), MachineSettings(backoff_base_s=3600, backoff_cap_s=3600))
    assert "no provisioning connection" in gateway.until("waiting_to_provision").why
    gateway.stop()
    assert gateway.until("stopped")


def test_stop_before_run_and_after_it_is_harmless(tmp_path: Path, broker: Broker) -> None:
    """run returns without having connected; another stop does nothing."""
    client = GatewayClient(settings(tmp_path, broker.port))
    client.stop()
    client.run()
    client.stop()
    assert broker.logins.empty()


def test_stop_disconnects_in_good_order(start: Start, broker: Broker) -> None:
    """The broker's thread of the connection ends by DISCONNECT or end of file, and no state follows `stopped`."""
    gateway = start()
    gateway.until("online")
    gateway.stop()
    gateway.until("stopped")
    assert gateway.changes.empty()


def test_a_directory_that_cannot_be_made_is_told_before_connecting(tmp_path: Path, broker: Broker) -> None:
    """A file stands in the way."""
    (tmp_path / "file").touch()
    with pytest.raises(SettingsError, match="cannot make the gateway's directory"):
        GatewayClient(settings(tmp_path / "file" / "x", broker.port)).run()


def test_a_ca_file_that_is_none_is_told_before_connecting(tmp_path: Path, broker: Broker) -> None:
    """Not a PEM file."""
    (tmp_path / "ca.pem").write_text("junk")
    with pytest.raises(SettingsError, match="not a CA certificate"):
        GatewayClient(settings(tmp_path, broker.port, ca_file=tmp_path / "ca.pem")).run()
    assert broker.logins.empty()


def test_no_secret_is_logged(start: Start, broker: Broker, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Key, secret, token and password do not appear at any log level (P6)."""
    caplog.set_level(logging.DEBUG)
    half = success("MQTT_BASIC", {"clientId": "", "userName": "sesame-user", "password": "sesame-password"})[:-5]
    (tmp_path / ".credentials").write_bytes(half)
    broker.reply = success("ACCESS_TOKEN", "sesame-token")
    start(provision_secret=SecretText("sesame-secret")).until("online")
    assert "awaiting_reply" in caplog.text
    for secret in ("sesame", "KEY-1"):
        assert secret not in caplog.text
