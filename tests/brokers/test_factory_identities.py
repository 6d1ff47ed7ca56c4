"""Factory identities over real TLS: devices that come in by a chain, and certificates that open provisioning only."""

import asyncio
import json
import ssl
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from tests.brokers.certificates import DeviceKey, FactoryAuthority
from tests.brokers.harness import ClosedError, Running, ask, request_bytes

from mqttprov.brokers.embedded import now_ms
from mqttprov.core.audit import parse_body
from mqttprov.core.model import Chain, Profile, ReprovisionPolicy, Strategy
from mqttprov.mqtt import ReasonCode
from mqttprov.pki.inspect import inspect_certificate
from mqttprov.responder.administration import IssuedToken, TokenChange
from mqttprov.responder.device_import import ImportLine

REFUSED = ReasonCode.NOT_AUTHORIZED
UNKNOWN = ReasonCode.BAD_USER_NAME_OR_PASSWORD


class Factory:
    """A factory with root and intermediate, whose devices a profile of the broker takes in."""

    def __init__(self, broker: Running, folder: Path) -> None:
        self.broker = broker
        self.folder = folder
        self.root = FactoryAuthority("Factory root")
        self.line = FactoryAuthority("Factory line", self.root, path_length=0)
        self.authorities = self.root.pem + self.line.pem
        self.key = DeviceKey("gw-1")  # the factory's key of the device in `identity`

    def profile(self, name: str = "made", pattern: str = "(.*)", **settings: Any) -> IssuedToken:
        """Make the profile, beside the running broker."""
        profile = Profile(0, name, Strategy.CERTIFICATE_CHAIN, **settings)
        return self.broker.admin.create_profile(profile, Chain(self.authorities, pattern))

    async def learnt(self) -> None:
        """Wait until the broker has met all that operators did."""
        reader = self.broker.state.store.reader()
        await self.broker.server._act(reader.head().seq)
        reader.close()

    def device(self, name: str | None, key: DeviceKey | None = None, *, send: str = "") -> ssl.SSLContext:
        """Give the TLS context of a device with a new certificate; `send` goes behind it on the wire."""
        key = key or DeviceKey("any")
        pem = self.line.issue(key, name) + send
        return key.context(self.broker.path / "authority.pem", self.folder, pem)

    async def imported(self, name: str, profile: str, key: DeviceKey) -> ssl.SSLContext:
        """Import a device with a self-signed factory certificate; give its TLS context."""
        certificate = inspect_certificate(key.certificate_pem, 0)
        line = ImportLine(2, name, profile, factory_key=certificate.public_key, certificate=certificate.pem)
        count = self.broker.admin.import_devices([line], tell_fault=lambda fault: pytest.fail(fault.text))
        assert count.made == 1
        await self.learnt()
        return key.context(self.broker.path / "authority.pem", self.folder)

    def shown(self, name: str) -> Any:
        """Give a device as it is listed."""
        reader = self.broker.state.store.reader()
        row = next(reader.devices(name), None)
        reader.close()
        return row

    def told(self, kind: str) -> list[Any]:
        """Give the audit events of a kind."""
        self.broker.server._responder._flush_limited()
        reader = self.broker.state.store.reader()
        events = [parse_body(event.body)[1] for event in reader.events() if event.kind == kind]
        reader.close()
        return events


@pytest.fixture
def factory(tls_broker: Running, tmp_path: Path) -> Factory:
    """Give a factory beside a broker with TLS."""
    return Factory(tls_broker, tmp_path)


def keyless(**fields: Any) -> bytes:
    """Write a request without key and secret."""
    return json.dumps(fields).encode()


# --- the chain ---


