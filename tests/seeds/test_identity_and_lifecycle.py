"""Identity, keys and lifecycle, sentence by sentence: the topics of the document on device provisioning patterns."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from tests.brokers.certificates import DeviceKey
from tests.brokers.harness import Client
from tests.seeds.conftest import Site

from mqttprov.admin import TokenChange, now_ms
from mqttprov.core.hygiene import FindingKind
from mqttprov.core.lifecycle import EVENT_MEANINGS, STATE_MEANINGS, TRANSITIONS, IllegalTransition, transition
from mqttprov.core.model import LifecycleState
from mqttprov.mqtt import ReasonCode
from mqttprov.responder.report import report

HOUR_MS = 3_600_000
WIPE = "gateway_remove_provisioned_credentials"
REFUSED, UNKNOWN = ReasonCode.NOT_AUTHORIZED, ReasonCode.BAD_USER_NAME_OR_PASSWORD


def found(site: Site, kind: FindingKind) -> list[Any]:
    """Give what tomorrow's report has under a kind of finding: devices, or lists of them."""
    reader = site.broker.state.store.reader()
    findings = report(reader, now_ms=now_ms() + 25 * HOUR_MS, within_ms=24 * HOUR_MS)
    reader.close()
    return [row.get("device") or row["devices"] for f in findings if f.kind is kind for row in f.rows]


async def answer_wipe(gateway: Client) -> None:
    """Wait to be asked to wipe, and say that it is done."""
    call = await gateway.message()
    assert json.loads(call.payload)["method"] == WIPE
    number = call.topic.rpartition("/")[2]
    await gateway.publish(f"v1/devices/me/rpc/response/{number}", b'{"code":200}')


class TestIdentity:
    """Topic: one identity and one credential for each device."""

    async def test_each_device_has_an_identity_and_a_secret_of_its_own(self, site: Site) -> None:
        """Topic: an identity and a key for every unit, from the first batch to the whole fleet."""
        replies = await asyncio.gather(*(site.ask(site.default, f"gw-{number}") for number in range(50)))
        assert len({reply["deviceId"] for reply in replies}) == 50
        assert len({reply["credentialsValue"] for reply in replies}) == 50

    async def test_a_credential_is_not_shared_by_two_devices(self, site: Site) -> None:
        """Topic: no credentials that several devices share; one that another device holds is refused."""
        assert (await site.ask(site.default, "gw-1", token="planted-token"))["status"] == "SUCCESS"
        assert (await site.ask(site.default, "gw-2", token="planted-token"))["status"] == "FAILURE"

    async def test_a_key_stays_in_the_device(self, site: Site) -> None:
        """Topic: private keys in secure hardware; a signed request is enough, and no private key comes back."""
        reply = await site.ask(site.default, "gw-1", csr=DeviceKey("gw-1").csr_pem())
        assert (reply["status"], reply["credentialsType"]) == ("SUCCESS", "X509_CERTIFICATE")
        assert "PRIVATE" not in json.dumps(reply)

    async def test_the_factory_key_opens_nothing_but_provisioning(self, site: Site) -> None:
        """Topic: factory and operation apart; key and secret that every device is shipped with log in nowhere."""
        assert await site.broker.refusal(site.default.key, site.default.secret) == UNKNOWN
        session = await site.broker.session()
        closed = (ReasonCode.TOPIC_FILTER_INVALID,)
        assert await session.subscribe("v1/devices/me/rpc/request/+") == closed
        assert await session.subscribe("#") == closed

    async def test_a_claim_secret_is_good_for_the_first_time_only(self, site: Site, folder: Path) -> None:
        """Topic: a factory secret helps with the beginning, and not in normal operation."""
        (folder / "list.csv").write_text("name,claim_secret\ngw-1,written-on-the-box\n")
        await site.do("device", "import", str(folder / "list.csv"), "--profile", "default")
        assert await site.register(site.default, "gw-1") == [False]
        claim = {"provisionDeviceSecret": "written-on-the-box"}
        credentials = await site.credentials("gw-1", **claim)
        assert await site.broker.refusal("written-on-the-box") == UNKNOWN
        (await site.broker.login(credentials)).disconnect()
        assert (await site.ask(site.default, "gw-1", **claim))["status"] != "SUCCESS"

    async def test_credentials_are_rotated_without_a_gap(self, site: Site) -> None:
        """Topic: rotate to operational credentials; the old ones work until the first login with the new ones."""
        old = await site.credentials("gw-1")
        (await site.broker.login(old, client_id="old")).disconnect()
        assert (await site.do("device", "rotate", "gw-1"))["rotationDue"]
        new = await site.credentials("gw-1")
        (await site.broker.login(old, client_id="old")).disconnect()
        (await site.broker.login(new, client_id="new")).disconnect()
        assert (new != old, await site.broker.refusal(old)) == (True, UNKNOWN)


