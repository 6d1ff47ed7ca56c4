"""Says in words what a key of a scenario takes, by the types of the model. For errors and the reference page."""

import difflib
import json
from collections.abc import Iterable
from typing import Any, Final

from msgspec import inspect

from mqttprov_simulator.scenario.model import Scenario

NAME: Final = "a name: up to 100 letters, digits, '.', '_' and '-', the first a letter or digit"
TITLE: Final = "a name: up to 100 letters, digits, '.', '_', '-' and inner blanks, the first a letter or digit"


def root() -> inspect.StructType:
    """Give the type of the whole file."""
    kind = inspect.type_info(Scenario)
    assert isinstance(kind, inspect.StructType)  # noqa: S101 - for the type checker
    return kind


def given(kind: inspect.Type) -> inspect.Type:
    """Give what can be written where a value may also be left out: TOML has no null."""
    if not isinstance(kind, inspect.UnionType):
        return kind
    kinds = tuple(one for one in kind.types if not isinstance(one, inspect.NoneType))
    return kinds[0] if len(kinds) == 1 else inspect.UnionType(kinds)


def choices(kind: inspect.Type) -> dict[str, inspect.StructType]:
    """Give the tables that a `kind` chooses between; none for anything else."""
    if not isinstance(kind, inspect.UnionType):
        return {}
    return {str(one.tag): one for one in kind.types if isinstance(one, inspect.StructType)}


def expected(kind: inspect.Type) -> str:
    """Say what to write."""
    words: str
    match given(kind):
        case inspect.BoolType():
            words = "true or false"
        case inspect.IntType() as number:
            words = "a whole number" + _bounds(number)
        case inspect.FloatType() as number:
            words = "a number" + _bounds(number)
        case inspect.LiteralType(values=values):
            words = either(values)
        case inspect.StrType(pattern=pattern) if pattern is not None:
            words = TITLE if " " in pattern else NAME
        case inspect.StrType(max_length=most):
            words = "a text in quotes" + ("" if most is None else f" of 1 to {most} characters")
        case inspect.VarTupleType(item_type=item):
            words = "an array of tables" if tables(item) else f"an array, each item {expected(item)}"
        case _:
            words = "a table"
    return words


def tables(kind: inspect.Type) -> bool:
    """Tell whether tables are to be written here."""
    return isinstance(kind, inspect.StructType) or bool(choices(kind))


def either(values: Iterable[Any]) -> str:
    """Give values as they are written, as a choice."""
    written = [shown(value) for value in sorted(values)]
    return " or ".join(filter(None, (", ".join(written[:-1]), written[-1])))


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Give "; did you mean ...?" for a word that was mistyped, else all that would do."""
    known = sorted(known)
    near = difflib.get_close_matches(word, known, n=1) or [one for one in known if one.startswith(f"{word}_")][:1]
    if near:
        return f"; did you mean `{near[0]}`?"
    return f"; known: {', '.join(f'`{one}`' for one in known)}" if known else ""


def shown(value: Any) -> str:
    """Give a value as TOML writes it, cut where it is long."""
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list):
        return "an array"
    text = json.dumps(value, ensure_ascii=False) if isinstance(value, str | bool) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _bounds(number: inspect.IntType | inspect.FloatType) -> str:
    if number.ge is not None and number.le is not None:
        return f" from {number.ge:g} to {number.le}"
    bounds = {"at least": number.ge, "above": number.gt, "at most": number.le, "below": number.lt}
    words = [
        f"{word} {bound if isinstance(bound, int) else f'{bound:g}'}"
        for word, bound in bounds.items()
        if bound is not None
    ]
    return f", {' and '.join(words)}" if words else ""
