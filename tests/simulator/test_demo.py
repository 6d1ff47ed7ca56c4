"""The demo as a whole, with our own broker in a process of its own."""

import io
import sys
import tempfile
from pathlib import Path

import pytest
from rich.console import Console

from mqttprov_simulator.demo import DemoError, run_demo


def _console() -> tuple[Console, io.StringIO]:
    out = io.StringIO()
    return Console(file=out, width=160), out


@pytest.fixture(autouse=True)
def _temporary_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the demo makes its state directory."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def test_the_demo_registers_a_fleet_and_leaves_nothing_behind(tmp_path: Path) -> None:
    """Every gateway is an active device; P5: every outcome is in an audit chain that holds."""
    console, out = _console()
    summary = run_demo(gateways=50, console=console, live=True)
    assert (summary.registered, summary.failed) == (50, 0)
    assert summary.devices_by_state == {"active": 50}
    assert summary.audit_verified is True
    assert summary.audit_events is not None
    assert summary.audit_events >= 101  # initialised, then provisioned and activated for each
    assert summary.states == {"online": 50}
    assert set(summary.cpu_us_per_registration) == {"swarm", "broker"}
    assert "registered 50/50" in out.getvalue()
    assert list(tmp_path.iterdir()) == []


def test_a_broker_that_does_not_start_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With what it wrote, and nothing is left behind."""
    script = tmp_path / "broken"
    script.write_text("#!/bin/sh\necho no port for you >&2\nexit 6\n")
    script.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(script))
    console, _ = _console()
    with pytest.raises(DemoError, match="no port for you"):
        run_demo(gateways=1, console=console, live=False)
    assert list(tmp_path.iterdir()) == [script]
