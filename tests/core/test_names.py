"""Names: what passes, what does not, and when two are the same (P8)."""

import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqttprov.core import names
from mqttprov.core.names import InvalidName, fold, normalise_device_name

HOSTILE = ["", " ", "+", "#", "a/b", "a#", "+a", "$SYS", "$a", "a\0b", "a\nb", "a\tb", "\x1b[31m", "a*b", "a,b", "a'b"]
INVISIBLE = ["\u200b", "\u00ad", "\ufeff", "\u202e", "\u034f", "\u115f", "\u3164", "\uffa0", "\ufe0f", "\U000e0100"]


@pytest.mark.parametrize("name", ["a", "Gateway abcde", "Factory-Gateway-01", "a.b_c:d-e", "x" * 255, "0", "-", "me"])
def test_the_vendors_names_pass_unchanged(name: str) -> None:
    """What unmodified clients send by default must pass (DESIGN 5.11)."""
    assert normalise_device_name(name) == name


@pytest.mark.parametrize("unicode_names", [False, True])
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_refused(name: str, unicode_names: bool) -> None:
    """What could lead into another topic, log line or terminal never becomes a name (P8)."""
    with pytest.raises(InvalidName, match="device name"):
        normalise_device_name(name, unicode_names=unicode_names)


@pytest.mark.parametrize("unicode_names", [False, True])
@pytest.mark.parametrize("character", INVISIBLE)
def test_invisible_characters_are_refused(character: str, unicode_names: bool) -> None:
    """Two names that look alike must not be two identities (P8)."""
    with pytest.raises(InvalidName):
        normalise_device_name(f"gw{character}1", unicode_names=unicode_names)


def test_blanks_around_a_name_do_not_count() -> None:
    """ThingsBoard trims, and so do we; inner spaces stay."""
    assert normalise_device_name("  Gateway abcde ") == "Gateway abcde"


@pytest.mark.parametrize("name", ["x" * 256, "ﬁ" * 256])
def test_a_name_has_at_most_255_characters(name: str) -> None:
    """A name is bounded (P9)."""
    with pytest.raises(InvalidName, match="at most 255"):
        normalise_device_name(name, unicode_names=True)


def test_the_bound_holds_after_normalisation_too() -> None:
    """NFC can make a name longer: U+0958 becomes two characters (P9)."""
    with pytest.raises(InvalidName, match="510 characters in NFC"):
        normalise_device_name("\u0958" * 255, unicode_names=True)


def test_other_scripts_need_a_profile_that_allows_them() -> None:
    """Wider Unicode is for profiles that ask for it (DESIGN 5.11)."""
    assert normalise_device_name("Wärmepumpe-東京", unicode_names=True) == "Wärmepumpe-東京"
    with pytest.raises(InvalidName, match="only letters, digits"):
        normalise_device_name("Wärmepumpe")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("GW-1", "gw-1"),
        ("é", "e\u0301"),
        ("Straße", "STRASSE"),
        ("\u212a", "k"),
        ("Ⅷ", "viii"),
        ("\uff11", "1"),
        ("Σ", "ς"),
    ],
)
def test_names_that_differ_in_case_or_form_only_are_one(one: str, other: str) -> None:
    """One name, one identity (P8)."""
    assert fold(one) == fold(other)


def test_folding_every_character_twice_changes_nothing_more() -> None:
    """Folding is idempotent, so a stored fold can be folded again (P8)."""
    wrong = [
        code
        for code in range(0x80, sys.maxunicode + 1)
        if unicodedata.category(chr(code)) in {"Lu", "Ll", "Lt", "Lm", "Lo", "Mn", "Mc", "Nd", "Nl", "No"}
        and fold(fold(chr(code))) != fold(chr(code))
    ]
    assert wrong == []


@given(st.text(max_size=40))
def test_normalising_and_folding_are_idempotent(text: str) -> None:
    """A name that passed passes again unchanged, and its fold is stable (P8)."""
    try:
        name = normalise_device_name(text, unicode_names=True)
    except InvalidName:
        return
    assert normalise_device_name(name, unicode_names=True) == name
    assert fold(fold(name)) == fold(name)
    assert name.isprintable()
    assert not set(name) & set("+#/$\0")


@given(st.text(max_size=300))
def test_a_refusal_never_quotes_the_name(text: str) -> None:
    """The text goes to the device and into logs: no control characters of somebody else in it (P6)."""
    with pytest.raises(InvalidName) as caught:
        normalise_device_name("\x07" + text, unicode_names=True)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("text", ["", " a", "a ", "a/b", "x" * 256, "ä"])
def test_object_names_are_plain(text: str) -> None:
    """Names of profiles, tokens and operators are ASCII and bounded (P9)."""
    with pytest.raises(InvalidName, match="profile name"):
        names.check_object_name("profile", text)
    assert names.check_object_name("profile", "line 1") == "line 1"


@pytest.mark.parametrize(
    "labels",
    [{"": "x"}, {"a b": "x"}, {"a": "x\n"}, {"a": "x" * 256}, {"a" * 64: "x"}, {f"k{i}": "" for i in range(33)}],
)
def test_labels_are_bounded_and_printable(labels: dict[str, str]) -> None:
    """A limit for number, key and value each (P9)."""
    with pytest.raises(InvalidName, match="label"):
        names.check_labels(labels)


def test_good_labels_pass() -> None:
    """The usual keys, also with a prefix, and any printable value."""
    labels = {"site": "Plant Nürnberg", "example.com/line-2": ""}
    assert names.check_labels(labels) == labels


def test_a_name_pattern_ignores_case_as_names_do() -> None:
    """A token's pattern is held against the folded name."""
    assert names.name_matches("GW-*", "gw-17")
    assert names.name_matches("gw-[0-9]?", "GW-17")
    assert not names.name_matches("gw-*", "pump-1")


@pytest.mark.parametrize("pattern", ["", "x" * 256, "gw\n*"])
def test_a_bad_name_pattern_is_refused(pattern: str) -> None:
    """A pattern is bounded and printable (P9)."""
    with pytest.raises(InvalidName, match="pattern"):
        names.check_name_pattern(pattern)
    assert names.check_name_pattern("gw-*") == "gw-*"


@pytest.mark.parametrize(
    "pattern",
    ["", "#", "+/a", "$SYS/#", "v1/devices/#", "provision/audit/#", "/provision/request", "/+/request", "/#", "a#",
     "a/#/b", "a+/b", "a\n", "x" * 256],
)  # fmt: skip
def test_topic_patterns_that_reach_too_far_are_refused(pattern: str) -> None:
    """A profile cannot open the topics of others, of the broker or of provisioning."""
    with pytest.raises(InvalidName, match="topic pattern"):
        names.check_topic_patterns("publish", (pattern,))


def test_good_topic_patterns_pass_and_their_number_is_bounded() -> None:
    """A limit, and a clear error past it (P9)."""
    assert names.check_topic_patterns("publish", ("plant/%d/#", "a/+/b")) == ("plant/%d/#", "a/+/b")
    with pytest.raises(InvalidName, match="17 topic patterns"):
        names.check_topic_patterns("publish", ("a",) * 17)
