"""Gateways that provision themselves, sentence by sentence: the topics of the vendor's page, with our own gateway."""

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tests.brokers.test_gateway_life import NAME, Watched, gateway
from tests.cli.command import start
from tests.seeds.conftest import Site

from mqttprov.admin import Admin, IssuedToken
from mqttprov.gateway.settings import GatewaySettings, SettingsError
from mqttprov.mqtt import MessageReceived, ReasonCode

WIPE = b'{"method":"gateway_remove_provisioned_credentials","params":{}}'
PREFIX = "TB_GW_PROVISIONING_DEVICE_"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Give the gateway's config folder."""
    path = tmp_path / "gateway"
    path.mkdir()
    return path


async def visit(site: Site, home: Path, **variables: str) -> Watched:
    """Let a gateway start, come online and stop; give it with the states that it went through."""
    async with gateway(site.broker, home, **variables) as watched:
        await watched.until("online")
    return watched


def stored(home: Path) -> Any:
    """Give what the gateway has saved in its config folder."""
    return json.loads((home / ".credentials").read_bytes())


def files(home: Path) -> set[str]:
    """Give the names of what is in the config folder."""
    return {path.name for path in home.iterdir()}


def generations(site: Site) -> list[tuple[str, str]]:
    """Give type and status of all generations of the gateway's credentials, oldest first."""

    def look(admin: Admin) -> list[tuple[str, str]]:
        return [(row.type, row.status) for row in admin.credentials(admin.device(NAME))]

    found: list[tuple[str, str]] = site.see(look)
    return found


class TestFirstStart:
    """Topic: what happens when a gateway starts."""

    async def test_it_registers_itself_without_anybody_setting_it_up(self, site: Site, home: Path) -> None:
        """Topic: on its first start it registers and obtains credentials; nobody makes any for this device."""
        assert await site.do("device", "list") == []
        await visit(site, home)
        assert site.device(NAME).state == "active"
        assert {event.actor for event in site.events("provisioned", "activated")} == {"device"}

    async def test_without_stored_credentials_it_asks_saves_and_connects(self, site: Site, home: Path) -> None:
        """Topic: the way without stored credentials; request, credentials into the config folder, then connecting."""
        watched = await visit(site, home)
        order = [s for s in watched.states if s in {"awaiting_reply", "saving", "connecting", "online"}]
        assert order == ["awaiting_reply", "saving", "connecting", "online"]
        assert await site.broker.refusal(stored(home)["credentialsValue"]) == ReasonCode.SUCCESS

    async def test_with_stored_credentials_it_connects_with_them(self, site: Site, home: Path) -> None:
        """Topic: the way with stored credentials; it connects at once and asks for nothing."""
        await visit(site, home)
        saved = stored(home)
        assert (await visit(site, home)).states[:2] == ["connecting", "online"]
        assert stored(home) == saved
        assert len(site.events("provisioned", "repeated", "reprovisioned")) == 1

    async def test_the_platform_makes_the_device(self, site: Site, home: Path) -> None:
        """Topic: the platform creates the device when there is none of that name, and makes the credentials."""
        await visit(site, home)
        assert [row["name"] for row in await site.do("device", "list")] == [NAME]
        assert generations(site) == [("ACCESS_TOKEN", "active")]

    async def test_the_platform_uses_the_device_that_is_there(self, site: Site, home: Path) -> None:
        """Topic: the platform reuses a device of that name that it has already."""
        made = await site.do("device", "create", NAME, "--profile", "default")
        await visit(site, home)
        assert (site.device(NAME).id, len(await site.do("device", "list"))) == (made["id"], 1)


