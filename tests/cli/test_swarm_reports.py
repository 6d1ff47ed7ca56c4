"""`mqttprov swarm report` and `compare`: pages and comparisons of results that are kept."""

from pathlib import Path

import pytest
from tests.cli.command import mqttprov
from tests.simulator import believable

from mqttprov.cli.errors import Exit
from mqttprov_simulator.report.file import write_result

_PLAN = believable.scenario(600, 30)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with results of two servers, three of each."""
    folder = tmp_path_factory.mktemp("kept")
    for seed in (1, 2, 3):
        write_result(folder / f"a{seed}.json", believable.result(_PLAN, seed=seed))
        write_result(folder / f"b{seed}.json", believable.result(_PLAN, seed=seed, speed=2.0))
    return folder


def test_a_page_goes_beside_its_result_or_where_it_is_wanted(kept: Path, tmp_path: Path) -> None:
    """As .html; latencies as text for HdrHistogram's plotter when they are asked for."""
    result = mqttprov("swarm", "report", str(kept / "a1.json"))
    assert (result.status, result.err) == (Exit.OK, f"Wrote {kept / 'a1.html'}.\n")
    again = mqttprov(
        "swarm", "report", str(kept / "a1.json"), "--out", str(tmp_path / "p"), "--hgrm", str(tmp_path / "h")
    )
    assert again.status == Exit.OK
    assert (tmp_path / "p").read_bytes() == (kept / "a1.html").read_bytes()
    assert (tmp_path / "h").read_text().split()[:2] == ["Value", "Percentile"]


def test_two_results_are_compared_in_columns(kept: Path) -> None:
    """Values, ratio, interval and what was shown; the notes go to people."""
    result = mqttprov("swarm", "compare", str(kept / "a1.json"), str(kept / "b2.json"))
    assert result.status == Exit.OK
    lines = result.out.splitlines()
    assert lines[0].split() == ["FIGURE", "A", "B", "B/A", "95", "%", "B", "IS"]
    assert next(line for line in lines if line.startswith("p50")).endswith("faster")
    assert "intervals over seconds, of 1 and 1 results" in result.err
    assert "note: they differ in seed: 1 and 2" in result.err


def test_two_sides_of_several_results_are_compared_as_runs(kept: Path) -> None:
    """`vs` stands between the sides; with --json it is one value."""
    sides = [[str(kept / f"{side}{seed}.json") for seed in (1, 2, 3)] for side in "ab"]
    data = mqttprov("swarm", "compare", *sides[0], "vs", *sides[1], "--json").data
    assert (data["over"], data["results_a"], data["results_b"]) == ("runs", 3, 3)
    p50 = next(figure for figure in data["figures"] if figure["name"] == "p50")
    assert p50["says"] == "faster"
    assert p50["low"] <= p50["ratio"] <= p50["high"] < 1


@pytest.mark.parametrize(
    "given", [("a1",), ("a1", "a2", "b1"), ("vs", "a1"), ("a1", "vs"), ("a1", "vs", "b1", "vs", "b2")]
)
def test_sides_that_are_not_clear_are_asked_for_again(kept: Path, given: tuple[str, ...]) -> None:
    """A usage error that shows the form."""
    names = [name if name == "vs" else str(kept / f"{name}.json") for name in given]
    result = mqttprov("swarm", "compare", *names)
    assert result.status == Exit.USAGE
    assert "A1 A2 vs B1 B2" in result.err


def test_what_is_no_result_is_one_clear_error(kept: Path, tmp_path: Path) -> None:
    """No such file, and a file of something else; in both verbs."""
    (tmp_path / "other.json").write_text("[]")
    missing = mqttprov("swarm", "report", str(tmp_path / "none.json"))
    assert (missing.status, "there is no file" in missing.err) == (Exit.USAGE, True)
    other = mqttprov("swarm", "compare", str(kept / "a1.json"), str(tmp_path / "other.json"))
    assert (other.status, "is no result of 'mqttprov swarm run --out'" in other.err) == (Exit.USAGE, True)


def test_a_sweep_needs_a_range_and_a_target_of_its_own() -> None:
    """What cannot be is said before anything is started."""
    assert (
        mqttprov("swarm", "sweep", "cold-start", "--p99-ms", "50", "--least", "9", "--most", "8").status == Exit.USAGE
    )
    result = mqttprov("swarm", "sweep", "cold-start", "--p99-ms", "50", "--target", "mqtt://127.0.0.1:1")
    assert (result.status, "embedded or mosquitto" in result.err) == (Exit.USAGE, True)
