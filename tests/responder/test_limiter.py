"""Admission limits: refused attempts are rationed, volume is not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqttprov.responder.limiter import Limit, Limiter, source_group

SOURCE = Limit(burst=10, per_second=1.0, lockout_s=60.0)
KEY = Limit(burst=4, per_second=1.0, lockout_s=30.0)


def limiter(max_tracked: int = 1000) -> Limiter:
    """Make a limiter with small limits."""
    return Limiter(SOURCE, KEY, max_tracked)


def test_nobody_waits_who_was_not_refused() -> None:
    """A source without refused attempts is never looked at twice, however much it asks (DESIGN 5.12)."""
    assert [limiter().wait_s("10.0.0.1", "key", float(i)) for i in range(1000)] == [0.0] * 1000


def test_a_guesser_is_locked_out_of_a_key_and_then_altogether() -> None:
    """Refusals with one key lock that key for this source; refusals with many keys lock the source."""
    one = limiter()
    for _ in range(4):
        assert one.wait_s("10.0.0.1", "key", 0.0) == 0.0
        one.refused("10.0.0.1", "key", 0.0)
    assert one.wait_s("10.0.0.1", "key", 0.0) == 30.0
    assert one.wait_s("10.0.0.1", "other", 0.0) == one.wait_s("10.0.0.1", "", 0.0) == 0.0
    for i in range(6):
        one.refused("10.0.0.1", f"other-{i}", 0.0)
    assert one.wait_s("10.0.0.1", "", 0.0) == 60.0


def test_a_key_is_never_locked_for_other_sources() -> None:
    """Whoever guesses at a key cannot stop the line that uses it."""
    one = limiter()
    for _ in range(50):
        one.refused("10.0.0.1", "key", 0.0)
    assert one.wait_s("10.0.0.2", "key", 0.0) == 0.0


def test_a_lockout_ends_by_itself() -> None:
    """After the lock-out half the burst is there again, and time brings back the rest."""
    one = limiter()
    for _ in range(4):
        one.refused("10.0.0.1", "key", 0.0)
    assert one.wait_s("10.0.0.1", "key", 29.0) == pytest.approx(1.0)
    assert one.wait_s("10.0.0.1", "key", 30.0) == 0.0


@given(st.lists(st.tuples(st.floats(0, 5), st.booleans()), max_size=300))
def test_attempts_that_are_looked_at_are_bounded_by_burst_and_rate(steps: list[tuple[float, bool]]) -> None:
    """In any history at most burst + rate * time refused attempts get through (P9)."""
    one, now_s, through = limiter(), 0.0, 0
    for pause_s, guesses in steps:
        now_s += pause_s
        if guesses and one.wait_s("10.0.0.1", "key", now_s) == 0.0 and one.wait_s("10.0.0.1", "", now_s) == 0.0:
            one.refused("10.0.0.1", "key", now_s)
            through += 1
    assert through <= KEY.burst + KEY.per_second * now_s + KEY.burst


@given(st.lists(st.tuples(st.integers(0, 500), st.integers(0, 500)), max_size=300))
def test_what_is_remembered_is_bounded(attempts: list[tuple[int, int]]) -> None:
    """However many sources and keys come, the maps do not grow past their bound (P9)."""
    one = limiter(max_tracked=20)
    for source, key in attempts:
        one.refused(f"10.0.{source}", f"key-{key}", 0.0)
        assert len(one) <= 22


@pytest.mark.parametrize(
    ("address", "group"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("a:strange:thing", "a:strange:thing"),
    ],
)
def test_one_network_is_one_source(address: str, group: str) -> None:
    """An IPv6 host has a whole /64 to itself and counts as one source; no IPv4 host locks out all others (P9)."""
    assert source_group(address) == group
