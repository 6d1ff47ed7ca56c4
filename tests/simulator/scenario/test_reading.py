"""Scenarios in files: what is good is read as it was written, what is wrong is told with its line."""

import copy
import random
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.simulator.scenario.toml_text import TomlText

from mqttprov_simulator.scenario.model import Scenario
from mqttprov_simulator.scenario.positions import Path as KeyPath
from mqttprov_simulator.scenario.reading import ScenarioError, load, read_scenario

# Every table and nearly every key of the model.
WHOLE: dict[str, Any] = {
    "name": "whole",
    "summary": 'Everything: [tables] = # and "quotes"',
    "seed": 7,
    "warm_up_s": 0.5,
    "profile": [{"name": "line", "strategy": "pre-provisioned", "reprovision": "refuse"}],
    "token": [{"name": "capped", "profile": "line", "max_registrations": 5}, {"name": "other"}],
    "group": [
        {
            "name": "town",
            "gateways": 30,
            "names": "Gateway ",
            "arrivals": {"kind": "constant", "rate_per_s": 5, "begins_s": 1},
            "credentials": "X509_CERTIFICATE",
            "tls": True,
            "mqtt": "3.1.1",
            "storage": "disk",
            "life": {"telemetry_every_s": 1.5, "attributes_every_s": 2, "rpc_every_s": 9},
        },
        {
            "name": "line",
            "gateways": 10,
            "arrivals": {"kind": "schedule", "steps": [{"at_s": 0, "rate_per_s": 0}, {"at_s": 3, "rate_per_s": 5.5}]},
            "profile": "line",
            "token": "capped",
            "stay": False,
            "expect": "capped",
        },
        {
            "name": "evil",
            "gateways": 5,
            "arrivals": {"kind": "storm", "within_s": 2},
            "clones_of": "town",
            "tls": True,
            "expect": "refused",
        },
        {"name": "more", "gateways": 1, "arrivals": {"kind": "ramp", "from_per_s": 0, "to_per_s": 5, "over_s": 2}},
        {"name": "most", "gateways": 1, "arrivals": {"kind": "poisson", "rate_per_s": 5}},
    ],
    "fault": [
        {"kind": "latency", "name": "slow", "probability": 0.5, "times": 3, "for_s": 0.1, "groups": ["town", "evil"]},
        {"kind": "clock-skew", "at_s": 3, "share": 0.5, "spread_s": 2, "skew_s": -5},
    ],
    "target-fault": [{"kind": "responder-freeze", "at_s": 2, "for_s": 2, "name": "frozen"}],
    "action": [
        {"kind": "revoke-token", "at_s": 9, "token": "capped", "profile": "line", "cascade": True, "name": "leaked"},
        {"kind": "rotate-devices", "at_s": 9, "for_s": 2, "groups": ["town"], "share": 0.5},
    ],
    "gateway": {
        "connect_timeout_s": 5,
        "reply_timeout_s": 5,
        "backoff_base_s": 0.5,
        "backoff_cap_s": 2,
        "keep_alive_s": 60,
    },
    "stop": {"hold_s": 1, "after_s": 50, "timeout_s": 90, "online_within_s": 20},
    "thresholds": {
        "p50_ms": 20,
        "p99_ms": 200,
        "login_p99_ms": 100,
        "telemetry_p99_ms": 100,
        "min_registrations_per_s": 1,
        "max_failed_share": 0,
        "all_online_within_s": 30,
    },
}


