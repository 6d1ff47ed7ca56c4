"""Names of devices, profiles, tokens and labels: what is allowed and when two names are the same (P8).

Every name that can end up in a topic passes here first; topics are checked again where they are built
(`mqttprov.core.permissions`), because one wall is not enough (CVE-2017-7650, security.md SD-14).
"""

import fnmatch
import re
import unicodedata
from collections.abc import Mapping

from mqttprov.core.limits import (
    MAX_LABEL_KEY_CHARS,
    MAX_LABEL_VALUE_CHARS,
    MAX_LABELS,
    MAX_NAME_CHARS,
    MAX_PATTERN_CHARS,
    MAX_TOPIC_PATTERNS,
)

_PLAIN_NAME = re.compile(r"[A-Za-z0-9._:-](?:[A-Za-z0-9._: -]*[A-Za-z0-9._:-])?")
_LABEL_KEY = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._/-]*[A-Za-z0-9])?")
# What is drawn as nothing although its category is a letter or mark (Default_Ignorable_Code_Point, UAX 44): two names
# that differ only in these look alike.
_INVISIBLE = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]")
# Letters, marks, numbers and a little punctuation; never control, format, surrogate, private-use or unassigned.
_UNICODE_CATEGORIES = frozenset({"Lu", "Ll", "Lt", "Lm", "Lo", "Mn", "Mc", "Nd", "Nl", "No"})
_UNICODE_EXTRA = frozenset("._:- ")


class InvalidName(ValueError):  # noqa: N818 - it names what is wrong, like the rest of the rules
    """A name that cannot be used; the text says which, why and what would do."""


def normalise_device_name(text: str, *, unicode_names: bool = False) -> str:
    """Give the name as it is kept: NFC, without blanks around it.

    1 to 255 letters, digits, `._:-` and inner spaces (DESIGN 5.11); with `unicode_names` letters of any script.
    Raises `InvalidName`.
    """
    name = text.strip(" ")
    if not name:
        raise InvalidName("the device name is empty; send 1 to 255 characters or leave deviceName out")
    if len(name) > MAX_NAME_CHARS:
        raise InvalidName(f"the device name has {len(name)} characters; at most {MAX_NAME_CHARS} are allowed")
    if _PLAIN_NAME.fullmatch(name):
        return name
    if not unicode_names:
        raise InvalidName("the device name may hold only letters, digits, '.', '_', ':', '-' and inner spaces")
    name = unicodedata.normalize("NFC", name)
    if len(name) > MAX_NAME_CHARS:
        raise InvalidName(f"the device name has {len(name)} characters in NFC; at most {MAX_NAME_CHARS} are allowed")
    if _INVISIBLE.search(name) or not all(
        c in _UNICODE_EXTRA or unicodedata.category(c) in _UNICODE_CATEGORIES for c in name
    ):
        raise InvalidName(
            "the device name may hold only letters, digits, '.', '_', ':', '-' and inner spaces of any script"
        )
    return name


def fold(name: str) -> str:
    """Give the form in which names are compared: case folded and compatibility composed."""
    if name.isascii():
        return name.lower()
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())


def check_object_name(what: str, text: str) -> str:
    """Check the name of a profile, token, owner or operator (`what` goes into the message). Raises `InvalidName`."""
    if len(text) > MAX_NAME_CHARS or not _PLAIN_NAME.fullmatch(text):
        raise InvalidName(
            f"{what} name {text[:40]!r} cannot be used; "
            "take 1 to 255 letters, digits, '.', '_', ':', '-' and inner spaces"
        )
    return text


def check_labels(labels: Mapping[str, str]) -> dict[str, str]:
    """Check a set of labels: bounded number, plain keys, printable values. Raises `InvalidName`."""
    if len(labels) > MAX_LABELS:
        raise InvalidName(f"{len(labels)} labels were given; at most {MAX_LABELS} are allowed")
    for key, value in labels.items():
        if len(key) > MAX_LABEL_KEY_CHARS or not _LABEL_KEY.fullmatch(key):
            raise InvalidName(
                f"label key {key[:40]!r} cannot be used; "
                f"take 1 to {MAX_LABEL_KEY_CHARS} letters, digits, '.', '_', '/' and '-'"
            )
        if len(value) > MAX_LABEL_VALUE_CHARS or not value.isprintable():
            raise InvalidName(
                f"the value of label {key!r} must be printable and at most {MAX_LABEL_VALUE_CHARS} characters"
            )
    return dict(labels)


def check_name_pattern(pattern: str) -> str:
    """Check a device-name pattern (`*`, `?`, `[...]`). Raises `InvalidName`."""
    if not 1 <= len(pattern) <= MAX_PATTERN_CHARS or not pattern.isprintable():
        raise InvalidName(
            f"a device-name pattern has 1 to {MAX_PATTERN_CHARS} printable characters, for example 'gw-*'"
        )
    return pattern


def name_matches(pattern: str, name: str) -> bool:
    """Tell whether a device name fits a token's pattern; case does not matter, as it does not for names."""
    return fnmatch.fnmatchcase(fold(name), fold(pattern))


def check_topic_patterns(what: str, patterns: tuple[str, ...]) -> tuple[str, ...]:
    """Check a profile's additional topic patterns; `%d` stands for the device name. Raises `InvalidName`."""
    if len(patterns) > MAX_TOPIC_PATTERNS:
        raise InvalidName(
            f"{what}: {len(patterns)} topic patterns were given; at most {MAX_TOPIC_PATTERNS} are allowed"
        )
    for pattern in patterns:
        levels = pattern.split("/")
        broken = any(
            ("#" in level and (level != "#" or i < len(levels) - 1)) or ("+" in level and level != "+")
            for i, level in enumerate(levels)
        )
        reserved = pattern.startswith(("$", "/provision", "provision", "v1/", "+", "#", "/+", "/#"))
        if not 1 <= len(pattern) <= MAX_PATTERN_CHARS or not pattern.isprintable() or broken or reserved:
            raise InvalidName(
                f"{what}: topic pattern {pattern[:40]!r} cannot be used; give a valid MQTT filter "
                "that does not begin with '$', '+', '#', 'v1/' or 'provision', for example 'plant/%d/#'"
            )
    return patterns
