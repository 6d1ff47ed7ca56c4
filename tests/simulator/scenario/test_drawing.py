"""Same scenario and seed: same plan. And nobody's luck hangs on anybody else."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqttprov_simulator.scenario.drawing import (
    Chances,
    DrawnGateway,
    acts,
    gateways,
    life_chance,
    machine_chance,
    plan_digest,
    planned_end_s,
    timed_strikes,
)
from mqttprov_simulator.scenario.model import (
    Action,
    Constant,
    GatewayFault,
    Group,
    Poisson,
    Scenario,
    Storm,
    TargetFault,
    Token,
)

LINE = Group(name="line", gateways=40, arrivals=Constant(rate_per_s=10))
TOWN = Group(name="town", gateways=60, arrivals=Storm(within_s=3), names="Gateway ")
CUT = GatewayFault(kind="power-loss", at_s=2, share=0.5, spread_s=4, for_s=1)
LOST = GatewayFault(kind="reply-lost", probability=0.3)


def _scenario(**values: Any) -> Scenario:
    return Scenario(**{"name": "test", "summary": "", "groups": (LINE, TOWN), "seed": 3, **values})


def _occasions(scenario: Scenario, drawn: DrawnGateway, kind: str = "reply-lost", times: int = 8) -> list[bool]:
    chances = Chances(scenario, drawn)
    return [chances.strikes(kind) is not None for _ in range(times)]


@given(workers=st.integers(1, 7))
def test_workers_share_the_gateways_without_changing_them(workers: int) -> None:
    """Every gateway has one worker, and is the same whoever drives it."""
    whole = gateways(_scenario())
    shares = [gateways(_scenario(), worker, workers) for worker in range(workers)]
    assert sorted(one.number for share in shares for one in share) == list(range(100))
    assert sorted((one for share in shares for one in share), key=lambda one: (one.planned_s, one.number)) == whole
    for worker, share in enumerate(shares):
        assert {one.number % workers for one in share} == {worker}
        assert share == sorted(share, key=lambda one: one.planned_s)


def test_names_say_group_and_number() -> None:
    """Both are unique; the device name's prefix is the group's name or what it says."""
    by_number = {one.number: one for one in gateways(_scenario())}
    assert (by_number[0].gateway, by_number[0].device) == ("line/000001", "line-000001")
    assert (by_number[99].gateway, by_number[99].device, by_number[99].place) == ("town/000060", "Gateway 000060", 59)
    assert len({one.gateway for one in by_number.values()} | {one.device for one in by_number.values()}) == 200


def test_a_clone_has_the_identity_of_the_gateway_with_the_same_number() -> None:
    """It is another gateway with the same device name, in its own time."""
    evil = Group(name="evil", gateways=5, arrivals=Constant(rate_per_s=1, begins_s=50), clones_of="town")
    clones = [one for one in gateways(_scenario(groups=(LINE, TOWN, evil))) if one.group is evil]
    assert [one.device for one in clones] == [f"Gateway 00000{number}" for number in range(1, 6)]
    assert [one.gateway for one in clones] == [f"evil/00000{number}" for number in range(1, 6)]
    assert {one.identity.name for one in clones} == {"town"}
    assert clones[0].planned_s == 50


def test_the_digest_is_that_of_the_plan() -> None:
    """Equal plans have equal digests; every part of the plan changes it. The first one holds over releases."""
    scenario = _scenario(faults=(CUT, LOST))
    assert plan_digest(scenario) == plan_digest(msgspec.json.decode(msgspec.json.encode(scenario), type=Scenario))
    others = [
        _scenario(),
        _scenario(seed=4),
        _scenario(groups=(LINE,)),
        _scenario(faults=(CUT,)),
        _scenario(faults=(CUT, LOST), target_faults=(TargetFault(kind="broker-kill", at_s=3),)),
        _scenario(faults=(CUT, LOST), actions=(Action(kind="rotate-devices", at_s=3),)),
        _scenario(faults=(CUT, LOST), actions=(Action(kind="revoke-token", at_s=3, token="default"),)),
    ]
    assert len({plan_digest(one) for one in [scenario, *others]}) == len(others) + 1
    assert plan_digest(scenario) == "c002d6203d19469112283aea612c383fb60f0b29c6496ff9fd79db665cb638fb"


def test_a_group_that_is_taken_away_changes_no_other() -> None:
    """A run can be made smaller while its fault stays."""
    both, one = _scenario(faults=(CUT, LOST)), _scenario(groups=(TOWN,), faults=(CUT, LOST))
    with_line = {drawn.gateway: drawn for drawn in gateways(both)}
    for drawn in gateways(one):
        other = with_line[drawn.gateway]
        assert drawn.planned_s == other.planned_s
        assert timed_strikes(one, drawn) == timed_strikes(both, other)
        assert _occasions(one, drawn) == _occasions(both, other)
        assert machine_chance(one, drawn)() == machine_chance(both, other)()
        assert life_chance(one, drawn)() == life_chance(both, other)()


def test_a_rule_that_is_taken_away_changes_no_other() -> None:
    """Each rule has its own chance, also a second one of the same kind."""
    other = GatewayFault(kind="stalled-reader", at_s=1, share=0.5)
    shadow = GatewayFault(kind="reply-lost", probability=0.5, times=1, name="shadow")
    many, few = _scenario(faults=(other, shadow, CUT, LOST)), _scenario(faults=(CUT, LOST))
    for drawn in gateways(few):
        kept = [strike for strike in timed_strikes(many, drawn) if strike.fault == CUT]
        assert kept == timed_strikes(few, drawn)
        chances = Chances(many, drawn)
        struck = [chances.strikes("reply-lost") for _ in range(8)]
        assert [fault is not None for fault in struck if fault is not shadow] == [
            hit for hit, fault in zip(_occasions(few, drawn), struck, strict=True) if fault is not shadow
        ]


def test_two_rules_of_one_kind_strike_at_different_times() -> None:
    """A rule that is written twice is two rules."""
    scenario = _scenario(faults=(CUT, CUT))
    strikes = [timed_strikes(scenario, drawn) for drawn in gateways(scenario)]
    assert {len(one) for one in strikes} == {0, 1, 2}
    assert all(first.at_s < second.at_s for first, second in (one for one in strikes if len(one) == 2))


def test_timed_faults_hit_their_share_of_their_groups_in_their_time() -> None:
    """About half of the town, none of the line, within the spread."""
    scenario = _scenario(faults=(msgspec.structs.replace(CUT, groups=("town",)),))
    hit = {drawn.gateway: timed_strikes(scenario, drawn) for drawn in gateways(scenario)}
    times = [strike.at_s for strikes in hit.values() for strike in strikes]
    assert 20 <= len(times) <= 40
    assert all(2 <= at_s <= 6 for at_s in times)
    assert len(set(times)) == len(times)
    assert all(gateway.startswith("town/") for gateway, strikes in hit.items() if strikes)
    everybody = _scenario(faults=(msgspec.structs.replace(CUT, share=1.0),))
    assert all(len(timed_strikes(everybody, drawn)) == 1 for drawn in gateways(everybody))


def test_faults_by_chance_keep_their_probability_and_their_times() -> None:
    """Three of ten occasions; at most `times` for one gateway; other kinds and groups are left alone."""
    scenario = _scenario(faults=(msgspec.structs.replace(LOST, groups=("town",)),))
    drawn = [one for one in gateways(scenario) if one.group is TOWN]
    struck = [hit for one in drawn for hit in _occasions(scenario, one, times=50)]
    assert sum(struck) / len(struck) == pytest.approx(0.3, abs=0.03)
    assert not any(_occasions(scenario, drawn[0], "slow-save"))
    line = next(one for one in gateways(scenario) if one.group is LINE)
    assert not Chances(scenario, line)
    assert not any(_occasions(scenario, line))
    twice = _scenario(faults=(msgspec.structs.replace(LOST, times=2),))
    assert Chances(twice, line)
    assert {sum(_occasions(twice, one, times=50)) for one in gateways(twice)} == {2}


def test_the_first_rule_that_strikes_is_the_one_that_is_told() -> None:
    """Rules of one kind are looked at in their order."""
    sure = GatewayFault(kind="slow-save", probability=1.0, times=1, for_s=1)
    then = GatewayFault(kind="slow-save", probability=1.0, for_s=2)
    scenario = _scenario(faults=(sure, then))
    chances = Chances(scenario, gateways(scenario)[0])
    assert [chances.strikes("slow-save") for _ in range(3)] == [sure, then, then]


def test_what_operators_do_is_drawn_by_device() -> None:
    """A share of the group's devices, spread over its time; a clone is met with its original."""
    evil = Group(name="evil", gateways=60, arrivals=Constant(rate_per_s=10), clones_of="town")
    rotate = Action(kind="rotate-devices", at_s=10, for_s=5, share=0.5, groups=("town",))
    scenario = _scenario(groups=(LINE, TOWN, evil), actions=(rotate,))
    met: dict[str, dict[str, list[float]]] = {"line": {}, "town": {}, "evil": {}}
    for one in gateways(scenario):
        met[one.group.name][one.device] = [act.at_s for act in acts(scenario, one)]
    assert met["town"] == met["evil"]
    assert not any(met["line"].values())
    times = [at_s for found in met["town"].values() for at_s in found]
    assert 20 <= len(times) <= 40
    assert all(10 <= at_s <= 15 for at_s in times)


