"""Who is subscribed to what. No sessions, no permissions, no delivery.

Filters without wildcards, nearly all of them here, are one dict look-up; the others are a tree with one node per level.
No operation takes a step per subscriber of other filters, so neither coming nor going gets slower as devices gather.
"""

from collections.abc import Hashable
from typing import Any, Final, Generic, TypeVar

S = TypeVar("S", bound=Hashable)

_QOS: Final = 3
_NONE: Final[dict[Any, Any]] = {}  # shared and never written: most nodes have only children or only subscribers
_NO_LOCAL: Final = 4


class _Node(Generic[S]):
    """One level of the wildcard filters; `subscribers` are those whose filter ends here, with QoS and options."""

    __slots__ = ("children", "subscribers")

    def __init__(self) -> None:
        self.children: dict[str, _Node[S]] = _NONE
        self.subscribers: dict[S, int] = _NONE


class SubscriptionTree(Generic[S]):
    """Subscribers by topic filter. Filters are valid and not shared: check them with `validate_topic_filter` before."""

    def __init__(self) -> None:
        self._exact: dict[str, dict[S, int]] = {}
        self._root: _Node[S] = _Node()
        self._count = 0

    def __len__(self) -> int:
        """Count the subscriptions, one per filter and subscriber."""
        return self._count

    def add(self, topic_filter: str, subscriber: S, qos: int, *, no_local: bool = False) -> bool:
        """Subscribe, or replace the options of a subscription; tell whether it is new.

        With `no_local` the subscriber does not get what it publishes itself (MQTT 5 section 3.8.3.1).
        """
        if "+" in topic_filter or "#" in topic_filter:
            node = self._root
            for level in topic_filter.split("/"):
                child = node.children.get(level)
                if child is None:
                    if node.children is _NONE:
                        node.children = {}
                    child = node.children[level] = _Node()
                node = child
            if node.subscribers is _NONE:
                node.subscribers = {}
            subscribers = node.subscribers
        else:
            found = self._exact.get(topic_filter)
            if found is None:
                found = self._exact[topic_filter] = {}
            subscribers = found
        is_new = subscriber not in subscribers
        subscribers[subscriber] = qos | _NO_LOCAL if no_local else qos
        self._count += is_new
        return is_new

    def remove(self, topic_filter: str, subscriber: S) -> bool:
        """End a subscription and forget levels that nobody needs any more; tell whether there was one."""
        if "+" in topic_filter or "#" in topic_filter:
            removed = self._remove_wildcard(topic_filter.split("/"), subscriber)
        else:
            subscribers = self._exact.get(topic_filter)
            removed = subscribers is not None and subscribers.pop(subscriber, None) is not None
            if removed and not subscribers:
                del self._exact[topic_filter]
        self._count -= removed
        return removed

    def _remove_wildcard(self, levels: list[str], subscriber: S) -> bool:
        path = [self._root]
        for level in levels:
            child = path[-1].children.get(level)
            if child is None:
                return False
            path.append(child)
        if path[-1].subscribers.pop(subscriber, None) is None:
            return False
        while len(path) > 1 and not path[-1].subscribers and not path[-1].children:
            path.pop()
            del path[-1].children[levels[len(path) - 1]]
        return True

    def match(self, topic: str, *, publisher: S | None = None) -> dict[S, int]:
        """Return each subscriber that a message to `topic` reaches, once, with the highest QoS granted to it.

        `publisher` is left out where its subscription says `no_local`.
        """
        found: dict[S, int] = {}
        exact = self._exact.get(topic)
        if exact is not None:
            self._collect(exact, publisher, found)
        if self._root.children:
            for node in self._matching_nodes(topic):
                self._collect(node.subscribers, publisher, found)
        return found

    def _matching_nodes(self, topic: str) -> list[_Node[S]]:
        ends: list[_Node[S]] = []
        nodes = [self._root]
        wildcards = not topic.startswith("$")  # MQTT-4.7.2-1: for the first level only
        for level in topic.split("/"):
            following: list[_Node[S]] = []
            for node in nodes:
                children = node.children
                if wildcards:
                    if "#" in children:
                        ends.append(children["#"])
                    if "+" in children:
                        following.append(children["+"])
                if level in children:
                    following.append(children[level])
            nodes = following
            wildcards = True
            if not nodes:
                return ends
        for node in nodes:
            ends.append(node)
            if "#" in node.children:  # `sport/#` matches `sport` itself
                ends.append(node.children["#"])
        return ends

    @staticmethod
    def _collect(subscribers: dict[S, int], publisher: S | None, found: dict[S, int]) -> None:
        for subscriber, granted in subscribers.items():
            if granted & _NO_LOCAL and subscriber == publisher:
                continue
            qos = granted & _QOS
            if found.get(subscriber, -1) < qos:
                found[subscriber] = qos
