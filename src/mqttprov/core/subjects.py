"""How the subject of a certificate becomes a device name: one regular expression of an operator on its common name.

`re` goes back on its choices, which takes time beyond bound for some expressions. So both sides are bounded (P9): the
name as X.509 bounds it, the expression in its choices, which makes the worst case some milliseconds.
"""

import re
import warnings
from functools import lru_cache
from typing import Final

from mqttprov.core.limits import MAX_PATTERN_CHARS
from mqttprov.core.names import InvalidName

MAX_SUBJECT_CHARS: Final = 64  # ub-common-name, RFC 5280 appendix A.1
MAX_REPETITIONS: Final = 3
MAX_ALTERNATIVES: Final = 4
DEFAULT_SUBJECT_PATTERN: Final = "(.*)"

# What an expression is made of: escapes, classes in brackets, the opening of a group, repetitions with their marks.
_PIECE: Final = re.compile(r"\\(?s:.)|\[\^?\]?(?:\\(?s:.)|[^\]\\])*\]|\(\?:|\(|\)|\||(?:[*+?]|\{[0-9,]*\})[?+]?|(?s:.)")


def check_subject_pattern(pattern: str) -> str:
    """Check an expression; give it back. Raises `InvalidName`, which says what is wrong with it."""
    if not 1 <= len(pattern) <= MAX_PATTERN_CHARS or not pattern.isprintable():
        raise InvalidName(f"a subject pattern has 1 to {MAX_PATTERN_CHARS} printable characters, for example '(gw-.*)'")
    _check_choices(pattern)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # what `re` may read in another way one day
            compiled = re.compile(pattern)
    except (re.error, RecursionError, OverflowError, Warning) as error:
        raise InvalidName(f"the subject pattern is no regular expression: {error}") from error
    if not compiled.groups:
        raise InvalidName("the subject pattern has no group; put the part that is the device name in round brackets")
    return pattern


def _check_choices(pattern: str) -> None:
    repetitions, before = 0, ""
    pieces = _PIECE.findall(pattern)
    for i, piece in enumerate(pieces):
        if piece == "(" and pieces[i + 1 : i + 2] and pieces[i + 1][0] == "?":
            raise InvalidName("the subject pattern may have groups (...) and (?:...) only")
        if piece[0] == "\\" and piece[1:].isdigit():
            raise InvalidName("the subject pattern must not refer back to a group")
        if (len(piece) > 1 and piece[0] == "{") or piece[0] in "*+?":
            repetitions += 1
            if before == ")":
                raise InvalidName("the subject pattern must not repeat a group")
        before = piece
    if repetitions > MAX_REPETITIONS or pieces.count("|") > MAX_ALTERNATIVES:
        raise InvalidName(
            f"the subject pattern may repeat (* + ? {{}}) {MAX_REPETITIONS} times and use | {MAX_ALTERNATIVES} times"
        )


@lru_cache(maxsize=64)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern)


def name_in_subject(pattern: str, common_name: str) -> str | None:
    """Give what the first group finds; the expression must fit the whole common name. None: it does not."""
    if len(common_name) > MAX_SUBJECT_CHARS:
        return None
    found = _compiled(pattern).fullmatch(common_name)
    return found.group(1) if found is not None else None
