"""The same scenario in another size."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqttprov_simulator.scenario.drawing import planned_end_s
from mqttprov_simulator.scenario.model import (
    Constant,
    Group,
    Ramp,
    Scenario,
    Schedule,
    Step,
    Storm,
    Thresholds,
    Token,
)
from mqttprov_simulator.scenario.reading import ScenarioError, load, shipped_names
from mqttprov_simulator.scenario.scaling import scaled


def _scenario(*sizes: int) -> Scenario:
    groups = tuple(Group(name=f"g{place}", gateways=size, arrivals=Storm()) for place, size in enumerate(sizes))
    return Scenario(name="test", summary="", groups=groups)


@given(sizes=st.lists(st.integers(1, 1_000_000), min_size=1, max_size=6), total=st.integers(6, 2_000_000))
def test_groups_keep_their_proportions_and_the_sum_is_exact(sizes: list[int], total: int) -> None:
    """Everybody within one of the exact share, small groups at least one."""
    new = [group.gateways for group in scaled(_scenario(*sizes), total).groups]
    assert sum(new) == total
    assert min(new) >= 1
    for before, others in zip(sizes, new, strict=True):
        exact = before * total / sum(sizes)
        if all(size * total >= sum(sizes) for size in sizes):
            assert abs(others - exact) < 1 + 1e-9 * total
    order = sorted(range(len(sizes)), key=lambda place: sizes[place])
    assert all(new[small] <= new[large] + 1 for small, large in pairwise(order))


@pytest.mark.parametrize("name", shipped_names())
def test_the_size_that_it_has_changes_nothing(name: str) -> None:
    """Scaling to the same number is no change at all."""
    scenario = load(name)
    assert scaled(scenario, scenario.gateways) == scenario


def test_rates_limits_and_wanted_rates_grow_along_and_times_stay() -> None:
    """Three times the gateways in the same time."""
    token = Token(name="capped", max_registrations=20)
    groups = (
        Group(name="a", gateways=10, arrivals=Constant(rate_per_s=5, begins_s=1)),
        Group(name="b", gateways=10, arrivals=Ramp(from_per_s=1, to_per_s=5, over_s=3)),
        Group(name="c", gateways=10, arrivals=Schedule(steps=(Step(at_s=2, rate_per_s=4),))),
        Group(name="d", gateways=60, arrivals=Storm(within_s=5), token="capped", expect="capped"),
    )
    least = Thresholds(min_registrations_per_s=10, p99_ms=5)
    scenario = Scenario(name="test", summary="", groups=groups, tokens=(token,), thresholds=least)
    large = scaled(scenario, 270)
    assert [group.gateways for group in large.groups] == [30, 30, 30, 180]
    assert [group.arrivals for group in large.groups] == [
        Constant(rate_per_s=15, begins_s=1),
        Ramp(from_per_s=3, to_per_s=15, over_s=3),
        Schedule(steps=(Step(at_s=2, rate_per_s=12),)),
        Storm(within_s=5),
    ]
    assert large.tokens == (Token(name="capped", max_registrations=60),)
    assert large.thresholds == Thresholds(min_registrations_per_s=30, p99_ms=5)
    assert large.expected == 150
    assert planned_end_s(large) == pytest.approx(planned_end_s(scenario), rel=0.1)


@given(limit=st.integers(1, 500), total=st.integers(2, 3_000))
def test_a_token_that_was_enough_for_all_still_is(limit: int, total: int) -> None:
    """Rounding takes nobody's place, and a cap stays a cap."""
    online = Group(name="a", gateways=500, arrivals=Storm(), token="exact")
    capped = Group(name="b", gateways=500, arrivals=Storm(), token="capped", expect="capped")
    tokens = (Token(name="exact", max_registrations=500), Token(name="capped", max_registrations=limit))
    new = scaled(Scenario(name="test", summary="", groups=(online, capped), tokens=tokens), total)
    sizes = [group.gateways for group in new.groups]
    assert [token.max_registrations for token in new.tokens] == [sizes[0], -(-limit * sizes[1] // 500)]


@given(clones=st.integers(1, 100), total=st.integers(2, 300))
def test_clones_never_outnumber_their_originals(clones: int, total: int) -> None:
    """Each clone has one to copy, whatever is rounded."""
    groups = (
        Group(name="evil", gateways=clones, arrivals=Storm(), clones_of="good"),
        Group(name="good", gateways=100, arrivals=Storm()),
    )
    new = scaled(Scenario(name="test", summary="", groups=groups), total)
    assert new.groups[0].gateways <= new.groups[1].gateways
    assert total - 1 <= new.gateways <= total


def test_fewer_gateways_than_groups_are_refused() -> None:
    """Every group is there for a reason."""
    with pytest.raises(ScenarioError, match="2 gateways are too few for 3 groups"):
        scaled(_scenario(5, 5, 5), 2)
