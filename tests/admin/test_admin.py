"""The Python interface: what its page shows works, and it does and asks what the commands do."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mqttprov.admin import (
    Admin,
    BadCheckpoint,
    BrokenChain,
    Checkpoints,
    FindingKind,
    ImportCount,
    InvalidName,
    LineFault,
    NotFound,
    StateError,
    TokenChange,
    initialise,
    kept_checkpoints,
    verify_export,
)
from mqttprov.core.audit import parse_body

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "python.md"


@pytest.fixture
def admin(tmp_path: Path) -> Iterator[Admin]:
    """Give an opened state directory."""
    assert initialise(tmp_path / "state") is not None
    with Admin(tmp_path / "state", actor="api:test") as opened:
        yield opened


def test_the_page_does_what_it_says(tmp_path: Path) -> None:
    """Its example runs as it stands, from an empty directory."""
    (example,) = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    done = subprocess.run([sys.executable, "-c", example], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    key, device, revoked, story, *findings, audit = done.stdout.splitlines()
    assert len(key) == 24
    assert device == "gw-0001 {'type': 'type1', 'site': 'north'}"
    assert revoked == "lot7 is revoked with 0 devices"
    assert story.startswith("api:erp made 'gw-0001' in profile 'line'")
    assert findings == []
    assert audit.endswith("audit events, unbroken")


def test_who_acts_is_in_the_audit_events(admin: Admin, tmp_path: Path) -> None:
    """The actor that was given; else the system's account, never what the environment says (P5)."""
    admin.create_token("default", "line", TokenChange())
    (*_, last) = admin.events()
    assert parse_body(last.body)[1].actor == "api:test"
    with Admin(tmp_path / "state") as other:
        other.create_token("default", "line2", TokenChange())
    (*_, last) = admin.events()
    assert re.fullmatch(r"api:\S+", parse_body(last.body)[1].actor)
    assert admin.verify_audit().seq == last.seq
    assert list(admin.events(last.seq - 1, 1)) == [last]


def test_asks_for_one_or_for_all(admin: Admin) -> None:
    """What is not there is an error that says so; what a list gives is typed."""
    assert [row.profile.name for row in admin.profiles()] == ["default"]
    assert admin.profile("DEFAULT").tokens == 1
    token = admin.token("default")
    assert admin.tokens("default") == [token]
    assert list(admin.registered(token)) == []
    device = admin.create_device("default", "gw-1", "ACME", {"a": "1"})
    assert admin.device("GW-1").id == device.id
    assert admin.credentials(admin.device("gw-1")) == []
    assert [row.name for row in admin.devices(labels=["a!=2", "a"], owner="ACME", profile="default", limit=1)] == [
        "gw-1"
    ]
    assert list(admin.devices(after=device.id)) == []
    assert [list(admin.devices(unseen_for_ms=ago_ms)) for ago_ms in (-10_000, 10_000)] == [[admin.device("gw-1")], []]
    assert admin.operators() == []
    for ask in (lambda: admin.profile("x"), lambda: admin.token("x"), lambda: admin.device("x")):
        with pytest.raises(NotFound):
            ask()
    with pytest.raises(InvalidName):
        admin.devices(labels=["="])


def test_the_audit_is_told_and_searched(admin: Admin) -> None:
    """The story of a device in sentences with how it stands now, and what the report finds."""
    admin.create_device("default", "gw-1", None, {})
    story = admin.explain("gw-1")
    (told,) = story.told()
    assert (told.kind, told.advice) == ("device-created", None)
    assert told.sentence == "api:test made 'gw-1' in profile 'default'; it may now provision itself."
    assert str(story.standing()).endswith("It is in profile 'default' and has no owner.")
    assert [(f.kind, f.count) for f in admin.report(within_ms=3_600_000)] == [(FindingKind.NO_OWNER, 1)]
    with pytest.raises(NotFound):
        admin.explain("nobody")


def test_the_audit_is_exported_signed_and_verified(admin: Admin, tmp_path: Path) -> None:
    """By who administers, and by an outsider with an export, the checkpoints and the key alone (P5)."""
    assert admin.checkpoints() == Checkpoints()
    events, note = admin.write_checkpoint()
    assert (events, admin.write_checkpoint()) == (3, (3, None))
    (tmp_path / "kept").write_text(str(note))
    (tmp_path / "key").write_text(str(admin.audit_key()))
    lines = [line + "\n" for line in admin.export_audit()]
    (tmp_path / "export").write_text("".join(lines))
    kept = kept_checkpoints(tmp_path / "kept", tmp_path / "key")
    assert kept == admin.checkpoints() == admin.checkpoints(tmp_path / "kept", tmp_path / "key")
    assert verify_export(tmp_path / "export", kept) == admin.verify_audit() == admin.verify_audit(kept)
    (tmp_path / "export").write_text("".join(lines[:-1]))
    assert verify_export(tmp_path / "export", Checkpoints()).seq == 2
    with pytest.raises(BrokenChain):
        verify_export(tmp_path / "export", kept)
    with pytest.raises(BrokenChain):
        admin.verify_audit(Checkpoints({4: "0" * 64}))
    with pytest.raises(BadCheckpoint, match="cannot be read"):
        kept_checkpoints(tmp_path / "kept", tmp_path / "nothing")


def test_imports_a_list(admin: Admin, tmp_path: Path) -> None:
    """From a file, with faults told line by line."""
    (tmp_path / "devices.csv").write_text("name\ngw-1\na/b\n")
    faults: list[LineFault] = []
    count = admin.import_list(tmp_path / "devices.csv", profile="default", tell_fault=faults.append)
    assert (count, [fault.number for fault in faults]) == (ImportCount(1, 0, 1), [3])


def test_what_is_no_state_directory_is_refused(tmp_path: Path) -> None:
    """With what to do about it."""
    with pytest.raises(StateError, match="mqttprov init"):
        Admin(tmp_path)
