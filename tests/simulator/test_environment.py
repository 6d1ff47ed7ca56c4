"""Whether a fleet fits on a host is said with what to do, and with the largest one that does."""

from pathlib import Path

import msgspec
import pytest

from mqttprov_simulator.running.environment import Finding, Host, environment, examine, host, most_gateways

_GOOD = Host(
    cores=8, memory_bytes=16 << 30, available_bytes=8 << 30, load=0.1, open_files=1 << 20, ports=(32_768, 60_999),
    somaxconn=4_096, clock="tsc",
)  # fmt: skip


def _found(here: Host, *, target: str = "embedded", at_once: int = 0) -> dict[str, Finding]:
    return {one.check: one for one in examine(here, 1_000, target=target, at_once=at_once)}


def test_a_good_host_carries_fifty_thousand() -> None:
    """Nothing is to be said about it."""
    findings = examine(_GOOD, 50_000, workers=5)
    assert {one.level for one in findings} == {"ok"}
    assert most_gateways(findings) > 50_000


@pytest.mark.parametrize(
    ("check", "changes", "target", "at_once", "level"),
    [
        ("open files", {"open_files": 1_024}, "embedded", 0, "too small"),
        ("ports", {"ports": (60_000, 60_999)}, "mqtt://broker", 0, "too small"),
        ("memory", {"available_bytes": 302 << 20}, "embedded", 0, "too small"),
        ("cores", {"cores": 2}, "mosquitto", 0, "warning"),
        ("backlog", {"somaxconn": 128}, "embedded", 0, "warning"),
        ("backlog", {}, "mosquitto", 200, "warning"),
        ("nodelay", {}, "mqtt://broker", 0, "warning"),
        ("clock", {"clock": "acpi_pm"}, "embedded", 0, "warning"),
        ("load", {"load": 5.0}, "embedded", 0, "warning"),
    ],
)
def test_what_is_not_well_is_told_with_what_to_do(
    check: str, changes: dict[str, object], target: str, at_once: int, level: str
) -> None:
    """Each in its own line; everything else stays well."""
    found = _found(msgspec.structs.replace(_GOOD, **changes), target=target, at_once=at_once)[check]
    assert found.level == level
    assert found.advice
    assert found.seen


def test_the_largest_fleet_is_what_the_narrowest_allows() -> None:
    """A fleet of that size is never called too large, one more always is."""
    for changes in ({"open_files": 4_096}, {"available_bytes": 400 << 20}, {"ports": (60_000, 60_009)}):
        here = msgspec.structs.replace(_GOOD, **changes)
        most = most_gateways(examine(here, 1))
        assert "too small" not in {one.level for one in examine(here, most)}
        assert "too small" in {one.level for one in examine(here, most + 1)}


def test_a_real_host_can_be_read() -> None:
    """This one; and one that shows nothing of itself."""
    here = host()
    assert here.cores >= 1
    assert here.memory_bytes > here.available_bytes > 0
    assert host(Path("/nonexistent")).clock == "unknown"


def test_a_result_tells_where_it_came_about() -> None:
    """Host and target together."""
    told = environment(_GOOD, {"broker": "Mosquitto 2.0.11"})
    assert told.cores == 8
    assert told.settings["broker"] == "Mosquitto 2.0.11"
    assert told.settings["somaxconn"] == "4096"