class TestProvisioningAgain:
    """Topic: rotating credentials, and changing the type of authentication."""

    async def test_removing_the_stored_credentials_rotates_them(self, site: Site, home: Path) -> None:
        """Topic: without its stored credentials the gateway provisions again at its next start, as the same device."""
        await visit(site, home)
        before, device_id = stored(home), site.device(NAME).id
        (home / ".credentials").unlink()
        await visit(site, home)
        assert stored(home)["credentialsValue"] != before["credentialsValue"]
        assert (site.device(NAME).id, len(generations(site))) == (device_id, 2)
        assert await site.broker.refusal(before["credentialsValue"]) == ReasonCode.BAD_USER_NAME_OR_PASSWORD

    async def test_removing_them_changes_the_type_of_authentication(self, site: Site, home: Path) -> None:
        """Topic: the other reason to remove them; what is set at the next start decides the new type."""
        await visit(site, home)
        (home / ".credentials").unlink()
        await visit(site, home, USERNAME="user-1", PASSWORD="password-1")
        assert generations(site) == [("ACCESS_TOKEN", "superseded"), ("MQTT_BASIC", "active")]

    async def test_an_operator_does_it_from_afar(self, site: Site, home: Path) -> None:
        """Topic: the service call deletes what is stored and makes the gateway provision again (here at once)."""
        operator = await site.broker.operator()
        await operator.subscribe(f"v1/devices/{NAME}/rpc/response/+", f"v1/devices/{NAME}/telemetry")
        async with gateway(site.broker, home) as watched:
            await watched.until("online")
            before = stored(home)
            await operator.take(MessageReceived)  # its first heartbeat: from here on it listens to calls
            await operator.publish(f"v1/devices/{NAME}/rpc/request/1", WIPE)
            answer = await operator.take(MessageReceived, lambda e: e.publish.topic.endswith("/rpc/response/1"))
            assert json.loads(answer.publish.payload)["code"] == 200
            await watched.until("online", 2)
        assert stored(home) != before
        assert generations(site) == [("ACCESS_TOKEN", "superseded"), ("ACCESS_TOKEN", "active")]


class TestVariables:
    """Topic: the environment variables, and what each of them does."""

    @pytest.mark.parametrize("missing", ["KEY", "SECRET"])
    def test_key_and_secret_are_required(self, home: Path, missing: str) -> None:
        """Topic: key and secret of the device profile must be set; the error names the variable that is not."""
        environment = {PREFIX + name: "x" for name in ("KEY", "SECRET") if name != missing}
        with pytest.raises(SettingsError, match=f"{PREFIX}{missing} not set"):
            GatewaySettings.from_environment(environment, host="127.0.0.1", port=1883, directory=home)

    @pytest.mark.parametrize("wrong", ["KEY", "SECRET"])
    async def test_key_and_secret_must_be_those_of_a_profile(self, site: Site, home: Path, wrong: str) -> None:
        """Topic: key and secret come from a device profile; with others no device is made and the gateway goes on."""
        async with gateway(site.broker, home, **{wrong: "not-of-a-profile"}) as watched:
            await watched.until("waiting_to_provision")
        assert "online" not in watched.states
        assert await site.do("device", "list") == []

    async def test_the_name_is_the_devices(self, site: Site, home: Path) -> None:
        """Topic: the name variable is the name of the device on the platform."""
        await visit(site, home, NAME="Hall 7")
        assert [row["name"] for row in await site.do("device", "list")] == ["Hall 7"]

    async def test_without_a_name_one_is_drawn_and_kept(self, site: Site, home: Path, tmp_path: Path) -> None:
        """Topic: a random name when none is set; another for each gateway, and the same at each start of one."""
        await visit(site, home, NAME="")
        (home / ".credentials").unlink()
        await visit(site, home, NAME="")
        await visit(site, tmp_path / "other", NAME="")
        names = [row["name"] for row in await site.do("device", "list")]
        assert len(set(names)) == len(names) == 2

    async def test_a_token_that_is_set_is_assigned(self, site: Site, home: Path) -> None:
        """Topic: the platform assigns the token that is set, and access token is the type."""
        await visit(site, home, ACCESS_TOKEN="my-own-token-1")
        assert generations(site) == [("ACCESS_TOKEN", "active")]
        assert stored(home)["credentialsValue"] == "my-own-token-1"
        assert await site.broker.refusal("my-own-token-1") == ReasonCode.SUCCESS

    @pytest.mark.parametrize(
        "variables",
        [
            {"USERNAME": "user-1", "PASSWORD": "password-1", "CLIENT_ID": "client-1"},
            {"USERNAME": "user-1"},
            {"PASSWORD": "password-1"},
            {"CLIENT_ID": "client-1"},
        ],
        ids="+".join,
    )
    async def test_any_of_user_name_password_and_client_id_means_mqtt_basic(
        self, site: Site, home: Path, variables: dict[str, str]
    ) -> None:
        """Topic: user name, password and client id for MQTT basic; one that is set is used as it is."""
        await visit(site, home, **variables)
        assert generations(site) == [("MQTT_BASIC", "active")]
        value = stored(home)["credentialsValue"]
        words = {"USERNAME": "userName", "PASSWORD": "password", "CLIENT_ID": "clientId"}
        assert {name: value[words[name]] for name in variables} == variables
        login = (value["userName"], value["password"])
        assert await site.broker.refusal(*login, client_id=value.get("clientId") or "") == ReasonCode.SUCCESS

    async def test_a_ca_file_means_a_certificate_that_the_gateway_makes(self, tls_site: Site, home: Path) -> None:
        """Topic: with a CA file of its config folder the gateway makes a client certificate and logs in by it."""
        broker = tls_site.broker
        broker.port = broker.tls_port  # where this gateway connects, in both roles
        shutil.copy(broker.path / "authority.pem", home / "ca.pem")
        await visit(tls_site, home, CA_CERT_FILENAME="ca.pem")
        assert generations(tls_site) == [("X509_CERTIFICATE", "active")]
        assert {"cert.pem", "key.pem"} <= files(home)

    def test_the_ca_file_is_looked_for_in_the_config_folder(self, home: Path) -> None:
        """Topic: the variable is the name of a file in the config folder, and not a way out of it."""
        for name, why in (("ca.pem", "is not there"), ("../ca.pem", "must be the name of a file")):
            environment = {PREFIX + "KEY": "x", PREFIX + "SECRET": "x", PREFIX + "CA_CERT_FILENAME": name}
            with pytest.raises(SettingsError, match=why):
                GatewaySettings.from_environment(environment, host="127.0.0.1", port=8883, directory=home)

    @pytest.mark.parametrize("kind", ["ACCESS_TOKEN", "MQTT_BASIC"])
    async def test_without_any_of_them_the_platform_decides(self, site: Site, home: Path, kind: str) -> None:
        """Topic: with none of the optional variables the type is the platform's default, here the profile's."""
        site.broker.issued = await new_profile(site, "--credentials", kind)
        await visit(site, home)
        assert generations(site) == [(kind, "active")]


