"""When gateways arrive, by every kind of plan."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqttprov_simulator.chance import ChanceStream
from mqttprov_simulator.scenario.arrivals import arrival_times
from mqttprov_simulator.scenario.model import Arrivals, Constant, Poisson, Ramp, Schedule, Step, Storm

RATES = st.floats(0.1, 10_000)
BEGINS = st.floats(0, 100)
ARRIVALS: st.SearchStrategy[Arrivals] = st.one_of(
    st.builds(Constant, rate_per_s=RATES, begins_s=BEGINS),
    st.builds(Ramp, from_per_s=st.just(0.0) | RATES, to_per_s=RATES, over_s=st.floats(0.1, 100), begins_s=BEGINS),
    st.builds(Poisson, rate_per_s=RATES, begins_s=BEGINS),
    st.builds(Storm, within_s=st.floats(0, 100), begins_s=BEGINS),
    st.builds(
        lambda gaps, last: Schedule(
            steps=tuple(
                Step(at_s=sum(gap for gap, _ in gaps[: index + 1]), rate_per_s=rate)
                for index, (_, rate) in enumerate([*gaps[:-1], (0.0, last)])
            )
        ),
        st.lists(st.tuples(st.floats(0.1, 10), st.just(0.0) | RATES), min_size=1, max_size=4),
        RATES,
    ),
)


def _chance(place: int) -> float:
    return ChanceStream(1, place)()


@given(arrivals=ARRIVALS, count=st.integers(1, 50), more=st.integers(0, 50))
def test_the_first_gateways_arrive_at_the_same_times_in_a_larger_group(
    arrivals: Arrivals, count: int, more: int
) -> None:
    """Making a group larger or smaller moves nobody else."""
    times = arrival_times(arrivals, count, _chance)
    assert len(times) == count
    assert times == arrival_times(arrivals, count + more, _chance)[:count]
    assert all(time >= 0 and math.isfinite(time) for time in times)


@given(arrivals=ARRIVALS, count=st.integers(2, 50))
def test_gateways_arrive_in_their_order_except_in_a_storm(arrivals: Arrivals, count: int) -> None:
    """Only a storm is without order."""
    times = arrival_times(arrivals, count, _chance)
    assert isinstance(arrivals, Storm) or times == sorted(times)


@given(ramp=st.builds(Ramp, from_per_s=RATES, to_per_s=RATES, over_s=st.floats(0.1, 100)), place=st.integers(0, 500))
def test_a_ramp_has_let_in_as_many_as_its_rate_adds_up_to(ramp: Ramp, place: int) -> None:
    """The integral of the rate up to an arrival is the number of those before it."""
    time = arrival_times(ramp, place + 1, _chance)[place]
    within = min(time, ramp.over_s)
    growth = (ramp.to_per_s - ramp.from_per_s) / ramp.over_s
    area = ramp.from_per_s * within + growth * within**2 / 2 + ramp.to_per_s * (time - within)
    assert area == pytest.approx(place, rel=1e-6, abs=1e-6)


def test_a_constant_rate_does_not_drift() -> None:
    """The n-th gateway is due after n periods."""
    assert arrival_times(Constant(rate_per_s=4, begins_s=1), 5, _chance) == [1, 1.25, 1.5, 1.75, 2]


def test_a_ramp_from_nothing_begins_at_once_and_grows() -> None:
    """Of 50 gateways that a ramp from 0 to 10/s lets in within 10 s, 12.5 come in the first half."""
    times = arrival_times(Ramp(from_per_s=0, to_per_s=10, over_s=10), 60, _chance)
    assert times[0] == 0
    assert sum(time <= 5 for time in times) == 13
    assert times[50] == 10
    assert times[60 - 1] == pytest.approx(10.9)


def test_poisson_arrivals_have_the_mean_and_the_spread_of_independent_ones() -> None:
    """Gaps have the mean 1/rate and a standard deviation as large."""
    times = arrival_times(Poisson(rate_per_s=10), 20_000, _chance)
    gaps = [later - earlier for earlier, later in zip([0.0, *times], times, strict=False)]
    mean = sum(gaps) / len(gaps)
    assert mean == pytest.approx(0.1, rel=0.03)
    assert math.sqrt(sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) == pytest.approx(0.1, rel=0.03)


def test_a_storm_is_spread_evenly_over_its_time() -> None:
    """Each half of it gets its half of the gateways."""
    times = arrival_times(Storm(within_s=10, begins_s=5), 10_000, _chance)
    assert min(times) >= 5
    assert max(times) < 15
    assert sum(time < 10 for time in times) == pytest.approx(5_000, abs=200)


def test_a_schedule_pauses_and_goes_on() -> None:
    """Two per second for two seconds, nothing for eight, then one per second."""
    steps = (Step(at_s=1, rate_per_s=2), Step(at_s=3, rate_per_s=0), Step(at_s=11, rate_per_s=1))
    assert arrival_times(Schedule(steps=steps), 6, _chance) == [1, 1.5, 2, 2.5, 11, 12]
