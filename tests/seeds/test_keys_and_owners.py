"""Factory keys, operational keys and owners, sentence by sentence: topics of the document on provisioning patterns."""

import base64
from pathlib import Path

import pytest
from tests.brokers.certificates import DeviceKey, pem_of
from tests.brokers.factory import Factory, keyless
from tests.brokers.harness import ask
from tests.seeds.conftest import Site
from tests.seeds.test_identity_and_lifecycle import HOUR_MS, REFUSED, UNKNOWN, found

from mqttprov.admin import FindingKind, IssuedToken


class TestKeys:
    """Topic: where keys are made, where they stay, and how long they are good for."""

    async def test_a_key_in_hardware_is_enough_for_a_whole_life(self, tls_site: Site, folder: Path) -> None:
        """Topic: private keys in secure hardware; the device only ever signs, from its request to its logins."""
        site, chip = tls_site, DeviceKey("gw-1")  # what a chip can do: sign a request, and sign in a handshake
        reply = await site.ask(site.default, "gw-1", csr=chip.csr_pem())
        certificate = pem_of(reply["credentialsValue"])
        login = chip.context(site.broker.path / "authority.pem", folder, certificate)
        await site.broker.login(None, tls=login)
        assert site.device("gw-1").state == "active"
        secret = chip.private_key_pem().splitlines()[1]
        kept = [path.read_bytes() for path in site.broker.path.rglob("*") if path.is_file()]
        assert len(kept) > 3
        assert not any(secret.encode() in content for content in kept)

    async def test_nobody_gets_a_certificate_for_a_key_that_is_not_his(self, site: Site) -> None:
        """Topic: an identity and a key for each unit; a request that its own key did not sign is refused."""
        lines = DeviceKey("gw-1").csr_pem().splitlines()
        request = bytearray(base64.b64decode("".join(lines[1:-1])))
        request[-1] ^= 1  # of the signature
        forged = "\n".join([lines[0], base64.b64encode(request).decode(), lines[-1], ""])
        assert (await site.ask(site.default, "gw-1", csr=forged))["status"] == "FAILURE"

    @pytest.mark.parametrize("way", ["chain", "imported"])
    async def test_the_first_connection_replaces_the_factory_identity(
        self, tls_site: Site, folder: Path, way: str
    ) -> None:
        """Topic: factory and operation apart; rotate to operational credentials with the first connection."""
        factory = Factory(tls_site.broker, folder)
        if way == "chain":
            factory.profile("line", rotate_on_first_use=True)
            await factory.learnt()
            identity = factory.device("gw-1", factory.key)
        else:
            await tls_site.do("profile", "create", "line", "--strategy", "pre-provisioned", "--rotate-on-first-use")
            identity = await factory.imported("gw-1", "line", factory.key)
        session = await tls_site.broker.login(None, tls=identity)
        assert await session.subscribe("v1/devices/me/rpc/request/+") != (0,)
        operational = (await ask(session, keyless()))["credentialsValue"]
        (await tls_site.broker.login(operational)).disconnect()
        assert tls_site.device("gw-1").state == "active"
        assert await tls_site.broker.refusal(None, tls=identity) == REFUSED


