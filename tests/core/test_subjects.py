"""How a subject becomes a device name: what an expression may be, and that none takes beyond bound (P9)."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqttprov.core.names import InvalidName
from mqttprov.core.subjects import DEFAULT_SUBJECT_PATTERN, MAX_SUBJECT_CHARS, check_subject_pattern, name_in_subject


@pytest.mark.parametrize(
    ("pattern", "subject", "name"),
    [
        (DEFAULT_SUBJECT_PATTERN, "gw-7", "gw-7"),
        (r"(gw-\d+)\.factory\.example", "gw-7.factory.example", "gw-7"),
        (r"(?:dev|gw)-([^.]*)\..*", "gw-7.x", "7"),
        (r"SN ([0-9A-F]{8}) \(rev [ab]\)", "SN 00C0FFEE (rev b)", "00C0FFEE"),
        (r"([\])(]+)", "](", "]("),
        ("(gw-.*)", "evil gw-7", None),
        ("(gw-.*)", "gw-7\n", None),
        ("a|(b)", "a", None),
        (DEFAULT_SUBJECT_PATTERN, "x" * (MAX_SUBJECT_CHARS + 1), None),
    ],
)
def test_the_first_group_of_what_fits_the_whole_subject_is_the_name(
    pattern: str, subject: str, name: str | None
) -> None:
    """Nothing before or behind it goes unnoticed, and a longer subject than X.509 allows is none."""
    assert name_in_subject(check_subject_pattern(pattern), subject) == name


@pytest.mark.parametrize(
    "pattern",
    ["", "gw-.*", "(", "(a", "(a+)+", "(?:a|a)*(b)", "(a){2}", r"(a)\1", "(?P<n>a)", "(?=a)(a)", "(?i)(a)",
     "(a*b*c*d*)", "(a|b|c|d|e|f)", "(" + "a?" * 30 + "a" * 30 + ")", "(a)\n", "(x" + "y" * 255 + ")",
     r"(a)(?(1)b|c)", "([a)",
     r"(a)\07", "(a{3,2})", "([[a])"],
)  # fmt: skip
def test_an_expression_that_could_run_away_or_names_nothing_is_refused(pattern: str) -> None:
    """Groups are not repeated, choices are few, and there is a group."""
    with pytest.raises(InvalidName, match="subject pattern"):
        check_subject_pattern(pattern)


@given(st.text("()[]a.*+?{}|\\1,-^", min_size=1, max_size=40), st.text("ab1", max_size=70))
def test_whatever_is_accepted_is_quick_on_every_subject(pattern: str, subject: str) -> None:
    """Any expression is refused in words or bounded in time, and gives a part of the subject or nothing."""
    try:
        check_subject_pattern(f"({pattern})z")
    except InvalidName:
        return
    began_s = time.thread_time()
    name = name_in_subject(f"({pattern})z", subject)
    assert time.thread_time() - began_s < 0.5
    assert name is None or name in subject


def test_the_worst_that_is_accepted_takes_little() -> None:
    """Three repetitions and four alternatives over 64 characters."""
    pattern = check_subject_pattern("(.*.*.*)(?:a|a)(?:a|a)(?:a|a)(?:a|a)z")
    began_s = time.thread_time()
    assert name_in_subject(pattern, "a" * MAX_SUBJECT_CHARS) is None
    assert time.thread_time() - began_s < 0.5
