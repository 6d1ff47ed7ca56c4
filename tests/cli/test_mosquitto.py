"""`mqttprov mosquitto install`: every file that Mosquitto and the responder need, and nothing changed that is right."""

import os
import pwd
import re
import shutil
import stat
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509
from tests.cli.command import Result, mqttprov

from mqttprov.brokers.mosquitto import gate_build, install
from mqttprov.brokers.mosquitto.places import Places
from mqttprov.brokers.mosquitto.texts import broker_unit, responder_unit

ROOT = Path(__file__).parents[2]
Cli = Callable[..., Result]


@pytest.fixture(autouse=True)
def _quick(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compile nothing where the plugin itself does not matter."""
    if "compiled" not in request.fixturenames:
        monkeypatch.setattr(install, "build_gate", lambda: b"the plugin")


@pytest.fixture
def compiled(need: Callable[[str], None]) -> None:
    """Ask for the real plugin."""
    for program in ("gcc", "make"):
        need(program)
    if gate_build.missing_packages():
        pytest.skip(f"apt-get install {' '.join(gate_build.missing_packages())}")


def modes(folder: Path) -> dict[str, int]:
    """Give the mode of each file."""
    return {
        str(path.relative_to(folder)): stat.S_IMODE(path.stat().st_mode) for path in folder.rglob("*") if path.is_file()
    }


def done(result: Result) -> set[str]:
    """Give what was done about the files."""
    assert result.status == 0, result.err
    return {step["done"] for step in result.data["steps"]}


def settings(path: Path) -> list[str]:
    """Give a configuration's lines without comments."""
    return [line for line in path.read_text().splitlines() if line and not line.startswith("#")]


def test_all_files_are_below_the_directory_and_secrets_for_their_owner(cli: Cli, tmp_path: Path) -> None:
    """What an ordinary user needs is in one place (P6)."""
    assert done(cli("mosquitto", "install", "--prefix", "broker", "--tls-port", "8883", "--json")) == {"made"}
    assert modes(tmp_path / "broker") == {
        "mosquitto.conf": 0o644,
        "mqttprov_gate.so": 0o755,
        "responder-password": 0o600,
        "responder.toml": 0o644,
        "systemd/mqttprov-mosquitto.service": 0o644,
        "systemd/mqttprov-responder.service": 0o644,
        "tls/server-key.pem": 0o600,
        "tls/server.pem": 0o644,
    }


def test_run_again_it_changes_only_what_is_not_right(cli: Cli, tmp_path: Path) -> None:
    """Secrets and certificates stay; what somebody broke is repaired."""
    arguments = ("mosquitto", "install", "--prefix", "broker", "--tls-port", "8883", "--json")
    cli(*arguments)
    folder = tmp_path / "broker"
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert done(cli(*arguments)) == {"kept"}
    (folder / "responder-password").chmod(0o644)
    (folder / "mosquitto.conf").write_text("allow_anonymous true\n")
    again = cli(*arguments).data["steps"]
    assert sorted(Path(step["path"]).name for step in again if step["done"] == "changed") == [
        "mosquitto.conf",
        "responder-password",
    ]
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert modes(folder)["responder-password"] == 0o600


def test_the_configuration_avoids_the_traps(cli: Cli, state: Path, tmp_path: Path) -> None:
    """The settings that reference/mosquitto.md section 1.2 asks for; plain MQTT is for this machine alone."""
    assert cli("mosquitto", "install", "--prefix", "broker", "--port", "1884", "--tls-port", "8883").status == 0
    folder = tmp_path / "broker"
    lines = settings(folder / "mosquitto.conf")
    assert {
        "allow_anonymous false",
        "per_listener_settings false",
        "set_tcp_nodelay true",
        "max_queued_messages 1000",
        "connection_messages false",
        f"plugin {folder}/mqttprov_gate.so",
        f"plugin_opt_database {state}/mqttprov.db",
        f"plugin_opt_pepper_file {state}/keys/pepper",
        f"plugin_opt_responder_file {folder}/responder-password",
    } <= set(lines)
    assert [line for line in lines if line.startswith("listener")] == [
        "listener 1884 127.0.0.1",
        "listener 8883",
    ]
    # The gate takes care of certificates where Mosquitto does not.
    assert not any(word in line for line in lines for word in ("as_username", "require_certificate", "cafile"))


def test_the_responder_is_told_where_everything_is(cli: Cli, state: Path, tmp_path: Path) -> None:
    """Its configuration names broker, password and state."""
    cli("mosquitto", "install", "--prefix", "broker", "--port", "1884")
    folder = tmp_path / "broker"
    assert tomllib.loads((folder / "responder.toml").read_text()) == {
        "broker": "mqtt://127.0.0.1:1884",
        "password_file": str(folder / "responder-password"),
        "state": str(state),
    }


def test_debians_places_get_paths_as_its_programs_see_them(cli: Cli, state: Path, tmp_path: Path) -> None:
    """In an image everything is below its root, and nothing in a file speaks of that root."""
    image = tmp_path / "image"
    shutil.copytree(state, image / "var/lib/mqttprov")
    result = mqttprov("mosquitto", "install", "--system", "--prefix", str(image), "--tls-port", "8883", "--json")
    assert result.status == 0, result.err
    found = {name: mode for name, mode in modes(image).items() if not name.startswith("var/lib/mqttprov")}
    assert found == {
        "etc/mosquitto/conf.d/mqttprov.conf": 0o644,
        "etc/mosquitto/mqttprov/pepper": 0o600,
        "etc/mosquitto/mqttprov/responder-password": 0o600,
        "etc/mosquitto/mqttprov/server-key.pem": 0o600,
        "etc/mosquitto/mqttprov/server.pem": 0o644,
        "etc/mqttprov/responder-password": 0o600,
        "etc/mqttprov/responder.toml": 0o644,
        "etc/systemd/system/mqttprov-responder.service": 0o644,
        "usr/lib/mqttprov/mqttprov_gate.so": 0o755,
    }
    for name in found:
        assert str(image).encode() not in (image / name).read_bytes()
    names = {line.split()[0] for line in settings(image / "etc/mosquitto/conf.d/mqttprov.conf")}
    # Debian's mosquitto.conf sets these, and Mosquitto refuses to start when they are there twice.
    assert not names & {"pid_file", "persistence_location", "log_dest", "include_dir", "user"}


def test_ports_that_collide_are_refused_before_anything_is_written(cli: Cli, tmp_path: Path) -> None:
    """One port is for plain MQTT or for TLS."""
    result = cli("mosquitto", "install", "--prefix", "broker", "--port", "8883", "--tls-port", "8883")
    assert (result.status, result.err.count("\n")) == (2, 1)
    assert "--tls-port" in result.err
    assert not (tmp_path / "broker").exists()


def test_without_place_or_state_there_is_one_clear_line(cli: Cli, tmp_path: Path) -> None:
    """What is missing, and the option or command for it."""
    assert cli("mosquitto", "install").status == 2
    result = mqttprov("mosquitto", "install", "--prefix", "broker", "--state", str(tmp_path / "nowhere"))
    assert (result.status, "mqttprov init" in result.err) == (6, True)


def test_missing_packages_are_named(cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A person can copy the command that installs them."""
    monkeypatch.setattr(install, "build_gate", gate_build.build_gate)
    has = gate_build._has
    monkeypatch.setattr(gate_build, "_has", lambda header: header not in {"uthash.h", "mosquitto_broker.h"})
    result = cli("mosquitto", "install", "--prefix", "broker")
    assert result.status == 1
    assert result.err.endswith("run as root: apt-get install mosquitto-dev uthash-dev\n")
    monkeypatch.setattr(gate_build, "_has", has)
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert "apt-get install make gcc" in cli("mosquitto", "install", "--prefix", "broker").err
    assert not (tmp_path / "broker").exists()


def test_a_plugin_that_does_not_compile_is_one_line(
    cli: Cli, compiled: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The compiler's first complaint, not all of them."""
    shutil.copytree(ROOT / "mosquitto", tmp_path / "sources")
    (tmp_path / "sources/topics.c").write_text("int nonsense(\n")
    monkeypatch.setattr(gate_build, "sources", lambda: tmp_path / "sources")
    result = cli("mosquitto", "install", "--prefix", "broker")
    assert (result.status, result.err.count("\n")) == (1, 1)
    assert re.search(r"cannot be compiled: topics\.c:\d+:\d+: error", result.err)


def test_building_twice_gives_the_same_plugin(compiled: None) -> None:
    """Otherwise every run would replace it."""
    assert gate_build.build_gate() == gate_build.build_gate()


def test_the_package_holds_all_sources_of_the_plugin() -> None:
    """What the Makefile compiles is what the wheel carries."""
    told = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    there = {f"mosquitto/{path.name}" for path in (ROOT / "mosquitto").iterdir() if path.suffix in {".c", ".h"}}
    assert set(told["force-include"]) == {*there, "mosquitto/Makefile"}
    assert told["force-include"] == {name: f"mqttprov/{name}" for name in told["force-include"]}


def test_a_certificate_that_no_longer_fits_is_made_anew(cli: Cli, state: Path, tmp_path: Path) -> None:
    """After a change of authorities the broker's certificate follows."""
    arguments = ("mosquitto", "install", "--prefix", "broker", "--tls-port", "8883", "--json")
    cli(*arguments)
    assert cli("ca", "init", "--name", "Plant north").status == 0
    result = cli(*arguments)
    assert "SIGHUP" in result.data["remarks"][0]
    authority = x509.load_pem_x509_certificate((state / "authority.pem").read_bytes())
    x509.load_pem_x509_certificate((tmp_path / "broker/tls/server.pem").read_bytes()).verify_directly_issued_by(
        authority
    )


def test_a_certificate_of_the_operators_own_is_used(cli: Cli, state: Path, tmp_path: Path) -> None:
    """What `serve` would use from mqttprov.toml, Mosquitto uses, too."""
    with (state / "mqttprov.toml").open("a") as file:
        file.write('\n[tls]\ncertificate = "own.pem"\nprivate_key = "own-key.pem"\n')
    text = (state / "mqttprov.toml").read_text()
    (state / "mqttprov.toml").write_text(text.replace("\n[tls]\n# cert", "\n# cert", 1))
    assert cli("mosquitto", "install", "--prefix", "broker", "--tls-port", "8883").status == 0
    assert f"certfile {state}/own.pem" in settings(tmp_path / "broker/mosquitto.conf")
    assert not (tmp_path / "broker/tls/server.pem").exists()


def test_debians_broker_gets_a_copy_of_the_operators_own(cli: Cli, state: Path, tmp_path: Path) -> None:
    """Its user may read nothing of the state but the database; a renewed certificate is copied anew."""
    image = tmp_path / "image"
    there = image / "var/lib/mqttprov"
    shutil.copytree(state, there)
    text = (there / "mqttprov.toml").read_text()
    own = '[tls]\ncertificate = "own.pem"\nprivate_key = "own-key.pem"\n'
    (there / "mqttprov.toml").write_text(text.replace("[tls]\n", own, 1))
    gate = image / "etc/mosquitto/mqttprov"
    for content in ("first", "renewed"):
        (there / "own.pem").write_text(content)
        (there / "own-key.pem").write_text(f"key of {content}")
        result = mqttprov("mosquitto", "install", "--system", "--prefix", str(image), "--tls-port", "8883", "--json")
        assert result.status == 0, result.err
        assert "run this again" in result.data["remarks"][0]
        assert (gate / "server.pem").read_text() == content
        assert (gate / "server-key.pem").read_text() == f"key of {content}"
        assert stat.S_IMODE((gate / "server-key.pem").stat().st_mode) == 0o600
    assert "certfile /etc/mosquitto/mqttprov/server.pem" in settings(image / "etc/mosquitto/conf.d/mqttprov.conf")


def test_a_program_that_the_responders_user_cannot_reach_is_told(tmp_path: Path) -> None:
    """Python below /root, also behind the link of a virtual environment, would fail in the unit only."""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    program = closed / "python3"
    program.touch(0o755)
    (tmp_path / "python").symlink_to(program)
    for path in (program, tmp_path / "python"):
        with pytest.raises(install.InstallError, match=r"may not run .*/opt/mqttprov"):
            install.check_program(path)
    install.check_program(Path("/usr/bin/env"))


def test_units_may_do_little(tmp_path: Path) -> None:
    """systemd rates them at 2.0 or better (security.md SD-28)."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd is not installed here")
    user = pwd.getpwuid(os.getuid()).pw_name
    places = Places.below(tmp_path / "a b", tmp_path / "state")
    for name, text in (
        ("one.service", responder_unit(places, [sys.executable, "-m", "mqttprov"], user)),
        ("two.service", broker_unit(places, "/bin/true", user)),
    ):
        unit = tmp_path / name
        unit.write_text(text)
        rate = ["systemd-analyze", "security", "--offline=yes", "--threshold=20", str(unit)]
        subprocess.run(rate, check=True, capture_output=True, timeout=60)
        verified = subprocess.run(
            ["systemd-analyze", "verify", str(unit)], check=False, capture_output=True, text=True, timeout=60
        )
        assert name not in verified.stderr
