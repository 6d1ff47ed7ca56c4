"""The state directory: who may read it, what an interruption leaves, and what is wrong with a damaged one."""

import stat
import threading
from pathlib import Path

import pytest
from tests.responder.desk import NOW_MS, Desk

from mqttprov.responder import state_directory, state_files
from mqttprov.responder.administration import IssuedToken
from mqttprov.responder.state_directory import StateDirectory, StateError, initialise
from mqttprov.store.sqlite import SqliteStore

FILES = ("mqttprov.toml", "mqttprov.db", "authority.pem", "keys/pepper", "keys/issuing-key", "keys/authority-key.pem")


def make(path: Path, seed: int = 7) -> IssuedToken | None:
    """Initialise with bytes of this seed."""
    return initialise(path, actor="cli:test", now_ms=lambda: NOW_MS, entropy=lambda n: bytes([seed]) * n)


def test_only_its_owner_may_read_it(desk: Desk) -> None:
    """Directories are 0700, files 0600 (P6)."""
    modes = {p.relative_to(desk.state.path): stat.S_IMODE(p.stat().st_mode) for p in desk.state.path.rglob("*")}
    assert {Path(name) for name in FILES} <= modes.keys()
    assert {mode for path, mode in modes.items() if path != Path("keys")} == {0o600}
    assert [modes[Path("keys")], stat.S_IMODE(desk.state.path.stat().st_mode)] == [0o700, 0o700]


def test_what_was_initialised_is_not_replaced(tmp_path: Path) -> None:
    """A second run keeps every byte: keys that a database was made with are irreplaceable."""
    assert make(tmp_path / "s") is not None
    before = {name: (tmp_path / "s" / name).read_bytes() for name in FILES if not name.endswith(".db")}
    assert make(tmp_path / "s", seed=8) is None
    assert {name: (tmp_path / "s" / name).read_bytes() for name in before} == before


