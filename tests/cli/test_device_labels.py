"""`device label`, `device assign` and `device list --stale` from the command line."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from tests.cli.command import Result

from mqttprov.cli.errors import Exit

Cli = Callable[..., Result]


@pytest.fixture
def fleet(cli: Cli) -> Cli:
    """Make three devices."""
    for name, kind in (("gw-1", "a"), ("gw-2", "a"), ("gw-3", "b")):
        assert cli("device", "create", name, "--profile", "default", "--label", f"type={kind}").status == 0
    return cli


def labels(cli: Cli) -> dict[str, dict[str, str]]:
    """Give the labels of all devices."""
    return {row["name"]: row["labels"] for row in cli("device", "list", "--json").data}


class TestLabel:
    """`device label`."""

    def test_one_device_is_labelled_as_with_kubectl(self, fleet: Cli) -> None:
        """Set, change and remove in one go; others stay as they are."""
        told = fleet("device", "label", "GW-1", "site=berlin", "type-", "note=a = b", "--reason", "moved", "--json")
        assert (told.status, told.data["labels"]) == (0, {"site": "berlin", "note": "a = b"})
        assert labels(fleet)["gw-2"] == {"type": "a"}
        said = fleet("device", "label", "gw-1", "note-")
        assert said.err == "Device 'gw-1' has the labels site=berlin.\n"
        (event,) = [e for e in fleet("audit", "tail", "--json").data if e.get("text") == "moved"]
        assert (event["kind"], event["labels"]) == ("labelled", {"site": "berlin", "note": "a = b"})

    def test_all_that_are_selected_are_labelled(self, fleet: Cli) -> None:
        """It wants a yes, because it may be many; run again it finds nothing to do."""
        verb = ("device", "label", "--label", "type=a", "site=berlin")
        assert fleet(*verb).status == Exit.USAGE
        assert fleet(*verb, "--yes", "--json").data == {"selected": 2, "labelled": 2}
        assert labels(fleet) == {
            "gw-1": {"type": "a", "site": "berlin"},
            "gw-2": {"type": "a", "site": "berlin"},
            "gw-3": {"type": "b"},
        }
        again = fleet(*verb, "--yes")
        assert again.err == "0 of 2 devices are labelled; the others had these labels, or are decommissioned.\n"

    @pytest.mark.parametrize(
        "arguments",
        [["gw-1"], ["site=berlin"], ["a=b", "c=d"], ["gw-1", "site"], ["gw-1", "a=1", "a=2"], ["gw-1", "a=1", "a-"],
         ["gw-1", "=x"], ["gw-1", "-=x"], ["--label", "type", "--yes"], ["--label", "=", "a=b", "--yes"]],
    )  # fmt: skip
    def test_what_cannot_be_used_is_a_usage_error(self, fleet: Cli, arguments: list[str]) -> None:
        """And nothing is changed."""
        before = labels(fleet)
        assert fleet("device", "label", *arguments).status == Exit.USAGE
        assert labels(fleet) == before

    def test_a_tombstone_keeps_its_labels(self, fleet: Cli) -> None:
        """Its state does not allow it."""
        fleet("device", "decommission", "gw-1", "--yes")
        result = fleet("device", "label", "gw-1", "a=b")
        assert (result.status, "a decommissioned device" in result.err) == (Exit.CONFLICT, True)

    def test_labels_are_one_cell_of_an_export(self, fleet: Cli, tmp_path: Path) -> None:
        """As people read them."""
        fleet("device", "label", "gw-1", "site=berlin")
        fleet("audit", "export", "--format", "csv", "--output", str(tmp_path / "audit.csv"))
        assert '"type=a,site=berlin"' in (tmp_path / "audit.csv").read_text().splitlines()[-1]


class TestAssign:
    """`device assign`."""

    def test_a_device_without_owner_gets_one_and_no_second(self, fleet: Cli) -> None:
        """The next one needs a transfer; the report no longer names it."""
        assert fleet("device", "assign", "gw-1", "--owner", "ACME", "--json").data["owner"] == "ACME"
        refused = fleet("device", "assign", "gw-1", "--owner", "globex")
        assert (refused.status, "device transfer" in refused.err) == (Exit.CONFLICT, True)
        (finding,) = fleet("audit", "report", "--json").data
        assert [row["device"] for row in finding["rows"]] == ["gw-2", "gw-3"]
        assert fleet("device", "assign", "gw-2", "--owner", "a/b").status == Exit.USAGE


def test_stale_devices_are_listed_together_with_other_conditions(fleet: Cli, state: Path) -> None:
    """Never used counts from when it was made; what is decommissioned is asked for by its state."""

    def stale(*options: str) -> list[str]:
        return [row["name"] for row in fleet("device", "list", "--stale", "7d", *options, "--json").data]

    assert stale() == []
    with closing(sqlite3.connect(state / "mqttprov.db")) as database, database:
        database.execute("UPDATE device SET created_ms = 0, last_seen_ms = iif(name = 'gw-2', 9e15, NULL)")
    assert stale() == ["gw-1", "gw-3"]
    assert stale("--label", "type=b") == ["gw-3"]
    assert stale("--owner", "ACME") == []
    fleet("device", "decommission", "gw-3", "--yes")
    assert stale() == ["gw-1"]
    assert stale("--state", "decommissioned") == ["gw-3"]
    assert fleet("device", "list", "--stale", "soon").status == Exit.USAGE
    assert fleet("device", "show", "gw-1", "--json").data["lastSeenAt"] is None


def test_a_device_without_labels_is_said_to_have_none(cli: Cli) -> None:
    """What is left after the last one is removed is no dash."""
    cli("device", "create", "gw-1", "--profile", "default", "--label", "a=b")
    assert cli("device", "label", "gw-1", "a-").err == "Device 'gw-1' has no labels.\n"
