"""The story of a device or of one refusal: which audit events belong to it (`mqttprov audit explain`)."""

from collections.abc import Iterator
from typing import Final

import msgspec

from mqttprov.core.audit import ChainedEvent, parse_body
from mqttprov.core.explain import advice, sentence, state_sentence
from mqttprov.responder.administration import NotFound
from mqttprov.store.protocol import DeviceRow, Reader

MAX_MENTIONS: Final = 100  # events of a name that never became a device


class Told(msgspec.Struct, frozen=True):
    """One event in a plain sentence. `advice` says what to do about it; None for what needs nothing."""

    seq: int
    at_ms: int
    kind: str
    sentence: str
    advice: str | None


class Story(msgspec.Struct):
    """Events, oldest first, and the device that they are about, when there is one."""

    device: DeviceRow | None
    events: Iterator[ChainedEvent]

    def told(self) -> Iterator[Told]:
        """Tell each event, oldest first; this uses `events` up."""
        return map(_tell, self.events)

    def standing(self) -> str | None:
        """Say what the device is now, why, and whose; None without one."""
        device = self.device
        return None if device is None else state_sentence(device.name, device.state, device.profile, device.owner)


def find_story(reader: Reader, ref_or_device: str) -> Story:
    """Find what a device's name or id, or the `ref` of a reply, stands for. Raises `NotFound`.

    A device is found by an index; a `ref`, and a name that never became a device, by looking through the events.
    """
    device = next(reader.devices(ref_or_device), None)
    if device is not None:
        return Story(device, reader.events_of_device(device.id))
    first = next(reader.events_of_device(ref_or_device), None)
    if first is not None:
        return Story(_device_of(reader, first), reader.events_of_device(ref_or_device))
    found = reader.events_with("ref", ref_or_device, 1) or reader.events_with("device", ref_or_device, MAX_MENTIONS)
    if not found:
        raise NotFound(f"no audit event has the ref {ref_or_device!r}, and no device was ever named so")
    return Story(None, iter(found[::-1]))


def _tell(stored: ChainedEvent) -> Told:
    try:
        _, event = parse_body(stored.body)
    except ValueError as error:
        unreadable = f"Unreadable: {error}; run 'mqttprov audit verify'."
        return Told(stored.seq, stored.at_ms, str(stored.kind), unreadable, None)
    return Told(stored.seq, stored.at_ms, str(stored.kind), sentence(event), advice(event))


def _device_of(reader: Reader, stored: ChainedEvent) -> DeviceRow | None:
    """Give the device that an event is about, while it has the name that it had then."""
    try:
        _, event = parse_body(stored.body)
    except ValueError:
        return None  # the story is told all the same, and says so
    found = next(reader.devices(event.device), None) if event.device else None
    return found if found is not None and found.id == stored.device_id else None