async def test_a_certificate_of_the_chain_becomes_a_device_at_its_first_connection(factory: Factory) -> None:
    """Without a restart, active at once, named by its subject, one registration, one event (P5); and it comes again."""
    token = factory.profile(pattern=r"(gw-\d+)\.factory")
    await factory.learnt()
    context = factory.device("gw-7.factory")
    operator = await factory.broker.operator()
    await operator.subscribe("v1/devices/#")
    device = await factory.broker.login(None, tls=context)
    await device.publish("v1/devices/me/telemetry", b"x")
    assert (await operator.message()).topic == "v1/devices/gw-7/telemetry"
    row = factory.shown("gw-7")
    assert (row.state, row.profile, row.generation, row.credential_status) == ("active", "made", 1, "active")
    (event,) = factory.told("provisioned")
    assert (event.device, event.token, event.registration, event.state) == ("gw-7", "default", 1, "active")
    assert event.text == "certificate chain"
    await factory.broker.login(None, tls=context)
    await factory.broker.restart()
    await factory.broker.login(None, tls=context)
    assert factory.told("activated") == []
    assert factory.broker.admin.update_token(token.key, None, TokenChange(max_registrations=9)).used == 1


async def test_a_chain_of_root_alone_needs_the_issuer_in_its_list(factory: Factory) -> None:
    """What the client sends along opens the handshake, but who may issue is said by the operator's list alone."""
    factory.authorities = factory.root.pem
    factory.profile()
    await factory.learnt()
    context = factory.device("gw-1", send=factory.line.pem)
    assert await factory.broker.refusal(None, tls=context) == UNKNOWN
    factory.broker.admin.update_profile("made", authorities=factory.root.pem + factory.line.pem)
    await factory.learnt()
    await factory.broker.login(None, tls=context)


async def test_another_factory_does_not_even_reach_connect(factory: Factory, tmp_path: Path) -> None:
    """An authority of the same name with another key is a stranger's."""
    factory.profile()
    await factory.learnt()
    stranger = Factory(factory.broker, tmp_path)
    with pytest.raises((ssl.SSLError, ClosedError, ConnectionError)):
        await factory.broker.login(None, tls=stranger.device("gw-1"))
    assert factory.shown("gw-1") is None


@pytest.mark.parametrize("name", ["gw/7", "sensor-1", None, "gw-" + "7" * 61])
async def test_a_subject_that_gives_no_name_is_refused(factory: Factory, name: str | None) -> None:
    """Nothing is made of it, and the refusal is audited."""
    factory.profile(pattern="(gw.*)")
    await factory.learnt()
    context = factory.device(name)
    expected = ReasonCode.SUCCESS if name and len(name) == 64 else REFUSED
    assert await factory.broker.refusal(None, tls=context) == expected
    if expected is REFUSED:
        (event,) = factory.told("login-refused") or await _soon(factory)
        assert (event.reason, event.count, event.source) == ("bad-name", 1, "127.0.0.1")
        assert not list(factory.broker.state.store.reader().devices())


async def _soon(factory: Factory) -> list[Any]:
    """Wait until the counted refusals are committed."""
    async with asyncio.timeout(10):
        while not (events := factory.told("login-refused")):  # noqa: ASYNC110 - the writer is a thread
            await asyncio.sleep(0.01)
    return events


async def test_the_next_certificate_of_the_chain_takes_over_and_the_old_one_never_returns(factory: Factory) -> None:
    """Reuse: the next generation; the session of the older one ends, and it is refused for ever (P7)."""
    factory.profile()
    await factory.learnt()
    old_folder, new_folder = factory.folder / "old", factory.folder / "new"
    old_folder.mkdir()
    new_folder.mkdir()
    factory.folder = old_folder
    old = factory.device("gw-1")
    factory.folder = new_folder
    new = factory.device("GW-1")
    before = await factory.broker.login(None, tls=old)
    await factory.broker.login(None, tls=new)
    await before.wait_closed()
    row = factory.shown("gw-1")
    assert (row.name, row.generation) == ("gw-1", 2)
    assert await factory.broker.refusal(None, tls=old) == REFUSED
    assert [event.reason for event in await _soon(factory)] == ["certificate-ended"]
    assert factory.told("reprovisioned")[0].registration is None
    await factory.broker.login(None, tls=new)


