"""Writes docs/reference/scenarios.md from the model itself: `python -m mqttprov_simulator.scenario.reference`.

Types, defaults and docstrings are the model's, so the page cannot say anything else than what is read.
"""

import inspect
import sys
from collections.abc import Iterator
from typing import Any, Final

import msgspec
from msgspec import inspect as types

from mqttprov_simulator.scenario import wording
from mqttprov_simulator.scenario.model import KINDS, USES
from mqttprov_simulator.scenario.reading import load, shipped_names

_HEAD: Final = """\
# Scenario files

Made by `python -m mqttprov_simulator.scenario.reference > docs/reference/scenarios.md`; a test holds it to the program.

A scenario is a TOML file. `mqttprov swarm show cold-start` prints one to start from, `mqttprov swarm plan FILE` says
what it comes to without running it, and `mqttprov swarm schema` prints a JSON Schema for editors that check TOML
(Even Better TOML: put `#:schema PATH` on the first line). What is wrong with a file is told with its line, its key and
what to write instead. Keys that end in `_s` are seconds, in `_ms` milliseconds. A name is made of letters, digits,
`.`, `_` and `-`, at most 100 of them; what happens (faults and actions) may also have blanks in its name.

Everything that chance decides is drawn from `seed`: the same file and seed give the same arrivals and faults, whoever
runs it, and a group or a rule that is taken away changes nothing for the others.

## Shipped scenarios

| name | gateways | what happens |
|---|---|---|
"""
_KINDS_HEAD: Final = """
## Kinds of faults

Those of gateways all take `groups`, and `share` where they have a time.

| kind | when it can strike | what happens | takes besides |
|---|---|---|---|
"""


def page() -> str:
    """Give the whole page."""
    shipped = [(name, load(name)) for name in shipped_names()]
    rows = "".join(f"| `{name}` | {scenario.gateways} | {scenario.summary} |\n" for name, scenario in shipped)
    return _HEAD + rows + "".join(_tables(wording.root(), "The file")) + _KINDS_HEAD + "".join(_kinds())


def _tables(kind: types.StructType, heading: str) -> Iterator[str]:
    """Give a table of the file, and those within it."""
    yield f"\n## {heading}\n\n{_docstring(kind.cls)}\n\n| key | write | if it is left out |\n|---|---|---|\n"
    yield from (_row(field) for field in kind.fields)
    for field in kind.fields:
        inner = wording.given(field.type)
        item = wording.given(inner.item_type) if isinstance(inner, types.VarTupleType) else inner
        name = f"`[[{field.encode_name}]]`" if item is not inner else f"`[{field.encode_name}]`"
        if isinstance(item, types.StructType):
            yield from _tables(item, name if kind.cls is wording.root().cls else f"`{field.encode_name}` {_of(kind)}")
        for tag, choice in wording.choices(item).items():
            yield from _tables(choice, f"`{field.encode_name}` {_of(kind)}: `kind = {wording.shown(tag)}`")


def _of(kind: types.StructType) -> str:
    return f"of a {kind.cls.__name__.lower()}"


def _row(field: types.Field) -> str:
    expected = wording.expected(field.type)
    if choices := wording.choices(wording.given(field.type)):
        expected = f"a table with `kind` = {wording.either(choices)}"
    expected = expected.replace(wording.NAME, "a name").replace(wording.TITLE, "a name")
    return f"| `{field.encode_name}` | {expected} | {_default(field)} |\n".replace("\\", "\\\\")


def _default(field: types.Field) -> str:
    default: Any = field.default
    if field.required:
        text = "**has to be there**"
    elif field.default_factory is not msgspec.NODEFAULT or default is None or default == ():
        text = "none"
    elif isinstance(default, msgspec.Struct):
        text = "as below"
    else:
        text = f"`{wording.shown(default)}`"
    return text


def _docstring(model: type) -> str:
    return inspect.cleandoc(model.__doc__ or "")


def _kinds() -> Iterator[str]:
    for kind, (when, what) in KINDS.items():
        needed = USES[kind][1]
        keys = sorted(USES[kind][0] - {"groups", "share"})
        takes = ", ".join(f"`{key}`" + (", needed" if key in needed else "") for key in keys)
        yield f"| `{kind}` | {when} | {what} | {takes or '-'} |\n"


if __name__ == "__main__":
    sys.stdout.write(page())
