"""Tokens by the thousand, rotated, and with the devices that they registered."""

import csv
import itertools
import os
import stat
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from tests.cli.command import Result

from mqttprov.core.requests import Granted, ProvisionRequest
from mqttprov.responder.jobs import BatchProcessor, ProvisionJob
from mqttprov.responder.state_directory import StateDirectory

Cli = Callable[..., Result]


def provision(state: Path, key: str, secret: str, *names: str) -> list[bool]:
    """Send requests as a broker would; tell which were granted."""
    opened = StateDirectory(state)
    told: list[object] = []
    ticks = itertools.count(1_700_000_000_000)
    processor = BatchProcessor(opened.store, opened.keys, now_ms=lambda: next(ticks), entropy=os.urandom)
    jobs = [ProvisionJob(ProvisionRequest(key, secret, name), "10.0.0.1", told.append) for name in names]
    for done, outcome in processor.process(jobs):
        done(outcome)
    processor.close()
    opened.close()
    return [isinstance(outcome, Granted) for outcome in told]


class TestMany:
    """`token create --count`."""

    def test_writes_one_line_for_each_and_each_works_once(self, cli: Cli, state: Path, tmp_path: Path) -> None:
        """The file is for its owner alone; no secret is printed (P6)."""
        file = tmp_path / "tokens.csv"
        made = cli("token", "create", "--count", "3", "--max-registrations", "1", "--name", "lot", "--out", str(file),
                   "--json")  # fmt: skip
        assert made.data == {"profile": "default", "tokens": 3, "outputFile": str(file)}
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        rows = list(csv.DictReader(file.read_text().splitlines()))
        assert [row["name"] for row in rows] == ["lot-1", "lot-2", "lot-3"]
        for row in rows:
            key, secret = row["provisionDeviceKey"], row["provisionDeviceSecret"]
            assert secret not in made.out + made.err
            assert provision(state, key, secret, f"gw-{row['name']}", "gw-another") == [True, False]

    @pytest.mark.parametrize(
        ("options", "status"),
        [(["--count", "3"], 2), (["--out", "x"], 2), (["--count", "3", "--out", "x", "--output-file", "y"], 2),
         (["--count", "0", "--out", "x"], 2), (["--count", "x", "--out", "x"], 2),
         (["--count", "2", "--out", "x", "--profile", "nobody"], 3), (["--count", "2", "--out", "taken"], 5)],
    )  # fmt: skip
    def test_refuses_what_makes_no_sense_and_leaves_nothing(self, cli: Cli, options: list[str], status: int) -> None:
        """Neither a file nor a token."""
        Path("taken").write_text("mine")
        assert cli("token", "create", *options).status == status
        assert not Path("x").exists()
        assert Path("taken").read_text() == "mine"
        assert len(cli("token", "list", "--json").data) == 1

    def test_a_failure_amid_leaves_a_file_of_what_exists(self, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
        """The file and the tokens agree, and the error says how many there are."""
        monkeypatch.setattr("mqttprov.responder.token_actions._TOKENS_PER_TRANSACTION", 2)
        cli("token", "create", "--name", "lot-4")
        failed = cli("token", "create", "--count", "5", "--name", "lot", "--out", "lot.csv")
        assert failed.status == 1
        assert "2 of 5 tokens were made; lot.csv holds the secrets of exactly those" in failed.err
        written = [row["name"] for row in csv.DictReader(Path("lot.csv").read_text().splitlines())]
        assert written == ["lot-1", "lot-2"]
        assert {row["name"] for row in cli("token", "list", "--json").data} == {"default", "lot-4", *written}


class TestRotate:
    """`token rotate`."""

    def test_tells_the_new_secret_once(self, cli: Cli, state: Path) -> None:
        """At once only with --yes off a terminal; with an overlap both secrets work."""
        old = cli("token", "create", "--name", "line", "--json").data
        key, secret = old["provisionDeviceKey"], old["provisionDeviceSecret"]
        assert cli("token", "rotate", "line").status == 2
        new = cli("token", "rotate", "line", "--overlap", "7d", "--json").data
        assert new["provisionDeviceKey"] == key
        assert cli("token", "show", "line", "--json").data["oldSecretUntilAt"] is not None
        assert provision(state, key, secret, "gw-1") == [True]
        assert provision(state, key, new["provisionDeviceSecret"], "gw-2") == [True]
        file = Path("new.json")
        told = cli("token", "rotate", "line", "--yes", "--output-file", str(file))
        newest = msgspec.json.decode(file.read_bytes())["provisionDeviceSecret"]
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert newest not in told.out + told.err
        assert provision(state, key, new["provisionDeviceSecret"], "gw-3") == [False]
        assert provision(state, key, newest, "gw-3") == [True]


def test_show_lists_the_devices_that_a_token_registered(cli: Cli, state: Path) -> None:
    """All of them with --json; people see the first twenty and how many more there are."""
    token = cli("token", "create", "--name", "line", "--json").data
    names = [f"gw-{i:02}" for i in range(23)]
    provision(state, token["provisionDeviceKey"], token["provisionDeviceSecret"], *names)
    shown = cli("token", "show", "line", "--json").data
    assert sorted(device["name"] for device in shown["devices"]) == names
    assert {device["state"] for device in shown["devices"]} == {"provisioned"}
    assert shown["lastUsedAt"] is not None
    human = cli("token", "show", "line")
    assert human.out.count("gw-") == 20
    assert "3 more devices" in human.err
    assert cli("token", "show", "default", "--json").data["devices"] == []


def test_revoke_with_cascade_suspends_the_devices(cli: Cli, state: Path) -> None:
    """It says how many; run again it finds nothing left to do."""
    token = cli("token", "create", "--name", "line", "--json").data
    provision(state, token["provisionDeviceKey"], token["provisionDeviceSecret"], "gw-1", "gw-2")
    done = cli("token", "revoke", "line", "--cascade", "--yes", "--json").data
    assert (done["suspendedDevices"], done["revokedAt"] is not None) == (2, True)
    assert {row["state"] for row in cli("device", "list", "--json").data} == {"suspended"}
    assert "0 devices are suspended" in cli("token", "revoke", "line", "--cascade", "--yes").err
