"""Every shipped scenario, with few gateways and its times shortened, against our own broker and against Mosquitto."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from tests.simulator.hastened import hastened

from mqttprov_simulator.report.result import RunResult
from mqttprov_simulator.running.conduct import conduct
from mqttprov_simulator.running.crew import LocalCrew
from mqttprov_simulator.running.playing import Where, opened
from mqttprov_simulator.scenario.drawing import gateways, timed_strikes
from mqttprov_simulator.scenario.model import Scenario
from mqttprov_simulator.scenario.reading import shipped_names

# How many gateways, and how much of the plan's time: what a fault needs to be felt, and no more.
SMALL = {
    "broker-restart": (30, 0.1),
    "clone-attack": (24, 0.1),
    "cold-start": (30, 0.2),
    "factory-line": (20, 0.05),
    "leaked-token": (60, 0.1),
    "power-cut-region": (30, 0.1),
    "rotation-day": (20, 0.1),
    "slow-flash": (20, 0.1),
    "soak": (30, 0.008),
}


def _run(scenario: Scenario, target: str) -> RunResult:
    with opened(scenario, Where(target=target)) as running:
        return conduct(scenario, running, LocalCrew(), command=f"mqttprov swarm run {scenario.name}")


def _planned(scenario: Scenario) -> list[str]:
    """Give the names of what the plan does at its times."""
    faults = [fault.name or fault.kind for fault in scenario.target_faults]
    faults += [fault.name or fault.kind for fault in scenario.faults if fault.at_s is not None]
    return [*faults, *(action.name or action.kind for action in scenario.actions)]


def test_every_shipped_scenario_is_run() -> None:
    """None is forgotten here."""
    assert set(SMALL) == set(shipped_names())


@pytest.mark.parametrize("name", SMALL)
def test_a_shipped_scenario_holds_on_both_brokers(name: str, need: Callable[[str], None]) -> None:
    """All promises hold and all that is planned happens, the same on both: same plan, same faults by time."""
    for program in ("mosquitto", "gcc", "make"):
        need(program)
    scenario = hastened(name, *SMALL[name])
    with ThreadPoolExecutor() as pool:  # both at once: most of the time is the scenario's own
        results = list(pool.map(lambda target: _run(scenario, target), ("embedded", "mosquitto")))
    for result in results:
        assert {check.promise: check.broken for check in result.checks if check.state == "broken"} == {}, result.target
        assert result.errors == ()
        assert (result.registered, result.expected) == (scenario.expected, scenario.expected)
        marks = [mark.name for mark in result.marks]
        assert sorted(marks) == sorted(_planned(scenario))
        assert sum(second.registered for second in result.seconds) == result.registered
    assert results[0].plan_digest == results[1].plan_digest
    for fault in scenario.faults:
        if fault.at_s is not None and fault.kind == "power-loss":
            hit = [s for drawn in gateways(scenario) for s in timed_strikes(scenario, drawn) if s.fault == fault]
            # Some of them are off, or were hit by another one, when it comes to them.
            for result in results:
                assert 0 < result.strikes[fault.name or fault.kind] <= len(hit), result.target
