"""What a plan says about arrivals, names and requests, and what it refuses."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqttprov.gateway.requests import encode_request
from mqttprov_simulator.chance import ChanceStream
from mqttprov_simulator.plan import SwarmPlan


def _plan(**values: Any) -> SwarmPlan:
    return SwarmPlan(**{"host": "127.0.0.1", "port": 1883, "key": "key", "secret": "hidden", "gateways": 10, **values})


@given(rate=st.floats(0.1, 10_000), index=st.integers(0, 100_000))
def test_arrivals_keep_the_rate_and_do_not_drift(rate: float, index: int) -> None:
    """The n-th gateway is due after n periods, whatever happened to those before it."""
    assert _plan(rate_per_s=rate).planned_s(index) * rate == pytest.approx(index)


def test_without_a_rate_everything_is_due_at_once() -> None:
    """Then concurrency alone paces the swarm."""
    assert {_plan().planned_s(index) for index in range(10)} == {0.0}


def test_names_are_numbered_and_types_asked_for_in_turn() -> None:
    """Device names are the same in every run of the same plan; a mix of types is spread evenly."""
    plan = _plan(name_prefix="line 3-", credentials_types=("ACCESS_TOKEN", "MQTT_BASIC"))
    requests = [plan.request(index) for index in range(3)]
    assert [request.device_name for request in requests] == ["line 3-000001", "line 3-000002", "line 3-000003"]
    assert [request.credentials_type for request in requests] == ["ACCESS_TOKEN", "MQTT_BASIC", "ACCESS_TOKEN"]


def test_by_default_the_server_chooses_the_credentials_type() -> None:
    """The request says nothing about it."""
    assert b"credentialsType" not in encode_request(_plan().request(0))


def test_the_secret_is_neither_shown_nor_reported() -> None:
    """P6: a plan can be printed and put into a report."""
    plan = _plan(tls_ca_file=Path("ca.pem"))
    assert "hidden" not in repr(plan)
    assert "hidden" not in msgspec.json.encode(plan.public()).decode()
    assert plan.public()["tls_ca_file"] == "ca.pem"


def test_large_swarms_spread_over_loopback_addresses() -> None:
    """One source address runs out of ports; a real network is left to its routing."""
    sources = [_plan(gateways=15_000).source_address(index) for index in range(4)]
    assert sources == ["127.0.0.2", "127.0.0.3", "127.0.0.4", "127.0.0.2"]
    assert _plan(gateways=5_000).source_address(0) is None
    assert _plan(gateways=15_000, host="192.0.2.7").source_address(0) is None


def test_connections_are_counted_by_what_is_open_at_once() -> None:
    """A hundred thousand gateways that pass through one by one need no hundred thousand open files."""
    assert _plan(gateways=100_000, concurrency=64).most_connections == 128
    assert _plan(gateways=100_000, concurrency=64, stay_connected=True).most_connections == 100_064
    assert _plan(gateways=1_000, concurrency=64, rate_per_s=1.0).most_connections == 1_064


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("port", 0),
        ("port", 65_536),
        ("gateways", 0),
        ("gateways", 10_000_000),
        ("concurrency", 0),
        ("rate_per_s", 0.0),
        ("rate_per_s", float("inf")),
        ("timeout_s", float("inf")),
        ("timeout_s", -1.0),
        ("hold_s", -1.0),
        ("hold_s", float("nan")),
        ("give_up_after_refusals", 0),
        ("name_prefix", "x" * 250),
    ],
)
def test_values_that_make_no_sense_are_refused_by_name(name: str, value: object) -> None:
    """P9: every run has an end and a size; the error names what to change."""
    with pytest.raises(ValueError, match=name):
        _plan(**{name: value})


def test_chance_is_the_same_for_the_same_seed_and_place() -> None:
    """A run can be repeated, and no gateway's numbers depend on another's."""
    first = [ChanceStream(7, 3)() for _ in range(2)]
    assert first[0] == first[1]
    stream = ChanceStream(7, 3)
    assert len({stream() for _ in range(1_000)}) == 1_000
    assert len({ChanceStream(seed, place)() for seed in range(10) for place in range(100)}) == 1_000


@given(seed=st.integers(), place=st.integers(0, 10**6))
def test_chance_stays_in_range(seed: int, place: int) -> None:
    """Every number is in [0, 1), as the machine's back-off wants it."""
    stream = ChanceStream(seed, place)
    assert all(0 <= stream() < 1 for _ in range(20))


def test_chance_is_spread_evenly() -> None:
    """Gateways with neighbouring places do not come back at the same time."""
    values = [ChanceStream(0, place)() for place in range(10_000)]
    tenths = [sum(1 for value in values if int(value * 10) == tenth) for tenth in range(10)]
    assert all(800 < count < 1_200 for count in tenths)
