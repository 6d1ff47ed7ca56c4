"""`mqttprov ca`: what a person sees and gets, and every misuse as one clear error."""

import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509
from tests.cli.command import Result

from mqttprov.admin import now_ms
from mqttprov.pki.authority import Authority

Cli = Callable[..., Result]


def test_show_tells_which_authorities_there_are(cli: Cli, state: Path) -> None:
    """Columns for people; with --json everything, and where the lists of ended certificates are."""
    shown = cli("ca", "show", "--json").data
    (only,) = shown["authorities"]
    certificate = x509.load_pem_x509_certificate((state / "authority.pem").read_bytes())
    assert (only["state"], only["subject"], only["live"]) == ("active", "CN=mqttprov", 0)
    assert only["serial"] == f"{certificate.serial_number:x}"
    assert only["notAfterAt"].startswith(f"{certificate.not_valid_after_utc:%Y-%m-%dT%H:%M:%S}")
    assert shown["crl"] == str(state / "crl.pem")
    result = cli("ca", "show")
    assert result.out.split()[:5] == ["STATE", "SUBJECT", "FINGERPRINT", "UNTIL", "LIVE"]
    assert only["fingerprint"] in result.out


def test_an_own_authority_takes_the_first_ones_place_once(cli: Cli, tmp_path: Path) -> None:
    """By name and validity, and then only by rotation; older ones are retired when nobody needs them."""
    assert cli("ca", "init", "--name", "Plant CA", "--days", "365", "--json").data["subject"] == "CN=Plant CA"
    again = cli("ca", "init")
    assert (again.status, "mqttprov ca rotate" in again.err) == (5, True)
    own = Authority.create("Corporate CA", now_ms())
    (tmp_path / "ca.pem").write_text(own.certificate_pem)
    (tmp_path / "ca-key.pem").touch(mode=0o600)
    (tmp_path / "ca-key.pem").write_text(own.private_key_pem())
    brought = ["--certificate", str(tmp_path / "ca.pem"), "--private-key", str(tmp_path / "ca-key.pem")]
    assert cli("ca", "rotate", *brought).status == 0
    asked = cli("ca", "retire")
    assert (asked.status, "--yes" in asked.err) == (2, True)
    assert [one["subject"] for one in cli("ca", "retire", "--yes", "--json").data["retired"]] == ["CN=Plant CA"]
    assert cli("ca", "retire", "--yes").status == 3
    told = [one["kind"] for one in cli("audit", "tail", "-n", "3", "--json").data]
    assert told == ["authority-created", "authority-rotated", "authority-retired"]


@pytest.mark.parametrize(
    ("arguments", "status", "text"),
    [
        (("--certificate", "ca.pem"), 2, "two files"),
        (("--private-key", "ca.pem"), 2, "two files"),
        (("--certificate", "a", "--private-key", "b", "--name", "x"), 2, "leave out --name"),
        (("--certificate", "missing.pem", "--private-key", "missing.pem"), 6, "missing.pem cannot be read"),
        (("--name", "x" * 65), 2, "1 to 64 bytes"),
        (("--days", "0"), 2, "0 is not in the range"),
    ],
)
def test_what_makes_no_authority_is_one_clear_error(
    cli: Cli, state: Path, arguments: tuple[str, ...], status: int, text: str
) -> None:
    """For `init` and `rotate` alike; nothing is changed."""
    before = sorted((state / "keys").iterdir())
    for verb in ("init", "rotate"):
        result = cli("ca", verb, *arguments)
        assert (result.status, text in result.err, len(result.err.splitlines())) == (status, True, 1), result.err
    assert sorted((state / "keys").iterdir()) == before


def test_the_lists_are_written_where_they_are_wanted(cli: Cli, state: Path, tmp_path: Path) -> None:
    """Into the state directory for its owner, and as a copy that a broker's account may read."""
    assert cli("ca", "crl").status == 0
    first = (state / "crl.pem").read_bytes()
    told = cli("ca", "crl", "--out", str(tmp_path / "crl.pem"), "--json").data
    assert told == {"crl": str(tmp_path / "crl.pem"), "lists": 1}
    assert (tmp_path / "crl.pem").read_bytes() == (state / "crl.pem").read_bytes() != first
    assert stat.S_IMODE((state / "crl.pem").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "crl.pem").stat().st_mode) == 0o644


def test_a_damaged_key_is_told_by_its_name(cli: Cli, state: Path) -> None:
    """By whatever has to look through the keys: `serve` at its start, and changes of authorities."""
    assert cli("ca", "rotate").status == 0
    damaged = state / "keys" / "authority-key.pem"
    damaged.write_text("garbage")
    for verb in (["serve", "--port", "0"], ["ca", "retire", "--yes"], ["ca", "rotate"]):
        result = cli(*verb)
        assert (result.status, str(damaged) in result.err, len(result.err.splitlines())) == (6, True, 1), result.err


def test_serve_does_not_start_with_a_key_that_others_may_read(cli: Cli, state: Path) -> None:
    """As SSH does (SD-22)."""
    (state / "keys" / "authority-key.pem").chmod(0o640)
    result = cli("serve", "--port", "0")
    assert (result.status, "chmod 600" in result.err) == (6, True)
