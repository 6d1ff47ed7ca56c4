"""The life of a device, for every pair of state and event."""

import pytest

from mqttprov.core.lifecycle import IllegalTransition, LifecycleEvent, may_log_in, may_provision, transition
from mqttprov.core.model import LifecycleState

# One row per state, one column per event; "-" cannot happen. Written out apart from the code on purpose.
TABLE = """
                provision    transfer     first-login  suspend    resume  resume-unused  decommission    release
manufactured    provisioned  provisioned  -            -          -       -              decommissioned  -
provisioned     provisioned  provisioned  active       suspended  -       -              decommissioned  -
active          active       provisioned  active       suspended  -       -              decommissioned  -
suspended       -            -            -            -          active  provisioned    decommissioned  -
decommissioned  -            -            -            -          -       -              -               decommissioned
"""


def pairs() -> list[tuple[LifecycleState, LifecycleEvent, str]]:
    """Read the table."""
    head, *rows = (line.split() for line in TABLE.strip().splitlines())
    return [
        (LifecycleState(row[0]), LifecycleEvent(event), cell)
        for row in rows
        for event, cell in zip(head, row[1:], strict=True)
    ]


def test_the_table_has_every_pair() -> None:
    """No state or event can be added without saying what happens."""
    assert {(s, e) for s, e, _ in pairs()} == {(s, e) for s in LifecycleState for e in LifecycleEvent}


@pytest.mark.parametrize(("state", "event", "following"), pairs())
def test_each_pair_leads_where_the_table_says(state: LifecycleState, event: LifecycleEvent, following: str) -> None:
    """State is permission (P7): what the table does not allow is an error that names state and event."""
    if following == "-":
        with pytest.raises(IllegalTransition, match=f"a {state} device cannot {event}"):
            transition(state, event)
    else:
        assert transition(state, event) is LifecycleState(following)


def test_only_a_provisioned_or_active_device_may_log_in() -> None:
    """Suspend and decommission take the login away (P7)."""
    assert {s for s in LifecycleState if may_log_in(s)} == {LifecycleState.PROVISIONED, LifecycleState.ACTIVE}


def test_a_suspended_or_decommissioned_device_is_not_provisioned() -> None:
    """A tombstone stays one until an operator releases it (P8)."""
    refused = {s for s in LifecycleState if not may_provision(s)}
    assert refused == {LifecycleState.SUSPENDED, LifecycleState.DECOMMISSIONED}


def test_nothing_leads_out_of_decommissioned() -> None:
    """A decommissioned device is a tombstone, also when its name was released (P8)."""
    following = {cell for state, _, cell in pairs() if state is LifecycleState.DECOMMISSIONED}
    assert following == {"-", "decommissioned"}
