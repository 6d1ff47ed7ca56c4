"""What an operator should look at: the kinds of findings, and the judgements that are more than counting. Pure."""

from collections.abc import Iterable
from enum import StrEnum
from typing import Any, Final

import msgspec

NEAR_LIMIT: Final = 0.9  # of a token's maximum
FIGHT: Final = 3  # takeovers in a minute; a device that lost its connection takes over from itself once


class FindingKind(StrEnum):
    """The closed set of findings, in the order in which they are told: what looks like an attack first."""

    SHARED_KEY = "shared-key"
    ALTERNATING_SOURCES = "alternating-sources"
    SUPERSEDED_IN_USE = "superseded-in-use"
    CLIENT_ID_FIGHTS = "client-id-fights"
    FAILED_ATTEMPTS = "failed-attempts"
    REUSED_NAMES = "reused-names"
    NO_OWNER = "no-owner"
    NOT_LOGGED_IN = "not-logged-in"
    NEVER_PROVISIONED = "never-provisioned"
    TOKEN_NEAR_LIMIT = "token-near-limit"  # noqa: S105 - a kind of finding
    TOKEN_UNUSED = "token-unused"  # noqa: S105 - a kind of finding


MEANINGS: Final = {
    FindingKind.SHARED_KEY: "public keys are used under several device names: a device with two names, or a copied key",
    FindingKind.ALTERNATING_SOURCES: "devices were provisioned from one address, another, and the first again: two "
    "devices may share one name",
    FindingKind.SUPERSEDED_IN_USE: "superseded credentials were used lately: a copied device, or one that was set back "
    "to an old state",
    FindingKind.CLIENT_ID_FIGHTS: "devices took their session over from themselves, again and again, lately: two "
    "connections with one client id",
    FindingKind.FAILED_ATTEMPTS: "sources were refused lately",
    FindingKind.REUSED_NAMES: "devices asked for credentials more than once",
    FindingKind.NO_OWNER: "devices have no owner",
    FindingKind.NOT_LOGGED_IN: "devices were given credentials but have not logged in since",
    FindingKind.NEVER_PROVISIONED: "devices are known but have not provisioned themselves",
    FindingKind.TOKEN_NEAR_LIMIT: "registration tokens have used nine tenths of their limit or more",
    FindingKind.TOKEN_UNUSED: "registration tokens are valid and have never been used",
}


class Finding(msgspec.Struct, frozen=True):
    """Something found: how many in all, and a bounded number of them as rows for people and machines."""

    kind: FindingKind
    count: int
    rows: list[dict[str, Any]]


def alternates(sources: Iterable[str | None]) -> bool:
    """Tell whether a source comes back after another was there in between.

    A device that moves leaves its old address; two devices with one name take turns.
    """
    left: set[str] = set()
    current: str | None = None
    for source in sources:
        if source is None or source == current:
            continue
        if source in left:
            return True
        if current is not None:
            left.add(current)
        current = source
    return False


def is_fight(takeovers: int) -> bool:
    """Tell whether so many takeovers of one device's session, in about a minute, are more than reconnecting."""
    return takeovers >= FIGHT


def is_near_limit(used: int, max_registrations: int | None) -> bool:
    """Tell whether a token will soon refuse. One for a single device is not near its limit, it is unused or done."""
    return max_registrations is not None and max_registrations > 1 and used >= NEAR_LIMIT * max_registrations
