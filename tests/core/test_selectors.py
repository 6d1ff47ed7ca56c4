"""Selecting devices by label."""

import pytest

from mqttprov.core.limits import MAX_LABELS
from mqttprov.core.names import InvalidName
from mqttprov.core.selectors import Relation, Selector, parse_selector, parse_selectors, selects


@pytest.mark.parametrize(
    ("text", "selector"),
    [
        ("type=type1", Selector("type", Relation.EQUAL, "type1")),
        ("region!=eu", Selector("region", Relation.NOT_EQUAL, "eu")),
        ("site", Selector("site", Relation.EXISTS)),
        ("a=", Selector("a", Relation.EQUAL, "")),
        ("a=b=!c", Selector("a", Relation.EQUAL, "b=!c")),
        ("a.b/c-d!=", Selector("a.b/c-d", Relation.NOT_EQUAL, "")),
    ],
)
def test_reads_equal_not_equal_and_exists(text: str, selector: Selector) -> None:
    """The first '=' divides; a '!' before it means not equal."""
    assert parse_selector(text) == selector


@pytest.mark.parametrize("text", ["", "=x", "!=x", "a b", '"=x', "a!", "a=\x1b", "k" * 64])
def test_refuses_what_is_no_label(text: str) -> None:
    """A selector holds only what a label may hold."""
    with pytest.raises(InvalidName):
        parse_selector(text)


def test_the_number_of_selectors_is_bounded() -> None:
    """As many as a device may have labels (P9)."""
    with pytest.raises(InvalidName, match="at most"):
        parse_selectors(["a"] * (MAX_LABELS + 1))


@pytest.mark.parametrize(
    ("texts", "selected"),
    [([], True), (["a=1"], True), (["a=2"], False), (["a!=2", "b"], True), (["a!=1"], False), (["c!=1"], True),
     (["c"], False), (["a=1", "c"], False), (["b="], True), (["c="], False)],
)  # fmt: skip
def test_all_have_to_hold(texts: list[str], selected: bool) -> None:
    """A device without the label is not equal to any value."""
    assert selects(parse_selectors(texts), {"a": "1", "b": ""}) is selected
