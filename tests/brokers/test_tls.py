"""TLS: clients with and without a certificate on one port, and certificates that are trusted each by itself."""

import asyncio
import json
import ssl
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.brokers.certificates import DeviceKey, pem_of
from tests.brokers.harness import ClosedError, Running, ask, new_state

from mqttprov.brokers import listeners
from mqttprov.brokers.embedded import BrokerError, EmbeddedServer
from mqttprov.brokers.responder_run import now_ms
from mqttprov.gateway.one_shot import why_untrusted
from mqttprov.mqtt import Connect, ReasonCode
from mqttprov.responder.state_directory import StateDirectory


def anonymous(broker: Running) -> ssl.SSLContext:
    """Make the context of a client that has no certificate and trusts our authority."""
    return ssl.create_default_context(cafile=broker.path / "authority.pem")


async def test_a_client_without_certificate_provisions_and_logs_in(tls_broker: Running) -> None:
    """The TLS port takes clients without a certificate (thingsboard.md rule 17), who verify ours."""
    session = await tls_broker.session(tls=anonymous(tls_broker))
    reply = await ask(session, tls_broker.payload("gw-1"))
    device = await tls_broker.login(reply["credentialsValue"], tls=anonymous(tls_broker))
    await device.publish("v1/devices/me/telemetry", bytes(100_000))


async def test_a_registered_self_signed_certificate_logs_in_at_once(tls_broker: Running, tmp_path: Path) -> None:
    """No restart between SUCCESS and the first login by certificate, and it still works after one."""
    own = DeviceKey("gw-1")
    session = await tls_broker.session(tls=anonymous(tls_broker))
    reply = await ask(session, tls_broker.payload("gw-1", hash=own.certificate_pem))
    assert (reply["status"], reply["credentialsType"]) == ("SUCCESS", "X509_CERTIFICATE")
    context = own.context(tls_broker.path / "authority.pem", tmp_path)
    (await tls_broker.login(None, tls=context)).disconnect()
    await tls_broker.restart()
    device = await tls_broker.login(None, tls=context)
    operator = await tls_broker.operator()
    await operator.subscribe("v1/devices/#")
    await device.publish("v1/devices/me/telemetry", b"x")
    assert (await operator.message()).topic == "v1/devices/gw-1/telemetry"


async def test_a_certificate_from_a_signing_request_logs_in(tls_broker: Running, tmp_path: Path) -> None:
    """Our authority signs a device's CSR; key never leaves the device."""
    own = DeviceKey("gw-1")
    reply = await tls_broker.provision("gw-1", csr=own.csr_pem())
    assert (reply["status"], reply["credentialsType"]) == ("SUCCESS", "X509_CERTIFICATE")
    pem = pem_of(reply["credentialsValue"])
    await tls_broker.login(None, tls=own.context(tls_broker.path / "authority.pem", tmp_path, pem))


async def test_a_certificate_registered_with_another_responder_logs_in(tls_broker: Running, tmp_path: Path) -> None:
    """Brokers that share a state follow the audit chain: what one registered, the other trusts without restart."""
    beside = Running(tls_broker.path, tls_broker.issued)
    await beside.start()
    try:
        own = DeviceKey("gw-1")
        assert (await beside.provision("gw-1", hash=own.certificate_pem))["status"] == "SUCCESS"
        tls_broker.server._run.responder.tick()  # what it does every 0.1 s
        await tls_broker.login(None, tls=own.context(tls_broker.path / "authority.pem", tmp_path))
        renewed = DeviceKey("gw-1")
        assert (await beside.provision("gw-1", hash=renewed.certificate_pem))["status"] == "SUCCESS"
        tls_broker.server._run.responder.tick()
        await tls_broker.login(None, tls=renewed.context(tls_broker.path / "authority.pem", tmp_path))
    finally:
        for client in beside.clients:
            client.abort()
        await beside.stop()


