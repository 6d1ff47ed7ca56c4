"""Client certificates on Mosquitto: one TLS port for all clients, and certificates that stand for themselves."""

import asyncio
import contextlib
import hashlib
import signal
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from tests.brokers.certificates import DeviceKey, FactoryAuthority, der_of, pem_of
from tests.brokers.harness import Client, Running, eventually
from tests.brokers.mosquitto.beside import Beside, Mosquitto, running_beside
from tests.brokers.test_client_trust import NO_HANDSHAKE, VERSIONS, context
from tests.ports import free_port

from mqttprov.brokers.responder_run import now_ms
from mqttprov.core.login import LoginAttempt
from mqttprov.core.model import Chain, Profile, Strategy
from mqttprov.core.permissions import REQUEST_TOPIC
from mqttprov.mqtt import Connect, ProtocolVersion, ReasonCode

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey

REFUSED = ReasonCode.NOT_AUTHORIZED


@pytest.fixture
async def secure(tmp_path: Path, plugin: Path, clean_log: None) -> AsyncIterator[Beside]:
    """Run Mosquitto with a TLS port, too."""
    async with running_beside(tmp_path / "state", plugin, tls=True) as one:
        yield one


def anonymous(broker: Running) -> ssl.SSLContext:
    """Give the TLS context of a client without certificate."""
    return ssl.create_default_context(cafile=broker.path / "authority.pem")


async def registered(broker: Running, name: str, folder: Path) -> ssl.SSLContext:
    """Register a self-signed certificate; every one has the same subject."""
    key = DeviceKey("localhost")
    assert (await broker.provision(name, hash=key.certificate_pem))["status"] == "SUCCESS"
    return context(broker, key, folder)


@pytest.mark.parametrize("version", VERSIONS)
async def test_all_kinds_of_clients_share_one_port(secure: Beside, tmp_path: Path, version: ssl.TLSVersion) -> None:
    """Provisioning and tokens without certificate, and certificates of one subject, each as its own device (P4)."""
    plain = anonymous(secure)
    plain.minimum_version = plain.maximum_version = version
    session = await secure.session(tls=plain)
    session.publish_nowait(REQUEST_TOPIC, secure.payload("gw-token"), 1)
    assert b"SUCCESS" in (await session.message()).payload
    operator = await secure.operator()
    await operator.subscribe("v1/devices/#")
    contexts = [await registered(secure, f"gw-{number}", tmp_path) for number in range(3)]
    for number in (2, 0, 1, 0, 2):
        contexts[number].minimum_version = contexts[number].maximum_version = version
        device = await secure.login(None, tls=contexts[number])
        await device.publish("v1/devices/me/telemetry", b"x")
        assert (await operator.message()).topic == f"v1/devices/gw-{number}/telemetry"
    assert await secure.refusal(None, tls=plain) == REFUSED


async def test_a_certificate_beside_a_user_name_counts_for_nothing(secure: Beside, tmp_path: Path) -> None:
    """A wrong token is not made right by it, and a provisioning session stays one."""
    own = await registered(secure, "gw-1", tmp_path)
    assert await secure.refusal("no-token", tls=own) == REFUSED
    session = await secure.session(tls=own)
    assert (await session.subscribe("v1/devices/me/rpc/request/+"))[0] >= 0x80


async def test_what_no_live_credential_has_registered_is_refused(secure: Beside, tmp_path: Path) -> None:
    """Unknown, suspended, superseded, decommissioned: of our authority or not, it gets as far as CONNECT (P7)."""
    life = secure.state.device_life("cli:test", now_ms)
    assert await secure.refusal(None, tls=context(secure, DeviceKey("localhost"), tmp_path)) == REFUSED
    signed = DeviceKey("gw-1")
    reply = await secure.provision("gw-1", csr=signed.csr_pem())
    first = signed.context(secure.path / "authority.pem", tmp_path, pem_of(reply["credentialsValue"]))
    device = await secure.login(None, tls=first)
    second = await registered(secure, "gw-1", tmp_path)
    await secure.login(None, tls=second)
    await device.wait_closed()
    assert await secure.refusal(None, tls=first) == REFUSED
    device = await secure.login(None, tls=second)
    await asyncio.to_thread(life.suspend, "gw-1")
    await device.wait_closed()
    assert await secure.refusal(None, tls=second) == REFUSED
    await asyncio.to_thread(life.resume, "gw-1")
    await secure.login(None, tls=second)
    await asyncio.to_thread(life.decommission, "gw-1")
    assert await secure.refusal(None, tls=second) == REFUSED


async def come_in_by_chain(secure: Beside, pem: str) -> None:
    """Have the responder take a certificate's device in, as it does at `serve`."""
    der, done = der_of(pem), asyncio.get_running_loop().create_future()
    attempt = LoginAttempt("", None, None, hashlib.sha256(der).hexdigest(), der)
    secure.responder.login(attempt, "127.0.0.1", done.set_result)
    assert (await done).principal is not None


