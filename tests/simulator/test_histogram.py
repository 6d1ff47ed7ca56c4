"""The log-linear histogram against exact percentiles."""

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqttprov_simulator.histogram import Histogram

_values = st.lists(st.integers(0, 1 << 40), max_size=200)


def _histogram(values: list[int]) -> Histogram:
    histogram = Histogram()
    for value in values:
        histogram.record(value)
    return histogram


@given(values=_values.filter(bool), percent=st.floats(0, 100))
def test_percentile_is_never_too_low_and_at_most_one_in_128_too_high(values: list[int], percent: float) -> None:
    """A percentile may flatter nobody, and its error has a bound."""
    exact = sorted(values)[max(1, math.ceil(len(values) * percent / 100)) - 1]
    measured = _histogram(values).percentile(percent)
    assert measured is not None
    assert exact <= measured <= exact + exact // 128
    assert measured <= max(values)


@given(values=_values, cuts=st.lists(st.integers(0, 200), max_size=3))
def test_merged_parts_equal_the_whole(values: list[int], cuts: list[int]) -> None:
    """Figures of several seconds or processes add up exactly."""
    edges = [0, *sorted(cuts), len(values)]
    parts = [_histogram(values[begin:end]) for begin, end in pairwise(edges)]
    whole = Histogram.merged(parts)
    assert whole == _histogram(values)
    assert whole.count == len(values)


@given(values=_values)
def test_buckets_make_the_same_histogram_again(values: list[int]) -> None:
    """Results keep buckets: every value stays in its own, and the largest is known as well as any percentile."""
    histogram = _histogram(values)
    again = Histogram.of(histogram.buckets)
    assert (again.buckets, again.count) == (histogram.buckets, len(values))
    assert (histogram.max_ms or 0) <= (again.max_ms or 0) <= (histogram.max_ms or 0) * (1 + 1 / 128)


@pytest.mark.parametrize("buckets", [{3: 0}, {-1: 1}])
def test_impossible_buckets_are_refused(buckets: dict[int, int]) -> None:
    """A file may hold anything: what no histogram can have is one clear error."""
    with pytest.raises(ValueError, match="not a histogram"):
        Histogram.of(buckets)


def test_nothing_recorded_has_no_percentile() -> None:
    """No values is not the same as zero."""
    assert Histogram().percentile(50) is None
    assert Histogram().percentile_ms(99) is None
    assert Histogram().max_ms is None


def test_negative_values_count_as_zero_and_odd_percentages_are_refused() -> None:
    """A clock's rounding does no harm; 101 % is a mistake."""
    histogram = _histogram([-5])
    assert histogram.percentile(100) == 0
    with pytest.raises(ValueError, match="no percentage"):
        histogram.percentile(101)
