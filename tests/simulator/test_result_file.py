"""Results as files: what was written is read again, and everything else is named for what it is."""

from pathlib import Path

import msgspec
import pytest
from tests.simulator import believable

from mqttprov_simulator.histogram import Histogram
from mqttprov_simulator.report.file import ResultError, hgrm, read_result, write_result


def test_a_result_is_read_as_it_was_written(tmp_path: Path) -> None:
    """Nothing is lost, and the same result gives the same bytes whatever the order it was put together in."""
    result = believable.result(believable.scenario(300, 30))
    write_result(tmp_path / "a.json", result)
    assert read_result(tmp_path / "a.json") == result
    turned = msgspec.structs.replace(result, strikes=dict(reversed(result.strikes.items())))
    write_result(tmp_path / "b.json", turned)
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def test_a_result_replaces_another_whole_or_not_at_all(tmp_path: Path) -> None:
    """What cannot be written leaves the old file as it was."""
    path = tmp_path / "a.json"
    write_result(path, believable.result(believable.scenario(300, 30)))
    before = path.read_bytes()
    (tmp_path / "a.json.new").mkdir()
    with pytest.raises(OSError, match=r"a\.json\.new"):
        write_result(path, believable.result(believable.scenario(300, 30), seed=8))
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is no result: it is no JSON"),
        (b"<html>", "is no result: it is no JSON"),
        (b"\xff\xfe", "is no result"),
        (b"[]", "is no result of 'mqttprov swarm run --out'"),
        (b'{"format":1}', "is no result of 'mqttprov swarm run --out'"),
        (b'{"format":2}', "is a result of format 2, this program reads format 1"),
    ],
)
def test_what_is_no_result_is_named_for_what_it_is(tmp_path: Path, content: bytes, said: str) -> None:
    """One clear error that names the file."""
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(ResultError, match=said) as error:
        read_result(path)
    assert str(path) in str(error.value)


def test_a_file_that_was_cut_off_is_said_to_be(tmp_path: Path) -> None:
    """A copy that ended early is no riddle."""
    path = tmp_path / "a.json"
    write_result(path, believable.result(believable.scenario(300, 30)))
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(ResultError, match="cut off; copy it again"):
        read_result(path)


def test_a_histogram_that_none_can_be_is_refused(tmp_path: Path) -> None:
    """Counts below one would make percentiles out of nothing."""
    result = believable.result(believable.scenario(300, 30))
    write_result(tmp_path / "a.json", msgspec.structs.replace(result, histograms={"latency": {5: -1}}))
    with pytest.raises(ResultError, match="not a histogram"):
        read_result(tmp_path / "a.json")


def test_percentiles_go_out_as_hdr_histogram_text() -> None:
    """The columns of HdrHistogram's plotter, ending with all values."""
    histogram = Histogram()
    for value_ms in range(1, 101):
        histogram.record(value_ms * 1000)
    lines = hgrm(histogram.buckets).splitlines()
    assert lines[0].split() == ["Value", "Percentile", "TotalCount", "1/(1-Percentile)"]
    assert lines[-2].split()[1:] == ["1.000000000000", "100", "inf"]
    assert lines[-1] == "#[Total count    =          100]"
    middle = next(line for line in lines[2:] if float(line.split()[1]) >= 0.5)
    assert float(middle.split()[0]) == pytest.approx(50, rel=1 / 64)
