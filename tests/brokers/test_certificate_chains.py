"""Devices that come in by a certificate of their factory's chain, over real TLS."""

import asyncio
import ssl
from collections import Counter
from pathlib import Path

import pytest
from tests.brokers.certificates import DeviceKey
from tests.brokers.factory import Factory
from tests.brokers.harness import ClosedError, ask, request_bytes

from mqttprov.brokers.responder_run import now_ms
from mqttprov.core.model import ReprovisionPolicy
from mqttprov.mqtt import ReasonCode
from mqttprov.responder.administration import TokenChange

REFUSED = ReasonCode.NOT_AUTHORIZED
UNKNOWN = ReasonCode.BAD_USER_NAME_OR_PASSWORD


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
        (event,) = await factory.refusals()
        assert (event.reason, event.count, event.source) == ("bad-name", 1, "127.0.0.1")
        assert not list(factory.broker.state.store.reader().devices())


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
    assert [event.reason for event in await factory.refusals()] == ["certificate-ended"]
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
    assert [event.reason for event in await factory.refusals()] == ["other-profile"]


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
