"""Writes values as TOML in every form that TOML has, and notes on which line each key came to stand."""

import json
import re
from collections.abc import Callable
from typing import Any

from mqttprov_simulator.scenario.positions import Path

Choose = Callable[[list[Any]], Any]  # takes one of them: Hypothesis' data.draw(sampled_from(...)) or the first


def first(options: list[Any]) -> Any:
    """Choose the plainest form."""
    return options[0]


class TomlText:
    """A document that grows; `lines` says where each path stands."""

    def __init__(self, choose: Choose = first) -> None:
        self._choose = choose
        self.text = ""
        self.lines: dict[Path, int] = {}

    def document(self, values: dict[str, Any]) -> "TomlText":
        """Write a whole file."""
        self._table(values, (), ())
        return self

    def _table(self, values: dict[str, Any], path: Path, header: tuple[str, ...]) -> None:
        later = []
        for key, value in values.items():
            table = self._choose([isinstance(value, dict), False]) and value
            if table or (_tables(value) and self._choose([True, False])):
                later.append((key, value))
            elif isinstance(value, dict) and value and self._choose([False, True]):
                self._dotted(key, value, path)
            else:
                self._noise()
                self._assign(key, value, path)
                self.text += self._choose(["\n", "  # a [comment] = \"'\n", "\t\n\n"])
        for key, value in later:
            for place, item in enumerate(value) if isinstance(value, list) else [(None, value)]:
                self._noise()
                self._note((*path, key))
                own: Path = (*path, key) if place is None else (*path, key, place)
                self._note(own)
                name = ".".join(self._key(part) for part in (*header, key))
                self.text += f"[{name}]\n" if place is None else f"[[ {name} ]] # next\n"
                self._table(item, own, (*header, key))

    def _dotted(self, key: str, values: dict[str, Any], path: Path) -> None:
        for inner, value in values.items():
            self._note((*path, key))
            self.text += f"{self._key(key)} . "
            self._assign(inner, value, (*path, key))
            self.text += "\n"

    def _assign(self, key: str, value: Any, path: Path) -> None:
        self._note((*path, key))
        self.text += self._key(key) + self._choose([" = ", "=", "\t =  "])
        self._value(value, (*path, key))

    def _value(self, value: Any, path: Path) -> None:
        if isinstance(value, dict):
            self.text += "{ "
            for place, (key, item) in enumerate(value.items()):
                self.text += ", " if place else ""
                self._assign(key, item, path)
            self.text += " }"
        elif isinstance(value, list):
            self.text += "["
            for place, item in enumerate(value):
                self.text += "," if place else ""
                self.text += self._choose([" ", "\n  # one ] more\n", "\n"])
                self._note((*path, place))
                self._value(item, (*path, place))
            self.text += self._choose(["]", ", ]" if value else "]", "\n]"])
        elif isinstance(value, str):
            self.text += self._choose(_strings(value))
        else:
            self.text += json.dumps(value) if isinstance(value, bool) else str(value)

    def _key(self, key: str) -> str:
        plain = [key] if re.fullmatch(r"[A-Za-z0-9_-]+", key) else []
        literal = [f"'{key}'"] if re.fullmatch(r"[^'\x00-\x1f\x7f]*", key) else []
        return str(self._choose([*plain, json.dumps(key, ensure_ascii=False), *literal]))

    def _noise(self) -> None:
        self.text += self._choose(["", "\n", "# [[group]] x = 1\n", "  "])

    def _note(self, path: Path) -> None:
        self.lines.setdefault(path, self.text.count("\n") + 1)


def _tables(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, dict) for item in value)


def _strings(value: str) -> list[str]:
    forms = [json.dumps(value, ensure_ascii=False)]
    if re.fullmatch(r"[^'\x00-\x1f\x7f]*", value):
        forms += [f"'{value}'", f"'''\n{value}'''"]
    if re.fullmatch(r"[^\"\\\x00-\x1f\x7f]*", value):
        forms += [f'"""\n{value}"""', f'"""\\\n   {value}"""' if value.strip() == value else f'"""{value}"""']
    return forms