async def test_client_certificates_can_be_required(tmp_path: Path) -> None:
    """`client_certificates = "required"`: nobody without one gets past the handshake; who has one provisions."""
    issued = new_state(tmp_path / "state")
    (tmp_path / "state" / "mqttprov.toml").write_text('[tls]\nclient_certificates = "required"\n')
    broker = Running(tmp_path / "state", issued, tls=True)
    await broker.start()
    try:
        with pytest.raises((ssl.SSLError, ClosedError, ConnectionError)):
            await broker.session(tls=anonymous(broker))
        own = DeviceKey("gw-1")
        signed = broker.state.authority.sign_device(own.csr_pem(), "0" * 32, "gw-1", bytes(16), now_ms())
        session = await broker.session(tls=own.context(broker.path / "authority.pem", tmp_path, signed.pem))
        assert (await ask(session, broker.payload("gw-1")))["status"] == "SUCCESS"
        assert (await broker.provision("gw-2", hash=own.certificate_pem))["status"] == "SUCCESS"  # on the plain port
        await broker.login(None, tls=own.context(broker.path / "authority.pem", tmp_path))
    finally:
        for client in broker.clients:
            client.abort()
        await broker.stop()


async def test_handshakes_count_as_connections(tls_broker: Running) -> None:
    """Who connects to the TLS port and says nothing takes a place, and gives it back when it goes (P9)."""
    inside: Any = tls_broker.broker
    inside._max_connections = 3
    port, tls_broker.port = tls_broker.port, tls_broker.tls_port
    silent = [await tls_broker.open(None) for _ in range(3)]
    await _until(lambda: len(inside._connections) == 3)
    (await tls_broker.open(None)).send(b"hello?")
    await tls_broker.clients[-1].wait_closed()
    tls_broker.port = port
    fifth = await tls_broker.open(None)
    await fifth.wait_closed()
    silent[0].send(b"this is no TLS")
    await silent[0].wait_closed()
    silent[1].drop()
    await _until(lambda: len(inside._connections) == 1)
    session = await tls_broker.session(tls=anonymous(tls_broker))
    assert (await ask(session, tls_broker.payload("gw-1")))["status"] == "SUCCESS"