def test_a_revoked_token_meets_the_devices_that_it_registered_if_they_are_to_be_suspended() -> None:
    """Only with cascade, and only those of that token of that profile."""
    leaked = Group(name="leaked", gateways=3, arrivals=Storm(), token="leaked")
    for cascade in (True, False):
        action = Action(kind="revoke-token", at_s=9, token="leaked", cascade=cascade)
        scenario = _scenario(groups=(LINE, leaked), actions=(action,))
        met = {one.gateway for one in gateways(scenario) if acts(scenario, one)}
        assert met == ({f"leaked/00000{number}" for number in (1, 2, 3)} if cascade else set())


@pytest.mark.parametrize(
    ("values", "end_s"),
    [
        ({"groups": (LINE,)}, 3.9),
        ({"groups": (TOWN,)}, 3.0),
        ({"faults": (CUT, LOST)}, 7.0),
        ({"target_faults": (TargetFault(kind="broker-kill", at_s=20, for_s=2),)}, 22.0),
        ({"actions": (Action(kind="rotate-devices", at_s=30, for_s=5),)}, 35.0),
    ],
)
def test_the_planned_end_is_when_nothing_is_due_any_more(values: dict[str, Any], end_s: float) -> None:
    """Arrivals, timed faults with their length, faults of the target, actions; chance has no end."""
    assert planned_end_s(_scenario(**values)) == pytest.approx(end_s)


def test_the_planned_end_knows_the_last_of_independent_arrivals() -> None:
    """They end when they have been drawn to end."""
    scenario = _scenario(groups=(Group(name="a", gateways=30, arrivals=Poisson(rate_per_s=3)),))
    assert planned_end_s(scenario) == pytest.approx(gateways(scenario)[-1].planned_s, abs=1e-6)


def test_expected_are_those_that_are_to_get_in() -> None:
    """Refused groups none, groups behind a capped token together its maximum."""
    capped = [
        Group(name=name, gateways=50, arrivals=Storm(), token="capped", expect="capped") for name in ("one", "two")
    ]
    evil = Group(name="evil", gateways=60, arrivals=Storm(), clones_of="town", expect="refused")
    groups = (LINE, *capped, TOWN, evil)
    assert _scenario(groups=groups, tokens=(Token(name="capped", max_registrations=70),)).expected == 100 + 70
    assert _scenario(groups=groups, tokens=(Token(name="capped", max_registrations=170),)).expected == 100 + 100
