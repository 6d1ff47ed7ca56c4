"""Which client certificates TLS lets through: those of a large fleet, asked for one by one, and no others."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.brokers.certificates import DeviceKey, FactoryAuthority, der_of
from tests.brokers.factory import Factory
from tests.brokers.harness import ClosedError, Running, new_state

from mqttprov.brokers import tls
from mqttprov.brokers.responder_run import now_ms
from mqttprov.brokers.tls import shown_certificate
from mqttprov.mqtt import ReasonCode
from mqttprov.pki.inspect import key_hash
from mqttprov.responder.device_import import ImportLine
from mqttprov.responder.state_directory import StateDirectory
from mqttprov.store.protocol import StoreUnavailable

NO_HANDSHAKE = (ssl.SSLError, ClosedError, ConnectionError)
VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]


def trust_of(broker: Running) -> Any:
    """Give what the broker's TLS listeners trust."""
    assert broker.server._trust is not None
    return broker.server._trust


def context(broker: Running, key: DeviceKey, folder: Path) -> ssl.SSLContext:
    """Give the TLS context of a device with its self-signed certificate."""
    return key.context(broker.path / "authority.pem", folder)


# --- a fleet whose certificates have one subject ---


@pytest.mark.parametrize("version", VERSIONS)
async def test_certificates_of_one_subject_log_in_each_as_its_device(
    tls_broker: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: ssl.TLSVersion
) -> None:
    """The vendor's gateways are all called `localhost`; the last one comes in as the first does, and stays itself."""
    monkeypatch.setattr(tls, "MAX_ANCHORS", 2)
    operator = await tls_broker.operator()
    await operator.subscribe("v1/devices/#")
    contexts = []
    for number in range(5):
        key = DeviceKey("localhost")
        reply = await tls_broker.provision(f"gw-{number}", hash=key.certificate_pem)
        assert reply["status"] == "SUCCESS"
        contexts.append(context(tls_broker, key, tmp_path))
        contexts[-1].minimum_version = contexts[-1].maximum_version = version
        for shown in (number, 0):
            device = await tls_broker.login(None, tls=contexts[shown])
            await device.publish("v1/devices/me/telemetry", b"x")
            assert (await operator.message()).topic == f"v1/devices/gw-{shown}/telemetry"
            assert trust_of(tls_broker)._anchors <= 2
    with pytest.raises(NO_HANDSHAKE):
        await tls_broker.login(None, tls=context(tls_broker, DeviceKey("localhost"), tmp_path))


