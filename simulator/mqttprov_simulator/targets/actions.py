"""What an operator does while a swarm runs: with `mqttprov.admin` on the target's state, beside the running server."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Final

import msgspec

from mqttprov.admin import Admin, Conflict, NotFound, StateError, StoreUnavailable
from mqttprov.responder.doorbell import BrokerSilent
from mqttprov_simulator.scenario.drawing import acts, gateways
from mqttprov_simulator.scenario.model import Action, Scenario
from mqttprov_simulator.targets.target import Target, TargetError

_ACTOR: Final = "swarm"


class Done(msgspec.Struct, frozen=True):
    """What came of an action. `devices`: on how many it was done; `not_done`: why not on others, and how often.

    `missed`: devices that are not as it was to make them; a state that does not allow it is none of these.
    """

    devices: int
    not_done: dict[str, int]
    missed: frozenset[str] = frozenset()


def can_act(scenario: Scenario, target: Target) -> None:
    """See, before a run, that the scenario's actions are possible. Raises TargetError that names those that are not."""
    if scenario.actions and target.state is None:
        kinds = ", ".join(dict.fromkeys(action.kind for action in scenario.actions))
        raise TargetError(f"{kinds}: an operator acts on the state directory of the target; give it by --state-dir")


def perform(action: Action, scenario: Scenario, target: Target, *, began: float, stopping: threading.Event) -> Done:
    """Do an action, in this thread, until it is done or `stopping` is set. `began`: the planned start (Unix time, s).

    Devices that do not exist, or whose state does not allow it, are told in the answer. Raises TargetError.
    """
    can_act(scenario, target)
    assert target.state is not None  # noqa: S101 - for the type checker: `can_act` has seen it
    try:
        with Admin(target.state, actor=_ACTOR) as admin:
            if action.kind == "revoke-token":
                return _revoke(action, target, admin)
            return _on_devices(action, scenario, admin, began, stopping)
    except (StateError, StoreUnavailable, NotFound, Conflict, BrokerSilent) as error:
        raise TargetError(f"{action.kind} was not possible: {error}") from error


def _revoke(action: Action, target: Target, admin: Admin) -> Done:
    token = target.tokens[f"{action.profile}/{action.token or 'default'}"]
    if not action.cascade:
        admin.revoke_token(token.key, None)
        return Done(0, {})
    return Done(admin.revoke_token_with_devices(token.key, None)[1], {})


def _on_devices(action: Action, scenario: Scenario, admin: Admin, began: float, stopping: threading.Event) -> Done:
    verb: Callable[[str], object] = {
        "rotate-devices": admin.life.rotate,
        "suspend-devices": admin.life.suspend,
        "resume-devices": admin.life.resume,
    }[action.kind]
    done, not_done, missed = 0, Counter[str](), set[str]()
    for at_s, device in sorted(_devices(action, scenario)):
        if stopping.wait(max(0.0, began + at_s - time.time())):
            break
        try:
            verb(device)
            done += 1
        except NotFound:
            not_done["no such device"] += 1
            missed.add(device)
        except Conflict:
            not_done["its state does not allow it"] += 1
        except StoreUnavailable:
            not_done["the database was busy or its disk full"] += 1
            missed.add(device)
        except BrokerSilent:
            not_done["committed, but the broker did not confirm it"] += 1
    return Done(done, dict(not_done), frozenset(missed))


def _devices(action: Action, scenario: Scenario) -> Iterator[tuple[float, str]]:
    """Give when it is done to which devices. Those of clones are their originals'."""
    for drawn in gateways(scenario):
        if drawn.group.clones_of is None:
            yield from ((met.at_s, drawn.device) for met in acts(scenario, drawn) if met.action == action)
