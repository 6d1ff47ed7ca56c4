"""What is written is what is loaded: facts, rows, events; and the walls within the store."""

import sqlite3
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.store.world import NOW_MS, World

from mqttprov.core.audit import Event, EventKind, verify
from mqttprov.core.credentials import token_login_key
from mqttprov.core.facts import CountRegistration, DeviceFacts, Facts
from mqttprov.core.model import CredentialsType, LifecycleState, OperatorRole, Profile, ReprovisionPolicy, Strategy
from mqttprov.core.requests import Granted, ProvisionRequest
from mqttprov.store.protocol import Conflict, LimitExceeded, NewToken, StoreUnavailable

NAMES = ("gw-1", "GW-2", "gw 3")


def live(facts: Facts) -> dict[str, DeviceFacts]:
    """Give devices as a later transaction would load them: with live credentials, oldest first."""
    return {
        f: msgspec.structs.replace(d, credentials=sorted(d.credentials, key=lambda c: c.generation))
        for f, d in facts.devices.items()
    }


class TestFacts:
    """Facts after a batch equal the facts that the next transaction loads."""

    def test_one_batch_may_create_provision_and_activate_a_device(self, world: World) -> None:
        """Each row is written once and in its last state, whatever happened in the batch."""
        facts = world.batch(world.request("gw-1"), ("gw-1", 1))
        with world.store.write() as transaction:
            loaded = world.facts(transaction, "gw-1")
        assert loaded.devices == live(facts)
        assert loaded.devices["gw-1"].device.state is LifecycleState.ACTIVE
        assert loaded.tokens["the-key"].used == 1

    def test_a_login_that_ends_in_a_batch_may_be_taken_again_in_it(self, world: World) -> None:
        """Generation 1 ends and generation 3 takes its login in one batch."""
        world.batch(world.request("gw-1", token="first-token"))
        world.batch(
            world.request("gw-1", token="second-token"), ("gw-1", 2), world.request("gw-1", token="first-token")
        )
        key = token_login_key(world.keys, "first-token")
        with world.store.write() as transaction:
            loaded = world.facts(transaction, "gw-1", logins=(key,))
        held = loaded.devices["gw-1"]
        assert [(c.generation, str(c.status)) for c in held.credentials] == [(2, "active"), (3, "issued")]
        assert loaded.logins[key] == held.device.id

    def test_generations_of_a_device_may_share_a_user_name(self, world: World) -> None:
        """A device that changes its password keeps both until the new one has logged in."""
        world.batch(world.request("gw-1", username="user-1", password="password-1"))
        facts = world.batch(world.request("gw-1", username="user-1", password="password-2"))
        first, second = facts.devices["gw-1"].credentials
        assert first.login_key == second.login_key
        reader = world.store.reader()
        found = reader.find_logins((first.login_key,))
        assert sorted(login.credential.generation for login in found) == [1, 2]
        reader.close()

    def test_a_login_can_be_held_by_one_device_only(self, world: World) -> None:
        """The second of two devices that bring the same token is refused, also from a later batch (P8)."""
        world.batch(world.request("gw-1", token="same-token"))
        with world.store.write() as transaction:
            key = token_login_key(world.keys, "same-token")
            facts = world.facts(transaction, "other", logins=(key,))
            decision = world.provision(facts, world.request("other", token="same-token"))
        assert decision.event.reason == "credentials-taken"

    @settings(max_examples=25, deadline=None)
    @given(data=st.data())
    def test_any_history_is_loaded_as_it_was_left(self, data: st.DataObject) -> None:
        """Random batches of requests and first logins leave in the database exactly what the rules left in memory."""
        requests = st.builds(
            lambda name, token, password: ("request", name, token, password),
            st.sampled_from(NAMES),
            st.sampled_from([None, "token-one", "token-two"]),
            st.sampled_from([None, "password-1", "password-2"]),
        )
        logins = st.builds(lambda n, g: ("login", n, g), st.sampled_from(NAMES), st.integers(1, 6))
        batches = data.draw(st.lists(st.lists(requests | logins, min_size=1, max_size=6), min_size=1, max_size=5))
        with tempfile.TemporaryDirectory() as folder:
            world = World(Path(folder) / "x.db")
            try:
                replay(world, batches)
            finally:
                world.store.close()


