"""Judgements of the report."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqttprov.core.hygiene import MEANINGS, FindingKind, alternates, is_fight, is_near_limit


@pytest.mark.parametrize(
    ("sources", "expected"),
    [("", False), ("a", False), ("aaa", False), ("aab", False), ("abc", False), ("abb", False), ("aba", True),
     ("aabbaa", True), ("abcb", True), ("a-a", False), ("ab-a", True)],
)  # fmt: skip
def test_sources_alternate_when_one_comes_back(sources: str, expected: bool) -> None:
    """A device that moves once or often is not meant; "-" is an event without source."""
    assert alternates(None if s == "-" else s for s in sources) is expected


@given(st.lists(st.sampled_from("abcd"), max_size=12))
def test_sources_alternate_exactly_when_there_are_more_stays_than_sources(sources: list[str]) -> None:
    """Another way to say the same."""
    stays = [s for i, s in enumerate(sources) if i == 0 or sources[i - 1] != s]
    assert alternates(sources) == (len(stays) > len(set(stays)))


@pytest.mark.parametrize(
    ("used", "limit", "expected"),
    [(0, None, False), (10**6, None, False), (89, 100, False), (90, 100, True), (100, 100, True), (120, 100, True),
     (1, 1, False), (0, 1, False), (2, 2, True), (0, 10**15, False)],
)  # fmt: skip
def test_a_token_is_near_its_limit_from_nine_tenths_on(used: int, limit: int | None, expected: bool) -> None:
    """Also when its limit was lowered below what it has used; one for a single device never."""
    assert is_near_limit(used, limit) is expected


@pytest.mark.parametrize(("takeovers", "expected"), [(1, False), (2, False), (3, True), (600, True)])
def test_a_device_that_reconnects_does_not_fight(takeovers: int, expected: bool) -> None:
    """It takes over from itself, but not again and again."""
    assert is_fight(takeovers) is expected


def test_every_finding_is_explained() -> None:
    """None is only a word."""
    assert set(MEANINGS) == set(FindingKind)
