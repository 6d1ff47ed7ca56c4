"""Every verb on the state directory: what it prints, what it changes, how it ends."""

import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
import typer
from tests.cli.command import Result, command, mqttprov

Cli = Callable[..., Result]


class TestInit:
    """`init`."""

    def test_tells_key_and_secret_once_and_one_next_command(self, tmp_path: Path) -> None:
        """Data is on stdout, talk on stderr, and exactly one line says what to run next."""
        path = tmp_path / "new"
        first = mqttprov("init", "--state", str(path))
        assert first.status == 0
        assert [line.split()[0] for line in first.out.splitlines()] == ["provisionDeviceKey", "provisionDeviceSecret"]
        assert first.err.count("Next: ") == 1
        assert f"mqttprov serve --state {path}" in first.err
        again = mqttprov("init", "--state", str(path))
        assert (again.status, again.out) == (0, "")
        assert "nothing was changed" in again.err

    def test_with_json_prints_one_object(self, tmp_path: Path) -> None:
        """A script gets key and secret, or learns that there was nothing to do."""
        told = mqttprov("init", "--state", str(tmp_path / "new"), "--json").data
        assert told["initialised"] is True
        assert len(told["provisionDeviceKey"]) == 24
        assert told["provisionDeviceSecret"].startswith("mqp_rs_")
        again = mqttprov("init", "--state", str(tmp_path / "new"), "--json").data
        assert again == {"initialised": False, "state": str(tmp_path / "new")}

    def test_makes_what_only_its_owner_may_read(self, state: Path) -> None:
        """Directories are 0700, files 0600 (P6)."""
        modes = {stat.S_IMODE(p.stat().st_mode) for p in state.rglob("*") if p.is_file()}
        assert modes == {0o600}
        assert {stat.S_IMODE(p.stat().st_mode) for p in (state, state / "keys")} == {0o700}

    @pytest.mark.parametrize("where", ["after", "before", "environment", "default"])
    def test_finds_the_state_directory_wherever_it_is_said(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
    ) -> None:
        """--state-dir after the verb wins over the one before it, that over MQTTPROV_STATE, that over the default."""
        expected = {name: tmp_path / name for name in ("after", "before", "environment")}
        expected["default"] = Path("mqttprov-state")
        order = ["default", "environment", "before", "after"]
        said = order[: order.index(where) + 1]
        if "environment" in said:
            monkeypatch.setenv("MQTTPROV_STATE", str(expected["environment"]))
        before = ["--state-dir", str(expected["before"])] if "before" in said else []
        after = ["--state", str(expected["after"])] if "after" in said else []
        assert mqttprov(*before, "init", *after, "--json").data["state"] == str(expected[where])
        assert mqttprov(*before, "profile", "list", *after).status == 0
        assert (tmp_path / expected[where] / "mqttprov.db").is_file()


