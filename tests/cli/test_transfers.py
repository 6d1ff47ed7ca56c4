"""Owners and transfer from the command line: what it prints, where the claim code goes, and that it completes once."""

import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.cli.command import Result, Served, mqttprov

from mqttprov.cli.errors import Exit

Cli = Callable[..., Result]


@pytest.fixture
def device(cli: Cli) -> str:
    """Make a device of acme."""
    assert cli("device", "create", "gw-1", "--profile", "default", "--owner", "acme").status == 0
    return "gw-1"


def test_the_claim_code_is_told_once_and_is_nowhere_else(cli: Cli, device: str, state: Path) -> None:
    """Printed, but in no listing, event or database (P6)."""
    result = cli("device", "transfer", device, "--to", "globex", "--reason", "sold")
    assert result.status == 0
    code = result.out.split()[-1]
    assert code.startswith("mqp_cc_")
    assert "'gw-1' is offered to 'globex' for 7d" in result.err
    shown = cli("device", "show", device, "--json")
    assert (shown.data["owner"], shown.data["transferTo"]) == ("acme", "globex")
    assert code not in shown.out + cli("audit", "tail", "--json").out
    assert not [file for file in state.rglob("*") if file.is_file() and code.encode() in file.read_bytes()]
    (event,) = [e for e in cli("audit", "tail", "--json").data if e["kind"] == "transfer-offered"]
    assert (event["owner"], event["toOwner"], event["text"]) == ("acme", "globex", "sold")


def test_the_code_can_go_into_a_private_new_file(cli: Cli, device: str, tmp_path: Path) -> None:
    """A file that is there is not overwritten, and none is left of an offer that failed."""
    file = tmp_path / "code"
    told = cli("device", "transfer", device, "--to", "globex", "--output-file", str(file), "--json").data
    assert (told["outputFile"], "claimCode" in told) == (str(file), False)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert cli("device", "transfer", device, "--cancel").status == 0
    assert cli("device", "transfer", device, "--to", "globex", "--output-file", str(file)).status == Exit.CONFLICT
    other = tmp_path / "other"
    assert cli("device", "transfer", device, "--to", "acme", "--output-file", str(other)).status == Exit.CONFLICT
    assert not other.exists()


@pytest.mark.parametrize(
    ("options", "status"),
    [
        ([], Exit.USAGE),
        (["--to", "globex", "--cancel"], Exit.USAGE),
        (["--cancel", "--output-file", "x"], Exit.USAGE),
        (["--to", "globex", "--expires", "soon"], Exit.USAGE),
        (["--to", "globex", "--expires", "9999d"], Exit.USAGE),
        (["--to", ""], Exit.USAGE),
        (["--to", "acme"], Exit.CONFLICT),
        (["--cancel"], Exit.CONFLICT),
    ],
)
def test_what_cannot_be_offered_changes_nothing(cli: Cli, device: str, options: list[str], status: int) -> None:
    """And leaves no event (P5)."""
    before = cli("audit", "verify", "--json").data
    result = cli("device", "transfer", device, *options)
    assert (result.status, result.out) == (status, "")
    assert cli("audit", "verify", "--json").data == before


def test_beside_a_running_broker_a_code_completes_once(served: Served, tmp_path: Path) -> None:
    """With the new owner's token; a cancelled code, another owner's token and a used code get the same refusal."""

    def own(*arguments: str) -> Result:
        return mqttprov(*arguments, "--state", str(served.state), "--json")

    def ask(owner: str, *options: str) -> Result:
        secret = ["--secret-file", str(tmp_path / owner)]
        return mqttprov("request", "--port", str(served.port), *secret, "--device-name", "pump", *options, "--json")

    def offer(name: str) -> list[str]:
        file = str(tmp_path / name)
        assert own("device", "transfer", "pump", "--to", "globex", "--output-file", file).status == 0
        return ["--claim-code-file", file]

    for owner in ("acme", "globex"):
        label = f"of={owner}"
        assert own("token", "create", "--owner", owner, "--label", label, "--output-file", str(tmp_path / owner)).data
    first = ask("acme").data["credentialsValue"]
    cancelled = offer("cancelled")
    assert own("device", "transfer", "pump", "--cancel").status == 0
    code = offer("code")
    refused = [ask("globex", *cancelled), ask("acme", *code)]
    new = ask("globex", *code).data["credentialsValue"]
    assert new != first
    assert ask("globex", *code).data["credentialsValue"] == new  # not used yet (P4)
    refused.append(ask("globex", "--username", "another", *code))
    assert {(r.status, r.data["errorMsg"]) for r in refused} == {
        (Exit.FAILED, "Failed to provision device: this claim code cannot be used")
    }
    assert ask("acme").status == Exit.FAILED
    shown = own("device", "show", "pump").data
    assert (shown["owner"], shown["labels"], shown["transferTo"]) == ("globex", {"of": "globex"}, None)
    assert [c["status"] for c in shown["credentials"]] == ["superseded", "issued"]
    assert {row["owner"] for row in own("token", "list").data} >= {"acme", "globex"}
    assert (
        "it has passed from owner 'acme' to owner 'globex'"
        in mqttprov("audit", "explain", "pump", "--state", str(served.state)).out
    )