@pytest.mark.parametrize("policy", [ReprovisionPolicy.REFUSE, ReprovisionPolicy.SAME_KEY])
async def test_the_policy_decides_about_another_certificate(factory: Factory, policy: ReprovisionPolicy) -> None:
    """`refuse` takes none, `same-key` one of the same key."""
    factory.profile(reprovision=policy)
    await factory.learnt()
    key = DeviceKey("any")
    await factory.broker.login(None, tls=factory.device("gw-1", key))
    assert await factory.broker.refusal(None, tls=factory.device("gw-1")) == REFUSED
    expected = ReasonCode.SUCCESS if policy is ReprovisionPolicy.SAME_KEY else REFUSED
    assert await factory.broker.refusal(None, tls=factory.device("gw-1", key)) == expected


async def test_a_device_that_may_not_connect_does_not_come_in_by_another_certificate(factory: Factory) -> None:
    """Suspended, retired and released by an operator: state is permission (P7), a name is one identity (P8)."""
    factory.profile()
    await factory.learnt()
    key = DeviceKey("any")
    context = factory.device("gw-1", key)
    session = await factory.broker.login(None, tls=context)
    life = factory.broker.state.device_life("cli:test", now_ms)
    await asyncio.to_thread(life.suspend, "gw-1")
    await session.wait_closed()
    assert await factory.broker.refusal(None, tls=context) == REFUSED
    assert await factory.broker.refusal(None, tls=factory.device("gw-1", key)) == REFUSED
    await asyncio.to_thread(life.decommission, "gw-1")
    context = factory.device("gw-1", key)
    assert await factory.broker.refusal(None, tls=context) == REFUSED
    await asyncio.to_thread(life.release, "gw-1")
    await factory.broker.login(None, tls=context)


async def test_a_name_of_another_profile_is_not_taken(factory: Factory) -> None:
    """A chain makes no device of a name that exists elsewhere (P8)."""
    factory.profile()
    await factory.learnt()
    await factory.broker.device("gw-1")
    assert await factory.broker.refusal(None, tls=factory.device("gw-1")) == REFUSED
    assert [event.reason for event in await _soon(factory)] == ["other-profile"]


async def test_key_and_secret_let_nobody_into_a_profile_with_a_chain(factory: Factory) -> None:
    """Its token can be limited, revoked and asked for a transfer, but makes no device by itself."""
    token = factory.profile()
    reply = await ask(await factory.broker.session(), request_bytes(token, "gw-1"))
    assert (reply["status"], "certificate" in reply["errorMsg"]) == ("FAILURE", True)
    assert factory.told("refused")[0].reason == "chain-needed"


async def test_a_limit_is_exact_for_certificates_that_come_at_once(factory: Factory) -> None:
    """16 devices race for 5 places: exactly 5 come in, and 2 more after raising (P1)."""
    token = factory.profile()
    await factory.learnt()
    factory.broker.admin.update_token(token.key, None, TokenChange(max_registrations=5))
    contexts = [factory.device(f"gw-{i}") for i in range(16)]

    async def race() -> Counter[ReasonCode]:
        return Counter(await asyncio.gather(*(factory.broker.refusal(None, tls=context) for context in contexts)))

    assert await race() == {ReasonCode.SUCCESS: 5, REFUSED: 11}
    factory.broker.admin.update_token(token.key, None, TokenChange(max_registrations=7))
    assert await race() == {ReasonCode.SUCCESS: 7, REFUSED: 9}
    factory.broker.admin.revoke_token(token.key, None)
    assert await race() == {ReasonCode.SUCCESS: 7, REFUSED: 9}
    assert len(factory.told("provisioned")) == 7


async def test_one_certificate_on_many_connections_is_one_registration(factory: Factory) -> None:
    """Whoever is faster, it is one device, one generation and one event (P5)."""
    factory.profile()
    await factory.learnt()
    context = factory.device("gw-1")
    reasons = await asyncio.gather(*(factory.broker.refusal(None, tls=context) for _ in range(6)))
    assert set(reasons) == {ReasonCode.SUCCESS}
    assert len(factory.told("provisioned")) == 1
    assert factory.shown("gw-1").generation == 1


async def test_a_user_name_comes_before_a_certificate_of_a_chain(factory: Factory) -> None:
    """A wrong access token makes no device of who has a certificate."""
    factory.profile()
    await factory.learnt()
    assert await factory.broker.refusal("mqp_at_wrong", tls=factory.device("gw-1")) == UNKNOWN
    assert factory.shown("gw-1") is None


