"""Finds on which line of a TOML file each key and table stands: `tomllib` gives values without places. Pure.

It reads only what `tomllib` has read before without complaint (TOML 1.0), so it looks for ends, not for mistakes.
"""

import re
import tomllib
from bisect import bisect_right
from typing import Final

Path = tuple[str | int, ...]  # ("group", 1, "arrivals", "rate_per_s"): keys, and places in arrays from 0

_BLANK: Final = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_BARE_KEY: Final = re.compile(r"[A-Za-z0-9_-]+")
_ONE_LINE_STRING: Final = re.compile(r'"(?:[^"\\]|\\.)*"|' + r"'[^']*'")
# Up to two quotes may stand before the three that end it.
_LONG_STRING: Final = re.compile(r'"""(?:[^\\]|\\.)*?"{3,5}(?!")|' + r"'''.*?'{3,5}(?!')", re.DOTALL)
# The space of "1979-05-27 07:32:00" belongs to the value.
_BARE_VALUE: Final = re.compile(r"\d{4}-\d\d-\d\d \d\d:[^,\]}\s#]*|[^,\]}\s#]+")


def lines_of(text: str) -> dict[Path, int]:
    """Give the line, from 1, of every key, table and array item of a valid TOML document.

    A table has the line of its header, or of the first key in it where it has none.
    """
    return _Scanner(text).document()


class _Scanner:
    def __init__(self, text: str) -> None:
        self._text: Final = text
        self._at = 0
        self._breaks: Final = [found.start() for found in re.finditer("\n", text)]
        self._lines: Final[dict[Path, int]] = {}
        self._tables: Final[dict[Path, int]] = {}  # arrays of tables: how many so far

    def document(self) -> dict[Path, int]:
        table: Path = ()
        self._skip()
        while self._at < len(self._text):
            if self._take("[["):
                table = self._header(array=True)
            elif self._take("["):
                table = self._header(array=False)
            else:
                self._assignment(table)
            self._skip()
        return self._lines

    def _header(self, *, array: bool) -> Path:
        line = self._line()
        keys = self._keys()
        self._at += 2 if array else 1
        path: Path = ()
        for key in keys[:-1]:
            path = self._note((*path, key), line)
            if path in self._tables:  # a table within the latest one of an array
                path = (*path, self._tables[path] - 1)
        path = self._note((*path, keys[-1]), line)
        if array:
            self._tables[path] = self._tables.get(path, 0) + 1
            path = self._note((*path, self._tables[path] - 1), line)
        return path

    def _assignment(self, table: Path) -> None:
        line = self._line()
        path = table
        for key in self._keys():
            path = self._note((*path, key), line)
        self._at += 1  # the equals sign
        self._skip()
        self._value(path)

    def _value(self, path: Path) -> None:
        if self._take("["):
            place = 0
            while not self._ends("]"):
                self._value(self._note((*path, place), self._line()))
                place += 1
        elif self._take("{"):
            while not self._ends("}"):
                self._assignment(path)
        else:
            for form in (_LONG_STRING, _ONE_LINE_STRING, _BARE_VALUE):
                if found := form.match(self._text, self._at):
                    self._at = found.end()
                    return

    def _ends(self, bracket: str) -> bool:
        """Go to the next item; tell whether there is none."""
        self._skip()
        self._take(",")
        self._skip()
        return self._take(bracket)

    def _keys(self) -> list[str]:
        keys = []
        while True:
            self._skip()
            bare = _BARE_KEY.match(self._text, self._at)
            found = bare or _ONE_LINE_STRING.match(self._text, self._at)
            if found is None:
                raise ValueError(f"line {self._line()} holds no key")
            keys.append(found[0] if bare else tomllib.loads(f"key = {found[0]}")["key"])
            self._at = found.end()
            self._skip()
            if not self._take("."):
                return keys

    def _skip(self) -> None:
        found = _BLANK.match(self._text, self._at)
        self._at = found.end() if found else self._at

    def _take(self, text: str) -> bool:
        if not self._text.startswith(text, self._at):
            return False
        self._at += len(text)
        return True

    def _note(self, path: Path, line: int) -> Path:
        self._lines.setdefault(path, line)
        return path

    def _line(self) -> int:
        return bisect_right(self._breaks, self._at) + 1
