"""Selecting devices by label: `type=type1`, `region!=eu`, `site`. Only what a selector means; stores evaluate many."""

from collections.abc import Mapping, Sequence
from enum import StrEnum

import msgspec

from mqttprov.core.limits import MAX_LABELS
from mqttprov.core.names import InvalidName, check_labels


class Relation(StrEnum):
    """How a label has to be. A device without the label is not equal to anything, so that NOT_EQUAL selects it."""

    EQUAL = "="
    NOT_EQUAL = "!="
    EXISTS = "exists"


class Selector(msgspec.Struct, frozen=True, gc=False):
    """What one label has to be; `value` is empty with EXISTS."""

    key: str
    relation: Relation
    value: str = ""


def parse_selector(text: str) -> Selector:
    """Read `key=value`, `key!=value` or `key`. Raises `InvalidName`."""
    key, equals, value = text.partition("=")
    relation = Relation.EXISTS
    if equals:
        relation = Relation.NOT_EQUAL if key.endswith("!") else Relation.EQUAL
        key = key.removesuffix("!")
    check_labels({key: value})
    return Selector(key, relation, value)


def parse_selectors(texts: Sequence[str]) -> tuple[Selector, ...]:
    """Read several, all of which have to hold. Raises `InvalidName`."""
    if len(texts) > MAX_LABELS:
        raise InvalidName(f"{len(texts)} label selectors were given; at most {MAX_LABELS} are allowed")
    return tuple(map(parse_selector, texts))


def selects(selectors: Sequence[Selector], labels: Mapping[str, str]) -> bool:
    """Tell whether all selectors hold for these labels."""
    return all(_holds(selector, labels.get(selector.key)) for selector in selectors)


def _holds(selector: Selector, value: str | None) -> bool:
    match selector.relation:
        case Relation.EQUAL:
            return value == selector.value
        case Relation.NOT_EQUAL:
            return value != selector.value
        case Relation.EXISTS:
            return value is not None