def replay(world: World, batches: list[list[tuple[Any, ...]]]) -> None:
    """Commit the batches and compare what is loaded after each."""
    for batch in batches:
        names = {step[1] for step in batch}
        steps: list[ProvisionRequest | tuple[str, int]] = []
        for step in batch:
            if step[0] == "login":
                steps.append((step[1], step[2]))
            else:
                _, name, token, password = step
                basic = {} if password is None else {"username": f"user of {name}", "password": password}
                own = None if token is None else f"{token} of {name}"
                steps.append(world.request(name, token=own) if own else world.request(name, **basic))
        facts = world.batch(*steps)
        with world.store.write() as transaction:
            loaded = world.facts(transaction, *names)
        assert loaded.devices == live(facts)
        assert loaded.tokens == facts.tokens
        registered = sum(len(d.registered_by) for d in world_devices(world).values())
        assert loaded.tokens["the-key"].used == registered
    reader = world.store.reader()
    verify(reader.events())
    reader.close()


def world_devices(world: World) -> dict[str, DeviceFacts]:
    """Load the facts of all devices that the tests name."""
    with world.store.write() as transaction:
        return dict(world.facts(transaction, *NAMES).devices)


class TestWalls:
    """What the store itself refuses."""

    def test_a_registration_above_the_limit_rolls_the_batch_back(self, new_world: Callable[..., World]) -> None:
        """The second wall of P1 holds even if the rules failed, and nothing of that batch stays (P1, P5)."""
        world = new_world(max_registrations=1)
        world.batch(world.request("gw-1"))

        def exceed() -> None:
            with world.store.write() as transaction:
                facts = world.facts(transaction, "gw-1")
                transaction.append([Event(EventKind.PROVISIONED, NOW_MS, "device")])
                transaction.write(facts, [CountRegistration(world.token_id, world.key, "another", "gw-1", NOW_MS)])

        with pytest.raises(LimitExceeded, match="more registrations"):
            exceed()
        reader = world.store.reader()
        assert reader.head().seq == 1
        assert reader.tokens()[0].used == 1
        reader.close()

    def test_an_exception_leaves_nothing_behind(self, world: World) -> None:
        """Effects and events of a transaction stay or go together (P5)."""

        def fail() -> None:
            with world.store.write() as transaction:
                facts = world.facts(transaction, "gw-1")
                decision = world.provision(facts, world.request("gw-1"))
                transaction.write(facts, decision.effects)
                transaction.append([decision.event])
                raise RuntimeError("power")

        with pytest.raises(RuntimeError, match="power"):
            fail()
        reader = world.store.reader()
        assert (list(reader.devices()), reader.head().seq) == ([], 0)
        reader.close()

    @pytest.mark.parametrize("statement", ["UPDATE audit_event SET body = ''", "DELETE FROM audit_event"])
    def test_audit_events_are_append_only(self, world: World, statement: str) -> None:
        """Whoever changes or removes an event by SQL must first take the triggers away (P5)."""
        world.batch(world.request("gw-1"))
        connection = sqlite3.connect(world.store.path)
        with pytest.raises(sqlite3.IntegrityError, match="never"):
            connection.execute(statement)
        connection.close()

    def test_names_are_unique_as_they_are_compared(self, world: World) -> None:
        """Two profiles, tokens or operators of one name are a conflict, whatever the case (P8)."""
        with world.store.write() as transaction:
            profile = transaction.add_profile(Profile(0, "Plant"), NOW_MS)
            transaction.add_operator("anna", OperatorRole.OBSERVER, "hash", NOW_MS)
            transaction.add_token(NewToken(profile.id, "Line", "k1", "v", NOW_MS))
            with pytest.raises(Conflict, match="profile named"):
                transaction.add_profile(Profile(0, "pLANT"), NOW_MS)
            with pytest.raises(Conflict, match="token named"):
                transaction.add_token(NewToken(profile.id, "lINE", "k2", "v", NOW_MS))
            with pytest.raises(Conflict, match="operator named"):
                transaction.add_operator("anna", OperatorRole.OPERATOR, "hash", NOW_MS)


