"""What an operator does to a device, decided: facts go in; effects and exactly one audit event come out (P5).

Nothing is applied when it cannot be done: every function raises `IllegalTransition` before its first effect.
"""

from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from mqttprov.core.audit import Event, EventKind
from mqttprov.core.facts import (
    ChangeOwner,
    ChangeState,
    DeviceFacts,
    Effect,
    Facts,
    ReleaseName,
    RequestRotation,
    SetLabels,
    SetTransfer,
    SupersedeCredentials,
)
from mqttprov.core.lifecycle import IllegalTransition, LifecycleEvent, transition
from mqttprov.core.limits import MAX_REMARK_CHARS
from mqttprov.core.model import CredentialStatus, LifecycleState, Transfer
from mqttprov.core.names import InvalidName, check_labels, check_object_name

TOMBSTONE_MARK = "#"  # no device name may hold it, so a released tombstone's name can never be asked for


class By(msgspec.Struct, frozen=True):
    """Who acts (for example "cli:anna"), when, and why, if it was said."""

    actor: str
    now_ms: int
    remark: str | None = None


class Change(NamedTuple):
    """What was decided; the effects are applied to the facts already."""

    effects: tuple[Effect, ...]
    event: Event


def check_remark(text: str) -> None:
    """Refuse a remark that is too long or would disturb whoever reads the audit. Raises `InvalidName`."""
    if not text or len(text) > MAX_REMARK_CHARS or not text.isprintable():
        raise InvalidName(f"the reason must be one line of 1 to {MAX_REMARK_CHARS} printable characters")


def suspend(facts: Facts, known: DeviceFacts, by: By) -> Change:
    """Stop a device: it may not log in and not provision; its credentials are kept for when it is resumed."""
    state = transition(known.device.state, LifecycleEvent.SUSPEND)
    return _changed(facts, [_moved(known, state)], _event(EventKind.SUSPENDED, known, by, state))


def resume(facts: Facts, known: DeviceFacts, by: By) -> Change:
    """Let a suspended device go on as what it was.

    Which of the two it was needs no memory: it was active if and only if it has logged in with a credential it holds.
    """
    used = any(credential.status is CredentialStatus.ACTIVE for credential in known.credentials)
    event = LifecycleEvent.RESUME if used else LifecycleEvent.RESUME_UNUSED
    if known.device.state is not LifecycleState.SUSPENDED:
        event = LifecycleEvent.RESUME  # for the error, which names what the operator asked for
    state = transition(known.device.state, event)
    return _changed(facts, [_moved(known, state)], _event(EventKind.RESUMED, known, by, state))


def decommission(facts: Facts, known: DeviceFacts, by: By, *, wait_ms: int) -> Change:
    """Retire a device: all generations end and its name stays taken (P8).

    `wait_ms` is how long a broker keeps a live session, for no other purpose than that the gateway can be asked to wipe
    its credentials. Revoking comes first: a gateway that has wiped asks for new ones at once, and must not get any.
    """
    device = known.device
    state = transition(device.state, LifecycleEvent.DECOMMISSION)
    effects: list[Effect] = [_moved(known, state)]
    live = tuple(credential.generation for credential in known.credentials)
    if live:
        effects.append(SupersedeCredentials(device.id, device.fold, live))
    event = _event(EventKind.DECOMMISSIONED, known, by, state)
    return _changed(facts, effects, msgspec.structs.replace(event, wait_s=wait_ms / 1000))


def release(facts: Facts, known: DeviceFacts, by: By) -> Change:
    """Free a tombstone's name. Its record stays, with id and history, under the name with its id behind a mark."""
    device = known.device
    state = transition(device.state, LifecycleEvent.RELEASE)
    event = _event(EventKind.RELEASED, known, by, state)
    return _changed(facts, [ReleaseName(device.id, device.fold, tombstone_name(device.fold, device.id))], event)


def tombstone_name(fold: str, device_id: str) -> str:
    """Give the name of a released tombstone; it is its own folded form."""
    return f"{fold}{TOMBSTONE_MARK}{device_id}"