class TestProfiles:
    """`profile`."""

    def test_create_prints_the_secret_of_its_token(self, cli: Cli) -> None:
        """A profile is born with a registration token, whose secret is shown once."""
        told = cli("profile", "create", "plant", "--json").data
        assert {"profile", "token", "provisionDeviceKey", "provisionDeviceSecret"} == told.keys()
        assert (told["profile"], told["token"]) == ("plant", "default")

    def test_create_takes_all_settings(self, cli: Cli) -> None:
        """Every option is found again in what is shown."""
        options = "--strategy pre-provisioned --credentials MQTT_BASIC --min-secret 12 --unicode-names --allow-label a"
        lists = ["--allow-label", "b", "--publish", "plant/%d/#", "--subscribe", "x", "--subscribe", "y"]
        assert cli("profile", "create", "plant", *options.split(), *lists).status == 0
        shown = cli("profile", "show", "PLANT", "--json").data
        created = shown.pop("createdAt")
        assert created.endswith("Z")
        assert shown == {
            "name": "plant",
            "strategy": "pre-provisioned",
            "credentialsType": "MQTT_BASIC",
            "reprovision": "refuse",
            "minSecretChars": 12,
            "unicodeNames": True,
            "labelKeys": ["a", "b"],
            "publishTopics": ["plant/%d/#"],
            "subscribeTopics": ["x", "y"],
            "rotateOnFirstUse": False,
            "tokens": 1,
            "devices": 0,
        }
        assert "labelKeys" in cli("profile", "show", "plant").out

    @pytest.mark.parametrize(
        ("strategy", "reprovision"),
        [("allow-create", "reuse"), ("pre-provisioned", "refuse"), ("disabled", "reuse")],
    )
    def test_create_chooses_the_policy_by_the_strategy(self, cli: Cli, strategy: str, reprovision: str) -> None:
        """A listed device provisions once unless the operator says otherwise."""
        cli("profile", "create", "plant", "--strategy", strategy)
        assert [row["reprovision"] for row in cli("profile", "list", "--json").data] == ["reuse", reprovision]
        cli("profile", "create", "other", "--strategy", strategy, "--reprovision", "same-key")
        assert cli("profile", "show", "other", "--json").data["reprovision"] == "same-key"


