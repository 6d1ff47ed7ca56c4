"""What a scenario expects of a gateway, and what excuses it. Pure."""

import math
from typing import Final, Literal

import msgspec

from mqttprov_simulator.scenario.drawing import DrawnGateway, acts
from mqttprov_simulator.scenario.model import Scenario

_ENDING: Final = frozenset({"suspend-devices", "revoke-token"})


class Expected(msgspec.Struct, frozen=True, gc=False):
    """`entry`: how its registration is to end. `ended`: at the end of the plan its device may not log in any more.

    `touched_s`: from when on operators act on its device, inf: never. `shared`: others have the same identity.
    """

    entry: Literal["online", "refused", "capped"]
    stays: bool
    ended: bool = False
    touched_s: float = math.inf
    shared: bool = False


def expected_of(scenario: Scenario, drawn: DrawnGateway) -> Expected:
    """Say what is expected of a gateway; the same value for gateways of which the same is expected."""
    group = drawn.group
    met = acts(scenario, drawn) if scenario.actions else []
    ended = False
    for act in met:
        if act.action.kind in _ENDING:
            ended = True
        elif act.action.kind == "resume-devices":
            ended = False
    cloned = group.clones_of is not None or any(other.clones_of == group.name for other in scenario.groups)
    touched_s = met[0].at_s if met else math.inf
    key = (group.expect, group.stay, ended, touched_s, cloned)
    return Expected(*key)
