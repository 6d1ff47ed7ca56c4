"""Factory identities over real TLS: certificates that open provisioning and nothing else, and end there."""

import asyncio
import ssl

import pytest
from tests.brokers.certificates import DeviceKey
from tests.brokers.factory import Factory, keyless
from tests.brokers.harness import ask

from mqttprov.brokers.responder_run import now_ms
from mqttprov.core.model import Profile, ReprovisionPolicy, Strategy
from mqttprov.mqtt import ReasonCode

REFUSED = ReasonCode.NOT_AUTHORIZED


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
    assert {event.reason for event in await factory.refusals()} == {"factory-spent"}
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
    assert [event.reason for event in await factory.refusals()] == ["state"]


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
    assert [event.reason for event in await factory.refusals()] == ["factory-shared"]


async def test_a_registered_certificate_is_no_factory_identity(factory: Factory) -> None:
    """A device that made its factory's certificate its credential logs in with it, as before."""
    key = DeviceKey("gw-1")
    context = await factory.imported("gw-1", "default", key)
    assert (await factory.broker.provision("gw-1", hash=key.certificate_pem))["status"] == "SUCCESS"
    device = await factory.broker.login(None, tls=context)
    await device.publish("v1/devices/me/telemetry", b"x")
    assert (await ask(await factory.broker.session(tls=context), factory.broker.payload("gw-9")))["status"] == "SUCCESS"
