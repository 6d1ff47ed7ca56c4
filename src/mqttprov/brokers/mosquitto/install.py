"""Setting Mosquitto up: every file with its content, mode and owner. Done again it changes only what is not right."""

import os
import pwd
import secrets
import shutil
import stat
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import msgspec

from mqttprov.brokers.mosquitto import texts
from mqttprov.brokers.mosquitto.gate_build import build_gate
from mqttprov.brokers.mosquitto.places import BROKER_USER, RESPONDER_USER, Places
from mqttprov.brokers.mosquitto.server_certificate import is_good
from mqttprov.brokers.tls import server_names
from mqttprov.pki.authority import Authority
from mqttprov.responder.state_directory import StateDirectory
from mqttprov.responder.state_files import write_whole

_ANY_ADDRESS: Final = "0.0.0.0"  # noqa: S104 - the TLS listener is for the network
_PASSWORD_BYTES: Final = 32
_NOLOGIN: Final = "/usr/sbin/nologin"


class InstallError(Exception):
    """It cannot be set up; the text says what, why and what to do."""


class Step(msgspec.Struct, frozen=True):
    """What was done about one file: `made`, `changed` or `kept`."""

    done: str
    path: Path


class Installed(msgspec.Struct, frozen=True):
    """What there is now."""

    steps: list[Step]
    urls: list[str]
    remarks: list[str]


