"""Provisioning with registration tokens, sentence by sentence: the topics of the document on adding devices."""

import asyncio
import csv
from pathlib import Path

import pytest
from tests.cli.command import mqttprov
from tests.seeds.conftest import Site

from mqttprov.admin import IssuedToken
from mqttprov.mqtt import ReasonCode

LABELS = {"type1": "type=type1", "type2": "type=type2"}


async def run_on(site: Site, rule: str) -> list[str]:
    """Give the devices that a scheduling rule picks: an application runs on those and no others."""
    return [row["name"] for row in await site.do("device", "list", "--label", rule)]


class TestAddingDevices:
    """Topic: adding a new device, singly and in bulk."""

    async def test_one_command_with_a_token_adds_a_device(self, site: Site, folder: Path) -> None:
        """Topic: a device is added by running one command, to which a registration token is given."""
        (folder / "secret").write_text(site.default.secret)
        at = ("--port", str(site.broker.port), "--key", site.default.key, "--secret-file", str(folder / "secret"))
        told = await asyncio.to_thread(mqttprov, "request", *at, "--device-name", "gw-1", "--json")
        assert (told.status, site.device("gw-1").state) == (0, "provisioned")
        assert site.device("gw-1").token == "default"

    @pytest.mark.parametrize("fields", [{"provisionDeviceKey": "nobody"}, {"provisionDeviceSecret": "guessed"}])
    async def test_no_device_is_added_without_a_token(self, site: Site, fields: dict[str, str]) -> None:
        """Topic: tokens authenticate registrations and are needed for each; neither key nor secret alone is enough."""
        reply = await site.ask(site.default, "gw-1", **fields)
        assert (reply["status"], reply.get("credentialsValue")) == ("NOT_FOUND", None)
        assert await site.do("device", "list") == []

    async def test_the_token_shown_first_is_the_default_one(self, folder: Path) -> None:
        """Topic: what one is shown for adding the first device is the token named default."""
        at = ("--state", str(folder / "new"), "--json")
        told = await asyncio.to_thread(mqttprov, "init", *at)
        shown = await asyncio.to_thread(mqttprov, "token", "show", told.data["provisionDeviceKey"], *at)
        assert shown.data["name"] == "default"

    async def test_the_simple_flow_takes_many_devices_at_once(self, site: Site) -> None:
        """Topic: bulk provisioning in the simple flow; one token, however many devices, all at the same time."""
        told = await asyncio.gather(*(site.credentials(f"gw-{number}") for number in range(40)))
        assert len(set(told)) == 40
        assert len(await site.do("device", "list")) == 40

    async def test_the_flow_with_tokens_takes_many_devices_at_once(self, site: Site, folder: Path) -> None:
        """Topic: bulk provisioning with tokens of one's own; a file of them and a list of the expected devices."""
        tokens = await one_each(site, folder, 5)
        (folder / "list.csv").write_text("name,owner\n" + "".join(f"{token.name},ACME\n" for token in tokens))
        await site.do("device", "import", str(folder / "list.csv"), "--profile", "default")
        assert await asyncio.gather(*(site.register(token, token.name) for token in tokens)) == [[True]] * 5
        assert {row["state"] for row in await site.do("device", "list", "--owner", "ACME")} == {"provisioned"}

    async def test_own_tokens_can_be_made_and_used(self, site: Site) -> None:
        """Topic: who needs more than the default token makes and uses others; a device's record tells which it was."""
        token = await site.token("--name", "line-3")
        assert await site.register(token, "gw-1") == [True]
        assert site.device("gw-1").token == "line-3"


