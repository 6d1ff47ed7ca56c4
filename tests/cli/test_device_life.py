"""The verbs on one device from the command line: what they print, when they ask, how they end, beside a broker."""

from collections.abc import Callable

import pytest
from tests.cli.command import Result, Served, mqttprov

from mqttprov.cli.errors import Exit

Cli = Callable[..., Result]


@pytest.fixture
def device(cli: Cli) -> str:
    """Make a manufactured device."""
    assert cli("device", "create", "gw-1", "--profile", "default").status == 0
    return "gw-1"


@pytest.mark.parametrize("verb", ["suspend", "resume", "release", "rotate"])
def test_a_state_that_does_not_allow_it_is_a_conflict(cli: Cli, device: str, verb: str) -> None:
    """The error names the device, its state and what could be done; nothing is recorded (P5)."""
    before = cli("audit", "verify", "--json").data
    yes = ["--yes"] if verb == "release" else []
    result = cli("device", verb, device, *yes)
    assert result.status == Exit.CONFLICT
    assert f"device 'gw-1': a manufactured device cannot {verb};" in result.err
    assert cli("audit", "verify", "--json").data == before


@pytest.mark.parametrize("verb", ["suspend", "resume", "decommission", "release", "rotate"])
def test_a_device_that_is_not_there_is_told(cli: Cli, verb: str) -> None:
    """With where to look."""
    yes = ["--yes"] if verb in {"decommission", "release"} else []
    result = cli("device", verb, "nobody", *yes)
    assert (result.status, result.out) == (Exit.NOT_FOUND, "")
    assert "there is no device named 'nobody'; see: mqttprov device list" in result.err


@pytest.mark.parametrize("verb", ["decommission", "release"])
def test_what_cannot_be_undone_wants_a_yes(cli: Cli, device: str, verb: str) -> None:
    """Off a terminal nobody can be asked, so nothing is done."""
    result = cli("device", verb, device)
    assert result.status == Exit.USAGE
    assert "say --yes" in result.err
    assert cli("device", "show", device, "--json").data["state"] == "manufactured"


def test_without_a_broker_the_verbs_work_on_the_state_alone(cli: Cli, device: str) -> None:
    """Decommission, release, and the name is free for another device (P8)."""
    told = cli("device", "decommission", device, "--yes", "--reason", "lost", "--json").data
    assert (told["name"], told["state"], told["brokers"], told["wiped"]) == ("gw-1", "decommissioned", 0, None)
    assert cli("device", "create", "gw-1", "--profile", "default").status == Exit.CONFLICT
    assert "has given its name free" in cli("device", "release", device, "--yes").err
    assert cli("device", "create", "gw-1", "--profile", "default").status == 0
    names = [row["name"] for row in cli("device", "list", "--json").data]
    assert sorted(names) == ["gw-1", f"gw-1#{told['id']}"]
    assert cli("device", "show", names[0], "--json").data["id"] == told["id"]
    events = cli("audit", "tail", "--json").data
    assert [e["text"] for e in events if e["kind"] == "decommissioned"] == ["lost"]


@pytest.mark.parametrize(("option", "value"), [("--wait", "2m"), ("--wait", "soon"), ("--reason", "a\nb")])
def test_values_that_cannot_be_used_are_usage_errors(cli: Cli, device: str, option: str, value: str) -> None:
    """And nothing is done."""
    assert cli("device", "decommission", device, "--yes", option, value).status == Exit.USAGE
    assert cli("device", "show", device, "--json").data["state"] == "manufactured"


def test_beside_a_running_broker_they_act_on_it(served: Served) -> None:
    """The broker confirms each; what it refuses a suspended device, it gives a resumed one (P7)."""

    def device(*arguments: str) -> Result:
        return mqttprov("device", *arguments, "life", "--state", str(served.state), "--json")

    def ask() -> int:
        return mqttprov("request", *served.at(), "--device-name", "life", "--json").status

    assert ask() == 0
    told = device("suspend").data
    assert (told["state"], told["brokers"]) == ("suspended", 1)
    assert ask() == Exit.FAILED
    assert device("resume").data["state"] == "provisioned"
    assert ask() == 0
    assert device("rotate").status == Exit.CONFLICT  # it has never logged in
    assert device("decommission", "--yes").data["brokers"] == 1
    assert ask() == Exit.FAILED
    assert device("release", "--yes").status == 0
    assert ask() == 0