# --- rotate on first use ---


@pytest.fixture(params=["chain", "imported"])
async def identity(request: pytest.FixtureRequest, factory: Factory) -> ssl.SSLContext:
    """Give a device's factory identity for `gw-1`, in a profile that rotates on first use."""
    if request.param == "chain":
        factory.profile(rotate_on_first_use=True)
        await factory.learnt()
        return factory.device("gw-1", factory.key)
    profile = Profile(0, "made", Strategy.PRE_PROVISIONED, reprovision=ReprovisionPolicy.REFUSE,
                      rotate_on_first_use=True)  # fmt: skip
    factory.broker.admin.create_profile(profile)
    return await factory.imported("gw-1", "made", factory.key)


@pytest.mark.parametrize("username", ["provision", None, "anybody"])
async def test_a_factory_identity_provisions_without_key_and_secret(
    factory: Factory, identity: ssl.SSLContext, username: str | None
) -> None:
    """Whatever its user name, its session fetches operational credentials; the key counts on the `default` token."""
    session = await factory.broker.login(username, tls=identity)
    reply = await ask(session, keyless())
    assert (reply["status"], reply["credentialsType"], reply["deviceName"]) == ("SUCCESS", "ACCESS_TOKEN", "gw-1")
    (event,) = factory.told("provisioned")
    assert (event.device, event.token, event.registration, event.text) == ("gw-1", "default", 1, "factory identity")
    assert factory.shown("gw-1").state == "provisioned"
    await factory.broker.login(reply["credentialsValue"])
    assert factory.shown("gw-1").state == "active"


async def test_a_factory_identity_may_do_nothing_but_provision(factory: Factory, identity: ssl.SSLContext) -> None:
    """No other topic can be subscribed to, and publishing on one ends the session."""
    session = await factory.broker.login(None, tls=identity)
    codes = await session.subscribe("v1/devices/me/#", "/provision/response", "#")
    assert [int(code) < 3 for code in codes] == [False, True, False]
    session.publish_nowait("v1/devices/me/telemetry", b"x", 1)
    await session.wait_closed()


async def test_a_lost_reply_is_given_again_until_the_first_login(factory: Factory, identity: ssl.SSLContext) -> None:
    """The same answer to the same identity (P4), by nobody else's session; afterwards it opens nothing (P3)."""
    first = await ask(await factory.broker.login(None, tls=identity), keyless())
    again = await ask(await factory.broker.login("provision", tls=identity), keyless(deviceName="GW-1"))
    assert again["credentialsValue"] == first["credentialsValue"]
    open_session = await factory.broker.login(None, tls=identity)
    await factory.broker.login(first["credentialsValue"])
    assert await factory.broker.refusal(None, tls=identity) == REFUSED
    assert await factory.broker.refusal("provision", tls=identity) == REFUSED
    assert {event.reason for event in await _soon(factory)} == {"factory-spent"}
    # Also not through a session from before.
    reply = await ask(open_session, keyless())
    assert reply["status"] == "FAILURE"
    assert factory.told("refused")[-1].reason == "factory-spent"
    assert len(factory.told("provisioned")) == 1


async def test_a_factory_identity_speaks_for_its_own_name_only(factory: Factory, identity: ssl.SSLContext) -> None:
    """Another name is refused, with key and secret of another token as well."""
    session = await factory.broker.login(None, tls=identity)
    assert (await ask(session, keyless(deviceName="gw-2")))["status"] == "FAILURE"
    assert (await ask(session, factory.broker.payload("gw-2")))["status"] == "FAILURE"
    assert {event.reason for event in factory.told("refused")} == {"factory-name"}
    assert factory.shown("gw-2") is None


async def test_an_operational_login_needs_no_other_tls_settings(factory: Factory, identity: ssl.SSLContext) -> None:
    """A device that goes on showing its factory certificate logs in with its access token."""
    reply = await ask(await factory.broker.login(None, tls=identity), keyless())
    await factory.broker.login(reply["credentialsValue"], tls=identity)
    await factory.broker.login(reply["credentialsValue"], tls=identity)
    assert await factory.broker.refusal("mqp_at_wrong", tls=identity) == REFUSED


