"""Reads a scenario from TOML; whatever is wrong with it is told with its line, its key and what to write instead.

The only module of this package that opens files: `load` finds shipped scenarios and those of the user.
"""

import math
import re
import tomllib
from importlib import resources
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import inspect

from mqttprov_simulator.scenario import wording
from mqttprov_simulator.scenario.fitting import misfits
from mqttprov_simulator.scenario.model import Scenario
from mqttprov_simulator.scenario.positions import Path as KeyPath
from mqttprov_simulator.scenario.positions import lines_of

_SHIPPED: Final = resources.files("mqttprov_simulator.scenario") / "shipped"
_MAX_FILE_BYTES: Final = 1_000_000
_MAX_SHOWN_CHARS: Final = 100


class ScenarioError(ValueError):
    """A scenario that cannot be run as it is written. `line`: from 1, None where it is no matter of one line.

    The text, in one line, names file, line and key, what is wrong and what to write instead, and shows the file's line.
    """

    def __init__(self, where: str, problem: str, line: int | None = None, source: str | None = None) -> None:
        place = where if line is None else f"{where}, line {line}"
        extract = "" if source is None or not source.strip() else f" | {_cut(source.strip())}"
        super().__init__(f"{place}: {problem}{extract}")
        self.line: Final = line
        self.problem: Final = problem


def _cut(source: str) -> str:
    return source if len(source) <= _MAX_SHOWN_CHARS else f"{source[: _MAX_SHOWN_CHARS - 3]}..."


class _Wrong(Exception):  # noqa: N818 - it carries what was found up to where lines are known
    def __init__(self, path: KeyPath, problem: str) -> None:
        super().__init__(problem)
        self.path: Final = path
        self.problem: Final = problem


def read_scenario(text: str, where: str) -> Scenario:
    """Read a scenario; `where` names it in errors. Raises `ScenarioError`."""
    lines = text.split("\n")
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        problem, line = _without_place(str(error), len(lines))
        raise ScenarioError(where, f"this is not TOML: {problem}", line, lines[line - 1]) from error
    try:
        _check(data, wording.root(), ())
        scenario = msgspec.convert(data, Scenario)
        _check_fit(scenario, data)
    except _Wrong as wrong:
        at = _line_of(wrong.path, lines_of(text))
        source = None if at is None else lines[at - 1]
        raise ScenarioError(where, f"{_label(wrong.path, data)}{wrong.problem}", at, source) from wrong
    return scenario


def load(name_or_path: str) -> Scenario:
    """Read a shipped scenario by its name, or a file by its path (with a slash or a dot). Raises `ScenarioError`."""
    return read_scenario(source_of(name_or_path), name_or_path)


