"""Retained messages (MQTT section 3.3.1.3): the last one of each topic, found by filter. Who may see which is not here.

Bounded in number and bytes, in all and for each owner (P9), so that no publisher takes the room of the others. A filter
walks only the branches that it names: one without wildcards takes one step per level, whatever is kept elsewhere.
"""

from typing import Any, Final

import msgspec

from mqttprov.mqtt.messages import Message

_NONE: Final[dict[Any, Any]] = {}  # shared and never written: most levels have no children


class RetainedLimits(msgspec.Struct, frozen=True, gc=False):
    """How much is kept (P9)."""

    max_messages: int = 100_000
    max_bytes: int = 64 * 1024 * 1024
    max_messages_per_owner: int = 1_000
    max_bytes_per_owner: int = 1024 * 1024


class Retained(msgspec.Struct, frozen=True, gc=False):
    """A message that is kept, and who published it. `own` marks what is meant for operators alone."""

    message: Message
    owner: str
    own: bool = False

    @property
    def size_bytes(self) -> int:
        """What it counts against the bounds."""
        return self.message.size_bytes


class _Level:
    __slots__ = ("children", "kept")

    def __init__(self) -> None:
        self.children: dict[str, _Level] = _NONE
        self.kept: Retained | None = None


class RetainedStore:
    """The last retained message of each topic. Topics and filters are valid; filters are not shared ones."""

    def __init__(self, limits: RetainedLimits) -> None:
        self._limits = limits
        self._root = _Level()
        self._owners: dict[str, tuple[int, int]] = {}  # messages, bytes
        self._count = 0
        self._bytes = 0
        self._next_expiry_s = float("inf")

    def __len__(self) -> int:
        """Count the messages, expired ones too as long as they take room."""
        return self._count

    @property
    def size_bytes(self) -> int:
        """What the messages weigh together."""
        return self._bytes

    def keep(self, retained: Retained, now_s: float) -> bool:
        """Keep a message in place of the last one of its topic; an empty one only clears it (MQTT-3.3.1-6, -7).

        False if there is no room for it: then the last one is gone all the same, since it holds no longer.
        """
        message = retained.message
        self.forget(message.topic)
        if not message.payload:
            return True
        if not self._has_room(retained):
            if now_s >= self._next_expiry_s:
                self._drop_expired(now_s)
            if not self._has_room(retained):
                return False
        level = self._root
        for name in message.topic.split("/"):
            child = level.children.get(name)
            if child is None:
                if level.children is _NONE:
                    level.children = {}
                child = level.children[name] = _Level()
            level = child
        level.kept = retained
        self._count_in(retained, 1)
        expiry_s = message.properties.message_expiry_interval_s
        if expiry_s is not None:
            self._next_expiry_s = min(self._next_expiry_s, message.arrived_s + expiry_s)
        return True

    def _has_room(self, retained: Retained) -> bool:
        limits, size = self._limits, retained.size_bytes
        count, owned_bytes = self._owners.get(retained.owner, (0, 0))
        return (
            self._count < limits.max_messages
            and self._bytes + size <= limits.max_bytes
            and count < limits.max_messages_per_owner
            and owned_bytes + size <= limits.max_bytes_per_owner
        )

    def _count_in(self, retained: Retained, sign: int) -> None:
        size = retained.size_bytes * sign
        count, owned_bytes = self._owners.get(retained.owner, (0, 0))
        if count + sign:
            self._owners[retained.owner] = (count + sign, owned_bytes + size)
        else:
            del self._owners[retained.owner]
        self._count += sign
        self._bytes += size

    def get(self, topic: str) -> Retained | None:
        """Give the message of a topic."""
        level = self._root
        for name in topic.split("/"):
            child = level.children.get(name)
            if child is None:
                return None
            level = child
        return level.kept

    def forget(self, topic: str) -> None:
        """Clear a topic."""
        names = topic.split("/")
        path = [self._root]
        for name in names:
            child = path[-1].children.get(name)
            if child is None:
                return
            path.append(child)
        if path[-1].kept is None:
            return
        self._count_in(path[-1].kept, -1)
        path[-1].kept = None
        while len(path) > 1 and path[-1].kept is None and not path[-1].children:
            path.pop()
            del path[-1].children[names[len(path) - 1]]

    def match(self, topic_filter: str, now_s: float) -> list[Retained]:
        """Give what is kept under a filter and has not expired."""
        found: list[Retained] = []
        if self._count:
            names = topic_filter.split("/")
            levels = [self._root]
            for place, name in enumerate(names):
                if name == "#":
                    for level in levels:
                        _gather(level, found, skip_dollar=place == 0)
                    levels = []
                elif name == "+":
                    # MQTT-4.7.2-1: a wildcard at the first level does not match `$`.
                    levels = [
                        child
                        for level in levels
                        for key, child in level.children.items()
                        if place or not key.startswith("$")
                    ]
                else:
                    levels = [level.children[name] for level in levels if name in level.children]
            found += [level.kept for level in levels if level.kept is not None]
        return [each for each in found if not each.message.has_expired(now_s)]

    def _drop_expired(self, now_s: float) -> None:
        everything: list[Retained] = []
        _gather(self._root, everything, skip_dollar=False)
        self._next_expiry_s = float("inf")
        for each in everything:
            message = each.message
            if message.has_expired(now_s):
                self.forget(message.topic)
            elif message.properties.message_expiry_interval_s is not None:
                due_s = message.arrived_s + message.properties.message_expiry_interval_s
                self._next_expiry_s = min(self._next_expiry_s, due_s)


def _gather(root: _Level, found: list[Retained], *, skip_dollar: bool) -> None:
    """Add what is kept at a level and below."""
    if root.kept is not None:
        found.append(root.kept)
    levels = [child for key, child in root.children.items() if not (skip_dollar and key.startswith("$"))]
    while levels:
        level = levels.pop()
        if level.kept is not None:
            found.append(level.kept)
        levels += level.children.values()
