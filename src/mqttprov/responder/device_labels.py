"""Labelling all devices that selectors mean, by batches. One device alone is labelled by `device_life`."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from mqttprov.core import device_life as rules
from mqttprov.core.audit import Event
from mqttprov.core.facts import Effect
from mqttprov.core.model import Device, LifecycleState
from mqttprov.core.names import InvalidName, fold
from mqttprov.core.selectors import Selector, parse_selectors, selects
from mqttprov.responder.acting import Acting, PartlyMade
from mqttprov.store.protocol import DeviceQuery

_DEVICES_PER_TRANSACTION: Final = 500  # a serving broker waits no longer for the write lock than for one of its batches


class DeviceLabels(Acting):
    """Changes labels of many devices."""

    def label_devices(
        self,
        selectors: Sequence[str],
        changes: Mapping[str, str | None],
        *,
        remark: str | None = None,
        tell_progress: Callable[[int], None] = lambda _: None,
    ) -> int:
        """Set labels of all devices that the selectors mean, remove those whose value is None; give how many changed.

        500 per transaction with one event for each; a decommissioned device, or one that has these labels already, is
        left alone, so that what was interrupted is completed by doing it again. `tell_progress` gets how many were
        looked at. Raises `InvalidName` for what is no selector or label, and `PartlyMade` when a device would get too
        many labels after others were changed.
        """
        if remark is not None:
            rules.check_remark(remark)
        rules.labels_after({}, changes)
        wanted = parse_selectors(selectors)
        if not wanted:
            raise InvalidName("no selector was given, and that would mean every device; give at least one")
        reader = self._store.reader()
        changed = looked_at = 0
        try:
            found = (fold(row.name) for row in reader.find_devices(DeviceQuery(selectors=wanted)))
            while folds := list(itertools.islice(found, _DEVICES_PER_TRANSACTION)):
                changed += self._label(folds, wanted, changes, remark)
                looked_at += len(folds)
                tell_progress(looked_at)
        except InvalidName as error:
            if changed:
                raise PartlyMade(f"{changed} devices were labelled; then: {error}", changed) from error
            raise
        finally:
            reader.close()
        return changed

    def _label(
        self,
        folds: Sequence[str],
        selectors: Sequence[Selector],
        changes: Mapping[str, str | None],
        remark: str | None,
    ) -> int:
        with self._store.write() as transaction:
            facts = transaction.load((), folds, ())
            effects: list[Effect] = []
            events: list[Event] = []
            for known in list(facts.devices.values()):
                if _is_meant(known.device, selectors, changes):
                    try:
                        change = rules.label(facts, known, rules.By(self._actor, self._now_ms(), remark), changes)
                    except InvalidName as error:
                        raise InvalidName(f"device {known.device.name!r}: {error}") from error
                    effects.extend(change.effects)
                    events.append(change.event)
            transaction.write(facts, effects)
            transaction.append(events)
        return len(events)


def _is_meant(device: Device, selectors: Sequence[Selector], changes: Mapping[str, str | None]) -> bool:
    """Tell whether there is something to change, now that nobody else can change it."""
    if device.state is LifecycleState.DECOMMISSIONED or not selects(selectors, device.labels):
        return False
    return any(device.labels.get(key) != value for key, value in changes.items())
