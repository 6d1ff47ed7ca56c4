"""`profile create` and `profile update` for devices that come with certificates of their factory."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.brokers.certificates import DeviceKey, FactoryAuthority
from tests.cli.command import Result, mqttprov, start

Cli = Callable[..., Result]


@pytest.fixture
def authority() -> FactoryAuthority:
    """Give a factory's authority, whose certificate is in `ca.pem`."""
    made = FactoryAuthority("Factory")
    Path("ca.pem").write_text(made.pem)
    return made


def told(cli: Cli, kind: str) -> list[str]:
    """Give the texts of the audit events of a kind."""
    events = [row.get("event", row) for row in cli("audit", "tail", "--json").data]
    return [event["text"] for event in events if event["kind"] == kind]


def create(cli: Cli, *options: str) -> Result:
    """Make a profile with a chain."""
    return cli("profile", "create", "made", "--strategy", "certificate-chain", *options)


def test_create_takes_authorities_and_a_pattern(cli: Cli, authority: FactoryAuthority) -> None:
    """They are found again, without the certificates; the whole common name is the default."""
    assert create(cli, "--ca", "ca.pem", "--device-name-pattern", r"(gw-\d+)\..*", "--rotate-on-first-use").status == 0
    shown = cli("profile", "show", "made", "--json").data
    assert (shown["strategy"], shown["subjectPattern"], shown["rotateOnFirstUse"]) == (
        "certificate-chain", r"(gw-\d+)\..*", True
    )  # fmt: skip
    assert "BEGIN" not in cli("profile", "show", "made").out
    assert cli("profile", "create", "plain", "--strategy", "certificate-chain", "--ca", "ca.pem").status == 0
    assert cli("profile", "show", "plain", "--json").data["subjectPattern"] == "(.*)"
    assert "rotate on first use" in told(cli, "profile-created")[1]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ([], "authorities that issue the devices' certificates are needed"),
        (["--ca", "nothing.pem"], "cannot be read"),
        (["--ca", "leaf.pem"], "not the certificate of an authority"),
        (["--ca", "key.pem"], "private key"),
        (["--ca", "ca.pem", "--device-name-pattern", "(a+)+"], "must not repeat a group"),
        (["--device-name-pattern", "(.*)"], "give --ca too"),
    ],
)
def test_create_refuses_in_words(cli: Cli, authority: FactoryAuthority, options: list[str], text: str) -> None:
    """One error for each, and no profile."""
    key = DeviceKey("x")
    Path("leaf.pem").write_text(authority.issue(key, "x"))
    Path("key.pem").write_text(authority.pem + key.private_key_pem())
    refused = create(cli, *options)
    assert (refused.status, text in refused.err, "PRIVATE" in refused.err) == (2, True, False)
    assert len(cli("profile", "list", "--json").data) == 1


def test_authorities_are_for_that_strategy_alone(cli: Cli, authority: FactoryAuthority) -> None:
    """Neither a new profile nor an old one takes them otherwise."""
    assert cli("profile", "create", "made", "--ca", "ca.pem").status == 2
    assert cli("profile", "update", "default", "--ca", "ca.pem").status == 2


def test_update_changes_one_thing_and_leaves_the_other(cli: Cli, authority: FactoryAuthority) -> None:
    """Each change is an audit event that says what (P5)."""
    create(cli, "--ca", "ca.pem", "--device-name-pattern", "(gw-.*)")
    assert cli("profile", "update", "made", "--rotate-on-first-use", "--json").data["rotateOnFirstUse"] is True
    Path("new.pem").write_text(FactoryAuthority("New").pem)
    assert cli("profile", "update", "MADE", "--ca", "new.pem", "--no-rotate-on-first-use").status == 0
    shown = cli("profile", "show", "made", "--json").data
    assert (shown["subjectPattern"], shown["rotateOnFirstUse"]) == ("(gw-.*)", False)
    assert told(cli, "profile-updated") == ["rotation on first use", "no rotation on first use, other authorities"]
    assert cli("profile", "update", "made").status == 2
    assert cli("profile", "update", "nobody", "--rotate-on-first-use").status == 3


def test_request_shows_a_factory_certificate(state: Path, cli: Cli, authority: FactoryAuthority) -> None:
    """Beside a running broker, from making the profile to the credentials, without key and secret."""
    key = DeviceKey("gw-1")
    Path("gw.pem").write_text(authority.issue(key, "gw-1"))
    Path("gw-key.pem").write_text(key.private_key_pem())
    shown = ["--factory-certificate", "gw.pem", "--factory-key", "gw-key.pem"]
    with start("serve", "--state", str(state), "--port", "0", "--tls-port", "0", "--json") as process:
        assert process.stdout is not None
        port = json.loads(process.stdout.readline())["listening"][1].rsplit(":", 1)[1]
        assert create(cli, "--ca", "ca.pem", "--rotate-on-first-use").status == 0
        at = ["--port", port, "--tls-ca", str(state / "authority.pem"), "--json"]
        done = _until_trusted(lambda: mqttprov("request", *shown, *at))
        assert (done.data["status"], done.data["deviceName"]) == ("SUCCESS", "gw-1")
        again = mqttprov("request", *shown, *at, "--device-name", "gw-2")
        assert (again.status, again.data["status"]) == (1, "FAILURE")
        process.terminate()
        process.communicate(timeout=30)


def _until_trusted(ask: Callable[[], Result]) -> Result:
    """Ask until the broker has met the new profile, which it does 0.1 s later at most."""
    for _ in range(100):
        done = ask()
        if done.status != 6:
            return done
    return done


@pytest.mark.parametrize(
    "options",
    [
        ["--factory-certificate", "ca.pem", "--tls-ca", "ca.pem"],
        ["--factory-certificate", "ca.pem", "--factory-key", "ca.pem"],
        ["--factory-certificate", "ca.pem", "--factory-key", "ca.pem", "--tls-ca", "ca.pem"],
        ["--factory-key", "ca.pem", "--tls-ca", "ca.pem"],
    ],
)
def test_half_a_factory_identity_is_a_usage_error(authority: FactoryAuthority, options: list[str]) -> None:
    """A certificate needs its key, and both need TLS."""
    refused = mqttprov("request", *options)
    assert (refused.status, "factory" in refused.err or "certificate" in refused.err) == (2, True)
