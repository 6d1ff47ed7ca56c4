"""Shipped scenarios for tests: with few gateways, and with their times shortened. No test lives here."""

from typing import Any

import msgspec

from mqttprov_simulator.scenario.model import Gateway, Scenario, Thresholds
from mqttprov_simulator.scenario.reading import load
from mqttprov_simulator.scenario.scaling import scaled

# A gateway's patience is that of a person who waits for a test.
_IMPATIENT = Gateway(backoff_base_s=0.1, backoff_cap_s=1.0)
# Not of the plan, but how long is waited for it: a slow machine needs it all.
_PATIENCE = {"timeout_s", "online_within_s", "skew_s"}


def hastened(name: str, gateways: int, factor: float) -> Scenario:
    """Give a shipped scenario with so many gateways whose plan takes `factor` of its time, without thresholds.

    Everything that is planned comes sooner and lasts shorter, rates are higher; who waits for a server is as patient.
    """
    scenario = scaled(load(name), gateways)
    whole = _hasten(msgspec.to_builtins(scenario), factor)
    return msgspec.structs.replace(msgspec.convert(whole, Scenario), gateway=_IMPATIENT, thresholds=Thresholds())


def _hasten(value: Any, factor: float) -> Any:
    if isinstance(value, dict):
        return {key: _changed(key, each, factor) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_hasten(each, factor) for each in value]
    return value


def _changed(key: str, value: Any, factor: float) -> Any:
    if key in _PATIENCE or not isinstance(value, int | float):
        return _hasten(value, factor)
    if key.endswith("_per_s"):
        return value / factor
    return value * factor if key.endswith("_s") else value