class TestOwners:
    """Topic: how ownership is claimed and verified, and how it passes on."""

    async def owned(self, site: Site) -> tuple[IssuedToken, IssuedToken]:
        """Let a device of ACME be there; give the tokens of both owners."""
        tokens = (
            await site.token("--owner", "ACME", "--label", "site=north"),
            await site.token("--owner", "Globex", "--label", "site=harbour"),
        )
        (await site.broker.login(await site.credentials("gw-1", tokens[0]))).disconnect()
        return tokens

    async def test_ownership_is_verified(self, site: Site) -> None:
        """Topic: how it is verified; another owner's token does not get the device, nor its name."""
        acme, globex = await self.owned(site)
        assert await site.register(globex, "gw-1", "gw-2") == [False, True]
        assert [site.device(name).owner for name in ("gw-1", "gw-2")] == ["ACME", "Globex"]
        assert await site.register(acme, "gw-1") == [True]

    async def test_a_device_that_was_sold_passes_on(self, site: Site) -> None:
        """Topic: a secure way to change the owner; a code of the old one and a token of the new one, together."""
        acme, globex = await self.owned(site)
        old = await site.credentials("gw-1", acme)
        device = await site.broker.login(old)
        code = (await site.do("device", "transfer", "gw-1", "--to", "Globex", "--expires", "3d"))["claimCode"]
        assert (await site.ask(globex, "gw-1", claimCode="mqp_cc_guessed"))["status"] == "FAILURE"
        assert (await site.ask(acme, "gw-1", claimCode=code))["status"] == "FAILURE"
        new = await site.credentials("gw-1", globex, claimCode=code)
        await device.wait_closed()
        assert await site.broker.refusal(old) == UNKNOWN
        await site.broker.login(new)
        row = site.device("gw-1")
        assert (row.owner, row.labels, row.generation) == ("Globex", {"site": "harbour"}, 3)
        (event,) = site.events("transfer-completed")
        assert (event.owner, event.to_owner) == ("ACME", "Globex")
        assert [await site.register(token, "gw-1") for token in (acme, globex)] == [[False], [True]]
        kinds = [line["kind"] for line in await site.do("audit", "explain", "gw-1")]
        assert kinds[:2] == ["provisioned", "activated"]  # what was before is kept

    async def test_a_transfer_is_finished_once_or_not_at_all(self, site: Site) -> None:
        """Topic: rehoming is defined, its end too; cancelled it cannot be completed, completed it is over."""
        _, globex = await self.owned(site)
        cancelled = (await site.do("device", "transfer", "gw-1", "--to", "Globex"))["claimCode"]
        await site.do("device", "transfer", "gw-1", "--cancel")
        assert (await site.ask(globex, "gw-1", claimCode=cancelled))["status"] == "FAILURE"
        code = (await site.do("device", "transfer", "gw-1", "--to", "Globex"))["claimCode"]
        await site.credentials("gw-1", globex, claimCode=code)
        other = await site.token("--owner", "Globex")
        again = await site.ask(other, "gw-1", claimCode=code)
        assert len(site.events("transfer-completed")) == 1
        assert again["status"] == "FAILURE"
        assert (await site.cli("device", "transfer", "gw-1", "--cancel")).status == 5


class TestDuplicates:
    """Topic: duplicate identities, in the forms that a copied device takes."""

    async def test_a_copy_that_goes_on_with_the_old_credentials_is_found(self, site: Site) -> None:
        """Topic: duplicate identities; a credential that was replaced and is still in use somewhere."""
        old = await site.credentials("gw-1")
        for credentials in (old, None):
            (await site.broker.login(credentials or await site.credentials("gw-1"))).disconnect()
        assert await site.broker.refusal(old) == UNKNOWN
        await site.broker.stop()  # which writes what it has gathered
        await site.broker.start()
        findings = site.see(lambda admin: admin.report(within_ms=HOUR_MS))
        (row,) = next(f for f in findings if f.kind is FindingKind.SUPERSEDED_IN_USE).rows
        assert (row["device"], row["generation"], row["attempts"]) == ("gw-1", 1, 1)

    async def test_two_devices_with_one_name_are_found(self, site: Site) -> None:
        """Topic: duplicate identities; a name that is provisioned from two addresses by turns."""
        for source in ("127.0.0.1", "127.0.0.2", "127.0.0.1"):
            reply = await site.broker.provision("gw-1", source=source)
            (await site.broker.login(reply["credentialsValue"])).disconnect()
        assert found(site, FindingKind.ALTERNATING_SOURCES) == ["gw-1"]


async def test_a_report_without_findings_ends_well_and_one_with_them_does_not(site: Site) -> None:
    """Topic: audit provisioning events regularly; a timer learns from the exit status whether to look."""
    assert (await site.cli("audit", "report")).status == 0
    await site.do("device", "create", "nobodys", "--profile", "default")
    assert (await site.cli("audit", "report", "--json")).status == 7
