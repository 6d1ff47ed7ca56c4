"""The audit chain: what an event holds, how it is written canonically, chained by hash and verified (P5).

`hash_i = SHA-256(hash_{i-1} || body_i)` where `body_i` is the event as compact JSON with its fields in the order of the
class below (security.md SD-23). The body is kept as it was hashed, so that verifying never depends on an encoder.
No secret may enter an event (P6): there is no field for one.
"""

import hashlib
from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Final

import msgspec

GENESIS: Final = "0" * 64


class EventKind(StrEnum):
    """The closed set of kinds; each is one topic level below `provision/audit/`."""

    INITIALISED = "initialised"
    PROFILE_CREATED = "profile-created"
    PROFILE_UPDATED = "profile-updated"
    TOKEN_CREATED = "token-created"  # noqa: S105 - a kind of event
    TOKEN_UPDATED = "token-updated"  # noqa: S105 - a kind of event
    TOKEN_REVOKED = "token-revoked"  # noqa: S105 - a kind of event
    TOKEN_ROTATED = "token-rotated"  # noqa: S105 - a kind of event
    OPERATOR_CREATED = "operator-created"
    OPERATOR_ROTATED = "operator-rotated"
    OPERATOR_REMOVED = "operator-removed"
    DEVICE_CREATED = "device-created"
    PROVISIONED = "provisioned"
    REPROVISIONED = "reprovisioned"
    REPEATED = "repeated"
    REFUSED = "refused"
    LIMITED = "limited"
    ACTIVATED = "activated"
    LOGIN_REFUSED = "login-refused"
    SUSPENDED = "suspended"
    RESUMED = "resumed"
    DECOMMISSIONED = "decommissioned"
    RELEASED = "released"
    ROTATION_REQUESTED = "rotation-requested"
    TRANSFER_OFFERED = "transfer-offered"
    TRANSFER_CANCELLED = "transfer-cancelled"
    TRANSFER_COMPLETED = "transfer-completed"
    WIPED = "wiped"
    NOT_WIPED = "not-wiped"
    LABELLED = "labelled"
    OWNER_ASSIGNED = "owner-assigned"
    TAKEN_OVER = "taken-over"
    AUTHORITY_CREATED = "authority-created"
    AUTHORITY_ROTATED = "authority-rotated"
    AUTHORITY_RETIRED = "authority-retired"


# A broker that meets one of these ends the sessions of the device or operator that it names (P7).
ENDS_SESSIONS: Final = frozenset(
    {
        EventKind.SUSPENDED,
        EventKind.DECOMMISSIONED,
        EventKind.TRANSFER_COMPLETED,
        EventKind.OPERATOR_ROTATED,
        EventKind.OPERATOR_REMOVED,
    }
)

# A login that was decided before one of these, and arrives after it, is decided again.
CHANGES_LOGINS: Final = ENDS_SESSIONS | {EventKind.LABELLED}