def rotate(facts: Facts, known: DeviceFacts, by: By) -> Change:
    """Ask for the next generation: the device's next request gets it, whatever its profile says about asking again.

    Nothing is issued here, since only the device may learn a secret. The old generation works until the new one logs
    in (make before break), so asking costs the device nothing.
    """
    device = known.device
    if device.state is not LifecycleState.ACTIVE:
        raise IllegalTransition(f"a {device.state} device cannot rotate")
    event = _event(EventKind.ROTATION_REQUESTED, known, by, device.state)
    event = msgspec.structs.replace(event, generation=known.last_generation)
    return _changed(facts, [RequestRotation(device.id, device.fold, known.last_generation)], event)


def offer(facts: Facts, known: DeviceFacts, by: By, transfer: Transfer) -> Change:
    """Offer a device to another owner, whose token completes it with the claim code; nothing else changes until then.

    An offer that has expired gives way to the next one; an open one must be cancelled first.
    """
    device = known.device
    transition(device.state, LifecycleEvent.TRANSFER)
    if device.owner == transfer.to_owner:
        raise IllegalTransition("it belongs to this owner already")
    if device.transfer is not None and by.now_ms < device.transfer.expires_ms:
        raise IllegalTransition(f"it is offered to {device.transfer.to_owner!r} already")
    event = _event(EventKind.TRANSFER_OFFERED, known, by, device.state)
    event = msgspec.structs.replace(event, owner=device.owner, to_owner=transfer.to_owner)
    return _changed(facts, [SetTransfer(device.id, device.fold, transfer)], event)


def cancel_transfer(facts: Facts, known: DeviceFacts, by: By) -> Change:
    """Take an offer back: its claim code is worth nothing from now on."""
    device = known.device
    if device.transfer is None:
        raise IllegalTransition("it is offered to nobody")
    event = _event(EventKind.TRANSFER_CANCELLED, known, by, device.state)
    event = msgspec.structs.replace(event, owner=device.owner, to_owner=device.transfer.to_owner)
    return _changed(facts, [SetTransfer(device.id, device.fold, None)], event)


def assign(facts: Facts, known: DeviceFacts, by: By, owner: str) -> Change:
    """Give a device without owner to one. Raises `InvalidName`.

    One that has an owner passes on by a transfer only, to which both sides agree.
    """
    check_object_name("owner", owner)
    device = known.device
    if device.state is LifecycleState.DECOMMISSIONED:
        raise IllegalTransition("a decommissioned device gets no owner")
    if device.owner is not None:
        raise IllegalTransition(f"it belongs to {device.owner!r}")
    if device.transfer is not None and by.now_ms < device.transfer.expires_ms:
        raise IllegalTransition(f"it is offered to {device.transfer.to_owner!r}")
    event = _event(EventKind.OWNER_ASSIGNED, known, by, device.state)
    event = msgspec.structs.replace(event, to_owner=owner)
    return _changed(facts, [ChangeOwner(device.id, device.fold, owner, None)], event)


def label(facts: Facts, known: DeviceFacts, by: By, changes: Mapping[str, str | None]) -> Change:
    """Set labels of a device, and remove those whose value is None. Raises `InvalidName` past their limits (P9)."""
    device = known.device
    if device.state is LifecycleState.DECOMMISSIONED:
        raise IllegalTransition("a decommissioned device keeps the labels that it had")
    labels = labels_after(device.labels, changes)
    event = msgspec.structs.replace(_event(EventKind.LABELLED, known, by, device.state), labels=labels)
    return _changed(facts, [SetLabels(device.id, device.fold, labels)], event)


def labels_after(labels: Mapping[str, str], changes: Mapping[str, str | None]) -> dict[str, str]:
    """Give the labels that follow from a change. Raises `InvalidName`."""
    check_labels({key: value or "" for key, value in changes.items()})
    after: dict[str, str | None] = {**labels, **changes}
    return check_labels({key: value for key, value in after.items() if value is not None})


def _moved(known: DeviceFacts, state: LifecycleState) -> ChangeState:
    return ChangeState(known.device.id, known.device.fold, state)


def _event(kind: EventKind, known: DeviceFacts, by: By, state: LifecycleState) -> Event:
    device = known.device
    return Event(kind, by.now_ms, by.actor, device=device.name, device_id=device.id, state=state, text=by.remark)


def _changed(facts: Facts, effects: list[Effect], event: Event) -> Change:
    for effect in effects:
        effect.apply(facts)
    return Change(tuple(effects), event)