def _inner(value: Any, path: KeyPath = ()) -> list[tuple[KeyPath, Any]]:
    """Give everything in it with its path."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [(path, value)] + [found for key, item in items for found in _inner(item, (*path, key))]


LEAVES = [(path, value) for path, value in _inner(WHOLE) if not isinstance(value, dict | list)]
TABLES = [path for path, value in _inner(WHOLE) if isinstance(value, dict)]
WRONG: list[Any] = ["nonsense!", -1.5, 10**18, True, [1], {"a": 1}, ""]


def _text(values: dict[str, Any], forms: int) -> TomlText:
    # Thousands of forms to choose: one number draws them all, or Hypothesis would take minutes.
    return TomlText(random.Random(forms).choice).document(values)  # noqa: S311 - no secret


def _at(values: Any, path: KeyPath) -> Any:
    for part in path:
        values = values[part]
    return values


def _error(text: str) -> ScenarioError:
    with pytest.raises(ScenarioError) as caught:
        read_scenario(text, "fleet.toml")
    return caught.value


FORMS = st.integers(0, 2**32)


@settings(max_examples=50)
@given(forms=FORMS)
def test_a_scenario_is_read_as_it_was_written(forms: int) -> None:
    """In whatever form of TOML."""
    written = _text(WHOLE, forms)
    assert read_scenario(written.text, "fleet.toml") == msgspec.convert(WHOLE, Scenario)


def _acceptable(path: KeyPath, value: Any) -> bool:
    """Tell whether the model takes it (texts are free, booleans are known, a skew is any number)."""
    values = copy.deepcopy(WHOLE)
    _at(values, path[:-1])[path[-1]] = value
    try:
        msgspec.convert(values, Scenario)
    except msgspec.ValidationError:
        return False
    return True


@settings(max_examples=60)
@given(data=st.data(), forms=FORMS)
def test_a_wrong_value_is_told_with_its_line(data: st.DataObject, forms: int) -> None:
    """Any value of the file, replaced by what does not belong there: the error names line and key, and shows it."""
    path, _ = data.draw(st.sampled_from(LEAVES))
    wrong = data.draw(st.sampled_from([value for value in WRONG if not _acceptable(path, value)]))
    values = copy.deepcopy(WHOLE)
    _at(values, path[:-1])[path[-1]] = wrong
    written = _text(values, forms)
    error = _error(written.text)
    assert error.line == written.lines[path]
    assert str(error).startswith(f"fleet.toml, line {error.line}: ")
    assert str([part for part in path if isinstance(part, str)][-1]) in error.problem
    assert "; write " in error.problem
    shown = str(error).rpartition(" | ")[2].removesuffix("...")
    assert written.text.split("\n")[error.line - 1].strip().startswith(shown)
    assert "\n" not in str(error)


@settings(max_examples=60)
@given(data=st.data(), forms=FORMS)
def test_an_unknown_key_is_told_with_its_line(data: st.DataObject, forms: int) -> None:
    """In any table; what it may have meant is said."""
    path = data.draw(st.sampled_from(TABLES))
    values = copy.deepcopy(WHOLE)
    table = _at(values, path)
    meant = data.draw(st.sampled_from([None, *(key for key in table if len(key) > 3)]))
    key = "gibberish" if meant is None else f"{meant[:-1]}x"
    table[key] = 1
    written = _text(values, forms)
    error = _error(written.text)
    assert error.line == written.lines[(*path, key)]
    assert ("; did you mean `" if meant else "; known: `") in error.problem


ANY_VALUE: st.SearchStrategy[Any] = st.recursive(
    st.sampled_from([0, -1, 1.5, True, "", "storm", "town", "x y", 2**70, float("inf"), float("nan")]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["kind", "name", "at_s", "rate_per_s", "steps", "x"]), inner, max_size=3)
    ),
    max_leaves=6,
)


@settings(max_examples=60)
@given(path=st.sampled_from([path for path, _ in _inner(WHOLE) if path]), value=ANY_VALUE)
def test_whatever_stands_there_it_is_read_or_told(path: KeyPath, value: Any) -> None:
    """Anything in the place of anything: a scenario or one clear error, and no other end."""
    values = copy.deepcopy(WHOLE)
    _at(values, path[:-1])[path[-1]] = value
    written = TomlText().document(values)
    line = None
    try:
        read_scenario(written.text, "fleet.toml")
    except ScenarioError as error:
        line = error.line
    assert line is None or 1 <= line <= written.text.count("\n") + 1


@pytest.mark.parametrize(
    ("path", "key"),
    [
        ((), "name"),
        ((), "group"),
        (("group", 0), "gateways"),
        (("group", 1), "arrivals"),
        (("group", 0, "arrivals"), "rate_per_s"),
        (("group", 1, "arrivals"), "kind"),
        (("group", 1, "arrivals", "steps", 1), "at_s"),
        (("fault", 0), "kind"),
        (("target-fault", 0), "at_s"),
        (("token", 1), "name"),
    ],
)
def test_a_missing_key_is_told_with_its_table(path: KeyPath, key: str) -> None:
    """The line is the table's header; one of the whole file has none."""
    values = copy.deepcopy(WHOLE)
    del _at(values, path)[key]
    written = TomlText().document(values)
    error = _error(written.text)
    assert error.line == (written.lines[path] if path else None)
    assert f"`{key}`" in error.problem


