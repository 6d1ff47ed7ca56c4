"""The life of a device as one table: which event leads from which state to which, and what each state permits (P7)."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from mqttprov.core.model import LifecycleState as State


class LifecycleEvent(StrEnum):
    """What can happen to a device; EVENT_MEANINGS says what each one is."""

    PROVISION = "provision"
    TRANSFER = "transfer"
    FIRST_LOGIN = "first-login"
    SUSPEND = "suspend"
    RESUME = "resume"
    RESUME_UNUSED = "resume-unused"
    DECOMMISSION = "decommission"
    RELEASE = "release"


STATE_MEANINGS: Final[Mapping[State, str]] = {
    State.MANUFACTURED: "known, without credentials: it may provision and nothing else",
    State.PROVISIONED: "has credentials and has not logged in with any of them yet",
    State.ACTIVE: "has logged in",
    State.SUSPENDED: "stopped by an operator: it may neither log in nor provision; its credentials are kept",
    State.DECOMMISSIONED: "retired: no credentials; its record and history stay as a tombstone",
}

EVENT_MEANINGS: Final[Mapping[LifecycleEvent, str]] = {
    LifecycleEvent.PROVISION: "it is given credentials, the first or the next generation",
    LifecycleEvent.TRANSFER: "another owner completes its transfer: all generations end, the next one is issued",
    LifecycleEvent.FIRST_LOGIN: "the first login with a generation",
    LifecycleEvent.SUSPEND: "an operator stops it",
    LifecycleEvent.RESUME: "an operator lets it go on; it has logged in before",
    LifecycleEvent.RESUME_UNUSED: "an operator lets it go on; it has never logged in",
    LifecycleEvent.DECOMMISSION: "an operator retires it: all generations end",
    LifecycleEvent.RELEASE: "an operator frees the tombstone's name for another device; the tombstone stays one",
}


class IllegalTransition(ValueError):  # noqa: N818 - it names what is wrong, like the rest of the rules
    """The event cannot happen in this state."""


TRANSITIONS: Final[Mapping[tuple[State, LifecycleEvent], State]] = {
    (State.MANUFACTURED, LifecycleEvent.PROVISION): State.PROVISIONED,
    (State.MANUFACTURED, LifecycleEvent.TRANSFER): State.PROVISIONED,
    (State.MANUFACTURED, LifecycleEvent.DECOMMISSION): State.DECOMMISSIONED,
    (State.PROVISIONED, LifecycleEvent.PROVISION): State.PROVISIONED,
    (State.PROVISIONED, LifecycleEvent.TRANSFER): State.PROVISIONED,
    (State.PROVISIONED, LifecycleEvent.FIRST_LOGIN): State.ACTIVE,
    (State.PROVISIONED, LifecycleEvent.SUSPEND): State.SUSPENDED,
    (State.PROVISIONED, LifecycleEvent.DECOMMISSION): State.DECOMMISSIONED,
    (State.ACTIVE, LifecycleEvent.PROVISION): State.ACTIVE,
    # With nothing left that it ever logged in with, it is what it was before its first login.
    (State.ACTIVE, LifecycleEvent.TRANSFER): State.PROVISIONED,
    (State.ACTIVE, LifecycleEvent.FIRST_LOGIN): State.ACTIVE,
    (State.ACTIVE, LifecycleEvent.SUSPEND): State.SUSPENDED,
    (State.ACTIVE, LifecycleEvent.DECOMMISSION): State.DECOMMISSIONED,
    # A suspended device needs no memory of what it was: whether it ever logged in is in its credentials.
    (State.SUSPENDED, LifecycleEvent.RESUME): State.ACTIVE,
    (State.SUSPENDED, LifecycleEvent.RESUME_UNUSED): State.PROVISIONED,
    (State.SUSPENDED, LifecycleEvent.DECOMMISSION): State.DECOMMISSIONED,
    (State.DECOMMISSIONED, LifecycleEvent.RELEASE): State.DECOMMISSIONED,
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
