"""What an operator does in a run: to which devices, how often, and with which consequences in the store."""

import os
import threading
import time
from collections import Counter
from pathlib import Path

import msgspec
import pytest

from mqttprov.admin import Admin, initialise
from mqttprov.brokers.responder_run import now_ms
from mqttprov.core.requests import ProvisionRequest
from mqttprov.responder.jobs import ActivationJob, BatchProcessor, ProvisionJob
from mqttprov.responder.state_directory import StateDirectory
from mqttprov_simulator.running.values import TokenKey
from mqttprov_simulator.scenario.drawing import acts, gateways
from mqttprov_simulator.scenario.model import Action, Group, Scenario, Storm
from mqttprov_simulator.targets.actions import perform
from mqttprov_simulator.targets.target import TargetError
from mqttprov_simulator.targets.url import UrlTarget

SUSPEND = Action(kind="suspend-devices", at_s=0.0, for_s=0.05, groups=("a",), share=0.5)
SCENARIO = Scenario(
    name="tested",
    summary="",
    groups=(
        Group(name="a", gateways=20, arrivals=Storm()),
        Group(name="b", gateways=5, arrivals=Storm()),
        Group(name="c", gateways=5, arrivals=Storm(), clones_of="a"),
    ),
    actions=(SUSPEND, Action(kind="rotate-devices", at_s=0.0, groups=("b",))),
)


@pytest.fixture
def target(tmp_path: Path) -> UrlTarget:
    """A state directory with all devices of the groups, active, less the last of b."""
    state = tmp_path / "state"
    born = initialise(state)
    assert born is not None
    directory = StateDirectory(state)
    processor = BatchProcessor(directory.store, directory.keys, now_ms=now_ms, entropy=os.urandom)
    names = sorted({drawn.device for drawn in gateways(SCENARIO)})[:-1]
    processor.process([ProvisionJob(ProvisionRequest(born.key, born.secret, name), "", print) for name in names])
    processor.process([ActivationJob(name, 1, "", print) for name in names])
    processor.close()
    directory.close()
    return UrlTarget.prepared("mqtt://127.0.0.1", SCENARIO, ca=None, token=TokenKey(born.key, born.secret), state=state)


def states(target: UrlTarget) -> dict[str, str]:
    """Give the states of all devices by name."""
    assert target.state is not None
    with Admin(target.state) as admin:
        return {device.name: device.state for device in admin.devices()}


def test_it_meets_the_devices_that_the_plan_says(target: UrlTarget) -> None:
    """A share of a group, clones not twice; and resumed they are as before."""
    drawn = {one.device for one in gateways(SCENARIO) for act in acts(SCENARIO, one) if act.action == SUSPEND}
    assert 0 < len(drawn) < 20
    done = perform(SUSPEND, SCENARIO, target, began=time.time(), stopping=threading.Event())
    assert (done.devices, done.not_done) == (len(drawn), {})
    assert {name for name, state in states(target).items() if state == "suspended"} == drawn
    resume = msgspec.structs.replace(SUSPEND, kind="resume-devices", share=1.0)
    scenario = msgspec.structs.replace(SCENARIO, actions=(resume,))
    done = perform(resume, scenario, target, began=time.time(), stopping=threading.Event())
    assert (done.devices, done.not_done) == (len(drawn), {"its state does not allow it": 20 - len(drawn)})
    assert Counter(states(target).values()) == {"active": 24}


def test_devices_that_are_not_there_are_told(target: UrlTarget) -> None:
    """One gateway had not registered yet."""
    done = perform(SCENARIO.actions[1], SCENARIO, target, began=time.time(), stopping=threading.Event())
    assert (done.devices, done.not_done) == (4, {"no such device": 1})


def test_it_ends_when_the_run_does(target: UrlTarget) -> None:
    """What is planned for later is left undone."""
    stopping = threading.Event()
    stopping.set()
    done = perform(SUSPEND, SCENARIO, target, began=time.time() + 3600, stopping=stopping)
    assert done.devices == 0
    assert set(states(target).values()) == {"active"}


def test_a_token_is_revoked_with_what_it_registered(target: UrlTarget) -> None:
    """With `cascade`; and not twice without it."""
    revoke = Action(kind="revoke-token", at_s=0.0, token="default", cascade=True)
    done = perform(revoke, SCENARIO, target, began=time.time(), stopping=threading.Event())
    assert done.devices == 24
    assert set(states(target).values()) == {"suspended"}
    again = msgspec.structs.replace(revoke, cascade=False)
    with pytest.raises(TargetError, match="revoked already"):
        perform(again, SCENARIO, target, began=time.time(), stopping=threading.Event())