@pytest.mark.parametrize(
    ("path", "value", "told", "at"),
    [
        (("group", 1, "token"), "cap", "did you mean `capped`?", None),
        (("group", 1, "profile"), "lime", "did you mean `line`?", None),
        (("token", 0, "profile"), "x", "there is no \"x\"; known: `default`, `line`", None),
        (("group", 2, "clones_of"), "twon", "did you mean `town`?", None),
        (("group", 2, "clones_of"), "evil", "no group of originals", None),
        (("fault", 0, "groups", 1), "vile", "did you mean `evil`?", None),
        (("action", 1, "groups", 0), "evil", "names no group", None),
        (("action", 0, "token"), "other", "no token of the profile \"line\"", None),
        (("action", 0, "profile"), "x", "names no profile", None),
        (("group", 1, "name"), "Town", "is that of group 1 too", None),
        (("token", 1, "name"), "capped", None, None),
        (("group", 3, "names"), "gateway ", "same device names as the group \"town\"", None),
        (("group", 3, "names"), "a/b", "cannot begin device names", None),
        (("group", 3, "names"), " b", "begins with a blank", None),
        (("group", 2, "gateways"), 31, "\"town\" has 30; write 30 or less", None),
        (("group", 2, "profile"), "default", "is that of the original", None),
        (("group", 2, "names"), "x-", "is that of the original", None),
        (("group", 2, "expect"), "capped", "write \"online\" or \"refused\"", None),
        (("group", 2, "tls"), False, "write tls = true here, too", ("group", 2, "clones_of")),
        (("group", 0, "tls"), False, "write tls = true", ("group", 0, "credentials")),
        (("group", 1, "expect"), "online", "the token allows 5; write \"capped\"", None),
        (("group", 3, "expect"), "capped", "write max_registrations", None),
        (("group", 0, "stay"), False, "remove stay = false", ("group", 0, "life", "telemetry_every_s")),
        (("group", 0, "expect"), "refused", "none of these is to be", ("group", 0, "life", "telemetry_every_s")),
        (("group", 1, "arrivals", "steps", 1, "at_s"), 0, "write ascending times", None),
        (("group", 1, "arrivals", "steps", 1, "rate_per_s"), 0, "the others never arrive", None),
        (("fault", 0, "at_s"), 3, "both `probability` and `at_s`", ("fault", 0)),
        (("fault", 0, "share"), 0.5, "goes with `at_s`", None),
        (("fault", 0, "spread_s"), 0.5, "goes with `at_s`", None),
        (("fault", 1, "times"), 1, "goes with `probability`", None),
        (("fault", 0, "skew_s"), 1, "has no meaning for \"latency\"", None),
        (("fault", 1, "for_s"), 1, "has no meaning for \"clock-skew\"", None),
        (("fault", 1, "skew_s"), 0, "negative if it is behind", None),
        (("fault", 0, "for_s"), 0, "write a number above 0", None),
        (("target-fault", 0, "for_s"), 0, "write a number above 0", None),
        (("action", 0, "share"), 1, "has no meaning for \"revoke-token\"", None),
        (("action", 1, "cascade"), True, "has no meaning for \"rotate-devices\"", None),
        (("gateway", "backoff_cap_s"), 0.1, "backoff_cap_s", ("gateway",)),
        (("stop", "after_s"), 91, "later than timeout_s", None),
        (("warm_up_s",), 60, "nothing would be measured", None),
    ],
)  # fmt: skip
def test_what_does_not_fit_together_is_told_with_its_line(
    path: KeyPath, value: Any, told: str | None, at: KeyPath | None
) -> None:
    """Names that refer to nothing, keys without a use, plans that cannot come true."""
    values = copy.deepcopy(WHOLE)
    _at(values, path[:-1])[path[-1]] = value
    written = TomlText().document(values)
    if told is None:
        assert read_scenario(written.text, "fleet.toml")
        return
    error = _error(written.text)
    assert told in error.problem
    assert error.line == written.lines[at or path]


