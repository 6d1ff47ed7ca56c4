"""`device import`: from a list to manufactured devices."""

import csv
import stat
from collections.abc import Callable
from pathlib import Path

from tests.cli.command import Result

Cli = Callable[..., Result]


def test_imports_a_list_and_completes_it(cli: Cli) -> None:
    """Bad lines are named on stderr with status 1; what is there already is counted when it is done again."""
    Path("devices.csv").write_text("name,owner,labels\ngw-1,ACME,site=a\ngw/2,,\ngw-3,,\n")
    options = ["device", "import", "devices.csv", "--profile", "default"]
    dry = cli(*options, "--dry-run", "--json")
    assert (dry.status, dry.data) == (1, {"dryRun": True, "made": 2, "skipped": 0, "failed": 1})
    assert cli("device", "list", "--json").data == []
    done = cli(*options, "--json")
    assert (done.status, done.data) == (1, {"dryRun": False, "made": 2, "skipped": 0, "failed": 1})
    assert done.err.startswith("line 3: the device name may hold only")
    Path("devices.csv").write_bytes(b"name,owner,labels\ngw-1,ACME,site=a\ngw-2\xff,,\ngw-2,,\n")
    again = cli(*options)
    assert again.status == 1
    assert "1 made, 1 there already, 1 refused" in again.err
    assert [row["state"] for row in cli("device", "list", "--json").data] == ["manufactured"] * 3


def test_claim_secrets_go_into_a_new_file(cli: Cli) -> None:
    """One for each device that was made, for their owner alone, and printed nowhere (P6)."""
    Path("devices.csv").write_text("name,profile\ngw-1,default\ngw-2,default\n")
    options = ["device", "import", "devices.csv", "--claim-secrets", "claims.csv"]
    assert cli(*options, "--dry-run").status == 0
    assert not Path("claims.csv").exists()
    done = cli(*options)
    rows = list(csv.DictReader(Path("claims.csv").read_text().splitlines()))
    assert [row["name"] for row in rows] == ["gw-1", "gw-2"]
    assert stat.S_IMODE(Path("claims.csv").stat().st_mode) == 0o600
    assert all(row["claimSecret"].startswith("mqp_cs_") for row in rows)
    assert not any(row["claimSecret"] in done.out + done.err for row in rows)
    assert cli(*options).status == 5


def test_what_cannot_be_read_is_one_error(cli: Cli) -> None:
    """A missing file, or one with other columns."""
    assert cli("device", "import", "nothing.csv").status == 1
    Path("devices.csv").write_text("serial\n1\n")
    refused = cli("device", "import", "devices.csv")
    assert (refused.status, "column 'serial'" in refused.err) == (2, True)


def test_lists_what_is_selected_page_by_page(cli: Cli) -> None:
    """Label, state, owner and profile narrow the list; a page says how the next one is asked for."""
    rows = [f"gw-{i},default,{['ACME', ''][i % 2]},type=type{i % 3}" for i in range(6)]
    Path("devices.csv").write_text("name,profile,owner,labels\n" + "\n".join(rows) + "\n")
    cli("device", "import", "devices.csv")

    def names(*options: str) -> set[str]:
        return {row["name"] for row in cli("device", "list", *options, "--json").data}

    assert names("--label", "type=type1") == {"gw-1", "gw-4"}
    assert names("--label", "type!=type1", "--owner", "ACME") == {"gw-0", "gw-2"}
    assert names("--label", "site") == set()
    assert len(names("--state", "manufactured", "--profile", "DEFAULT")) == 6
    assert names("--state", "active") == set()
    assert cli("device", "list", "--label", "=").status == 2
    met: list[str] = []
    page: list[str] = []
    while True:
        result = cli("device", "list", "--limit", "4", *page, "--json")
        met += [row["name"] for row in result.data]
        if not result.err:
            break
        page = result.err.removeprefix("more: ").split()
    assert (len(met), len(set(met))) == (6, 6)
