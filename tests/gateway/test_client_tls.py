"""The real gateway over TLS: who is verified, what is shown, and what happens to packets within TLS."""

import json
import ssl
from pathlib import Path

import pytest
from tests.gateway.harness import X509_REPLY, Authority, Broker, Login, Start, packet, publish_packet

from mqttprov.gateway.credentials_file import CredentialsFile
from mqttprov.gateway.settings import SecretText


def test_a_certificate_gateway_provisions_and_logs_in_over_tls(
    start: Start, broker: Broker, tmp_path: Path, authority: Authority
) -> None:
    """TLS in both roles; the gateway's own certificate only for the login, and it is the one it asked with."""
    broker.tls, broker.reply = authority.server_context(), X509_REPLY
    broker.tls.verify_mode = ssl.CERT_OPTIONAL
    trusted: list[str] = []

    def trust(login: Login) -> int:
        if login.username == "provision":
            assert broker.tls is not None
            trusted.append((tmp_path / "cert.pem").read_text())
            broker.tls.load_verify_locations(cadata=trusted[0])
        return 0

    broker.on_login = trust
    gateway = start(ca_file=authority.ca_file)
    gateway.until("online")
    assert broker.login().peer_certificate is None
    login = broker.login()
    assert (login.username, login.client_id) == (None, "")
    assert login.peer_certificate == ssl.PEM_cert_to_DER_cert(trusted[0])
    assert json.loads(broker.message().payload)["hash"] == trusted[0]


def test_packets_that_share_a_tls_record_are_all_read(start: Start, broker: Broker, authority: Authority) -> None:
    """TLS holds what no selector knows of; the last of three packets is answered although no more bytes come."""
    broker.tls = authority.server_context()
    attributes = publish_packet("v1/devices/me/attributes", b"{}")
    ping = publish_packet("v1/devices/me/rpc/request/9", b'{"method":"gateway_ping"}')
    broker.scripts.append(lambda peer: peer.sock.sendall(attributes * 2 + ping))
    start(ca_file=authority.ca_file, access_token=SecretText("t"))
    broker.message()
    assert broker.message().topic == "v1/devices/me/rpc/response/9"


def test_what_a_closed_connection_still_said_is_forgotten(start: Start, broker: Broker, authority: Authority) -> None:
    """PUBACK and DISCONNECT come in one record: the second must not end the connection that the first one led to."""
    broker.tls = authority.server_context()
    broker.after_puback = lambda message: packet(0xE0, b"\x8b\0") if "rpc/response" in message.topic else b""
    broker.scripts.append(lambda peer: peer.call(9, "gateway_remove_provisioned_credentials"))
    gateway = start(ca_file=authority.ca_file, access_token=SecretText("t"))
    gateway.until("answering_removal")
    gateway.seen.clear()
    gateway.until("online")
    assert gateway.seen == ["connecting_to_provision", "awaiting_reply", "saving", "connecting", "online"]


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_rejected_client_certificate_counts_as_refused_credentials(
    start: Start, broker: Broker, tmp_path: Path, authority: Authority, version: ssl.TLSVersion
) -> None:
    """Rejected within the handshake (1.2) or after it (1.3), never by CONNACK: three times, then provisioning (P10)."""
    CredentialsFile(tmp_path).save(X509_REPLY)
    broker.tls = authority.server_context()
    broker.tls.maximum_version = version
    broker.tls.verify_mode = ssl.CERT_OPTIONAL
    gateway = start(ca_file=authority.ca_file)
    assert "3 times" in gateway.until("waiting_to_provision").why
    gateway.until("online")


def test_a_server_of_another_ca_learns_nothing(
    start: Start, broker: Broker, tmp_path: Path, authority: Authority
) -> None:
    """The handshake fails in the provisioning role already: no CONNECT, no key, no secret."""
    broker.tls = Authority(tmp_path, "stranger").server_context()
    gateway = start(ca_file=authority.ca_file)
    assert "certificate verify failed" in gateway.until("waiting_to_provision").why
    gateway.stop()
    assert broker.logins.empty()


def test_a_server_of_another_name_learns_nothing(start: Start, broker: Broker, authority: Authority) -> None:
    """The certificate is for 127.0.0.1, the gateway was told localhost."""
    broker.tls = authority.server_context()
    gateway = start(ca_file=authority.ca_file, host="localhost")
    assert "Hostname mismatch" in gateway.until("waiting_to_provision").why
    gateway.stop()
    assert broker.logins.empty()


def test_a_plain_server_is_not_talked_to_in_plain_text(start: Start, broker: Broker, authority: Authority) -> None:
    """With a CA there is no way back to plain text, whatever the server speaks."""
    gateway = start(ca_file=authority.ca_file)
    gateway.until("waiting_to_provision")
    gateway.stop()
    assert broker.logins.empty()