class TestTheDefaultToken:
    """Topic: the token that is there from the beginning."""

    async def test_everything_new_is_born_with_one(self, site: Site) -> None:
        """Topic: each new project (here: each profile) gets a default token by itself."""
        await site.do("profile", "create", "meters")
        (row,) = await site.do("token", "list", "--profile", "meters")
        assert row["name"] == "default"

    async def test_it_has_no_maximum(self, site: Site) -> None:
        """Topic: no maximum is set on the default token, so that it can be used without limit."""
        assert (await site.do("token", "show", "default"))["maxRegistrations"] is None
        assert all(await site.register(site.default, *(f"gw-{number}" for number in range(30))))

    async def test_who_finds_it_can_be_stopped(self, site: Site) -> None:
        """Topic: a found default token registers any number of devices; a cap on it, or its end, stops that."""
        assert await site.register(site.default, "ours", "intruder-1", "intruder-2") == [True] * 3
        await site.do("token", "update", "default", "--max-registrations", "4")
        assert await site.register(site.default, "intruder-3", "intruder-4") == [True, False]
        await site.do("token", "revoke", "default", "--yes")
        assert await site.register(site.default, "intruder-5") == [False]
        names = [row["name"] for row in (await site.do("token", "show", "default"))["devices"]]
        assert names == ["ours", "intruder-1", "intruder-2", "intruder-3"]


class TestTheMaximum:
    """Topic: maximum device registrations."""

    @pytest.mark.parametrize("value", ["0", "-1", "1.5", "many"])
    async def test_it_is_a_positive_whole_number(self, site: Site, value: str) -> None:
        """Topic: the maximum is a positive integer; nothing else is taken, and no token is made."""
        result = await site.cli("token", "create", "--name", "odd", f"--max-registrations={value}")
        assert result.status == 2
        assert [row["name"] for row in await site.do("token", "list")] == ["default"]

    async def test_it_is_optional(self, site: Site) -> None:
        """Topic: a token may be made without a maximum."""
        assert all(await site.register(await site.token("--name", "free"), *(f"gw-{number}" for number in range(10))))

    async def test_it_counts_all_registrations_and_then_no_more_are_possible(self, site: Site) -> None:
        """Topic: the maximum is the total of uses; once reached, the token registers nothing, also not in a rush."""
        token = await site.token("--max-registrations", "3")
        told = await asyncio.gather(*(site.register(token, f"gw-{number}") for number in range(12)))
        assert sorted(told) == [[False]] * 9 + [[True]] * 3
        assert (await site.do("token", "show", token.key))["used"] == 3
        assert await site.register(token, "gw-late") == [False]

    async def test_devices_that_are_registered_already_go_on(self, site: Site) -> None:
        """Topic: at its maximum a token is closed for new devices only; its old ones log in and ask again."""
        token = await site.token("--max-registrations", "1")
        credentials = await site.credentials("gw-1", token)
        assert await site.register(token, "gw-2", "gw-1") == [False, True]
        await (await site.broker.login(credentials)).ping()

    async def test_it_can_be_changed_at_any_time(self, site: Site) -> None:
        """Topic: the maximum may be updated whenever one likes: set later, raised when reached, lowered, taken away."""
        token = await site.token("--name", "lot")
        for limit, name, taken in (("1", "a", True), ("1", "b", False), ("2", "b", True), ("1", "c", False),
                                   ("none", "c", True)):  # fmt: skip
            await site.do("token", "update", "lot", "--max-registrations", limit)
            assert await site.register(token, name) == [taken]

    async def test_who_comes_near_it_is_warned(self, site: Site) -> None:
        """Topic: take care not to run into the maximum; the report names tokens that are close to it."""
        token = await site.token("--name", "lot", "--max-registrations", "10")
        await site.register(token, *(f"gw-{number}" for number in range(9)))
        result = await site.cli("audit", "report", "--json")
        assert result.status == 7
        (found,) = [finding for finding in result.data if finding["finding"] == "token-near-limit"]
        assert [row["token"] for row in found["rows"]] == ["lot"]