def source_of(name_or_path: str) -> str:
    """Give the text of a shipped scenario or of a file. Raises `ScenarioError`."""
    if name_or_path in shipped_names():
        return (_SHIPPED / f"{name_or_path}.toml").read_text("utf-8")
    if not re.search(r"[./\\]", name_or_path):
        near = wording.did_you_mean(name_or_path, shipped_names())
        raise ScenarioError(name_or_path, f"no scenario of this name is shipped{near}; a file is given by its path")
    try:
        with Path(name_or_path).open("rb") as file:
            content = file.read(_MAX_FILE_BYTES + 1)
        text = content.decode()
    except OSError as error:
        raise ScenarioError(name_or_path, f"the file cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ScenarioError(name_or_path, "this is not UTF-8; save the file as UTF-8", line) from error
    if len(content) > _MAX_FILE_BYTES:
        raise ScenarioError(name_or_path, f"the file is larger than {_MAX_FILE_BYTES} bytes; this is no scenario")
    return text.replace("\r\n", "\n")


def shipped_names() -> list[str]:
    """Give the names of the shipped scenarios."""
    return sorted(file.name.removesuffix(".toml") for file in _SHIPPED.iterdir() if file.name.endswith(".toml"))


def _check_fit(scenario: Scenario, data: dict[str, Any]) -> None:
    for path, problem in misfits(scenario, data):
        raise _Wrong(path, problem)


def _check(value: Any, kind: inspect.Type, path: KeyPath) -> None:
    """Find the first thing that the model does not allow here. Raises `_Wrong`."""
    kind = wording.given(kind)
    if table := _table_type(value, kind, path):
        _check_keys(value, table, path)
    elif isinstance(kind, inspect.VarTupleType):
        _check_items(value, kind, path)
    elif not _fits(value, kind):
        raise _Wrong(path, f"is {wording.shown(value)}; write {wording.expected(kind)}")


def _table_type(value: Any, kind: inspect.Type, path: KeyPath) -> inspect.StructType | None:
    """Give the table that belongs here, None where something else does."""
    if not wording.tables(kind):
        return None
    if not isinstance(value, dict):
        raise _Wrong(path, f"is {wording.shown(value)}; write a table, {{ key = value, ... }}")
    if isinstance(kind, inspect.StructType):
        return kind
    choices = wording.choices(kind)
    if "kind" not in value:
        raise _Wrong(path, f"has no `kind`; write kind = {wording.either(choices)}")
    chosen = value["kind"]
    if not isinstance(chosen, str) or chosen not in choices:
        raise _Wrong((*path, "kind"), f"is {wording.shown(chosen)}; write {wording.either(choices)}")
    return choices[chosen]


def _check_keys(table: dict[str, Any], kind: inspect.StructType, path: KeyPath) -> None:
    fields = {field.encode_name: field for field in kind.fields}
    known = [*fields, *filter(None, [kind.tag_field])]
    for key in table:
        if key not in known:
            raise _Wrong((*path, key), f"is no key of this table{wording.did_you_mean(key, known)}")
    for key, field in fields.items():
        if key in table:
            _check(table[key], field.type, (*path, key))
        elif field.required:
            owner = "is missing" if isinstance(wording.given(field.type), inspect.StructType) else "is missing; write "
            raise _Wrong(path, f"`{key}` {owner}{wording.expected(field.type)}")


def _check_items(value: Any, kind: inspect.VarTupleType, path: KeyPath) -> None:
    if not isinstance(value, list):
        ours = wording.tables(kind.item_type)
        hint = f"[[{path[-1]}]], with two brackets on both sides" if ours else wording.expected(kind)
        raise _Wrong(path, f"is {wording.shown(value)}; write {hint}")
    if len(value) < (kind.min_length or 0):
        raise _Wrong(path, f"is empty; write at least {kind.min_length}")
    for place, item in enumerate(value):
        _check(item, kind.item_type, (*path, place))


def _fits(value: Any, kind: inspect.Type) -> bool:
    match kind:
        case inspect.BoolType():
            return isinstance(value, bool)
        case inspect.IntType():
            return isinstance(value, int) and not isinstance(value, bool) and _within(value, kind)
        case inspect.FloatType():
            number = isinstance(value, int | float) and not isinstance(value, bool)
            return number and math.isfinite(value) and _within(value, kind)
        case inspect.LiteralType(values=values):
            return isinstance(value, str) and value in values
        case inspect.StrType(pattern=pattern):
            longest = math.inf if kind.max_length is None else kind.max_length
            sized = isinstance(value, str) and (kind.min_length or 0) <= len(value) <= longest
            return sized and (pattern is None or re.fullmatch(pattern, value) is not None)
        case _:
            raise TypeError(f"a scenario has no {kind}")


def _within(value: float, kind: inspect.IntType | inspect.FloatType) -> bool:
    return (
        (kind.ge is None or value >= kind.ge)
        and (kind.gt is None or value > kind.gt)
        and (kind.le is None or value <= kind.le)
        and (kind.lt is None or value < kind.lt)
    )


def _line_of(path: KeyPath, lines: dict[KeyPath, int]) -> int | None:
    """Give the line of a key, or of the nearest table around it; None for the whole file."""
    return next((lines[path[:end]] for end in range(len(path), 0, -1) if path[:end] in lines), None)


def _label(path: KeyPath, data: dict[str, Any]) -> str:
    """Name the key for a person: `group "town": arrivals.rate_per_s `."""
    if len(path) > 1 and isinstance(path[1], int):
        item = data[str(path[0])][path[1]]
        name = item.get("name") if isinstance(item, dict) else None
        own = f'{path[0]} "{name}"' if isinstance(name, str) else f"{path[0]} {path[1] + 1}"
        return f"{own}: {_dotted(path[2:])}"
    return _dotted(path)


def _dotted(path: KeyPath) -> str:
    text = ""
    for part in path:
        text += f"[{part + 1}]" if isinstance(part, int) else f".{part}" if text else part
    return f"`{text}` " if text else ""


def _without_place(message: str, last_line: int) -> tuple[str, int]:
    """Split what `tomllib` says into what and where."""
    found = re.fullmatch(r"(.*) \(at (?:line (\d+), column \d+|end of document)\)", message, re.DOTALL)
    if found is None:
        return message, last_line
    return found[1], int(found[2] or last_line)
