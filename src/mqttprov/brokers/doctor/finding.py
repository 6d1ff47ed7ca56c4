"""What the doctor says about one thing. A value only."""

from enum import StrEnum

import msgspec


class Verdict(StrEnum):
    """How it is."""

    RIGHT = "right"
    WRONG = "wrong"
    NOT_CHECKED = "not checked"


class Finding(msgspec.Struct, frozen=True):
    """One row of the table: what was looked at, how it is, and what was seen (if it is wrong, also what to do)."""

    check: str
    verdict: Verdict
    seen: str


def right(check: str, seen: str) -> Finding:
    """Say that something is as it must be."""
    return Finding(check, Verdict.RIGHT, seen)


def wrong(check: str, seen: str) -> Finding:
    """Say that something is not as it must be."""
    return Finding(check, Verdict.WRONG, seen)


def unknown(check: str, why: str) -> Finding:
    """Say that it was not looked at."""
    return Finding(check, Verdict.NOT_CHECKED, why)
