"""Operators' logins by the command line: their passwords are shown once, also where a broker is silent."""

from collections.abc import Callable

import pytest
from tests.cli.command import Result

from mqttprov.responder import doorbell

Cli = Callable[..., Result]


def test_a_login_is_made_rotated_removed_and_made_again(cli: Cli) -> None:
    """Each time with another password; who was removed is not listed."""
    made = cli("operator", "create", "anna", "--role", "observer", "--json").data
    rotated = cli("operator", "rotate", "anna", "--yes", "--json").data
    assert rotated.keys() == {"name", "password"}
    assert cli("operator", "remove", "anna", "--yes", "--json").data == {"name": "anna", "removed": True}
    assert cli("operator", "list", "--json").data == []
    again = cli("operator", "create", "anna", "--json").data
    assert len({each["password"] for each in (made, rotated, again)}) == 3
    told = cli("audit", "tail", "-n", "10").out
    assert told.count("operator-rotated") == told.count("operator-removed") == 1


def test_nobody_who_can_be_asked_must_say_yes(cli: Cli) -> None:
    """Both end something for good."""
    cli("operator", "create", "anna")
    for verb in ("rotate", "remove"):
        assert (refused := cli("operator", verb, "anna")).status == 2
        assert "--yes" in refused.err


def test_a_new_password_is_told_also_when_a_broker_is_silent(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the one that works from then on; that sessions may stand is an error beside it."""
    cli("operator", "create", "anna")

    def silent(*_: object) -> int:
        raise doorbell.BrokerSilent("it is committed, but nobody answers")

    monkeypatch.setattr(doorbell, "ring", silent)
    result = cli("operator", "rotate", "anna", "--yes", "--json")
    assert result.status == 6
    assert result.data["password"]
    assert result.err == "error: it is committed, but nobody answers\n"
