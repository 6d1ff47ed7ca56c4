"""Our certificate authorities: which there are, with their private keys, and the file that devices trust.

Which authority is what is in the store; keys are files of the state directory and are found by what they fit.
`authority.pem` follows from both: the active authority first, then the older ones that are still trusted.
"""

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Final

import msgspec
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from mqttprov.pki.authority import Authority, load_chain
from mqttprov.responder.state_files import StateError, read, read_private, write_whole
from mqttprov.store.protocol import AuthorityRow, AuthorityState, Store

_KEYS: Final = "authority-key*.pem"
_CERTIFICATES: Final = "authority.pem"


class Authorities(msgspec.Struct, frozen=True):
    """The authority that signs certificates of devices, and older ones that are still trusted, oldest first."""

    active: Authority
    older: tuple[Authority, ...] = ()

    @property
    def certificates_pem(self) -> str:
        """What devices and listeners trust."""
        return "".join(one.certificate_pem for one in (self.active, *reversed(self.older)))

    def serving(self, now_ms: int) -> Authority:
        """Give the authority for certificates of servers: the oldest, because a device may know no other yet."""
        return next((one for one in self.older if one.is_valid(now_ms)), self.active)


def known_authorities(path: Path, rows: Sequence[AuthorityRow]) -> list[AuthorityRow]:
    """Give the rows of the store; before an operator changed anything there is the one that `init` made."""
    return list(rows) or [AuthorityRow(read(path / _CERTIFICATES), AuthorityState.ACTIVE)]


def load_authorities(path: Path, rows: Sequence[AuthorityRow], device_life: timedelta) -> Authorities:
    """Take up the authorities with their keys. Raises `StateError`."""
    keys = [read_private(file) for file in _key_files(path)]
    active: list[Authority] = []
    older: list[Authority] = []
    for row in known_authorities(path, rows):
        if row.state is not AuthorityState.RETIRED:
            one = _with_key(path, row.certificate, keys, device_life)
            (active if row.state is AuthorityState.ACTIVE else older).append(one)
    if len(active) != 1:
        raise StateError(f"{path / _CERTIFICATES}: the database knows no active authority; restore it from a backup")
    return Authorities(active[0], tuple(older))


def certificate_of(row: AuthorityRow) -> x509.Certificate:
    """Give the certificate of a known authority. Raises `StateError`."""
    try:
        return load_chain(row.certificate)[0]
    except ValueError as error:
        raise StateError(f"{_CERTIFICATES}: {error}; restore it from a backup") from error


def key_file(path: Path, fingerprint: str) -> Path:
    """Give the file for the private key of a new authority."""
    return path / "keys" / f"authority-key-{fingerprint[:16]}.pem"


def settle(path: Path, store: Store) -> None:
    """Bring the files in line with the store: what devices trust, and no key of a retired authority.

    Done again it changes nothing. For one at a time. Raises `StateError` and `OSError`.
    """
    reader = store.reader()
    try:
        rows = reader.authorities()
    finally:
        reader.close()
    if not rows:
        return
    trusted = sorted((row for row in rows if row.state is not AuthorityState.RETIRED), key=_active_first)
    wanted = "".join(row.certificate for row in trusted)
    if read(path / _CERTIFICATES) != wanted:
        write_whole(path / _CERTIFICATES, wanted.encode())
    kept = {_public_key(row) for row in trusted}
    gone = {_public_key(row) for row in rows} - kept
    for file in _key_files(path):
        try:
            key = load_pem_private_key(read_private(file).encode(), None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise StateError(
                f"{file} is not a private key as unencrypted PEM text; restore it from a backup"
            ) from error
        if isinstance(key, ec.EllipticCurvePrivateKey) and key.public_key().public_numbers() in gone:
            file.unlink()


def _active_first(row: AuthorityRow) -> bool:
    return row.state is not AuthorityState.ACTIVE


def _public_key(row: AuthorityRow) -> ec.EllipticCurvePublicNumbers | None:
    key = certificate_of(row).public_key()
    return key.public_numbers() if isinstance(key, ec.EllipticCurvePublicKey) else None


def _key_files(path: Path) -> list[Path]:
    return sorted((path / "keys").glob(_KEYS))


def _with_key(path: Path, certificate: str, keys: Sequence[str], device_life: timedelta) -> Authority:
    why = "there is no private key"
    for key in keys:
        try:
            return Authority.from_pem(certificate, key, device_life)
        except ValueError as error:
            why = str(error)
    raise StateError(f"{path / _CERTIFICATES}: {why}; restore it and {path / 'keys' / _KEYS} from a backup") from None
