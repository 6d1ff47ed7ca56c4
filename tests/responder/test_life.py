"""Tokens, devices, owners and credentials against a model of them, in any order of things that may happen.

Promises P1, P4, P5, P7 (who may log in) and P8. `MQTTPROV_WALK_STEPS` makes the random walk longer.
"""

import os
import random
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from tests.responder.life_steps import COMMON, RARE, STEPS, Steps

from mqttprov.core.requests import Reason

WALK_STEPS = int(os.environ.get("MQTTPROV_WALK_STEPS", "2000"))
STEPS_OF_A_LIFE = 250
# What the walk never meets: faults of the service and the wire, and factory identities, which come by TLS.
_ELSEWHERE = {
    *("malformed", "limited", "overloaded", "internal"),
    *("factory-name", "factory-spent", "certificate-ended", "chain-needed"),
}
EVERYTHING = {
    *("provisioned", "reprovisioned", "repeated", "transfer-completed"),
    *(str(reason) for reason in Reason if reason not in _ELSEWHERE),
    *("login", "login unknown", "login wrong-password", "login state"),
    *("suspended", "resumed", "decommissioned", "released", "rotation-requested"),
    *("transfer-offered", "transfer-cancelled", "token-updated", "token-revoked", "token-rotated"),
}


class _Machine(RuleBasedStateMachine):
    """Each step is a rule; Hypothesis makes a failing order short."""

    @initialize(data=st.data())
    def begin(self, data: st.DataObject) -> None:
        """Make the world."""
        self.folder = tempfile.TemporaryDirectory()
        self.steps = Steps(Path(self.folder.name) / "state", lambda options: data.draw(st.sampled_from(options)))

    def teardown(self) -> None:
        """Verify the audit."""
        if hasattr(self, "steps"):
            self.steps.world.close()
            self.folder.cleanup()


def _rule(step: Callable[..., None]) -> Any:
    def run(self: _Machine, data: st.DataObject) -> None:
        step(self.steps, lambda options: data.draw(st.sampled_from(options)))

    return rule(data=st.data())(run)


def test_no_order_of_things_tells_product_and_model_apart() -> None:
    """Outcomes, uses, states, owners, logins and audit events agree after each step (P1, P4, P5, P7, P8)."""
    machine = type("Machine", (_Machine,), {name: _rule(step) for name, step in STEPS.items()})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=20, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )


def test_a_long_random_walk_tells_them_apart_neither(tmp_path: Path) -> None:
    """Many lives of some hundred steps each, in which everything happens; a seed that fails can be walked again."""
    met: set[str] = set()
    weights = [1 if name in RARE else 12 if name in COMMON else 4 for name in STEPS]
    for seed in range(-(-WALK_STEPS // STEPS_OF_A_LIFE)):
        chance = random.Random(seed)  # noqa: S311 - chance, not a secret
        steps = Steps(tmp_path / str(seed), chance.choice)
        done: list[str] = []
        try:
            for name in chance.choices(list(STEPS), weights, k=min(STEPS_OF_A_LIFE, WALK_STEPS)):
                done.append(name)
                STEPS[name](steps, chance.choice)
        except Exception as error:
            raise AssertionError(f"seed {seed}, step {len(done)}: {done[-1]}") from error
        steps.world.close()
        met |= steps.world.met
    assert met >= EVERYTHING, EVERYTHING - met