async def test_a_certificate_of_a_chain_counts_as_long_as_its_authority_does(secure: Beside, tmp_path: Path) -> None:
    """It is nobody's here before it came in, and again once its profile gives the authority up (P7)."""
    line, next_line = FactoryAuthority("Line"), FactoryAuthority("Line")
    secure.admin.create_profile(Profile(0, "made", Strategy.CERTIFICATE_CHAIN), Chain(line.pem, "(.*)"))
    key, other = DeviceKey("gw-1"), DeviceKey("gw-2")
    authority, pem, alien = secure.path / "authority.pem", line.issue(key, "gw-1"), next_line.issue(other, "gw-1")
    own = key.context(authority, tmp_path, pem)
    assert await secure.refusal(None, tls=own) == REFUSED
    await come_in_by_chain(secure, pem)
    device = await secure.login(None, tls=own)
    assert await secure.refusal(None, tls=other.context(authority, tmp_path, alien)) == REFUSED
    secure.admin.update_profile("made", authorities=next_line.pem + line.pem)
    await secure.login(None, tls=own)
    secure.admin.update_profile("made", authorities=next_line.pem)
    assert await secure.refusal(None, tls=own) == REFUSED
    await device.ping()


# --- what TLS refuses ---


def certificate(
    key: Key, name: str = "gw-1", signer: str = "gw-1", *, days: tuple[int, int] = (-1, 9), use: str = ""
) -> str:
    """Make a certificate that is valid between these days from now; another signer's has not his signature."""
    now = datetime.now(UTC)
    subject, issuer = (x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)]) for text in (name, signer))
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + timedelta(days=days[0]))
        .not_valid_after(now + timedelta(days=days[1]))
        .add_extension(x509.BasicConstraints(ca=use == "authority", path_length=None), critical=True)
    )
    if use == "server":
        builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=True)
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM).decode()


CURVE = ec.SECP256R1()
PLANT = certificate(ec.generate_private_key(CURVE), "plant", "plant", use="authority")
SOUND: dict[str, Callable[[Key], str]] = {
    "self-signed": certificate,
    "of an unknown authority": lambda key: certificate(key, signer="somebody"),
}
FAULTY: dict[str, Callable[[Key], str]] = {
    "expired": lambda key: certificate(key, days=(-9, -1)),
    "expired, of another": lambda key: certificate(key, days=(-9, -1), signer="somebody"),
    "not yet valid": lambda key: certificate(key, days=(1, 9)),
    "not yet valid, of another": lambda key: certificate(key, days=(1, 9), signer="somebody"),
    "for servers": lambda key: certificate(key, use="server"),
    "forged": lambda key: certificate(key, signer="plant") + PLANT,
}


def shown(broker: Running, folder: Path, key: Key, chain: str, version: ssl.TLSVersion) -> ssl.SSLContext:
    """Give the TLS context of a client that shows whatever this is."""
    private, file = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), folder / "shown.pem"
    file.write_text(private.decode() + chain)
    one = anonymous(broker)
    one.set_ciphers("DEFAULT:@SECLEVEL=0")  # it is the broker that is to find it weak
    one.load_cert_chain(file)
    one.minimum_version = one.maximum_version = version
    return one


@pytest.mark.parametrize("version", VERSIONS)
async def test_only_an_unknown_issuer_is_borne(secure: Beside, tmp_path: Path, version: ssl.TLSVersion) -> None:
    """TLS itself refuses what has another fault; what has none gets as far as CONNECT."""
    key = ec.generate_private_key(CURVE)
    weak = rsa.generate_private_key(65537, 1024)  # noqa: S505 - on purpose
    for make in SOUND.values():
        assert await secure.refusal(None, tls=shown(secure, tmp_path, key, make(key), version)) == REFUSED
    faulty = {name: (key, make(key)) for name, make in FAULTY.items()} | {"weak": (weak, certificate(weak))}
    through = []
    for name, (own, chain) in faulty.items():
        with contextlib.suppress(*NO_HANDSHAKE):
            await secure.refusal(None, tls=shown(secure, tmp_path, own, chain, version))
            through.append(name)
    assert through == []


# --- other listeners ---


@contextlib.asynccontextmanager
async def another(secure: Beside, folder: Path, plugin: Path, *settings: str) -> AsyncIterator[int]:
    """Run a broker with the gate on the same state, and on one more TLS port these settings; give that port."""
    port = free_port()
    files = (f"certfile {secure.path / 'server.pem'}", f"keyfile {secure.path / 'keys' / 'server-key.pem'}")
    (folder / "other").mkdir()
    lines = (f"listener {port} 127.0.0.1", *files, *settings)
    broker = Mosquitto(folder / "other", secure.path, plugin, settings=lines)
    await broker.start()
    try:
        yield port
    finally:
        await broker.end()