async def new_profile(site: Site, *options: str) -> IssuedToken:
    """Make a device profile; give the key and secret that it was made with."""
    made = await site.do("profile", "create", "factory", *options)
    return IssuedToken("factory", made["token"], made["provisionDeviceKey"], made["provisionDeviceSecret"])


class TestStepByStep:
    """Topic: the walk from a new device profile to an active gateway."""

    async def test_a_profile_that_allows_new_devices_gives_key_and_secret(self, site: Site, home: Path) -> None:
        """Topic: a profile that may create devices; its key and secret, copied over, bring the gateway into it."""
        site.broker.issued = await new_profile(site, "--strategy", "allow-create")
        await visit(site, home)
        assert site.device(NAME).profile == "factory"

    @pytest.mark.parametrize("strategy", ["disabled", "pre-provisioned"])
    async def test_other_profiles_create_nothing(self, site: Site, strategy: str) -> None:
        """Topic: creating new devices must be allowed in the profile; with the other strategies it is not."""
        assert await site.register(await new_profile(site, "--strategy", strategy), NAME) == [False]
        assert await site.do("device", "list") == []

    async def test_the_gateway_is_started_by_one_command_and_shows_up_as_active(self, site: Site, home: Path) -> None:
        """Topic: variables set, one command; it registers, connects, and is listed as an active gateway."""
        operator = await site.broker.operator()
        await operator.subscribe("provision/audit/activated")
        environment = {PREFIX + "KEY": site.default.key, PREFIX + "SECRET": site.default.secret, PREFIX + "NAME": NAME}
        command = ("gateway", "run", "--dir", str(home), "--port", str(site.broker.port))
        with start(*command, **environment) as process:
            assert json.loads((await operator.message()).payload)["event"]["device"] == NAME
            (row,) = await site.do("device", "list", "--state", "active")
            process.terminate()
            await asyncio.to_thread(process.communicate, timeout=30)
        assert (row["name"], row["gateway"]) == (NAME, True)