class Event(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel", gc=False):
    """One outcome or operator action, without its place in the chain.

    `actor` is who acted ("device" or "cli:<user>"), `source` the address it came from, `ref` the id that the reply
    carried, `count` how many requests an aggregated event stands for, `text` what was changed or said,
    `wait_s` how long a broker shall wait for the device before it ends its sessions, `owner` and `to_owner` whose the
    device is or was, and to whom it is transferred or given, `labels` the labels that it has from now on, `operator`
    whose MQTT login was changed.
    """

    kind: EventKind
    at_ms: int
    actor: str
    source: str | None = None
    ref: str | None = None
    device: str | None = None
    device_id: str | None = None
    profile: str | None = None
    token: str | None = None
    key: str | None = None
    credentials_type: str | None = None
    generation: int | None = None
    registration: int | None = None
    state: str | None = None
    reason: str | None = None
    count: int | None = None
    text: str | None = None
    wait_s: float | None = None
    owner: str | None = None
    to_owner: str | None = None
    labels: dict[str, str] | None = None
    operator: str | None = None


class ChainedEvent(msgspec.Struct, frozen=True, gc=False):
    """An event as it is stored: its place (`seq`, from 1 without gaps), its exact body and its hash (hex)."""

    seq: int
    kind: str  # an `EventKind`, unless the chain was changed or is of a newer release
    at_ms: int
    body: str
    hash: str
    device_id: str | None = None


class _Body(msgspec.Struct, frozen=True, gc=False):
    seq: int
    event: Event


class BrokenChain(ValueError):  # noqa: N818 - it names what is wrong, like the rest of the rules
    """The stored events are not the ones that were written; `seq` is the first place where that shows."""

    def __init__(self, seq: int, why: str) -> None:
        super().__init__(f"audit event {seq}: {why}")
        self.seq = seq


class CutTail(BrokenChain):
    """Events that a checkpoint vouches for are missing at the end."""


_encode = msgspec.json.Encoder().encode
_decode_body = msgspec.json.Decoder(_Body).decode


def _link(previous_hash: str, body: str) -> str:
    return hashlib.sha256((previous_hash + body).encode()).hexdigest()


class ChainHead(msgspec.Struct, frozen=True, gc=False):
    """The end of the chain: number of events and hash of the last one."""

    seq: int = 0
    hash: str = GENESIS


def chain(head: ChainHead, event: Event) -> tuple[ChainedEvent, ChainHead]:
    """Put an event behind `head`; give the event to store and the new head."""
    seq = head.seq + 1
    body = _encode(_Body(seq, event)).decode()
    digest = _link(head.hash, body)
    return ChainedEvent(seq, event.kind, event.at_ms, body, digest, event.device_id), ChainHead(seq, digest)


def parse_body(body: str) -> tuple[int, Event]:
    """Give place and event back from a stored body. Raises `ValueError` when it is not one."""
    try:
        parsed = _decode_body(body)
    except msgspec.DecodeError as error:
        raise ValueError(f"not an audit event: {error}") from error
    return parsed.seq, parsed.event


class Columns(msgspec.Struct, frozen=True, rename="camel", gc=False):
    """What is stored beside an event's body, as the body itself has it. Kinds that are newer than we are pass."""

    kind: str
    at_ms: int
    device_id: str | None = None


class _Place(msgspec.Struct, frozen=True, gc=False):
    seq: int
    event: Columns


_decode_place = msgspec.json.Decoder(_Place).decode


def parse_columns(body: str) -> Columns:
    """Give kind, time and device of a stored body. Raises `ValueError` when it is not one."""
    return _parse_place(body).event


def _parse_place(body: str) -> _Place:
    try:
        return _decode_place(body)
    except msgspec.DecodeError as error:
        raise ValueError(f"not an audit event: {error}") from error


def verify(
    events: Iterable[ChainedEvent], *, after: ChainHead | None = None, checkpoints: Mapping[int, str] | None = None
) -> ChainHead:
    """Check that the events follow `after` without a gap and unchanged; give the head that they lead to.

    Finds every changed, removed, inserted and reordered event. A cut tail, and a chain that was written anew from some
    place on, show only against `checkpoints` that were written down elsewhere: hash by number of events (security.md
    section 6). Holds one event at a time. Raises `BrokenChain`.
    """
    start = after or ChainHead()
    marks = checkpoints or {}
    seq, digest, confirmed = start.seq, start.hash, start.seq
    for stored in events:
        if stored.seq != seq + 1:
            wrong = "it is missing" if stored.seq > seq else "it is out of place"
            raise BrokenChain(seq + 1, f"{wrong}; the next one stored is {stored.seq}")
        seq += 1
        digest = _link(digest, stored.body)
        if digest != stored.hash:
            raise BrokenChain(seq, "its content or one before it was changed: the hash does not fit")
        _check_columns(stored)
        if seq in marks:
            if marks[seq] != digest:
                raise BrokenChain(
                    seq,
                    f"it is not what its checkpoint says; events {confirmed + 1} to {seq} were written anew, "
                    "at least in part",
                )
            confirmed = seq
    cut = max(marks, default=0)
    if cut > seq:
        raise CutTail(seq + 1, f"it is missing, and so is all behind it: a checkpoint says {cut} events")
    return ChainHead(seq, digest)


def _check_columns(stored: ChainedEvent) -> None:
    try:
        place = _parse_place(stored.body)
    except ValueError as error:
        raise BrokenChain(stored.seq, str(error)) from error
    event = place.event
    if (place.seq, event.kind, event.at_ms, event.device_id) != (
        stored.seq,
        stored.kind,
        stored.at_ms,
        stored.device_id,
    ):
        raise BrokenChain(stored.seq, "its columns differ from its body")