class TestRows:
    """What readers give."""

    def test_a_profile_keeps_all_that_it_says(self, world: World) -> None:
        """Every field of a profile comes back as it was stored."""
        profile = Profile(
            0,
            "Plant",
            Strategy.PRE_PROVISIONED,
            CredentialsType.MQTT_BASIC,
            ReprovisionPolicy.SAME_KEY,
            12,
            True,
            ("line",),
            ("plant/%d/up",),
            ("plant/%d/down", "all"),
        )
        with world.store.write() as transaction:
            stored = transaction.add_profile(profile, NOW_MS)
        reader = world.store.reader()
        (row,) = reader.profiles("PLANT")
        assert (row.profile, row.created_ms, row.tokens, row.devices) == (stored, NOW_MS, 0, 0)
        assert stored == msgspec.structs.replace(profile, id=stored.id)
        reader.close()

    def test_a_token_is_found_by_name_and_by_key_and_changes_as_told(self, world: World) -> None:
        """A token row holds what was set, and no verifier (P6)."""
        with world.store.write() as transaction:
            (row,) = transaction.reader().tokens("DEFAULT", "Default")
            changed = msgspec.structs.replace(
                row, labels={"a": "b"}, max_registrations=7, expires_ms=5, device_name_pattern="gw-*", revoked_ms=6
            )
            transaction.update_token(changed)
        reader = world.store.reader()
        assert reader.tokens(None, world.key) == [changed]
        assert reader.tokens("nobody") == []
        assert "verifier" not in row.__struct_fields__
        reader.close()

    def test_a_device_is_listed_with_its_newest_generation(self, world: World) -> None:
        """One row per device, with state, token and labels; its generations are its history."""
        world.batch(world.request("gw-1", gateway=True), ("gw-1", 1))
        world.batch(world.request("gw-1", token="own-token"), world.request("other"))
        reader = world.store.reader()
        first, second = reader.devices()
        assert (first.name, first.state, first.token, first.labels) == ("gw-1", "active", "default", {"line": "A"})
        assert (first.generation, first.credential_status, first.credentials_type) == (2, "issued", "ACCESS_TOKEN")
        assert (first.gateway, second.gateway, second.name) == (True, False, "other")
        history = [(c.generation, c.status, c.supplied, c.first_login_ms) for c in reader.credentials_of(first.id)]
        assert history == [(1, "active", False, NOW_MS), (2, "issued", True, None)]
        assert [row.name for row in reader.devices("GW-1")] == ["gw-1"]
        assert reader.states() == {"active": 1, "provisioned": 1}
        reader.close()

    def test_a_login_key_finds_credential_device_and_profile(self, world: World) -> None:
        """A login needs one question; superseded credentials are not found by it (P7)."""
        facts = world.batch(world.request("gw-1"))
        key = facts.devices["gw-1"].credentials[0].login_key
        reader = world.store.reader()
        (found,) = reader.find_logins((key,))
        assert (found.device.name, found.profile.name, found.credential.generation) == ("gw-1", "default", 1)
        world.batch(world.request("gw-1", token="own-token"), ("gw-1", 2))
        assert reader.find_logins((key,)) == []
        assert reader.find_operator("nobody") is None
        reader.close()

    def test_events_come_in_order_from_any_place(self, world: World) -> None:
        """Readers follow the chain from where they are, at most as far as asked (P5)."""
        with world.store.write() as transaction:
            transaction.append([Event(EventKind.REFUSED, NOW_MS, "device") for _ in range(300)])
        reader = world.store.reader()
        assert [e.seq for e in reader.events(297)] == [298, 299, 300]
        assert [e.seq for e in reader.events(1, 2)] == [2, 3]
        assert verify(reader.events()) == reader.head()
        with world.store.write() as transaction:
            transaction.mark_published(7)
            transaction.mark_published(5)
        assert reader.published_seq() == 7
        reader.close()

    def test_a_value_that_is_none_of_ours_is_a_damaged_database(self, world: World) -> None:
        """Damage that SQLite cannot see is told like the damage that it sees."""
        world.batch(world.request("gw-1"))
        connection = sqlite3.connect(world.store.path)
        connection.execute("UPDATE device SET labels = '{not json'")
        connection.commit()
        connection.close()
        reader = world.store.reader()
        with pytest.raises(StoreUnavailable, match="restore it from a backup"):
            list(reader.devices())
        reader.close()


def test_no_secret_is_at_rest(world: World) -> None:
    """Secrets of tokens, devices and operators, made or supplied, are in no byte of the database's files (P6)."""
    planted = ["supplied-token-4711", "supplied-password-4711", world.secret]
    with world.store.write() as transaction:
        facts = world.facts(transaction, "a", "b", "c", "d")
        made = []
        for request in (
            world.request("a"),
            world.request("b", token=planted[0]),
            world.request("c", username="user-c", password=planted[1]),
            world.request("d", credentials_type=CredentialsType.MQTT_BASIC),
        ):
            decision = world.provision(facts, request)
            assert isinstance(decision.outcome, Granted)
            made.append(decision.outcome.value)
            transaction.write(facts, decision.effects)
            transaction.append([decision.event])
    content = b"".join(p.read_bytes() for p in world.store.path.parent.iterdir())
    assert b"user-c" in content
    assert [secret for secret in planted + made if secret.encode() in content] == []
