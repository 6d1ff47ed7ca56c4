"""Certificates and lists of ours as pkilint sees them: DigiCert's linter for RFC 5280, in an environment of its own."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from tests.pki.conftest import NOW_MS, Maker

from mqttprov.pki.authority import Authority
from mqttprov.pki.crl import Ended, Ending, entries_by_issuer, list_pem, make_list

VENV = Path(__file__).parents[2] / ".venvs" / "pkilint"
pytestmark = pytest.mark.interop


@pytest.fixture(scope="session")
def lint() -> Any:
    """Run one of its programs; give the findings that are errors."""
    if not (VENV / ".installed").exists():
        reason = "pkilint is not installed: run tools/vendor-venvs.sh"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)

    def run(program: str, file: Path, *arguments: str) -> list[str]:
        command = [str(VENV / "bin" / program), "lint", *arguments, "-s", "ERROR", "-f", "JSON", str(file)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        found = json.loads(done.stdout)["results"]
        # Its exit status is the number of findings.
        assert done.returncode == sum(len(one["finding_descriptions"]) for one in found), done.stderr
        return [finding["code"] for one in found for finding in one["finding_descriptions"]]

    return run


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One of each kind that we issue."""
    folder, maker, authority = tmp_path_factory.mktemp("pki"), Maker(), Authority.create("Plant CA", NOW_MS)
    devices = {
        kind: authority.sign_device(maker.csr(kind), f"0{n}", "gw 1", bytes([n]) * 16, NOW_MS).pem
        for n, kind in enumerate(("P-256", "P-384", "Ed25519", "RSA 2048"), start=1)
    }
    ended = [Ended(pem, ending) for pem, ending in zip(devices.values(), Ending, strict=False)]
    entries = entries_by_issuer(ended, NOW_MS)[authority.key_id]
    texts = {"authority": authority.certificate_pem, "crl": list_pem(make_list(authority, entries, [], NOW_MS))}
    texts |= {"empty-crl": list_pem(make_list(authority, {}, [], NOW_MS))}
    texts |= {"server": authority.issue_server(["broker.example", "127.0.0.1", "::1"], NOW_MS)[0], **devices}
    for name, text in texts.items():
        (folder / f"{name}.pem").write_text(text)
    return folder


@pytest.mark.parametrize("name", ["authority", "server", "P-256", "P-384", "Ed25519", "RSA 2048"])
def test_pkilint_finds_no_error_in_a_certificate(lint: Any, files: Path, name: str) -> None:
    """Of the authority, of servers, and of devices with each kind of key (SD-17 to SD-19).

    Not checked: `localhost` in the certificate that `serve` makes for itself. It is no name of the public DNS, which
    pkilint asks for, but the name under which local clients look for the broker.
    """
    assert lint("lint_pkix_cert", files / f"{name}.pem") == []


@pytest.mark.parametrize("name", ["crl", "empty-crl"])
def test_pkilint_finds_no_error_in_a_list(lint: Any, files: Path, name: str) -> None:
    """With entries of every reason, and without any (SD-21)."""
    assert lint("lint_crl", files / f"{name}.pem", "-t", "CRL", "-p", "PKIX") == []


def test_pkilint_does_find_errors(lint: Any, tmp_path: Path) -> None:
    """What it finds in the certificate of a vendor's gateway is seen here."""
    (tmp_path / "bad.pem").write_text(Authority.create("x", NOW_MS).issue_server(["localhost"], NOW_MS)[0])
    assert lint("lint_pkix_cert", tmp_path / "bad.pem") == ["pkix.invalid_domain_name_syntax"]