class TestEnrolment:
    """Topic: the flow by which a device becomes one of ours."""

    async def test_a_token_can_be_short_lived(self, site: Site) -> None:
        """Topic: enrolment tokens that live for a short time only."""
        token = await site.token("--expires", "1h")
        assert await site.register(token, "in-time") == [True]
        over = TokenChange(expires_ms=now_ms())
        site.see(lambda admin: admin.update_token(token.key, None, over))
        assert await site.register(token, "late") == [False]

    async def test_every_enrolment_is_in_the_log(self, site: Site) -> None:
        """Topic: each enrolment event is logged, successes and refusals, with who, from where and why."""
        await site.register(site.default, "gw-1", "gw-1")
        await site.ask(site.default, "gw-2", provisionDeviceSecret="guessed")
        events = site.events("provisioned", "repeated", "refused")
        assert [(event.kind, event.source, event.reason) for event in events] == [
            ("provisioned", "127.0.0.1", None),
            ("repeated", "127.0.0.1", None),
            ("refused", "127.0.0.1", "wrong-secret"),
        ]

    async def test_the_log_answers_a_call_to_support(self, site: Site) -> None:
        """Topic: the log helps support later; the reference that a device was told leads to the reason in words."""
        await site.do("token", "update", "default", "--max-registrations", "1")
        await site.register(site.default, "gw-1")
        ref = (await site.ask(site.default, "gw-2"))["ref"]
        (told,) = await site.do("audit", "explain", ref)
        assert "gw-2" in told["sentence"]
        assert "token update" in told["advice"]

    async def test_a_lost_reply_costs_nothing(self, site: Site) -> None:
        """Topic: recovery in the field where the network cannot be relied on; asking again gives the same answer."""
        token = await site.token("--max-registrations", "1")
        assert await site.credentials("gw-1", token) == await site.credentials("gw-1", token)
        assert (await site.do("token", "show", token.key))["used"] == 1

    async def test_an_owner_is_known_from_the_beginning(self, site: Site) -> None:
        """Topic: how ownership is claimed; a device listed for an owner is his when it has provisioned itself."""
        await site.do("device", "create", "gw-1", "--profile", "default", "--owner", "ACME")
        await site.register(site.default, "gw-1")
        assert [row["name"] for row in await site.do("device", "list", "--owner", "ACME")] == ["gw-1"]


class TestLifecycle:
    """Topic: states, and what each of them permits."""

    def test_the_states_are_those_that_were_asked_for(self) -> None:
        """Topic: manufactured, provisioned, active, suspended, decommissioned; each state and event has a meaning."""
        assert [str(s) for s in LifecycleState] == ["manufactured", "provisioned", "active", "suspended",
                                                    "decommissioned"]  # fmt: skip
        assert set(STATE_MEANINGS) == set(LifecycleState)

    def test_transitions_are_explicit(self) -> None:
        """Topic: changes of state are explicit; there is one table, and what is not in it cannot happen."""
        for state in LifecycleState:
            for event in EVENT_MEANINGS:
                if (state, event) in TRANSITIONS:
                    assert transition(state, event) is TRANSITIONS[state, event]
                else:
                    with pytest.raises(IllegalTransition):
                        transition(state, event)

    async def test_a_device_goes_through_all_states(self, site: Site) -> None:
        """Topic: states are tracked, from the factory to the end, each step with its event."""
        seen = [(await site.do("device", "create", "gw-1", "--profile", "default"))["state"]]
        credentials = await site.credentials("gw-1")
        seen.append(site.device("gw-1").state)
        (await site.broker.login(credentials)).disconnect()
        seen.append(site.device("gw-1").state)
        seen += [(await site.do("device", verb, "gw-1"))["state"] for verb in ("suspend", "resume")]
        seen.append((await site.do("device", "decommission", "gw-1", "--yes"))["state"])
        assert seen == ["manufactured", "provisioned", "active", "suspended", "active", "decommissioned"]
        kinds = ("device-created", "provisioned", "activated", "suspended", "resumed", "decommissioned")
        assert [event.kind for event in site.events(*kinds)] == list(kinds)

    async def test_a_manufactured_device_may_only_provision(self, site: Site) -> None:
        """Topic: the state decides what is permitted; before it has credentials there is nothing to log in with."""
        await site.do("device", "create", "gw-1", "--profile", "default")
        assert await site.broker.refusal("gw-1") == UNKNOWN
        assert await site.register(site.default, "gw-1") == [True]

    async def test_a_suspended_device_is_out_at_once(self, site: Site) -> None:
        """Topic: a change of state is enforced; the live session ends, and neither login nor request succeeds."""
        credentials = await site.credentials("gw-1")
        device = await site.broker.login(credentials)
        await site.do("device", "suspend", "gw-1")
        await device.wait_closed()
        assert await site.broker.refusal(credentials) == REFUSED
        assert await site.register(site.default, "gw-1") == [False]

    async def test_a_resumed_device_is_in_again(self, site: Site) -> None:
        """Topic: the permissions follow the state in both directions, with the same credentials."""
        credentials = await site.credentials("gw-1")
        for verb in ("suspend", "resume"):
            await site.do("device", verb, "gw-1")
        await (await site.broker.login(credentials)).ping()

    async def test_an_active_device_has_its_own_topics_and_no_others(self, site: Site) -> None:
        """Topic: access rules; no device reads or writes what is another's."""
        device = await site.online("gw-1")
        assert await device.publish("v1/devices/me/telemetry", b"{}") == ReasonCode.SUCCESS
        assert await device.publish("v1/devices/gw-2/telemetry", b"{}") == REFUSED
        assert await device.subscribe("v1/devices/gw-2/#", "provision/audit/#") == (REFUSED, REFUSED)


