"""What the store knows of factories: certificates beside devices, chains of profiles, and quick ways to find them."""

import sqlite3
from pathlib import Path

import msgspec

from mqttprov.core.facts import CreateDevice, Facts
from mqttprov.core.model import Chain, Device, LifecycleState, Profile, Strategy
from mqttprov.store.protocol import NewToken
from mqttprov.store.sqlite import SqliteStore
from mqttprov.store.sqlite_reader import STATEMENTS


def stored(tmp_path: Path) -> tuple[SqliteStore, Profile]:
    """Make a store with a profile that has a chain, and its token."""
    store = SqliteStore(tmp_path / "factory.db", create=True)
    with store.write() as transaction:
        profile = transaction.add_profile(Profile(0, "Made", Strategy.CERTIFICATE_CHAIN), 1, Chain("CA", "(.*)"))
        transaction.add_token(NewToken(profile.id, "default", "key-of-token", "verifier", 1))
        transaction.add_token(NewToken(profile.id, "other", "another", "verifier", 1))
    return store, profile


def test_a_profile_keeps_its_chain_and_what_of_it_changes(tmp_path: Path) -> None:
    """It is read with the `default` token, on which its devices count."""
    store, profile = stored(tmp_path)
    reader = store.reader()
    (facts,) = reader.chains()
    assert (facts.profile, facts.chain, facts.token_key) == (profile, Chain("CA", "(.*)"), "key-of-token")
    changed = msgspec.structs.replace(profile, rotate_on_first_use=True)
    with store.write() as transaction:
        transaction.update_profile(changed, Chain("CB", "(gw.*)"))
    (row,) = reader.profiles("made")
    assert (row.profile, row.chain) == (changed, Chain("CB", "(gw.*)"))
    reader.close()
    store.close()


def test_a_factory_certificate_is_found_by_its_key_and_by_the_devices_name(tmp_path: Path) -> None:
    """Two things of which each alone says which device it is."""
    store, profile = stored(tmp_path)
    device = Device("id-1", "GW-1", "gw-1", profile.id, LifecycleState.MANUFACTURED, 1, factory_key="hash")
    facts = Facts({}, {}, {})
    effect = CreateDevice(device)
    effect.apply(facts)
    with store.write() as transaction:
        transaction.write(facts, [effect])
    reader = store.reader()
    (found,) = reader.factory_devices(public_key="hash")
    assert (found.name, found.state, found.token_key, found.rotating) == ("GW-1", "manufactured", "key-of-token", False)
    assert reader.factory_devices(fold="gw-1") == [found]
    assert reader.factory_devices(public_key="gw-1", fold="hash") == []
    reader.close()
    store.close()


def test_no_look_up_of_a_certificate_reads_a_whole_table_of_devices_or_credentials(tmp_path: Path) -> None:
    """Each TLS handshake and refused login with a certificate asks; it must cost the same at a million devices."""
    store, _ = stored(tmp_path)
    with sqlite3.connect(store.path) as connection:
        asked = {
            "factory_devices": ("a", "b"),
            "ended_certificates": ("[]",),
            "logins": ("[]",),
            "knows_certificate": "a",
        }
        for name, parameters in asked.items():
            plan = connection.execute(f"EXPLAIN QUERY PLAN {STATEMENTS[name]}", parameters).fetchall()
            scans = [row[3] for row in plan if row[3].startswith(("SCAN d", "SCAN c", "SCAN credential"))]
            assert scans == [], plan
    connection.close()
    store.close()
