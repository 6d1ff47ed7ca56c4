"""Where a key stands: as the writer of the text wrote it, in every form that TOML has."""

import tomllib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.simulator.scenario.toml_text import TomlText

from mqttprov_simulator.scenario.positions import Path, lines_of

TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\x7f"), max_size=6)
KEYS = st.sampled_from(["a", "b-1", "ß x", 'q"', "c.d", "1", ""]) | TEXTS
LEAVES = st.integers(-9, 9) | st.booleans() | TEXTS | st.floats(-9, 9)
VALUES: st.SearchStrategy[Any] = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3), max_leaves=12
)


def _paths(value: Any, path: Path = ()) -> set[Path]:
    inner: list[tuple[str | int, Any]] = []
    if isinstance(value, dict):
        inner = list(value.items())
    elif isinstance(value, list):
        inner = list(enumerate(value))
    return {path}.union(*(_paths(item, (*path, key)) for key, item in inner))


@settings(max_examples=60)
@given(values=st.dictionaries(KEYS, VALUES, max_size=4), data=st.data())
def test_every_key_is_found_where_it_was_written(values: dict[str, Any], data: st.DataObject) -> None:
    """Whatever stands around it: comments, strings of all kinds, tables in tables, arrays over lines."""
    written = TomlText(lambda options: data.draw(st.sampled_from(options))).document(values)
    assert tomllib.loads(written.text) == values
    assert lines_of(written.text) == written.lines
    assert set(written.lines) | {()} == _paths(values)


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("", {}),
        ("# only = a comment", {}),
        ("a = 1979-05-27 07:32:00\nb = 07:32:00", {("a",): 1, ("b",): 2}),
        ('a = """\n"" [x]\nb = 1\\\n""""\nb = 2', {("a",): 1, ("b",): 5}),
        ("a = '''\n''''\nb = 2", {("a",): 1, ("b",): 3}),
        ('a = """\n"""""\nb = 2', {("a",): 1, ("b",): 3}),
        ('a = """"""\nb = ""\nc = 1', {("a",): 1, ("b",): 2, ("c",): 3}),
        (r'a = "\\"' + '\nb = \'\\\'\nc = "\\""\nd=0', {("a",): 1, ("b",): 2, ("c",): 3, ("d",): 4}),
        ("a.b.c = 1\n'a'.d = 2", {("a",): 1, ("a", "b"): 1, ("a", "b", "c"): 1, ("a", "d"): 2}),
        (
            "[[a]]\n[a.b]\nc = 1\n[[a.d]]\n[[a.d]]\ne = 2\n[[a]]\n[a.b]\nc = 3",
            {
                ("a",): 1,
                ("a", 0): 1,
                ("a", 0, "b"): 2,
                ("a", 0, "b", "c"): 3,
                ("a", 0, "d"): 4,
                ("a", 0, "d", 0): 4,
                ("a", 0, "d", 1): 5,
                ("a", 0, "d", 1, "e"): 6,
                ("a", 1): 7,
                ("a", 1, "b"): 8,
                ("a", 1, "b", "c"): 9,
            },
        ),
    ],
)
def test_corners_of_toml(text: str, lines: dict[Path, int]) -> None:
    """Dates with a blank, quotes before closing quotes, tables of the latest of an array."""
    tomllib.loads(text)
    assert lines_of(text) == lines