class TestTokens:
    """`token`."""

    def test_create_prints_one_object(self, cli: Cli) -> None:
        """Key and secret are in it; lists never show the secret (P6)."""
        told = cli("token", "create", "--name", "line", "--json").data
        assert told["token"] == "line"
        for arguments in (["list"], ["list", "--json"], ["show", "line"], ["show", "line", "--json"]):
            shown = cli("token", *arguments)
            assert told["provisionDeviceKey"][:8] in shown.out
            assert (told["provisionDeviceKey"] in shown.out) == (arguments[0] == "show")
            assert told["provisionDeviceSecret"] not in shown.out + shown.err

    def test_create_takes_all_settings(self, cli: Cli) -> None:
        """Every option is found again in what is shown."""
        options = "--name line --max-registrations 5 --expires 12h --label a=b --label c= --device-name-pattern gw-*"
        assert cli("token", "create", *options.split()).status == 0
        row = cli("token", "show", "line", "--json").data
        assert (row["maxRegistrations"], row["used"], row["profile"]) == (5, 0, "default")
        assert (row["labels"], row["deviceNamePattern"]) == ({"a": "b", "c": ""}, "gw-*")
        assert row["expiresAt"] > row["createdAt"]
        assert [row["revokedAt"], row["lastUsedAt"]] == [None, None]

    def test_create_writes_key_and_secret_into_a_file(self, cli: Cli, tmp_path: Path) -> None:
        """The secret is in the file (0600) and nowhere else; the file must be new (P6)."""
        file = tmp_path / "secrets.json"
        told = cli("token", "create", "--output-file", str(file), "--json")
        content = msgspec.json.decode(file.read_bytes())
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert content["provisionDeviceKey"] == told.data["provisionDeviceKey"]
        assert content["provisionDeviceSecret"] not in told.out + told.err
        count = len(cli("token", "list", "--json").data)
        assert cli("token", "create", "--output-file", str(file)).status == 5
        assert cli("token", "create", "--profile", "nobody", "--output-file", str(tmp_path / "x")).status == 3
        assert not (tmp_path / "x").exists()
        assert len(cli("token", "list", "--json").data) == count

    def test_update_changes_what_is_said_and_nothing_else(self, cli: Cli) -> None:
        """Limits can be set, moved and lifted."""
        cli("token", "create", "--name", "line", "--max-registrations", "5", "--label", "a=b")
        options = ["--expires", "90s", "--device-name-pattern", "gw-*", "--label", "c=d"]
        row = cli("token", "update", "line", *options, "--json").data
        assert (row["maxRegistrations"], row["deviceNamePattern"], row["labels"]) == (5, "gw-*", {"c": "d"})
        assert row["expiresAt"] is not None
        options = ["--expires", "never", "--max-registrations", "none", "--device-name-pattern", "none"]
        row = cli("token", "update", "line", *options, "--json").data
        assert [row[name] for name in ("maxRegistrations", "deviceNamePattern", "expiresAt")] == [None] * 3
        assert row["labels"] == {"c": "d"}

    def test_revoke_needs_a_yes(self, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
        """Off a terminal it wants --yes; on one it asks, and a no changes nothing."""
        unasked = cli("token", "revoke", "default")
        assert (unasked.status, "say --yes" in unasked.err) == (2, True)
        asked: list[str] = []

        def refuse(question: str, *, err: bool) -> bool:
            asked.append(question)
            return not err

        monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
        monkeypatch.setattr(typer, "confirm", refuse)
        assert cli("token", "revoke", "default").status == 1
        assert "'default'" in asked[0]
        assert cli("token", "show", "default", "--json").data["revokedAt"] is None
        assert cli("token", "revoke", "default", "--yes", "--json").data["revokedAt"] is not None
        assert cli("token", "revoke", "default", "--yes").status == 5

    def test_a_name_of_several_profiles_needs_one(self, cli: Cli) -> None:
        """Every profile has a token 'default'."""
        cli("profile", "create", "plant")
        assert cli("token", "show", "default").status == 5
        assert cli("token", "show", "default", "--profile", "plant", "--json").data["profile"] == "plant"
        assert [row["profile"] for row in cli("token", "list", "--profile", "plant", "--json").data] == ["plant"]


class TestDevices:
    """`device`."""

    def test_create_and_list(self, cli: Cli) -> None:
        """A made device is manufactured; its row has what the requirement names."""
        made = cli("device", "create", "gw-1", "--profile", "default", "--owner", "anna", "--label", "a=b", "--json")
        (row,) = cli("device", "list", "--json").data
        assert row == made.data
        assert {"name", "state", "profile", "owner", "labels", "token", "credentialsType"} <= row.keys()
        assert (row["name"], row["state"], row["owner"], row["labels"]) == ("gw-1", "manufactured", "anna", {"a": "b"})

    def test_list_filters(self, cli: Cli) -> None:
        """By profile, whatever the case of its name."""
        cli("profile", "create", "plant")
        cli("device", "create", "gw-1", "--profile", "default")
        cli("device", "create", "gw-2", "--profile", "plant")

        def names(*options: str) -> list[str]:
            return [row["name"] for row in cli("device", "list", *options, "--json").data]

        assert names() == ["gw-1", "gw-2"]
        assert names("--profile", "PLANT") == ["gw-2"]

    def test_list_as_an_operator_writes_it(self, cli: Cli, state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """`--state` is the lifecycle state there; the directory comes from `--state-dir`, before it, or around it."""
        monkeypatch.setenv("MQTTPROV_STATE", str(state))
        for name, owner, kind in (("gw-1", "ACME", "type1"), ("gw-2", "ACME", "type2"), ("gw-3", "other", "type1")):
            cli("device", "create", name, "--profile", "default", "--owner", owner, "--label", f"type={kind}")
        database = sqlite3.connect(state / "mqttprov.db")
        database.execute("UPDATE device SET state = 'active', created_ms = 0")
        database.commit()
        database.close()
        wanted = ["--label", "type=type1", "--state", "active", "--stale", "7d", "--owner", "ACME", "--json"]
        for before, after in (([], []), (["--state", str(state)], []), ([], ["--state-dir", str(state)])):
            listed = mqttprov(*before, "device", "list", *wanted, *after)
            assert [row["name"] for row in listed.data] == ["gw-1"]
        assert mqttprov("device", "list", "--state", "suspended", "--json").data == []
        refused = mqttprov("device", "list", "--state", str(state))
        assert (refused.status, "a state directory is given by --state-dir" in refused.err) == (2, True)

    def test_show_tells_the_history(self, cli: Cli) -> None:
        """A device is found whatever the case of its name."""
        cli("device", "create", "gw-1", "--profile", "default")
        assert cli("device", "show", "GW-1", "--json").data["credentials"] == []
        assert "manufactured" in cli("device", "show", "gw-1").out

    def test_columns_are_never_cut(self, cli: Cli) -> None:
        """Off a terminal every value is whole, however long."""
        name = "gw-" + "x" * 250
        cli("device", "create", name, "--profile", "default")
        assert name in cli("device", "list").out


class TestOperatorsAndAudit:
    """`operator` and `audit`."""

    def test_an_operators_password_is_shown_once(self, cli: Cli) -> None:
        """It is in what `create` prints and nowhere else (P6)."""
        made = cli("operator", "create", "anna", "--role", "observer", "--json").data
        assert (made["name"], made["role"]) == ("anna", "observer")
        listed = cli("operator", "list", "--json")
        assert [(row["name"], row["role"]) for row in listed.data] == [("anna", "observer")]
        assert made["password"] not in listed.out + cli("audit", "tail", "--json").out

    def test_tail_prints_the_last_events(self, cli: Cli) -> None:
        """One line per event, an array with --json (P5)."""
        cli("device", "create", "gw-1", "--profile", "default")
        events = cli("audit", "tail", "-n", "2", "--json").data
        assert [(e["seq"], e["kind"]) for e in events] == [(3, "token-created"), (4, "device-created")]
        assert events[1]["device"] == "gw-1"
        assert events[1]["at"].endswith("Z")
        lines = cli("audit", "tail").out.splitlines()
        assert len(lines) == 4
        assert "#4  device-created" in lines[-1]
        assert cli("audit", "tail", "-n", "0", "--json").data == []

    def test_verify_says_how_many_and_the_last_hash(self, cli: Cli) -> None:
        """The head is what the last event carries (P5)."""
        last = cli("audit", "tail", "-n", "1", "--json").data[0]
        assert cli("audit", "verify", "--json").data == {
            "verified": True,
            "events": 3,
            "head": last["hash"],
            "checkpoints": 0,
        }
        assert last["hash"] in cli("audit", "verify").out

    @pytest.mark.parametrize(
        "change",
        ["SET body = replace(body, 'default', 'defau1t') WHERE seq = 2", "SET kind = 'nothing' WHERE seq = 2"],
    )
    def test_verify_names_the_first_bad_place(self, cli: Cli, state: Path, change: str) -> None:
        """A changed event is found, with exit status 1 (P5)."""
        connection = sqlite3.connect(state / "mqttprov.db")
        connection.execute("DROP TRIGGER audit_event_is_append_only_u")
        connection.execute(f"UPDATE audit_event {change}")
        connection.commit()
        connection.close()
        found = cli("audit", "verify", "--json")
        assert (found.status, found.data["verified"], found.data["firstBad"]) == (1, False, 2)
        told = cli("audit", "verify")
        assert (told.status, "audit event 2" in told.err) == (1, True)
        assert cli("audit", "tail").status == 0


def test_every_operator_action_is_by_the_account_that_did_it(cli: Cli) -> None:
    """The actor is the system's account, whatever the environment says (P5)."""
    actors = {event["actor"] for event in cli("audit", "tail", "--json").data}
    assert len(actors) == 1
    assert actors.pop().startswith("cli:")


def test_the_command_works_as_a_process(tmp_path: Path) -> None:
    """What a person types does the same: `python -m mqttprov` with its own stdout, stderr and exit status."""
    arguments = ["--state", str(tmp_path / "s")]
    made = subprocess.run(command("init", *arguments, "--json"), capture_output=True, check=True)
    assert msgspec.json.decode(made.stdout)["initialised"] is True
    missing = subprocess.run(command("device", "show", "gw-1", *arguments), capture_output=True, check=False)
    assert (missing.returncode, missing.stdout) == (3, b"")
    assert missing.stderr.startswith(b"error: there is no device named 'gw-1'")
