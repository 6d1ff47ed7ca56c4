"""Who is subscribed to what, and with which options. No sessions, no permissions, no delivery.

Nearly all filters here are exact or end in their one wildcard, and belong to one subscriber: each of those is one
entry of one dict, found by at most one look-up per level of a topic. Only filters with a wildcard before their last
level make a tree. No operation takes a step per subscriber of other filters, so neither coming nor going gets slower as
devices gather.
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from functools import lru_cache
from typing import Any, Final, Generic, TypeVar

import msgspec

from mqttprov.mqtt.topics import is_shared

S = TypeVar("S", bound=Hashable)
_NONE: Final[dict[Any, Any]] = {}  # shared and never written: most levels of the tree have one child or one subscriber


class Grant(msgspec.Struct, frozen=True, gc=False):
    """The options of a subscription (MQTT 5 section 3.8.3.1), or of all those through which one message is delivered.

    Those of one subscriber that match one message are joined: the highest QoS and every identifier (MQTT-3.3.4-2, -5).
    """

    qos: int = 0
    no_local: bool = False
    retain_as_published: bool = False
    identifiers: tuple[int, ...] = ()


@lru_cache(maxsize=1024)
def grant(
    qos: int, *, no_local: bool = False, retain_as_published: bool = False, identifiers: tuple[int, ...] = ()
) -> Grant:
    """Give the value for these options; ten thousand gateways that ask alike share one."""
    return Grant(qos, no_local, retain_as_published, identifiers)


def _joined(one: Grant, other: Grant) -> Grant:
    return Grant(
        max(one.qos, other.qos),
        one.no_local and other.no_local,
        one.retain_as_published or other.retain_as_published,
        one.identifiers + other.identifiers,
    )


def split_shared(topic_filter: str) -> tuple[str | None, str]:
    """Give group and filter of a valid `$share/group/filter`; the group is None for any other filter."""
    if not is_shared(topic_filter):
        return None, topic_filter
    _, group, rest = topic_filter.split("/", 2)
    return group, rest


# The subscribers of one filter: one, as nearly always, or several.
_Entry = tuple[S, Grant] | dict[S, Grant]


def _with(entry: _Entry[S] | None, subscriber: S, granted: Grant) -> tuple[_Entry[S], bool]:
    """Give the entry with this subscriber in it, and whether it is new there."""
    if entry is None:
        return (subscriber, granted), True
    if isinstance(entry, tuple):
        if entry[0] == subscriber:
            return (subscriber, granted), False
        return {entry[0]: entry[1], subscriber: granted}, True
    is_new = subscriber not in entry
    entry[subscriber] = granted
    return entry, is_new


def _without(entry: _Entry[S] | None, subscriber: S) -> tuple[_Entry[S] | None, bool]:
    """Give the entry without this subscriber, None if nobody is left, and whether it was there."""
    if isinstance(entry, dict):
        had = entry.pop(subscriber, None) is not None
        return entry or None, had
    if entry is not None and entry[0] == subscriber:
        return None, True
    return entry, False


class _Node(Generic[S]):
    """One level of the filters with a wildcard before their end; `entry` is that of the filter that ends here."""

    __slots__ = ("children", "entry")

    def __init__(self) -> None:
        self.children: dict[str, _Node[S]] = _NONE
        self.entry: _Entry[S] | None = None


class _FilterIndex(Generic[S]):
    """Entries by filter. `tails` counts the filters whose only wildcard is their end, by wildcard and level of it."""

    __slots__ = ("direct", "root", "tails")

    def __init__(self) -> None:
        self.direct: dict[str, _Entry[S]] = {}  # no topic holds a wildcard, so both kinds of keys fit in one dict
        self.tails: dict[str, dict[int, int]] = {"+": {}, "#": {}}
        self.root: _Node[S] = _Node()

    def add(self, topic_filter: str, subscriber: S, granted: Grant) -> bool:
        if _in_tree(topic_filter):
            node = self.root
            for level in topic_filter.split("/"):
                child = node.children.get(level)
                if child is None:
                    if node.children is _NONE:
                        node.children = {}
                    child = node.children[level] = _Node()
                node = child
            node.entry, is_new = _with(node.entry, subscriber, granted)
            return is_new
        before = self.direct.get(topic_filter)
        self.direct[topic_filter], is_new = _with(before, subscriber, granted)
        if before is None and topic_filter[-1] in "+#":
            depths, depth = self.tails[topic_filter[-1]], topic_filter.count("/")
            depths[depth] = depths.get(depth, 0) + 1
        return is_new

    def remove(self, topic_filter: str, subscriber: S) -> bool:
        if _in_tree(topic_filter):
            return self._remove_from_tree(topic_filter.split("/"), subscriber)
        entry, had = _without(self.direct.get(topic_filter), subscriber)
        if had and entry is not None:
            self.direct[topic_filter] = entry
        elif had:
            del self.direct[topic_filter]
            if topic_filter[-1] in "+#":
                depths, depth = self.tails[topic_filter[-1]], topic_filter.count("/")
                depths[depth] -= 1
                if not depths[depth]:
                    del depths[depth]
        return had

    def _remove_from_tree(self, levels: list[str], subscriber: S) -> bool:
        path = [self.root]
        for level in levels:
            child = path[-1].children.get(level)
            if child is None:
                return False
            path.append(child)
        path[-1].entry, had = _without(path[-1].entry, subscriber)
        while len(path) > 1 and path[-1].entry is None and not path[-1].children:
            path.pop()
            del path[-1].children[levels[len(path) - 1]]
        return had

    def entries(self, topic: str) -> list[_Entry[S]]:
        """Give the entries of all filters that match."""
        entry = self.direct.get(topic)
        found = [] if entry is None else [entry]
        tails = self.tails
        if tails["#"] or tails["+"]:
            self._find_tails(topic, found)
        if self.root.children:
            self._find_in_tree(topic, found)
        return found

    def _find_tails(self, topic: str, found: list[_Entry[S]]) -> None:
        pluses, hashes = self.tails["+"], self.tails["#"]
        direct = self.direct
        last = topic.count("/")
        lowest = 1 if topic[0] == "$" else 0  # MQTT-4.7.2-1: a wildcard at the first level does not match `$`
        cut = topic.rfind("/")
        if last in pluses and last >= lowest and (entry := direct.get(topic[: cut + 1] + "+")) is not None:
            found.append(entry)
        if not hashes:
            return
        if last + 1 in hashes and (entry := direct.get(topic + "/#")) is not None:  # `sport/#` matches `sport` itself
            found.append(entry)
        for depth in range(last, lowest - 1, -1):
            if depth in hashes and (entry := direct.get(topic[: cut + 1] + "#")) is not None:
                found.append(entry)
            cut = topic.rfind("/", 0, max(cut, 0))

    def _find_in_tree(self, topic: str, found: list[_Entry[S]]) -> None:
        nodes = [self.root]
        wildcards = not topic.startswith("$")
        for level in topic.split("/"):
            following: list[_Node[S]] = []
            for node in nodes:
                children = node.children
                if wildcards:
                    if (child := children.get("#")) is not None and child.entry is not None:
                        found.append(child.entry)
                    if (child := children.get("+")) is not None:
                        following.append(child)
                if (child := children.get(level)) is not None:
                    following.append(child)
            nodes = following
            wildcards = True
            if not nodes:
                return
        for node in nodes:
            if node.entry is not None:
                found.append(node.entry)
            if (child := node.children.get("#")) is not None and child.entry is not None:
                found.append(child.entry)


def _in_tree(topic_filter: str) -> bool:
    """Tell whether a filter has a wildcard before its last level."""
    return "+" in topic_filter[:-1]  # `#` stands at the end alone (MQTT-4.7.1-2)


class _Group(Generic[S]):
    """The members of one shared subscription; each message goes to the one whose turn it is."""

    __slots__ = ("members",)

    def __init__(self) -> None:
        self.members: OrderedDict[S, Grant] = OrderedDict()  # moves the first to the end in one step

    def next(self, is_ready: Callable[[S], bool]) -> tuple[S, Grant]:
        """Give the next member that is ready; if none is, the next one."""
        for _ in range(len(self.members)):
            member = self._turn()
            if is_ready(member[0]):
                return member
        return self._turn()

    def _turn(self) -> tuple[S, Grant]:
        subscriber = next(iter(self.members))
        self.members.move_to_end(subscriber)
        return subscriber, self.members[subscriber]


class SubscriptionTree(Generic[S]):
    """Subscribers by topic filter. Filters are valid: check them with `validate_topic_filter` before.

    Of a shared subscription (`$share/group/filter`, MQTT 5 section 4.8.2) one member gets each message, in turn;
    members for whom `is_ready` is false are passed over while another one is there.
    """

    def __init__(self, is_ready: Callable[[S], bool] = lambda _: True) -> None:
        self._plain: _FilterIndex[S] = _FilterIndex()
        self._shared: _FilterIndex[_Group[S]] = _FilterIndex()
        self._groups: dict[str, _Group[S]] = {}  # by the whole filter, `$share/group/` included
        self._is_ready = is_ready
        self._count = 0

    def __len__(self) -> int:
        """Count the subscriptions, one per filter and subscriber."""
        return self._count

    def add(self, topic_filter: str, subscriber: S, granted: Grant) -> bool:
        """Subscribe, or replace the options of a subscription; tell whether it is new."""
        group_name, rest = split_shared(topic_filter)
        if group_name is None:
            is_new = self._plain.add(topic_filter, subscriber, granted)
        else:
            group = self._groups.get(topic_filter)
            if group is None:
                group = self._groups[topic_filter] = _Group()
                self._shared.add(rest, group, Grant())
            is_new = subscriber not in group.members
            group.members[subscriber] = granted
        self._count += is_new
        return is_new

    def remove(self, topic_filter: str, subscriber: S) -> bool:
        """End a subscription and forget what nobody needs any more; tell whether there was one."""
        group_name, rest = split_shared(topic_filter)
        if group_name is None:
            had = self._plain.remove(topic_filter, subscriber)
        else:
            group = self._groups.get(topic_filter)
            had = group is not None and group.members.pop(subscriber, None) is not None
            if group is not None and not group.members:
                del self._groups[topic_filter]
                self._shared.remove(rest, group)
        self._count -= had
        return had

    def match(self, topic: str, *, publisher: S | None = None) -> list[tuple[S, Grant]]:
        """Give whom a message to `topic` reaches: each subscriber once, and one member of each shared subscription.

        A shared subscription has its own copy of the message, even for who gets one already (MQTT 5 section 4.8.2).
        `publisher` is left out where its subscription says No Local (MQTT-3.8.3-3).
        """
        entries = self._plain.entries(topic)
        if not entries:
            found: list[tuple[S, Grant]] = []
        elif len(entries) == 1:
            found = _alone(entries[0], publisher)
        else:
            found = _merged(entries, publisher)
        if self._groups:
            for entry in self._shared.entries(topic):
                groups = (entry[0],) if isinstance(entry, tuple) else tuple(entry)
                found += [group.next(self._is_ready) for group in groups]
        return found

    def granted(self, topic: str, subscriber: S) -> Grant | None:
        """Give the options with which a message to `topic` reaches this subscriber, shared subscriptions aside."""
        joined = None
        for entry in self._plain.entries(topic):
            each = _of(entry, subscriber)
            if each is not None:
                joined = each if joined is None else _joined(joined, each)
        return joined


def _of(entry: _Entry[S], subscriber: S) -> Grant | None:
    if isinstance(entry, tuple):
        return entry[1] if entry[0] == subscriber else None
    return entry.get(subscriber)


def _alone(entry: _Entry[S], publisher: S | None) -> list[tuple[S, Grant]]:
    """Give the subscribers of the one filter that matches."""
    found = [entry] if isinstance(entry, tuple) else list(entry.items())
    if publisher is not None:
        own = _of(entry, publisher)
        if own is not None and own.no_local:
            found = [pair for pair in found if pair[0] != publisher]
    return found


def _merged(entries: list[_Entry[S]], publisher: S | None) -> list[tuple[S, Grant]]:
    """Give the subscribers of several filters, each once."""
    merged: dict[S, Grant] = {}
    for entry in entries:
        for subscriber, granted in _alone(entry, publisher):
            before = merged.get(subscriber)
            merged[subscriber] = granted if before is None else _joined(before, granted)
    return list(merged.items())