async def test_the_factory_key_does_not_become_operational(factory: Factory, identity: ssl.SSLContext) -> None:
    """A request that would register the factory's key is refused; one with a new key gets its certificate."""
    session = await factory.broker.login(None, tls=identity)
    for fields in ({"csr": factory.key.csr_pem()}, {"hash": factory.key.certificate_pem}):
        refused = await ask(session, keyless(**fields))
        assert (refused["status"], "factory's key" in refused["errorMsg"]) == ("FAILURE", True)
    reply = await ask(session, keyless(csr=DeviceKey("gw-1").csr_pem()))
    assert (reply["status"], reply["credentialsType"]) == ("SUCCESS", "X509_CERTIFICATE")


async def test_an_operator_lets_a_device_come_once_more(factory: Factory, identity: ssl.SSLContext) -> None:
    """`device rotate` opens the factory identity until the next generation has logged in, lost replies included."""
    reply = await ask(await factory.broker.login(None, tls=identity), keyless())
    await factory.broker.login(reply["credentialsValue"])
    assert await factory.broker.refusal(None, tls=identity) == REFUSED
    life = factory.broker.state.device_life("cli:test", now_ms)
    await asyncio.to_thread(life.rotate, "gw-1")
    new = await ask(await factory.broker.login(None, tls=identity), keyless())
    assert new["credentialsValue"] != reply["credentialsValue"]
    assert (await ask(await factory.broker.login(None, tls=identity), keyless())) | {"ref": 0, "serverTime": 0} == (
        new | {"ref": 0, "serverTime": 0}
    )
    await factory.broker.login(new["credentialsValue"])
    assert await factory.broker.refusal(None, tls=identity) == REFUSED


async def test_a_suspended_device_does_not_provision_by_its_factory_identity(
    factory: Factory, identity: ssl.SSLContext
) -> None:
    """State is permission for factory identities too (P7)."""
    await ask(await factory.broker.login(None, tls=identity), keyless())
    life = factory.broker.state.device_life("cli:test", now_ms)
    await asyncio.to_thread(life.suspend, "gw-1")
    assert await factory.broker.refusal(None, tls=identity) == REFUSED
    assert [event.reason for event in await _soon(factory)] == ["state"]


# --- imported certificates without it ---


async def test_an_imported_certificate_opens_provisioning_and_needs_key_and_secret(factory: Factory) -> None:
    """Without `rotate-on-first-use` the certificate only proves the factory key; no `csr` is needed then."""
    key = DeviceKey("gw-1")
    context = await factory.imported("gw-1", "default", key)
    session = await factory.broker.login(None, tls=context)
    assert (await ask(session, keyless()))["status"] == "FAILURE"
    assert (await ask(await factory.broker.session(), factory.broker.payload("gw-1")))["status"] == "FAILURE"
    reply = await ask(session, factory.broker.payload())
    assert (reply["status"], reply["deviceName"]) == ("SUCCESS", "gw-1")
    session.publish_nowait("v1/devices/me/telemetry", b"x", 1)
    await session.wait_closed()
    await factory.broker.restart()
    await factory.broker.login(None, tls=context)


async def test_a_key_that_two_devices_share_opens_nothing(factory: Factory) -> None:
    """It cannot be told which of them it is (P8)."""
    key = DeviceKey("gw")
    await factory.imported("gw-1", "default", key)
    context = await factory.imported("gw-2", "default", key)
    assert await factory.broker.refusal(None, tls=context) == REFUSED
    assert [event.reason for event in await _soon(factory)] == ["factory-shared"]


async def test_a_registered_certificate_is_no_factory_identity(factory: Factory) -> None:
    """A device that made its factory's certificate its credential logs in with it, as before."""
    key = DeviceKey("gw-1")
    context = await factory.imported("gw-1", "default", key)
    assert (await factory.broker.provision("gw-1", hash=key.certificate_pem))["status"] == "SUCCESS"
    device = await factory.broker.login(None, tls=context)
    await device.publish("v1/devices/me/telemetry", b"x")
    assert (await ask(await factory.broker.session(tls=context), factory.broker.payload("gw-9")))["status"] == "SUCCESS"