class Installation:
    """One run over the places. `command` starts mqttprov; `build` gives the plugin."""

    def __init__(
        self,
        places: Places,
        state: StateDirectory,
        command: Sequence[str],
        now_ms: int,
        build: Callable[[], bytes] = build_gate,
    ) -> None:
        self._places = places
        self._state = state
        self._command = list(command)
        self._now_ms = now_ms
        self._build = build
        self._steps: list[Step] = []
        self._remarks: list[str] = []
        # Files get their owners only where the users are those of this machine.
        self._owned = places.system and places.live
        self._user = pwd.getpwuid(os.getuid()).pw_name

    def run(self, port: int, tls_port: int | None) -> Installed:
        """Write everything. Raises `InstallError`, `GateNotBuilt`, `StateError` and `OSError`."""
        for path in (self._places.configuration, self._places.state):
            if not str(path).isprintable():
                raise InstallError(f"{str(path)!r} cannot be written into a configuration; choose another directory")
        if self._owned:
            check_program(Path(self._command[0]))
        plugin = self._build()  # first: without it nothing else is worth writing
        if self._owned:
            self._make_users()
        self._make_folders()
        self._write(self._places.plugin, plugin, 0o755)
        self._secrets()
        urls = [f"mqtt://127.0.0.1:{port}"]
        server = (self._places.certificate, self._places.private_key)
        if tls_port is not None:
            server = self._tls()
            urls += [f"mqtts://{_ANY_ADDRESS}:{tls_port}"]
        self._write_text(
            self._places.configuration,
            texts.broker_configuration(self._places, self._user, port, tls_port, server),
        )
        self._write_text(self._places.responder, texts.responder_configuration(self._places, port))
        self._units()
        if self._owned:
            self._open_state()
        return Installed(self._steps, urls, self._remarks)

    # --- the parts ---

    def _make_users(self) -> None:
        if not _exists(BROKER_USER):
            raise InstallError(f"there is no user {BROKER_USER!r} on this machine; run: apt-get install mosquitto")
        if not _exists(RESPONDER_USER):
            home = str(self._places.state)
            made = subprocess.run(  # noqa: S603 - the arguments are ours
                ["useradd", "--system", "--home-dir", home, "--shell", _NOLOGIN, RESPONDER_USER],  # noqa: S607 - as root PATH is root's
                capture_output=True, text=True, check=False,
            )  # fmt: skip
            if made.returncode != 0:
                raise InstallError(f"the user {RESPONDER_USER!r} cannot be made: {made.stderr.strip()}")
            self._remarks.append(f"made the system user {RESPONDER_USER}")

    def _make_folders(self) -> None:
        places, mode = self._places, 0o755 if self._places.system else 0o700
        for file in (places.configuration, places.plugin, places.responder, places.units / "unit"):
            places.real(file.parent).mkdir(mode=mode, parents=True, exist_ok=True)
        for file in (places.gate_password, places.private_key):
            folder = places.real(file.parent)
            folder.mkdir(mode=0o700, exist_ok=True)
            self._own(folder, BROKER_USER)

    def _secrets(self) -> None:
        places = self._places
        password = self._password()
        self._write(places.password, password, 0o600, RESPONDER_USER)
        if places.system:
            self._write(places.gate_password, password, 0o600, BROKER_USER)
            pepper = (self._state.path / "keys" / "pepper").read_bytes()
            self._write(places.pepper, pepper, 0o600, BROKER_USER)

    def _password(self) -> bytes:
        file = self._places.real(self._places.password)
        if file.exists() and file.read_bytes().strip():
            return file.read_bytes()
        return secrets.token_urlsafe(_PASSWORD_BYTES).encode() + b"\n"

    def _tls(self) -> tuple[Path, Path]:
        """Make what the TLS listener needs; give the files of certificate and private key."""
        places, settings = self._places, self._state.settings.tls
        if settings.certificate and settings.private_key:  # the operator's own, also for `serve`
            own = (places.state / settings.certificate, places.state / settings.private_key)
            if not places.system:
                return own
            texts_of_both = (places.real(own[0]).read_bytes(), places.real(own[1]).read_bytes())
            self._remarks.append("the broker's user gets a copy of your certificate: run this again when it is renewed")
        else:
            texts_of_both = self._made_by(self._state.authorities().serving(self._now_ms))
        self._write(places.certificate, texts_of_both[0], 0o644, BROKER_USER)
        self._write(places.private_key, texts_of_both[1], 0o600, BROKER_USER)
        return places.certificate, places.private_key

    def _made_by(self, authority: Authority) -> tuple[bytes, bytes]:
        """Give certificate and private key for the broker: those that it has, while they are good, or new ones."""
        places, names = self._places, server_names(_ANY_ADDRESS)
        certificate, key = places.real(places.certificate), places.real(places.private_key)
        if is_good(certificate, key, authority.certificate, names, self._now_ms):
            return certificate.read_bytes(), key.read_bytes()
        if certificate.exists():
            self._remarks.append("the broker's certificate is new: a running broker takes it up by SIGHUP")
        made = authority.issue_server(names, self._now_ms)
        return made[0].encode(), made[1].encode()

    def _units(self) -> None:
        places = self._places
        responder = texts.responder_unit(places, self._command, self._user)
        self._write_text(places.units / "mqttprov-responder.service", responder)
        if not places.system:
            program = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
            unit = texts.broker_unit(places, program or "/usr/sbin/mosquitto", self._user)
            self._write_text(places.units / "mqttprov-mosquitto.service", unit)

    def _open_state(self) -> None:
        """Let the broker's group read the database, and nothing else; everything is the responder's."""
        state = self._places.state
        for folder, _, files in os.walk(state):
            self._own(Path(folder), RESPONDER_USER, BROKER_USER)
            for name in files:
                self._own(Path(folder) / name, RESPONDER_USER, BROKER_USER)
        # New files get the group from the directory, and SQLite's the mode of the database.
        state.chmod(0o2750)
        for file in state.glob("mqttprov.db*"):
            file.chmod(0o640)

    # --- files ---

    def _write_text(self, path: Path, text: str) -> None:
        self._write(path, text.encode(), 0o644)

    def _write(self, path: Path, content: bytes, mode: int, user: str | None = None) -> None:
        file = self._places.real(path)
        before = file.read_bytes() if file.exists() else None
        if before != content:
            write_whole(file, content)
        right = stat.S_IMODE(file.stat().st_mode) == mode
        if not right:
            file.chmod(mode)
        if user is not None:
            self._own(file, user)
        if before is None:
            self._steps.append(Step("made", path))
        else:
            self._steps.append(Step("kept" if right and before == content else "changed", path))

    def _own(self, file: Path, user: str, group: str | None = None) -> None:
        if self._owned:
            shutil.chown(file, user, group or user)


def check_program(program: Path) -> None:
    """See that the responder's user may start us. Raises `InstallError`."""
    for path in (program, program.resolve()):
        for folder in path.parents:
            if not folder.stat().st_mode & stat.S_IXOTH:
                raise InstallError(
                    f"the user {RESPONDER_USER!r} may not run {path}, because {folder} is closed to others; install "
                    "mqttprov into a virtual environment that all may read, such as /opt/mqttprov"
                )


def _exists(user: str) -> bool:
    try:
        pwd.getpwnam(user)
    except KeyError:
        return False
    return True