@pytest.mark.parametrize("step", range(1, 7))
def test_an_interrupted_run_is_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Wherever it stopped, the next run completes the directory and tells key and secret (P10)."""
    path, calls = tmp_path / "s", 0
    write_once = state_files.write_once

    def stop_here() -> None:
        nonlocal calls
        calls += 1
        if calls == step:
            raise KeyboardInterrupt

    def interrupted_write(file: Path, content: bytes) -> None:
        stop_here()
        write_once(file, content)

    def interrupted_store(file: Path, *, create: bool = False) -> object:
        stop_here()
        return SqliteStore(file, create=create)

    monkeypatch.setattr(state_directory, "write_once", interrupted_write)
    monkeypatch.setattr(state_directory, "SqliteStore", interrupted_store)
    with pytest.raises(KeyboardInterrupt):
        make(path)
    monkeypatch.undo()
    assert make(path, seed=8) is not None
    state = StateDirectory(path)
    assert state.authority.certificate_pem.startswith("-----BEGIN")
    assert [row.profile.name for row in state.store.reader().profiles()] == ["default"]
    state.close()


def test_an_interruption_before_the_first_profile_is_completed(tmp_path: Path) -> None:
    """A directory with an empty database still gets its profile."""
    path = tmp_path / "s"
    assert make(path) is not None
    for left in path.glob("mqttprov.db*"):
        left.unlink()
    (path / "mqttprov.db").touch()
    assert make(path) is not None


def test_several_may_initialise_at_once(tmp_path: Path) -> None:
    """One of them is told the secret, and the keys fit the database."""
    results: list[IssuedToken | None] = []
    threads = [
        threading.Thread(target=lambda seed=seed: results.append(make(tmp_path / "s", seed))) for seed in range(1, 5)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (issued,) = [result for result in results if result is not None]
    state = StateDirectory(tmp_path / "s")
    with state.store.write() as transaction:
        token = transaction.load({issued.key}, (), ()).tokens[issued.key]
    assert token.verifier == state.keys.registration_verifier(issued.key, issued.secret)
    state.close()


@pytest.mark.parametrize("name", ["keys/pepper", "keys/issuing-key", "keys/authority-key.pem", "authority.pem"])
def test_lost_keys_are_not_made_anew_beside_a_database(tmp_path: Path, name: str) -> None:
    """New keys would make every secret in the database worthless without a word."""
    make(tmp_path / "s")
    (tmp_path / "s" / name).unlink()
    with pytest.raises(StateError, match="restore"):
        make(tmp_path / "s")


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("keys/pepper", "not hex", "hex digits"),
        ("keys/pepper", "abcd", "2 bytes instead of 32"),
        ("keys/issuing-key", "", "0 bytes instead of 32"),
        ("mqttprov.db", "not a database, although long enough to be looked at", "database"),
        ("mqttprov.toml", "[serve", "mqttprov.toml"),
        ("mqttprov.toml", "[serve]\nport = 'x'", "serve.port"),
        ("mqttprov.toml", "[serve]\nport = 70000", "65535"),
        ("mqttprov.toml", "[serve]\nhots = 'x'", "did you mean 'serve.host'"),
        ("mqttprov.toml", "[tls]\nclient_certificates = 'never'", "tls.client_certificates"),
        ("mqttprov.toml", "[sevre]\n", "did you mean 'serve'"),
        ("mqttprov.toml", "colour = 1", "known are: serve"),
        ("mqttprov.toml", "serve = 1", "mqttprov.toml"),
    ],
)
def test_what_is_damaged_is_told(tmp_path: Path, name: str, content: str, text: str) -> None:
    """Each thing that can be wrong has one clear error, which names the file."""
    make(tmp_path / "s")
    (tmp_path / "s" / name).write_text(content)
    with pytest.raises(StateError, match=text):
        StateDirectory(tmp_path / "s")


@pytest.mark.parametrize("name", ["authority.pem", "keys/authority-key.pem"])
def test_a_damaged_authority_is_told_when_it_is_needed(tmp_path: Path, name: str) -> None:
    """Verbs that sign nothing work without it; others get a clear error, without a byte of the key (P6)."""
    make(tmp_path / "s")
    (tmp_path / "s" / name).write_text("-----BEGIN NONSENSE-----")
    state = StateDirectory(tmp_path / "s")
    with pytest.raises(StateError, match=r"authority\.pem.*restore"):
        assert state.authority
    state.close()


@pytest.mark.parametrize("name", ["keys/pepper", "keys/issuing-key"])
def test_a_secret_that_others_may_read_is_refused(tmp_path: Path, name: str) -> None:
    """The error says what to run (P6)."""
    make(tmp_path / "s")
    (tmp_path / "s" / name).chmod(0o640)
    with pytest.raises(StateError, match="chmod 600"):
        StateDirectory(tmp_path / "s")


def test_settings_are_read(tmp_path: Path) -> None:
    """mqttprov.toml as it is made changes nothing; what is set in it counts."""
    make(tmp_path / "s")
    state = StateDirectory(tmp_path / "s")
    assert (state.settings.serve.host, state.settings.serve.port, state.settings.serve.tls_port) == (
        "127.0.0.1",
        1883,
        None,
    )
    state.close()
    (tmp_path / "s" / "mqttprov.toml").write_text("[serve]\nport = 1884\ntls_port = 0\n[tls]\ncertificate = 'c.pem'\n")
    state = StateDirectory(tmp_path / "s")
    assert (state.settings.serve.port, state.settings.serve.tls_port) == (1884, 0)
    assert (state.settings.tls.certificate, state.settings.tls.private_key) == ("c.pem", None)
    state.close()


def test_a_place_that_is_no_directory_is_told(tmp_path: Path) -> None:
    """A file in the way is an error that names it; a directory without state says what to run."""
    (tmp_path / "file").touch()
    with pytest.raises(StateError, match="cannot be made"):
        make(tmp_path / "file")
    with pytest.raises(StateError, match="run 'mqttprov init"):
        StateDirectory(tmp_path)
