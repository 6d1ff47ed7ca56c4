"""What audit events bring about in the sessions of whom they name, in whichever broker's process they are.

Ending a session, and saying farewell, is `farewell`'s and the broker's.
"""

from collections.abc import Iterable
from typing import Any, Protocol, TypeVar

import msgspec

from mqttprov.brokers.farewell import WIPE_CALL, Host, Leaving, body_of
from mqttprov.core.audit import ChainedEvent, EventKind


class Known(Protocol):
    """A session or connection that knows whose it is."""

    principal: Any  # a Principal; where somebody may be connected who has not logged in, also None


K = TypeVar("K", bound=Known)
S = TypeVar("S", bound=Leaving)


def ended_by(event: ChainedEvent, sessions: Iterable[K]) -> list[K]:
    """Give those of the sessions that an event ends: all, or of a device those from before its transfer.

    A device that completes its transfer may have logged in with its new credentials before we meet the event.
    """
    body = body_of(event) if event.kind == EventKind.TRANSFER_COMPLETED else None
    if body is None:  # also one that was damaged in the store: rather one login too many
        return list(sessions)
    return older(sessions, body.generation or 0)


def older(sessions: Iterable[K], generation: int) -> list[K]:
    """Give those whose login was with an older generation."""
    return [each for each in sessions if each.principal is None or each.principal.generation < generation]


def relabel(event: ChainedEvent, sessions: Iterable[Known]) -> None:
    """Let them know the device's new labels; it is told when it asks."""
    body = body_of(event)
    if body is None:  # damaged in the store: they keep what they had at their login
        return
    for each in sessions:
        if each.principal is not None:
            each.principal = msgspec.structs.replace(each.principal, labels=body.labels or {})


def ask_to_rotate(event: ChainedEvent, broker: Host[S], sessions: Iterable[S]) -> None:
    """Let a gateway give up its credentials, so that it asks for new ones; until those log in the old ones work."""
    connected = list(sessions)
    called = broker.call(connected, event.seq, WIPE_CALL)
    for each in connected:
        if each not in called and each.principal is not None:
            # It is told once it listens, as one that comes back later.
            each.principal = msgspec.structs.replace(each.principal, rotation_due=True)