async def test_a_handshake_takes_ten_seconds_at_most(tls_broker: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer that stays silent in the handshake is closed and forgotten, and the file with it (P9)."""
    monkeypatch.setattr(listeners, "TLS_HANDSHAKE_TIMEOUT_S", 0.05)
    inside: Any = tls_broker.broker
    port, tls_broker.port = tls_broker.port, tls_broker.tls_port
    silent = [await tls_broker.open(None) for _ in range(20)]
    for client in silent:
        await client.wait_closed()
    await _until(lambda: not inside._connections)
    assert inside.empty.is_set()
    tls_broker.port = port


async def test_the_end_cuts_handshakes_off(tls_broker: Running) -> None:
    """A peer in its handshake does not hold the end of the broker up."""
    port, tls_broker.port = tls_broker.port, tls_broker.tls_port
    silent = await tls_broker.open(None)
    inside: Any = tls_broker.broker
    await _until(lambda: len(inside._connections) == 1)
    tls_broker.port = port
    async with asyncio.timeout(listeners.TLS_HANDSHAKE_TIMEOUT_S - 2):
        await tls_broker.restart()
    await silent.wait_closed()


async def _until(condition: Callable[[], bool]) -> None:
    """Wait for something that happens in turns of this loop."""
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - nobody tells of it
            await asyncio.sleep(0.001)


async def test_an_unknown_certificate_is_refused_in_the_handshake(tls_broker: Running, tmp_path: Path) -> None:
    """A certificate that nobody registered does not even reach CONNECT."""
    context = DeviceKey("stranger").context(tls_broker.path / "authority.pem", tmp_path)
    with pytest.raises((ssl.SSLError, ClosedError, ConnectionError)):
        await tls_broker.login(None, tls=context)


async def test_an_unused_certificate_of_ours_is_no_identity_by_itself(tls_broker: Running, tmp_path: Path) -> None:
    """Passing the handshake is not enough: a certificate that no credential names is refused at CONNECT."""
    own = DeviceKey("gw-1")
    signed = tls_broker.state.authority.sign_device(own.csr_pem(), "0" * 32, "gw-1", bytes(16), now_ms())
    context = own.context(tls_broker.path / "authority.pem", tmp_path, signed.pem)
    assert await tls_broker.refusal(None, tls=context) == ReasonCode.BAD_USER_NAME_OR_PASSWORD


async def test_a_token_comes_before_a_certificate(tls_broker: Running, tmp_path: Path) -> None:
    """With a user name the certificate does not count (thingsboard.md section 7)."""
    own = DeviceKey("gw-1")
    await tls_broker.provision("gw-1", hash=own.certificate_pem)
    context = own.context(tls_broker.path / "authority.pem", tmp_path)
    assert await tls_broker.refusal("mqp_at_wrong", tls=context) == ReasonCode.BAD_USER_NAME_OR_PASSWORD


async def test_a_certificate_logs_in_nowhere_without_tls(tls_broker: Running) -> None:
    """On the plain port there is no certificate, whatever the client claims."""
    own = DeviceKey("gw-1")
    await tls_broker.provision("gw-1", hash=own.certificate_pem)
    assert await tls_broker.refusal(None, client_id="gw-1") == ReasonCode.NOT_AUTHORIZED


async def test_plain_bytes_on_the_tls_port_are_refused(tls_broker: Running) -> None:
    """A client that forgets TLS gets nothing, and the next one is served."""
    port, tls_broker.port = tls_broker.port, tls_broker.tls_port
    plain = await tls_broker.open(Connect("", username="provision"))
    await plain.wait_closed()
    tls_broker.port = port
    assert (await tls_broker.provision("gw-1"))["status"] == "SUCCESS"


async def test_the_private_reply_of_a_certificate_request_holds_no_private_key(tls_broker: Running) -> None:
    """A request that carries a private key is refused in words and registers nothing (P6)."""
    own = DeviceKey("gw-1")
    reply = await tls_broker.provision("gw-1", hash=own.certificate_pem + own.private_key_pem())
    assert reply["status"] == "FAILURE"
    assert "PRIVATE" not in json.dumps(reply)
    assert list(tls_broker.state.store.reader().devices()) == []


async def test_a_taken_port_is_one_clear_error(tmp_path: Path, broker: Running) -> None:
    """`BrokerError` says what and what to do; nothing is left open."""
    new_state(tmp_path / "second")
    state = StateDirectory(tmp_path / "second")
    try:
        server = EmbeddedServer(state, host="127.0.0.1", port=broker.port, tls_port=None)
        with pytest.raises(BrokerError, match=r"cannot listen .* choose another port"):
            await server.start()
    finally:
        state.close()


async def test_half_a_certificate_setting_is_one_clear_error(tmp_path: Path) -> None:
    """Certificate without key, and files that are not there, are told before anything listens."""
    new_state(tmp_path / "state")
    for text in ('[tls]\ncertificate = "x.pem"\n', '[tls]\ncertificate = "x.pem"\nprivate_key = "y.pem"\n'):
        (tmp_path / "state" / "mqttprov.toml").write_text(text)
        state = StateDirectory(tmp_path / "state")
        try:
            with pytest.raises(BrokerError, match=r"certificate|private_key"):
                await EmbeddedServer(state, host="127.0.0.1", port=0, tls_port=0).start()
        finally:
            state.close()


async def test_an_ended_certificate_is_told_to_both_sides(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The broker starts and logs it; a client is told to have it renewed, not to name another CA."""
    path = tmp_path / "state"
    new_state(path)
    ended = DeviceKey("localhost", life=timedelta(minutes=-1))
    (path / "ended.pem").write_text(ended.certificate_pem)
    (path / "key.pem").write_text(ended.private_key_pem())
    (path / "mqttprov.toml").write_text('[tls]\ncertificate = "ended.pem"\nprivate_key = "key.pem"\n')
    state = StateDirectory(path)
    server = EmbeddedServer(state, host="127.0.0.1", port=None, tls_port=0)
    try:
        (url,) = await server.start()
        assert f"the TLS certificate {path / 'ended.pem'} is valid from" in caplog.text
        context = ssl.create_default_context(cafile=path / "ended.pem")
        for checks_name, why in (
            (True, "certificate is not valid for '127.0.0.1'; connect by a name that it is for"),
            (False, "certificate has expired; let the broker's operator renew it, or set this machine's clock"),
        ):
            context.check_hostname = checks_name
            with pytest.raises(ssl.SSLCertVerificationError) as error:
                await asyncio.open_connection("127.0.0.1", int(url.rsplit(":", 1)[1]), ssl=context)
            assert why_untrusted(error.value).endswith(why)
    finally:
        await server.stop()
        state.close()
