"""How many connections a plan has open at the same time: for the limits of hosts and brokers. Pure.

A gateway has one connection at a time. Who stays has it from its arrival on; who does not stay, only until it is done.
"""

from collections.abc import Sequence
from typing import Final

import msgspec

from mqttprov_simulator.scenario.drawing import gateways
from mqttprov_simulator.scenario.model import Scenario

AT_ONCE_S: Final = 0.1
_LINGERS_S: Final = 10.0  # how long a busy broker may not have noticed that a connection has ended
_PORT_RESTS_S: Final = 60.0  # TIME_WAIT of Linux


class Connections(msgspec.Struct, frozen=True):
    """The most at one time. `open`: of gateways. `lingering`: old ones, beside them, that a broker
    has not seen end. `ports`: taken, the ports of connections that ended within a minute included. `at_once`: gateways
    that arrive within a tenth of a second."""

    open: int
    lingering: int
    ports: int
    at_once: int


def any_plan(gateways: int) -> Connections:
    """Give what it may be of a fleet whose plan is not known, and that stays."""
    return Connections(open=gateways, lingering=gateways // 4, ports=2 * gateways, at_once=0)


def connections(scenario: Scenario, worker: int = 0, workers: int = 1) -> Connections:
    """Give what it is by the plan, of the gateways that this worker carries.

    Who does not stay counts for as long as a gateway waits before it gives a connection up. A quarter is taken to
    linger of all whose connections end at about the same time: the provisioning ones of those that arrive, and by
    faults and actions any of those that are online.
    """
    settings = scenario.gateway.machine_settings()
    waits_s = 2 * settings.connect_timeout_s + settings.reply_timeout_s
    arrivals = [(drawn.planned_s, drawn.group.stay) for drawn in gateways(scenario, worker, workers)]
    times = [at_s for at_s, _stays in arrivals]
    passing = [at_s for at_s, stays in arrivals if not stays]
    disturbed = bool(scenario.faults or scenario.target_faults or scenario.actions)
    stay = len(times) - len(passing)
    is_open = stay + most_within(passing, waits_s)
    ending = max(most_within(times, _LINGERS_S), is_open if disturbed else 0)
    rest = most_within(times, _PORT_RESTS_S) + most_within(passing, _PORT_RESTS_S)
    return Connections(is_open, ending // 4, stay + rest, most_within(times, AT_ONCE_S))


def most_within(times: Sequence[float], window_s: float) -> int:
    """Give the most of these ascending times that are within less than a window."""
    most = first = 0
    for last, at_s in enumerate(times):
        while at_s - times[first] >= window_s:
            first += 1
        most = max(most, last - first + 1)
    return most
