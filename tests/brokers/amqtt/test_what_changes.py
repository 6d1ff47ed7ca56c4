"""What an operator changes while the broker runs, and what it notes of devices: alike in both ways to use amqtt."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from cryptography import x509
from tests.brokers.amqtt.harness import Stock, stock
from tests.brokers.amqtt.our_broker import ours
from tests.brokers.certificates import DeviceKey
from tests.brokers.harness import Running, eventually
from tests.brokers.test_authorities import act, care, certificate, until
from tests.brokers.test_device_life import life, token_of
from tests.brokers.test_operator_logins import assert_that_logins_end
from tests.brokers.test_transfers import provision, token_for
from tests.brokers.test_watching import forget_use, in_use, labels

from mqttprov.pki.crl import load_lists
from mqttprov.responder.gathered import SEEN_INTERVAL_MS


@pytest.fixture(params=[stock, ours], ids=["stock", "ours"])
async def broker(request: pytest.FixtureRequest, tmp_path: Path, clean_log: None) -> AsyncIterator[Running]:
    """Run a stock amqtt with our plugin, and our broker with amqtt's configuration."""
    async with request.param(tmp_path / "state") as one:
        yield one


def newest(path: Path) -> x509.CertificateRevocationList:
    """Read the list of the authority that is active now."""
    return load_lists(path.read_text())[0]


async def test_authorities_and_lists_follow_the_operator(broker: Running) -> None:
    """A new authority signs from the commit on; certificates of a suspended device are listed (SD-21, SD-22)."""
    path = broker.path / "crl.pem"
    await act(care(broker).rotate)
    issued = await certificate(broker, DeviceKey("gw-1"), "gw-1")
    issued.verify_directly_issued_by(broker.state.authority.certificate)
    await act(lambda: life(broker).suspend("gw-1"))
    await until(lambda: path.exists() and issued.serial_number in {one.serial_number for one in newest(path)})


async def test_a_device_that_stays_connected_counts_as_in_use(broker: Running) -> None:
    """Told once an hour for all who are connected, and for no other."""
    token = await token_of(broker, "gw-1")
    await token_of(broker, "gw-2")
    device = await broker.login(token)
    forget_use(broker)
    teller = broker.plugin._desk if isinstance(broker, Stock) else broker.broker
    before_s = teller._tell_seen_s
    teller._tell_seen_s -= SEEN_INTERVAL_MS / 1000
    await eventually(lambda: teller._tell_seen_s > before_s)
    await device.ping()
    assert await in_use(broker) == {"gw-1"}


async def test_an_open_session_has_new_labels_when_the_verb_returns(broker: Running) -> None:
    """It is told them when it asks, and no other device is."""
    device, other = await broker.device("gw-1"), await broker.device("gw-2")
    for one in (device, other):
        await one.subscribe("v1/devices/me/attributes/response/+")
    await act(lambda: life(broker).label("gw-1", {"site": "berlin"}))
    assert await labels(device) == {"site": "berlin"}
    assert await labels(other) == {}


async def test_a_transfer_ends_the_old_owner_s_sessions_before_the_new_one_is_answered(
    broker: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing waits for the event (P7)."""
    acme, globex = token_for(broker, "acme"), token_for(broker, "globex")
    old = await broker.login((await provision(broker, acme))["credentialsValue"])
    run = broker.plugin._run if isinstance(broker, Stock) else broker.amqtt._run  # type: ignore[attr-defined] # one of both
    monkeypatch.setattr(run.responder, "tick", lambda: False)
    offered = await act(lambda: life(broker).transfer("gw-1", "globex"))
    assert (await provision(broker, globex, claimCode=offered.claim_code))["status"] == "SUCCESS"
    await old.wait_closed()


async def test_an_operator_s_login_ends_with_its_sessions(broker: Running) -> None:
    """A new password, and a login that is removed, end what stands under the old one (P7)."""
    await assert_that_logins_end(broker)
