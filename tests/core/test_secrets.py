"""Secrets: derived alike for alike, told apart by purpose, and never shown (P6)."""

import base64
import hashlib
import hmac
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqttprov.core import secrets
from mqttprov.core.names import normalise_device_name
from mqttprov.core.secrets import Keys, new_claim_code, split_claim_code

KEYS = Keys(pepper=b"p" * 32, issuing_key=b"i" * 32)
parts = st.lists(st.text(st.sampled_from("\0a1:ü"), max_size=4) | st.text(max_size=8), max_size=4)


@pytest.mark.parametrize("key_bytes", [32, 64, 65, 200])
def test_the_keyed_hash_is_hmac_sha256_of_unambiguous_parts(key_bytes: int) -> None:
    """The stored form is fixed: another release must find the same rows. Whoever brings a longer pepper may do so."""
    pepper = bytes(range(key_bytes))
    keys = Keys(pepper=pepper, issuing_key=b"i" * 32)
    assert keys.mac("use", "a", "ü") == hmac.new(pepper, b"use\0a\0\xc3\xbc", hashlib.sha256).hexdigest()


def test_a_derived_access_token_is_fixed_by_key_device_and_generation() -> None:
    """A retry, also one to the next release, is told the same secret (P4)."""
    raw = hmac.new(b"i" * 32, b"access-token\0id\x001", hashlib.sha256).digest()[:20]
    assert KEYS.derived_access_token("id", 1) == "mqp_at_" + base64.urlsafe_b64encode(raw).decode().rstrip("=")


@given(parts, parts)
def test_different_parts_never_hash_alike(one: list[str], other: list[str]) -> None:
    """Where one part ends counts, also when a part holds the separator, as an MQTT password may."""
    assert (KEYS.mac("use", *one) == KEYS.mac("use", *other)) == (one == other)
    assert (KEYS.derive("use", *one) == KEYS.derive("use", *other)) == (one == other)


def test_every_use_gives_another_secret() -> None:
    """Device, generation and purpose are all in it."""
    made = {
        KEYS.derived_access_token("a", 1),
        KEYS.derived_access_token("a", 2),
        KEYS.derived_access_token("b", 1),
        KEYS.derived_password("a", 1),
        Keys(pepper=b"p" * 32, issuing_key=b"j" * 32).derived_access_token("a", 1),
    }
    assert len({value[7:] for value in made}) == 5


def test_the_pepper_alone_derives_nothing() -> None:
    """Hashes and secrets come from different keys (P6)."""
    other_pepper = Keys(pepper=b"q" * 32, issuing_key=b"i" * 32)
    assert other_pepper.derived_access_token("a", 1) == KEYS.derived_access_token("a", 1)
    assert other_pepper.mac("x") != KEYS.mac("x")


@pytest.mark.parametrize(("pepper", "issuing_key"), [(b"p" * 31, b"i" * 32), (b"p" * 32, b"")])
def test_short_master_keys_are_refused(pepper: bytes, issuing_key: bytes) -> None:
    """A key that is too short would make every hash guessable."""
    with pytest.raises(ValueError, match="32 bytes"):
        Keys(pepper=pepper, issuing_key=issuing_key)


def test_keys_never_show_themselves() -> None:
    """Neither repr nor str nor a missing attribute tells a key (P6)."""
    assert repr(KEYS) == str(KEYS) == "Keys(***)"
    assert not hasattr(KEYS, "__dict__")


@pytest.mark.parametrize(
    ("made", "prefix", "size"),
    [
        (secrets.new_registration_secret(bytes(range(20))), "mqp_rs_", 39),
        (secrets.new_password(bytes(range(20))), "mqp_pw_", 39),
        (secrets.new_registration_key(bytes(range(15))), "", 24),
        (secrets.new_reference(bytes(range(8))), "", 16),
        (KEYS.derived_password("a", 1), "mqp_pw_", 34),
        (KEYS.derived_access_token("a", 1), "mqp_at_", 34),
        (KEYS.derived_name("proof"), "device-", 23),
    ],
)
def test_what_is_made_has_a_known_form(made: str, prefix: str, size: int) -> None:
    """A prefix for scanners, then characters that survive every medium."""
    assert made.startswith(prefix)
    assert len(made) == size
    assert re.fullmatch("[A-Za-z0-9_-]+", made)


def test_made_names_are_valid_device_names() -> None:
    """A nameless device gets a name that passes the rules for names (P8)."""
    made = KEYS.derived_name("proof")
    assert normalise_device_name(made) == made


def test_ids_grow_with_time() -> None:
    """New rows land at the end of an index, and all of the entropy is in the id."""
    early, late = secrets.new_id(1_000, b"\xff" * 10), secrets.new_id(1_001, b"\0" * 10)
    assert early < late
    assert len(early) == 32
    assert early.endswith("ff" * 10)


def test_comparing_hashes_tells_equal_from_different() -> None:
    """Equal means equal (the constant time is `hmac.compare_digest`, SD-1)."""
    assert secrets.equal("ab", "ab")
    assert not secrets.equal("ab", "aB")


def test_a_fingerprint_is_sha256() -> None:
    """Of the DER, in hex."""
    assert secrets.fingerprint(b"x") == hashlib.sha256(b"x").hexdigest()


CODE = new_claim_code(bytes(20))


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (f"secret:{CODE}", ("secret", CODE)),
        (f"a:b:{CODE}", ("a:b", CODE)),
        (f"a:{CODE}:{CODE}", (f"a:{CODE}", CODE)),
        (f":{CODE}", ("", CODE)),
        (CODE, (CODE, None)),
        ("a:b", ("a:b", None)),
        ("", ("", None)),
        (f"secret:{CODE}a", (f"secret:{CODE}a", None)),
        (f"secret:{CODE[:-1]}", (f"secret:{CODE[:-1]}", None)),
        (f"secret:{CODE.upper()}", (f"secret:{CODE.upper()}", None)),
        (f"secret:{CODE}\n", (f"secret:{CODE}\n", None)),
    ],
)
def test_a_claim_code_is_parted_from_a_secret_by_its_form_alone(text: str, parts: tuple[str, str | None]) -> None:
    """What does not end in a colon and exactly a code is a secret as it stands."""
    assert split_claim_code(text) == parts
