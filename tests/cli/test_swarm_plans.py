"""`mqttprov swarm list`, `show`, `plan` and `schema`: a scenario before it runs."""

from pathlib import Path

import msgspec
import pytest
from tests.cli.command import mqttprov


def test_shipped_scenarios_are_listed() -> None:
    """With what happens in them."""
    rows = mqttprov("swarm", "list", "--json").data
    assert {"cold-start", "soak"} <= {row["name"] for row in rows}
    text = mqttprov("swarm", "list").out
    assert all(row["summary"] in text for row in rows)


def test_a_shipped_scenario_can_be_copied_and_changed(tmp_path: Path) -> None:
    """`show` prints the file; a changed copy is planned like a shipped one."""
    shown = mqttprov("swarm", "show", "clone-attack")
    assert shown.status == 0
    copy = tmp_path / "mine.toml"
    copy.write_text(shown.out, "utf-8")
    shipped = mqttprov("swarm", "plan", "clone-attack", "--json").data
    assert mqttprov("swarm", "plan", str(copy), "--json").data == shipped
    copy.write_text(shown.out.replace("gateways = 1000", "gateways = 900"), "utf-8")
    assert mqttprov("swarm", "plan", str(copy), "--json").data["gateways"] == shipped["gateways"] - 100


def test_a_plan_is_told_with_arrivals_faults_and_digest() -> None:
    """What strikes when, and whom; the seed and the size may be others."""
    plan = mqttprov("swarm", "plan", "broker-restart", "--gateways", "40").out
    assert "gateways     40\n" in plan
    assert "arrivals per second, at most " in plan
    assert " ####" in plan
    assert "3 to 4" in plan
    assert "broker killed" in plan
    same, other = (mqttprov("swarm", "plan", "soak", "--json", "--seed", seed).data["digest"] for seed in ("9", "8"))
    assert same == mqttprov("swarm", "plan", "soak", "--json").data["digest"] != other
    chance = mqttprov("swarm", "plan", "soak").out
    assert "by chance" in chance
    assert "150 to 515" in chance


def test_the_schema_is_that_of_the_file() -> None:
    """For editors."""
    schema = mqttprov("swarm", "schema").data
    assert set(schema["$defs"]["Scenario"]["required"]) == {"name", "summary", "group"}


@pytest.mark.parametrize("verb", ["show", "plan"])
def test_a_scenario_that_is_not_there_is_a_usage_error(verb: str) -> None:
    """With the name that was meant."""
    result = mqttprov("swarm", verb, "cold-strat")
    assert result.status == 2
    assert "did you mean `cold-start`?" in result.err


def test_a_wrong_file_is_told_in_one_line(tmp_path: Path) -> None:
    """File, line, key, what to write instead, and the line itself."""
    file = tmp_path / "mine.toml"
    file.write_text(mqttprov("swarm", "show", "cold-start").out.replace("within_s = 5", 'within_s = "5"', 1), "utf-8")
    result = mqttprov("swarm", "plan", str(file))
    assert result.status == 2
    (line,) = result.err.splitlines()
    assert line.startswith(f'error: {file}, line 15: group "plain": `arrivals.within_s` is "5"; write a number')
    assert line.endswith('| arrivals = { kind = "storm", within_s = "5" }')
    assert msgspec.json.encode(line)


def test_too_few_gateways_are_a_usage_error() -> None:
    """Every group needs one."""
    assert "too few for 3 groups" in mqttprov("swarm", "plan", "cold-start", "--gateways", "2").err
