"""Our own gateway with a certificate of our own authority: provisioned by signing request, renewed while it runs."""

import asyncio
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
from cryptography import x509
from tests.brokers.harness import Running
from tests.gateway.harness import QUICK, settings
from tests.gateway.harness import Running as Gateway

from mqttprov.gateway.credentials_file import CredentialsFile
from mqttprov.gateway.settings import GatewaySettings, SecretText
from mqttprov.mqtt import ReasonCode

DAY_S = 86_400.0
# A second online is long enough to renew, so that a test need not wait.
FAST = msgspec.structs.replace(QUICK, settled_after_s=0.1, heartbeat_s=0.05)


class Clock:
    """A device's wall clock that a test sets."""

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def __call__(self) -> float:
        """Give the time."""
        return time.time() + self.ahead_s


@asynccontextmanager
async def gateway(broker: Running, folder: Path, clock: Clock) -> AsyncIterator[Gateway]:
    """Run a gateway that asks for a certificate."""
    told = prepared(broker, folder)
    one = Gateway(told, FAST, clock)
    try:
        yield one
    finally:
        await asyncio.to_thread(one.stop)


def prepared(broker: Running, folder: Path) -> GatewaySettings:
    """Put the authority into the gateway's folder; give its settings."""
    folder.mkdir(exist_ok=True)
    shutil.copy(broker.path / "authority.pem", folder / "ca.pem")
    return settings(
        folder,
        broker.tls_port,
        provision_key=broker.issued.key,
        provision_secret=SecretText(broker.issued.secret),
        ca_file=folder / "ca.pem",
        signing_request=True,
    )


def certificate(folder: Path) -> x509.Certificate:
    """Give the certificate that the gateway shows."""
    return x509.load_pem_x509_certificate((folder / "cert.pem").read_bytes())


def generations(broker: Running) -> list[str]:
    """Give the statuses of all generations, oldest first."""
    reader = broker.state.store.reader()
    try:
        (device,) = reader.devices("gw-1")
        return [row.status for row in reader.credentials_of(device.id)]
    finally:
        reader.close()


async def until(one: Gateway, state: str) -> None:
    """Wait for a state of the gateway."""
    await asyncio.to_thread(one.until, state)


async def test_a_certificate_is_renewed_before_it_runs_out(tls_broker: Running, tmp_path: Path) -> None:
    """With a new key; the old generation ends when the new one logs in; a restart goes on with the new one (P10)."""
    folder, clock = tmp_path / "gw", Clock()
    async with gateway(tls_broker, folder, clock) as one:
        await until(one, "online")
        first = certificate(folder)
        first.verify_directly_issued_by(tls_broker.state.authority.certificate)
        assert generations(tls_broker) == ["active"]
        clock.ahead_s = 70 * DAY_S  # the gateway looks at its clock once more: 20 of 90 days are left
        tls_broker.broker.disconnect_all(ReasonCode.ADMINISTRATIVE_ACTION)
        await until(one, "connecting_to_provision")
        clock.ahead_s = 0.0
        await until(one, "online")
    assert generations(tls_broker) == ["superseded", "active"]
    async with gateway(tls_broker, folder, clock) as again:
        await until(again, "online")
        assert again.seen == ["connecting", "online"]
    assert certificate(folder).public_key() != first.public_key()
    assert not (folder / ".credentials.renewed").exists()
    assert not (folder / "key-next.pem").exists()


async def test_a_certificate_that_ran_out_while_the_power_was_off_is_replaced(
    tls_broker: Running, tmp_path: Path
) -> None:
    """The first thing that it does is to provision again."""
    folder, clock = tmp_path / "gw", Clock()
    async with gateway(tls_broker, folder, clock) as one:
        await until(one, "online")
    first, clock.ahead_s = certificate(folder), 91 * DAY_S
    async with gateway(tls_broker, folder, clock) as one:
        assert "run out" in (await asyncio.to_thread(one.until, "connecting_to_provision")).why
        await until(one, "saving")
        clock.ahead_s = 0.0
        await until(one, "online")
    assert certificate(folder).serial_number != first.serial_number
    assert generations(tls_broker) == ["superseded", "active"]


async def test_what_a_power_cut_leaves_of_a_renewal_is_used(tls_broker: Running, tmp_path: Path) -> None:
    """Saved and not yet logged in; logged in and not yet in place; in place under the next key's name (P10)."""
    folder, clock = tmp_path / "gw", Clock()
    async with gateway(tls_broker, folder, clock) as one:
        await until(one, "online")
    old = {name: (folder / name).read_bytes() for name in (".credentials", "key.pem")}
    clock.ahead_s = 91 * DAY_S
    async with gateway(tls_broker, folder, clock) as one:
        await until(one, "saving")
        clock.ahead_s = 0.0
        await until(one, "online")
    new = {name: (folder / name).read_bytes() for name in old}
    assert new["key.pem"] != old["key.pem"]
    for files in (
        {".credentials": old[".credentials"], ".credentials.renewed": new[".credentials"],
         "key.pem": old["key.pem"], "key-next.pem": new["key.pem"]},
        {".credentials": new[".credentials"], "key.pem": old["key.pem"], "key-next.pem": new["key.pem"]},
    ):  # fmt: skip
        for name, content in files.items():
            (folder / name).write_bytes(content)
        async with gateway(tls_broker, folder, clock) as one:
            await until(one, "online")
            assert one.seen == ["connecting", "online"]
        assert CredentialsFile(folder).read() == new[".credentials"]
        assert (folder / "key.pem").read_bytes() == new["key.pem"]
        assert not (folder / "key-next.pem").exists()
        assert not (folder / ".credentials.renewed").exists()
