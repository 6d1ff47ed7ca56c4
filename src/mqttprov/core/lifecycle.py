"""The life of a device as one table: which event leads from which state to which, and what each state permits (P7)."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from mqttprov.core.model import LifecycleState as State


class LifecycleEvent(StrEnum):
    """What can happen to a device."""

    PROVISION = "provision"
    FIRST_LOGIN = "first-login"
    SUSPEND = "suspend"
    RESUME = "resume"
    DECOMMISSION = "decommission"


class IllegalTransition(ValueError):  # noqa: N818 - it names what is wrong, like the rest of the rules
    """The event cannot happen in this state."""


TRANSITIONS: Final[Mapping[tuple[State, LifecycleEvent], State]] = {
    (State.MANUFACTURED, LifecycleEvent.PROVISION): State.PROVISIONED,
    (State.MANUFACTURED, LifecycleEvent.DECOMMISSION): State.DECOMMISSIONED,
    (State.PROVISIONED, LifecycleEvent.PROVISION): State.PROVISIONED,
    (State.PROVISIONED, LifecycleEvent.FIRST_LOGIN): State.ACTIVE,
    (State.PROVISIONED, LifecycleEvent.SUSPEND): State.SUSPENDED,
    (State.PROVISIONED, LifecycleEvent.DECOMMISSION): State.DECOMMISSIONED,
    (State.ACTIVE, LifecycleEvent.PROVISION): State.ACTIVE,
    (State.ACTIVE, LifecycleEvent.FIRST_LOGIN): State.ACTIVE,
    (State.ACTIVE, LifecycleEvent.SUSPEND): State.SUSPENDED,
    (State.ACTIVE, LifecycleEvent.DECOMMISSION): State.DECOMMISSIONED,
    (State.SUSPENDED, LifecycleEvent.RESUME): State.ACTIVE,
    (State.SUSPENDED, LifecycleEvent.DECOMMISSION): State.DECOMMISSIONED,
}

_MAY_LOG_IN: Final = frozenset({State.PROVISIONED, State.ACTIVE})


def transition(state: State, event: LifecycleEvent) -> State:
    """Give the state that follows, or raise `IllegalTransition`."""
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        raise IllegalTransition(f"a {state} device cannot {event}") from None


def may_provision(state: State) -> bool:
    """Tell whether a provisioning request for a device in this state can succeed at all."""
    return (state, LifecycleEvent.PROVISION) in TRANSITIONS


def may_log_in(state: State) -> bool:
    """Tell whether a device in this state may connect with its operational credentials."""
    return state in _MAY_LOG_IN