async def test_a_context_keeps_a_bounded_number_of_certificates(
    tls_broker: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a context has taken in goes with it: handshakes stay as fast at the last device as at the first (P9)."""
    monkeypatch.setattr(tls, "MAX_ANCHORS", 2)
    seen: list[ssl.SSLContext] = []
    for number in range(6):
        key = DeviceKey(f"gw-{number}")
        assert (await tls_broker.provision(f"gw-{number}", hash=key.certificate_pem))["status"] == "SUCCESS"
        await tls_broker.login(None, tls=context(tls_broker, key, tmp_path))
        seen.append(trust_of(tls_broker)._context)
    authorities = len(trust_of(tls_broker)._settled.get_ca_certs())
    assert len(set(map(id, seen))) == 3
    assert {one.cert_store_stats()["x509"] for one in seen} == {authorities + 2}


async def test_an_established_connection_is_not_looked_at(tls_broker: Running, tmp_path: Path) -> None:
    """After its handshake nothing of what is read costs a call into Python."""
    key = DeviceKey("gw-1")
    await tls_broker.provision("gw-1", hash=key.certificate_pem)
    device = await tls_broker.login(None, tls=context(tls_broker, key, tmp_path))
    await device.publish("v1/devices/me/telemetry", bytes(100_000))
    trust = trust_of(tls_broker)
    (connection,) = (one for one in tls_broker.broker._connections if one.principal is not None)
    assert connection._transport is not None
    assert connection._transport.get_extra_info("ssl_object").context is trust._settled
    assert trust._settled is not trust._context


# --- what has ended, what ends ---


async def test_ended_certificates_are_refused_at_connect_and_told(tls_broker: Running, tmp_path: Path) -> None:
    """Superseded or decommissioned, before and after a restart: refused (P7), and the audit knows of whom it was."""
    first, second = DeviceKey("localhost"), DeviceKey("localhost")
    contexts = []
    for key in (first, second):
        await tls_broker.provision("gw-1", hash=key.certificate_pem)
        contexts.append(context(tls_broker, key, tmp_path))
        await tls_broker.login(None, tls=contexts[-1])
    for _ in range(2):
        assert await tls_broker.refusal(None, tls=contexts[0]) == ReasonCode.BAD_USER_NAME_OR_PASSWORD
        await tls_broker.login(None, tls=contexts[1])
        await tls_broker.restart()
    life = tls_broker.state.device_life("cli:test", now_ms)
    await asyncio.to_thread(life.decommission, "gw-1")
    for _ in range(2):
        assert await tls_broker.refusal(None, tls=contexts[1]) != ReasonCode.SUCCESS
        await tls_broker.restart()
    told = Factory(tls_broker, tmp_path).told("login-refused")
    assert {(event.reason, event.device) for event in told} >= {("superseded", "gw-1")}


async def test_authorities_that_a_profile_gives_up_count_no_more_at_once(factory: Factory, tmp_path: Path) -> None:
    """Without a restart: who has a certificate of theirs does not get through TLS any more."""
    factory.profile()
    await factory.learnt()
    old = factory.device("gw-1")
    await factory.broker.login(None, tls=old)
    factory.broker.admin.update_profile("made", authorities=FactoryAuthority("Another").pem)
    await factory.learnt()
    with pytest.raises(NO_HANDSHAKE):
        await factory.broker.login(None, tls=old)


async def test_a_device_vouches_for_nobody_else(tls_broker: Running, tmp_path: Path) -> None:
    """A registered certificate is an anchor for itself: what its key signs for another name is nobody (P8)."""
    authority = FactoryAuthority("gw-1")
    assert (await tls_broker.provision("gw-1", hash=authority.pem))["status"] == "SUCCESS"
    other = DeviceKey("gw-2")
    chain = authority.issue(other, "gw-2") + authority.pem
    shown = other.context(tls_broker.path / "authority.pem", tmp_path, chain)
    with pytest.raises(NO_HANDSHAKE):
        await tls_broker.login(None, tls=shown)
    trust_of(tls_broker)._context.load_verify_locations(cadata=authority.pem)  # as after a handshake of gw-1
    assert await tls_broker.refusal(None, tls=shown) == ReasonCode.BAD_USER_NAME_OR_PASSWORD


async def test_who_was_imported_with_a_public_key_shows_any_certificate_of_it(factory: Factory) -> None:
    """The handshake proves the key, which is what is known of the device; it opens provisioning and nothing else."""
    key = DeviceKey("whatever")
    shown = context(factory.broker, key, factory.folder)
    with pytest.raises(NO_HANDSHAKE):
        await factory.broker.login(None, tls=shown)
    line = ImportLine(2, "gw-1", "default", factory_key=key_hash(key.key.public_key()))
    assert factory.broker.admin.import_devices([line], tell_fault=lambda fault: pytest.fail(fault.text)).made == 1
    session = await factory.broker.login(None, tls=shown)
    session.publish_nowait("v1/devices/me/telemetry", b"x", 1)
    await session.wait_closed()


# --- when something is amiss ---


async def test_an_unreadable_store_closes_tls_to_registered_certificates(
    tls_broker: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, expected_errors: list[str]
) -> None:
    """It is told in the log; others come in, and so does the device when the store answers again."""
    expected_errors.append("a client certificate is not known in TLS: gone")
    key = DeviceKey("gw-1")
    await tls_broker.provision("gw-1", hash=key.certificate_pem)
    shown = context(tls_broker, key, tmp_path)

    def gone(_: str) -> bool:
        raise StoreUnavailable("gone")

    with monkeypatch.context() as patch:
        patch.setattr(tls_broker.server._run.responder._reader, "knows_certificate", gone)
        with pytest.raises(NO_HANDSHAKE):
            await tls_broker.login(None, tls=shown)
        await tls_broker.session(tls=ssl.create_default_context(cafile=tls_broker.path / "authority.pem"))
    await tls_broker.login(None, tls=shown)


@pytest.fixture
async def own_certificate(tmp_path: Path, clean_log: None) -> AsyncIterator[Running]:
    """Run a broker with a server certificate of the operator's."""
    issued = new_state(tmp_path / "state")
    (tmp_path / "state" / "mqttprov.toml").write_text('[tls]\ncertificate = "own.pem"\nprivate_key = "own-key.pem"\n')
    broker = Running(tmp_path / "state", issued, tls=True)
    state = StateDirectory(tmp_path / "state")
    certificate, key = state.authority.issue_server(["127.0.0.1"], now_ms())
    state.close()
    (tmp_path / "state" / "own.pem").write_text(certificate)
    (tmp_path / "state" / "own-key.pem").write_text(key)
    await broker.start()
    try:
        yield broker
    finally:
        for client in broker.clients:
            with contextlib.suppress(Exception):
                client.abort()
        await broker.stop()


async def test_a_damaged_server_certificate_does_not_end_a_running_listener(
    own_certificate: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, expected_errors: list[str]
) -> None:
    """A context that cannot be made anew is told in the log, and the one that is there goes on."""
    expected_errors.append("TLS goes on with what was read before")
    monkeypatch.setattr(tls, "MAX_ANCHORS", 1)
    (own_certificate.path / "own.pem").write_text("garbage")
    for number in range(3):
        key = DeviceKey("localhost")
        await own_certificate.provision(f"gw-{number}", hash=key.certificate_pem)
        await own_certificate.login(None, tls=context(own_certificate, key, tmp_path))


# --- the message ---


def message(certificates: list[bytes], *, tls13: bool, request_context: bytes = b"") -> bytes:
    """Write a Certificate message (RFC 8446 section 4.4.2, RFC 5246 section 7.4.2)."""
    entries = b"".join(len(one).to_bytes(3) + one + (bytes(2) if tls13 else b"") for one in certificates)
    body = (bytes([len(request_context)]) + request_context if tls13 else b"") + len(entries).to_bytes(3) + entries
    return b"\x0b" + len(body).to_bytes(3) + body


@given(st.lists(st.binary(min_size=1, max_size=300), max_size=3), st.booleans(), st.binary(max_size=255))
def test_the_first_certificate_of_a_message_is_found(certificates: list[bytes], tls13: bool, asked: bytes) -> None:
    """In the forms of both versions; none in a message without certificates."""
    found = shown_certificate(message(certificates, tls13=tls13, request_context=asked), tls13=tls13)
    assert found == (certificates[0] if certificates else None)


@given(st.binary(max_size=64), st.booleans())
def test_any_bytes_are_a_certificate_or_none(data: bytes, tls13: bool) -> None:
    """Whoever connects chooses these bytes."""
    found = shown_certificate(data, tls13=tls13)
    assert found is None or (found and found in data)


def test_a_cut_message_shows_no_certificate() -> None:
    """Half a certificate is none."""
    whole = message([der_of(DeviceKey("gw-1").certificate_pem)], tls13=True)
    assert all(shown_certificate(whole[:end], tls13=True) is None for end in range(len(whole) - 2))