def test_a_rule_needs_a_chance_or_a_time() -> None:
    """And one by both is ambiguous."""
    values = copy.deepcopy(WHOLE)
    del values["fault"][1]["at_s"], values["fault"][1]["share"], values["fault"][1]["spread_s"]
    assert "neither `probability` nor `at_s`" in _error(TomlText().document(values).text).problem


def test_a_plan_that_is_longer_than_the_run_is_refused() -> None:
    """Unless it says that it ends before."""
    values = copy.deepcopy(WHOLE)
    del values["stop"]["after_s"]
    values["stop"]["timeout_s"] = 10
    assert "the plan goes on until 11.0 s" in _error(TomlText().document(values).text).problem


def test_one_group_behind_a_capped_token_may_not_say_otherwise_than_another() -> None:
    """It would be open who is to get in."""
    values = copy.deepcopy(WHOLE)
    values["group"][3] |= {"profile": "line", "token": "capped"}
    assert 'write "capped" in both' in _error(TomlText().document(values).text).problem


def test_a_threshold_for_telemetry_needs_telemetry() -> None:
    """Else it would hold for nothing."""
    values = copy.deepcopy(WHOLE)
    del values["group"][0]["life"]
    error = _error(TomlText().document(values).text)
    assert "no group's life has telemetry_every_s" in error.problem


@pytest.mark.parametrize(
    ("text", "line", "told"),
    [
        ('name = "a"\nsummary = ', 2, "not TOML"),
        ('name = "a"\nname = "b"', 2, "not TOML"),
        ('name = "a', 1, "not TOML"),
        ('name = "a"\nsummary = ""\n[group]\nname = "x"', 3, "[[group]]"),
        ('name = "a"\nsummary = ""\ngroup = []', 3, "at least 1"),
        ('name = "a"\nsummary = ""\ngroup = [3]', 3, "write a table"),
    ],
)
def test_mistakes_of_form_are_told_with_their_line(text: str, line: int, told: str) -> None:
    """Whatever `tomllib` says, and tables where an array of them belongs."""
    error = _error(text)
    assert error.line == line
    assert told in error.problem


def test_files_that_cannot_be_read_are_told(tmp_path: Path) -> None:
    """No such file, no such shipped name, no text, no small file."""
    for name, told in (("cold-strat", "did you mean `cold-start`?"), ("no/file.toml", "No such file")):
        with pytest.raises(ScenarioError, match="(?s)" + told.replace("?", r"\?")):
            load(name)
    file = tmp_path / "a.toml"
    file.write_bytes(b'name = "a"\nsummary = "\xff"')
    with pytest.raises(ScenarioError, match=r"line 2: this is not UTF-8"):
        load(str(file))
    file.write_bytes(b"#" * 1_000_001)
    with pytest.raises(ScenarioError, match="larger than"):
        load(str(file))
    file.write_bytes(b"name = 1\r\n")
    with pytest.raises(ScenarioError, match="`name` is 1; write a name"):
        load(str(file))


def test_the_example_is_toml() -> None:
    """What these tests break is whole."""
    assert tomllib.loads(TomlText().document(WHOLE).text) == WHOLE