class TestDecommissioning:
    """Topic: the end of a device as a normal step of its life."""

    async def test_credentials_are_revoked(self, site: Site) -> None:
        """Topic: when a device is retired its credentials end, and it cannot get new ones."""
        credentials = await site.credentials("gw-1")
        device = await site.broker.login(credentials)
        await site.do("device", "decommission", "gw-1", "--yes")
        await device.wait_closed()
        assert await site.broker.refusal(credentials) == UNKNOWN
        assert await site.register(site.default, "gw-1") == [False]

    async def test_sensitive_data_is_wiped_on_the_device(self, site: Site) -> None:
        """Topic: wiping what is sensitive; the connected device is asked to, and its answer is recorded."""
        gateway = await site.online("gw-1")
        await gateway.subscribe("v1/devices/me/rpc/request/+")
        told, _ = await asyncio.gather(site.do("device", "decommission", "gw-1", "--yes"), answer_wipe(gateway))
        assert told["wiped"] is True
        assert len(site.events("wiped")) == 1

    async def test_the_record_stays(self, site: Site) -> None:
        """Topic: a record of the end for compliance and support; who, when, why, and the history before it."""
        await site.credentials("gw-1")
        await site.do("device", "decommission", "gw-1", "--yes", "--reason", "worn out")
        (event,) = site.events("decommissioned")
        assert (event.device, event.text, event.actor.partition(":")[0]) == ("gw-1", "worn out", "cli")
        story = await site.do("audit", "explain", "gw-1")
        assert [line["kind"] for line in story] == ["provisioned", "decommissioned"]

    async def test_it_is_no_special_case(self, site: Site) -> None:
        """Topic: decommissioning is an ordinary step; it is possible from every state but the last."""
        await site.do("device", "create", "manufactured", "--profile", "default")
        await site.credentials("provisioned")
        await site.online("active")
        await site.credentials("suspended")
        await site.do("device", "suspend", "suspended")
        for state in ("manufactured", "provisioned", "active", "suspended"):
            assert site.device(state).state == state
            assert (await site.do("device", "decommission", state, "--yes"))["state"] == "decommissioned"


class TestVisibility:
    """Topic: operations see what happens, and can look for gaps."""

    async def test_operators_see_provisioning_as_it_happens(self, site: Site) -> None:
        """Topic: provisioning events are visible to operations; they come over MQTT at once."""
        operator = await site.broker.operator()
        await operator.subscribe("provision/audit/provisioned")
        await site.credentials("gw-1")
        assert json.loads((await operator.message()).payload)["event"]["device"] == "gw-1"

    async def test_it_can_be_explained_why_a_device_is_active_and_whose_it_is(self, site: Site) -> None:
        """Topic: being able to explain why a device is active and who owns it."""
        await site.do("device", "create", "gw-1", "--profile", "default", "--owner", "ACME")
        await site.online("gw-1")
        kinds = [line["kind"] for line in await site.do("audit", "explain", "gw-1")]
        assert kinds == ["device-created", "provisioned", "activated"]
        told = (await site.cli("audit", "explain", "gw-1")).out
        assert "'gw-1' is active" in told
        assert "belongs to 'ACME'" in told

    async def test_duplicate_identities_are_found(self, site: Site) -> None:
        """Topic: regular audits look for duplicate identities, here one key under two names."""
        key = DeviceKey("gw-1")
        for name in ("gw-1", "gw-2"):
            assert (await site.ask(site.default, name, csr=key.csr_pem()))["status"] == "SUCCESS"
        assert found(site, FindingKind.SHARED_KEY) == [["gw-1", "gw-2"]]

    async def test_devices_without_owner_are_found(self, site: Site) -> None:
        """Topic: regular audits look for missing ownership records."""
        await site.do("device", "create", "owned", "--profile", "default", "--owner", "ACME")
        await site.do("device", "create", "nobodys", "--profile", "default")
        assert found(site, FindingKind.NO_OWNER) == ["nobodys"]

    async def test_devices_that_never_completed_enrolment_are_found(self, site: Site) -> None:
        """Topic: regular audits look for devices whose enrolment was never completed, at either step of it."""
        await site.do("device", "create", "never-asked", "--profile", "default")
        await site.credentials("never-logged-in")
        await site.online("fine")
        assert found(site, FindingKind.NEVER_PROVISIONED) == ["never-asked"]
        assert found(site, FindingKind.NOT_LOGGED_IN) == ["never-logged-in"]
