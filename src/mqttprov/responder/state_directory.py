"""The state directory: database, master keys, our certificate authority and settings, and who may read them.

Layout: `mqttprov.toml` (commented), `mqttprov.db`, `keys/pepper`, `keys/issuing-key`, `keys/authority-key*.pem`,
`authority.pem` (public: devices verify the broker with it), `crl.pem` (public: ended certificates), `keys/audit-key`,
`audit-key.pub` (public: verifies the `checkpoints`, which are also here). Directories are 0700, files 0600. Keys lie
outside the database, so that a copy of the database alone verifies nothing (P6).
"""

import functools
import os
import tomllib
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import msgspec

from mqttprov.core.secrets import MASTER_KEY_BYTES, Keys
from mqttprov.responder import doorbell
from mqttprov.responder.administration import Administration, IssuedToken
from mqttprov.responder.device_life import DeviceLife
from mqttprov.responder.state_files import StateError, one_at_a_time, read, read_private, write_once
from mqttprov.store.protocol import StoreUnavailable
from mqttprov.store.sqlite import SqliteStore

if TYPE_CHECKING:
    from mqttprov.pki.authority import Authority
    from mqttprov.pki.note_key import NoteSigner
    from mqttprov.responder.authorities import Authorities
    from mqttprov.responder.authority_care import AuthorityCare
    from mqttprov.responder.certificate_lists import CertificateLists

__all__ = ["AUDIT_PUBLIC_KEY", "CHECKPOINTS", "StateDirectory", "StateError", "initialise"]

DEFAULT_TOML: Final = """\
# Settings of mqttprov. Options of the command line win over them; unknown names are errors.

[serve]
# host = "127.0.0.1"        # where the broker listens; off loopback it wants TLS
# port = 1883               # plain MQTT
# tls_port = 8883           # MQTT over TLS; without it there is no TLS listener
# ws_port = 8083            # MQTT in WebSockets, path /mqtt; without it there is no such listener
# wss_port = 8084           # the same over TLS

[tls]
# certificate = "server.pem"    # the broker's certificate chain; without it one is made by authority.pem
# private_key = "server-key.pem"
# client_certificates = "optional"  # or "required": nobody without one gets past the TLS handshake

[ca]
# device_certificate_days = 90  # how long a device's certificate lasts: 30, 90 or 365
"""


CHECKPOINTS: Final = "checkpoints"
AUDIT_KEY: Final = "keys/audit-key"
AUDIT_PUBLIC_KEY: Final = "audit-key.pub"
AUTHORITY_KEYS: Final = "keys/authority-key*.pem"
CERTIFICATES: Final = "authority.pem"
_KEY_FILES: Final = ("keys/pepper", "keys/issuing-key", AUTHORITY_KEYS, CERTIFICATES)


Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]


class ServeSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[serve]`: where the broker listens."""

    host: str = "127.0.0.1"
    port: Port | None = 1883  # None, which TOML cannot say: no plain listener
    tls_port: Port | None = None
    ws_port: Port | None = None
    wss_port: Port | None = None


class TlsSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[tls]`: the broker's own certificate (file names are relative to the state directory) and those of clients."""

    certificate: str | None = None
    private_key: str | None = None
    client_certificates: Literal["optional", "required"] = "optional"


class CaSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[ca]`: what our certificate authority issues."""

    device_certificate_days: Literal[30, 90, 365] = 90


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All of `mqttprov.toml`."""

    serve: ServeSettings = ServeSettings()
    tls: TlsSettings = TlsSettings()
    ca: CaSettings = CaSettings()


class StateDirectory:
    """An existing state directory, opened: settings, keys, authority and store."""

    def __init__(self, path: Path) -> None:
        """Open it. Raises `StateError` when something is missing, readable by others or damaged."""
        self.path = path
        if not (path / "mqttprov.db").is_file():
            raise StateError(f"{path} is not a state directory; run 'mqttprov init --state {path}' first")
        self.settings = _read_settings(path / "mqttprov.toml")
        self.keys = Keys(
            pepper=_read_master_key(path / "keys" / "pepper"),
            issuing_key=_read_master_key(path / "keys" / "issuing-key"),
        )
        try:
            self.store = SqliteStore(path / "mqttprov.db")
        except StoreUnavailable as error:
            raise StateError(str(error)) from error

    @property
    def authority(self) -> "Authority":
        """The certificate authority that signs now. Raises `StateError`."""
        return self.authorities().active

    def authorities(self) -> "Authorities":
        """Our certificate authorities as they are now. Raises `StateError`."""
        from mqttprov.responder.authorities import load_authorities  # noqa: PLC0415 - X.509 takes long to load and most verbs need none

        reader = self.store.reader()
        try:
            rows = reader.authorities()
        finally:
            reader.close()
        return load_authorities(self.path, rows, timedelta(days=self.settings.ca.device_certificate_days))

    def settle_authorities(self) -> None:
        """Complete what an interrupted change of authorities left. Raises `StateError`."""
        from mqttprov.responder.authorities import settle  # noqa: PLC0415 - as above

        try:
            with one_at_a_time(self.path):
                settle(self.path, self.store)
        except OSError as error:
            raise StateError(f"{self.path / CERTIFICATES} cannot be brought up to date: {error}") from error

    def certificate_lists(self, now_ms: Callable[[], int]) -> "CertificateLists":
        """Give what writes the lists of ended certificates."""
        from mqttprov.responder.certificate_lists import CertificateLists  # noqa: PLC0415 - as above

        return CertificateLists(self.path, self.store, self.authorities, now_ms)

    def authority_care(self, actor: str, now_ms: Callable[[], int]) -> "AuthorityCare":
        """Give the operator's verbs on certificate authorities."""
        from mqttprov.responder.authority_care import AuthorityCare  # noqa: PLC0415 - as above

        ring = functools.partial(doorbell.ring, self.path)
        return AuthorityCare(self.path, self.store, self.authorities, actor=actor, now_ms=now_ms, ring=ring)

    def audit_signer(self, entropy: Callable[[int], bytes]) -> "NoteSigner":
        """Give the key that signs checkpoints; a state directory of before there was one gets it now.

        Raises `StateError`, also when the key is lost: another one must not take its place without a word.
        """
        try:
            with one_at_a_time(self.path):
                _make_audit_key(self.path, entropy)
        except OSError as error:
            raise StateError(f"the key of the audit cannot be made in {self.path}: {error}") from error
        return _audit_signer(self.path)

    @property
    def checkpoints_path(self) -> Path:
        """Where checkpoints are written."""
        return self.path / CHECKPOINTS

    def administration(self, actor: str, now_ms: Callable[[], int], entropy: Callable[[int], bytes]) -> Administration:
        """Give the operator actions on this state."""
        return Administration(self.store, self.keys, actor=actor, now_ms=now_ms, entropy=entropy)

    def device_life(self, actor: str, now_ms: Callable[[], int]) -> DeviceLife:
        """Give the operator's verbs on single devices, which act at once on every broker that runs on this state."""
        ring = functools.partial(doorbell.ring, self.path)
        return DeviceLife(self.store, self.keys, actor=actor, now_ms=now_ms, entropy=os.urandom, ring=ring)

    def close(self) -> None:
        """Close the store."""
        self.store.close()


def initialise(
    path: Path, *, actor: str, now_ms: Callable[[], int], entropy: Callable[[int], bytes]
) -> IssuedToken | None:
    """Make a state directory with profile `default`, or give None when it is complete already.

    What an interrupted run left is completed, never replaced: keys that a database was made with are irreplaceable.
    Raises `StateError`.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        with one_at_a_time(path):
            _make_files(path, now_ms, entropy)
    except (OSError, StoreUnavailable) as error:
        raise StateError(f"the state directory {path} cannot be made: {error}") from error
    state = StateDirectory(path)
    try:
        return state.administration(actor, now_ms, entropy).initialise()
    finally:
        state.close()


def _make_files(path: Path, now_ms: Callable[[], int], entropy: Callable[[int], bytes]) -> None:
    (path / "keys").mkdir(mode=0o700, exist_ok=True)
    database = path / "mqttprov.db"
    lost = [name for name in _KEY_FILES if not any(path.glob(name))]
    if lost and database.is_file() and database.stat().st_size:  # it is made last
        raise StateError(f"{path} has a database but not {lost[0]}, which belongs to it; restore that from a backup")
    write_once(path / "mqttprov.toml", DEFAULT_TOML.encode())
    for name in ("pepper", "issuing-key"):
        write_once(path / "keys" / name, entropy(MASTER_KEY_BYTES).hex().encode() + b"\n")
    if not (path / CERTIFICATES).exists():
        from mqttprov.pki.authority import Authority  # noqa: PLC0415 - as in `StateDirectory.authority`

        authority = Authority.create("mqttprov", now_ms())
        (path / "keys" / "authority-key.pem").unlink(missing_ok=True)
        write_once(path / "keys" / "authority-key.pem", authority.private_key_pem().encode())
        write_once(path / CERTIFICATES, authority.certificate_pem.encode())
    _make_audit_key(path, entropy)
    SqliteStore(database, create=True).close()


def _make_audit_key(path: Path, entropy: Callable[[int], bytes]) -> None:
    public = path / AUDIT_PUBLIC_KEY
    if public.exists():
        return
    write_once(path / AUDIT_KEY, entropy(MASTER_KEY_BYTES).hex().encode() + b"\n")
    write_once(public, f"{_audit_signer(path).verifier_key}\n".encode())  # last: it tells that there is a key


def _audit_signer(path: Path) -> "NoteSigner":
    from mqttprov.pki.note_key import NoteSigner  # noqa: PLC0415 - as in `StateDirectory.authority`

    return NoteSigner(_read_master_key(path / AUDIT_KEY))


def _read_master_key(path: Path) -> bytes:
    try:
        key = bytes.fromhex(read_private(path))
    except ValueError as error:
        raise StateError(f"{path} does not hold a key in hex digits; restore it from a backup") from error
    if len(key) != MASTER_KEY_BYTES:
        raise StateError(f"{path} holds {len(key)} bytes instead of {MASTER_KEY_BYTES}; restore it from a backup")
    return key


def _read_settings(path: Path) -> Settings:
    if not path.exists():
        return Settings()
    try:
        values = tomllib.loads(read(path))
        _refuse_unknown(path, values)
        return msgspec.convert(values, Settings)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise StateError(f"{path}: {error}") from error


def _refuse_unknown(path: Path, values: dict[str, Any]) -> None:
    sections = {name: type(default).__struct_fields__ for name, default in msgspec.structs.asdict(Settings()).items()}
    known = [*sections, *(f"{section}.{name}" for section, names in sections.items() for name in names)]
    given = [
        *values,
        *(f"{s}.{name}" for s, content in values.items() if isinstance(content, dict) for name in content),
    ]
    for name in given:
        if name not in known:
            import difflib  # noqa: PLC0415 - for this error only

            close = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean '{close[0]}'?" if close else f"known are: {', '.join(known)}"
            raise StateError(f"{path}: there is no setting '{name}'; {hint}")