class TestLabels:
    """Topic: labels on tokens, and applications that are scheduled by them."""

    async def types(self, site: Site) -> dict[str, IssuedToken]:
        """Make a token for each type of device."""
        return {name: await site.token("--name", name, "--label", label) for name, label in LABELS.items()}

    async def test_devices_get_the_labels_of_their_token(self, site: Site) -> None:
        """Topic: labels attached to a token are given to the devices that it provisions, by themselves."""
        token = await site.token("--label", "type=type1", "--label", "site=north")
        await site.register(token, "gw-1")
        assert site.device("gw-1").labels == {"type": "type1", "site": "north"}

    async def test_each_application_runs_on_devices_of_its_type_only(self, site: Site) -> None:
        """Topic: one token per type, the right one for each device; each rule then picks its own type and no other."""
        tokens = await self.types(site)
        await site.register(tokens["type1"], "device-1")
        await site.register(tokens["type2"], "device-2")
        assert await run_on(site, "type=type1") == ["device-1"]
        assert await run_on(site, "type=type2") == ["device-2"]

    async def test_a_device_without_label_runs_neither_until_it_has_one(self, site: Site) -> None:
        """Topic: a third device without a type has neither application until it gets the label."""
        tokens = await self.types(site)
        await site.register(site.default, "device-3")
        assert [await run_on(site, label) for label in LABELS.values()] == [[], []]
        await site.register(tokens["type2"], "device-3")
        assert [await run_on(site, label) for label in LABELS.values()] == [[], ["device-3"]]

    async def test_a_device_can_read_its_labels(self, site: Site) -> None:
        """Topic: what runs on a device hangs on its labels, so the device itself is told them."""
        tokens = await self.types(site)
        device = await site.broker.login(await site.credentials("device-1", tokens["type1"]))
        assert await site.attributes(device) == {"shared": {"labels": {"type": "type1"}}}


async def one_each(site: Site, folder: Path, count: int) -> list[IssuedToken]:
    """Make a token for each expected device."""
    file = folder / "tokens.csv"
    await site.do("token", "create", "--count", str(count), "--max-registrations", "1", "--name", "unit", "--out",
                  str(file))  # fmt: skip
    rows = list(csv.DictReader(file.read_text().splitlines()))
    return [
        IssuedToken("default", row["name"], row["provisionDeviceKey"], row["provisionDeviceSecret"]) for row in rows
    ]


class TestSecurity:
    """Topic: what a bad actor with a device in his hands can do, and the two ways against it."""

    async def test_a_limit_on_every_token_bounds_the_damage_and_can_be_raised(self, site: Site) -> None:
        """Topic: first way, limits on all tokens in use, the default one too; they can be raised at a later time."""
        lot = await site.token("--name", "lot", "--max-registrations", "2")
        await site.do("token", "update", "default", "--max-registrations", "2")
        for token in (lot, site.default):
            names = [f"{token.name}-{number}" for number in range(5)]
            assert sum(await site.register(token, *names)) == 2
        await site.do("token", "update", "lot", "--max-registrations", "3")
        assert await site.register(lot, "one-more", "and-another") == [True, False]

    async def test_a_token_of_its_own_for_each_expected_device(self, site: Site, folder: Path) -> None:
        """Topic: second way, a new token per device; what is found in one device registers no second."""
        for token in await one_each(site, folder, 3):
            assert await site.register(token, token.name, f"intruder-{token.name}") == [True, False]

    async def test_a_token_per_device_is_revoked_for_this_one_alone(self, site: Site, folder: Path) -> None:
        """Topic: separate tokens can be revoked one by one; all others register as before."""
        first, second, third = await one_each(site, folder, 3)
        await site.do("token", "revoke", second.key, "--yes")
        assert [await site.register(token, token.name) for token in (first, second, third)] == [[True], [False], [True]]

    async def test_revoking_a_shared_token_stops_all_that_have_not_registered(self, site: Site) -> None:
        """Topic: a token shared by several devices takes the chance from all of them; those registered before stay."""
        token = await site.token("--name", "shared")
        credentials = await site.credentials("early", token)
        await site.do("token", "revoke", "shared", "--yes")
        assert await site.register(token, "late-1", "late-2") == [False, False]
        assert await site.broker.refusal(credentials) == ReasonCode.SUCCESS
