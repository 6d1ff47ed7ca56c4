"""Certificate authorities under a running broker: rotated and retired without a restart, ended certificates listed."""

import asyncio
import ssl
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from tests.brokers.certificates import DeviceKey, pem_of
from tests.brokers.harness import TIMEOUT_S, Running
from tests.brokers.test_device_life import life

from mqttprov.brokers.responder_run import now_ms
from mqttprov.pki.authority import Authority
from mqttprov.pki.crl import load_lists
from mqttprov.responder.authority_care import AuthorityCare

T = TypeVar("T")


async def act(verb: Callable[[], T]) -> T:
    """Do it while the broker runs on: the verb waits for the broker."""
    return await asyncio.to_thread(verb)


def care(broker: Running) -> AuthorityCare:
    """The operator's verbs, as another process would use them; they return once the broker has taken it up."""
    return broker.state.authority_care("cli:test", now_ms)


async def certificate(broker: Running, own: DeviceKey, name: str) -> x509.Certificate:
    """Have a device's certificate issued."""
    reply = await broker.provision(name, csr=own.csr_pem())
    return x509.load_pem_x509_certificate(pem_of(reply["credentialsValue"]).encode())


def pem(one: x509.Certificate) -> str:
    """Give it as PEM text."""
    return one.public_bytes(Encoding.PEM).decode()


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what another thread does."""
    async with asyncio.timeout(TIMEOUT_S):
        while not condition():  # noqa: ASYNC110 - there is no event to wait for: a file changes
            await asyncio.sleep(0.02)


async def test_a_rotation_takes_effect_at_once_and_cuts_nobody_off(tls_broker: Running, tmp_path: Path) -> None:
    """Before and after: devices log in, and clients that know only the old authority still believe the broker."""
    old = tls_broker.state.authority
    (tmp_path / "old.pem").write_text(old.certificate_pem)
    first, second = DeviceKey("gw-1"), DeviceKey("gw-2")
    (tmp_path / "1").mkdir()
    (tmp_path / "2").mkdir()
    one = await certificate(tls_broker, first, "gw-1")
    await act(care(tls_broker).rotate)
    two = await certificate(tls_broker, second, "gw-2")
    one.verify_directly_issued_by(old.certificate)
    two.verify_directly_issued_by(tls_broker.state.authority.certificate)
    knows_old = first.context(tmp_path / "old.pem", tmp_path / "1", pem(one))
    knows_both = second.context(tls_broker.path / "authority.pem", tmp_path / "2", pem(two))
    for _ in range(2):
        await tls_broker.login(None, tls=knows_old)
        await tls_broker.login(None, tls=knows_both)
        await tls_broker.restart()


async def test_a_retirement_gives_the_broker_a_new_certificate(tls_broker: Running, tmp_path: Path) -> None:
    """From then on it is believed by who knows the new authority alone; registered certificates still log in."""
    own = DeviceKey("gw-1")
    one = await certificate(tls_broker, own, "gw-1")
    await act(care(tls_broker).rotate)
    await act(care(tls_broker).retire)
    new = own.context(tls_broker.path / "authority.pem", tmp_path, pem(one))
    await tls_broker.login(None, tls=new)
    await tls_broker.restart()
    await tls_broker.login(None, tls=new)


async def test_an_own_authority_below_a_root_is_served_with_its_chain(tls_broker: Running, tmp_path: Path) -> None:
    """A client that knows only the root believes the broker: what lies between is sent to it."""
    root, between = chain()
    (tmp_path / "root.pem").write_text(root)
    (tmp_path / "ca.pem").write_text(between.certificate_pem)
    (tmp_path / "key.pem").touch(mode=0o600)
    (tmp_path / "key.pem").write_text(between.private_key_pem())
    verbs = care(tls_broker)
    await act(lambda: verbs.rotate(certificate=tmp_path / "ca.pem", private_key=tmp_path / "key.pem"))
    await act(verbs.retire)
    await tls_broker.session(tls=ssl.create_default_context(cafile=tmp_path / "root.pem"))


def chain() -> tuple[str, Authority]:
    """Make a root, and an authority that it has issued."""

    def made(
        name: str, issuer: str, key: ec.EllipticCurvePrivateKey, signer: ec.EllipticCurvePrivateKey
    ) -> x509.Certificate:
        unused = "digital_signature content_commitment key_encipherment data_encipherment key_agreement encipher_only"
        usage = dict.fromkeys([*unused.split(), "decipher_only"], False)
        start = datetime.now(UTC) - timedelta(days=1)
        named = [x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)]) for text in (name, issuer)]
        return (
            x509.CertificateBuilder(named[1], named[0], key.public_key(), x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(start + timedelta(days=100))
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(x509.KeyUsage(**usage, key_cert_sign=True, crl_sign=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(signer, hashes.SHA256())
        )

    root_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    root, between = made("root", "root", root_key, root_key), made("between", "root", key, root_key)
    return pem(root), Authority(between, key, [root])


async def test_an_authority_that_cannot_be_taken_up_leaves_all_as_it_was(
    tls_broker: Running, expected_errors: list[str]
) -> None:
    """The broker says so and goes on with the one that it has (SD-22)."""
    expected_errors += ["authorities were not taken up", "lists of ended certificates were not written"]
    old = tls_broker.state.authority
    keys = list((tls_broker.path / "keys").glob("authority-key*.pem"))
    for file in keys:
        file.chmod(0o644)
    tls_broker.server._run.take_up_authorities()
    issued = await certificate(tls_broker, DeviceKey("gw-1"), "gw-1")
    issued.verify_directly_issued_by(old.certificate)
    for file in keys:
        file.chmod(0o600)


async def test_ended_certificates_are_listed_soon(tls_broker: Running) -> None:
    """Suspended and resumed, while the broker runs: crl.pem follows (SD-21)."""
    path = tls_broker.path / "crl.pem"
    serial = (await certificate(tls_broker, DeviceKey("gw-1"), "gw-1")).serial_number

    def listed() -> set[int]:
        return {one.serial_number for one in load_lists(path.read_text())[0]} if path.exists() else set()

    verbs = life(tls_broker)
    await act(lambda: verbs.suspend("gw-1"))
    await until(lambda: listed() == {serial})
    await act(lambda: verbs.decommission("gw-1", wait_ms=0))
    (ended,) = load_lists(path.read_text())[0]
    assert ended.serial_number == serial