async def connack(port: int, tls: ssl.SSLContext) -> ReasonCode:
    """Tell what becomes of a login by certificate."""
    client = await Client.open(port, Connect("", ProtocolVersion.V5), tls=tls)
    try:
        return await client.connack()
    finally:
        client.abort()


async def test_a_listener_that_demands_certificates_means_it(secure: Beside, tmp_path: Path, plugin: Path) -> None:
    """There the operator's cafile decides who gets through TLS, whatever is registered."""
    key = DeviceKey("gw-ours")
    reply = await secure.provision("gw-ours", csr=key.csr_pem())
    authority = secure.path / "authority.pem"
    ours = key.context(authority, tmp_path, pem_of(reply["credentialsValue"]))
    own = await registered(secure, "gw-own", tmp_path)
    async with another(secure, tmp_path, plugin, "require_certificate true", f"cafile {authority}") as port:
        assert await connack(port, ours) == ReasonCode.SUCCESS
        for refused in (own, anonymous(secure)):
            with pytest.raises(NO_HANDSHAKE):
                await connack(port, refused)
    assert await connack(secure.tls_port, own) == ReasonCode.SUCCESS


async def test_whom_mosquitto_believes_without_the_gate_has_no_topics(
    secure: Beside, tmp_path: Path, plugin: Path
) -> None:
    """With a setting that our configuration warns of, a name in a certificate lets in; it opens nothing (P4)."""
    device = await secure.device("gw-1")
    async with another(secure, tmp_path, plugin, "use_identity_as_username true") as port:
        tls = context(secure, DeviceKey("d:gw-1"), tmp_path)
        stranger = await Client.open(port, Connect("", ProtocolVersion.V5), tls=tls)
        assert await stranger.connack() == ReasonCode.SUCCESS
        assert (
            min(await stranger.subscribe("v1/devices/me/rpc/request/+", "#", "_prov/#", "/provision/response")) >= 0x80
        )
        for topic in ("v1/devices/me/telemetry", REQUEST_TOPIC, "$CONTROL/provision/v1", "x"):
            assert await stranger.publish(topic, b"x") >= 0x80
        stranger.abort()
    await device.ping()


async def test_a_bridge_goes_on_to_verify_its_server(secure: Beside, tmp_path: Path, plugin: Path) -> None:
    """A broker with the gate is a client there: an issuer that its cafile does not name is not borne."""
    (tmp_path / "elsewhere.pem").write_text(FactoryAuthority("Elsewhere").pem)
    bridge = ("connection b", f"address 127.0.0.1:{secure.tls_port}", "topic x out 0")
    async with another(secure, tmp_path, plugin, *bridge, f"bridge_cafile {tmp_path / 'elsewhere.pem'}"):
        await eventually(lambda: "verify failed" in (tmp_path / "other" / "mosquitto.log").read_text())


# --- sessions ---


async def test_a_reload_keeps_certificates_and_those_who_came_in_by_them(secure: Beside, tmp_path: Path) -> None:
    """SIGHUP has Mosquitto take up its own certificate anew."""
    own = await registered(secure, "gw-1", tmp_path)
    device = await secure.login(None, tls=own)
    secure.mosquitto.signal(signal.SIGHUP)
    await eventually(lambda: "Reloading config" in secure.mosquitto.log.read_text())
    await device.ping()
    await secure.login(None, tls=own, client_id="again")
    assert await secure.refusal(None, tls=context(secure, DeviceKey("localhost"), tmp_path)) == REFUSED
    assert await secure.refusal(None, tls=anonymous(secure)) == REFUSED


def resumed(port: int, tls: ssl.SSLContext, last: ssl.SSLSession | None) -> tuple[ssl.SSLSession, bool, int]:
    """Log in, going on with a TLS session; give the TLS session, whether it went on, and the code of CONNACK."""
    with (
        socket.create_connection(("127.0.0.1", port), 10) as plain,
        tls.wrap_socket(plain, server_hostname="127.0.0.1", session=last) as secured,
    ):
        secured.sendall(b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x3c\x00\x00")
        code = secured.recv(4)[3]
        assert secured.session is not None
        return secured.session, bool(secured.session_reused), code


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_resumed_tls_session_opens_no_more_than_a_new_one(
    secure: Beside, tmp_path: Path, version: ssl.TLSVersion
) -> None:
    """It shows no certificate again; the gate looks at the one that it began with (P7)."""
    own = await registered(secure, "gw-1", tmp_path)
    own.minimum_version = own.maximum_version = version
    last, reused, code = await asyncio.to_thread(resumed, secure.tls_port, own, None)
    assert (reused, code) == (False, 0)
    last, reused, code = await asyncio.to_thread(resumed, secure.tls_port, own, last)
    assert (reused, code) == (True, 0)
    await asyncio.to_thread(secure.state.device_life("cli:test", now_ms).suspend, "gw-1")
    _, reused, code = await asyncio.to_thread(resumed, secure.tls_port, own, last)
    assert (reused, code) == (True, 5)
