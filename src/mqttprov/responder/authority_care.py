"""An operator's verbs on certificate authorities: each is one transaction with one audit event (P5).

A private key is a file before its authority is committed, and is removed after its retirement is: what the store says
can always be signed for. A running `serve` follows the audit chain, as with devices.
"""

from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from mqttprov.core.audit import Event, EventKind
from mqttprov.core.secrets import fingerprint
from mqttprov.pki.authority import AUTHORITY_DAYS, Authority, issuer_key_id
from mqttprov.responder.acting import NotFound
from mqttprov.responder.authorities import Authorities, certificate_of, key_file, known_authorities, settle
from mqttprov.responder.certificate_lists import CERTIFICATE_LISTS, MAX_DEVICE_LIFE, CertificateLists
from mqttprov.responder.device_life import CONFIRM_TIMEOUT_S
from mqttprov.responder.state_files import one_at_a_time, read, read_private, write_once
from mqttprov.store.protocol import AuthorityRow, AuthorityState, Conflict, Reader, Store

_ADVICE: Final = "name a file of PEM text"
_FIRST_NAME: Final = "mqttprov"


class AuthorityView(msgspec.Struct, frozen=True):
    """A certificate authority as it is shown; `live` is how many certificates of it devices can use now."""

    state: AuthorityState
    subject: str
    fingerprint: str
    serial: str
    not_before_ms: int
    not_after_ms: int
    live: int


class _New(NamedTuple):
    """What an authority is to be: made here with this name and validity, or brought in two files (PEM)."""

    name: str | None
    days: int
    certificate: Path | None
    private_key: Path | None


class AuthorityCare:
    """Acts on the authorities of a state directory on behalf of `actor`.

    `ring` makes running brokers act on the chain up to a place (`doorbell.ring`). Verbs raise `Conflict`, `StateError`,
    `ValueError` for an authority that cannot be, and what `ring` raises, when all is committed.
    """

    def __init__(
        self,
        path: Path,
        store: Store,
        authorities: Callable[[], Authorities],
        *,
        actor: str,
        now_ms: Callable[[], int],
        ring: Callable[[int, float], int],
    ) -> None:
        self._path = path
        self._store = store
        self._authorities = authorities
        self._actor = actor
        self._now_ms = now_ms
        self._ring = ring

    def show(self) -> list[AuthorityView]:
        """Give all authorities, the active one first and retired ones last."""
        reader = self._store.reader()
        try:
            return self._views(reader)
        finally:
            reader.close()

    def init(
        self,
        *,
        name: str | None = None,
        days: int = AUTHORITY_DAYS,
        certificate: Path | None = None,
        private_key: Path | None = None,
    ) -> AuthorityView:
        """Replace the authority that `mqttprov init` made by one of your own, as long as it has issued nothing.

        With `certificate` and `private_key` (files, PEM) it is your own; else it is made, with `name` and `days`.
        """
        return self._install(
            _New(name, days, certificate, private_key), EventKind.AUTHORITY_CREATED, AuthorityState.RETIRED
        )

    def rotate(
        self,
        *,
        name: str | None = None,
        days: int = AUTHORITY_DAYS,
        certificate: Path | None = None,
        private_key: Path | None = None,
    ) -> AuthorityView:
        """Sign with a new authority from now on; older ones stay trusted until they are retired.

        With `certificate` and `private_key` (files, PEM) it is your own; else it is made, with `name` and `days`.
        """
        return self._install(
            _New(name, days, certificate, private_key), EventKind.AUTHORITY_ROTATED, AuthorityState.TRUSTED
        )

    def retire(self) -> list[AuthorityView]:
        """End the older authorities: trusted no more, their keys removed. Raises `NotFound` when there are none.

        The certificates that they issued are registered each by itself and still log in at our own broker.
        """
        with one_at_a_time(self._path):
            with self._store.write() as transaction:
                views = [view for view in self._views(transaction.reader()) if view.state is AuthorityState.TRUSTED]
                if not views:
                    raise NotFound("there are no older authorities to retire; see: mqttprov ca show")
                for row in transaction.reader().authorities():
                    if row.state is AuthorityState.TRUSTED:
                        transaction.put_authority(AuthorityRow(row.certificate, AuthorityState.RETIRED))
                text = ", ".join(map(_named, views))
                (event,) = transaction.append([self._event(EventKind.AUTHORITY_RETIRED, text)])
            self._settle()
        self._ring(event.seq, CONFIRM_TIMEOUT_S)
        return views

    def write_lists(self) -> str:
        """Write the lists of ended certificates (`crl.pem`) and give them (PEM, one for each trusted authority)."""
        lists = CertificateLists(self._path, self._store, self._authorities, self._now_ms)
        return lists.write(always=True) or ""

    @property
    def lists_path(self) -> Path:
        """Where the lists of ended certificates are."""
        return self._path / CERTIFICATE_LISTS

    def _install(self, new: _New, kind: EventKind, before: AuthorityState) -> AuthorityView:
        with one_at_a_time(self._path):
            made = self._made(new, kind)
            row = AuthorityRow(made.certificate_pem, AuthorityState.ACTIVE)
            view = _view(row, 0)
            key = key_file(self._path, view.fingerprint)
            is_new = not key.exists()
            write_once(key, made.private_key_pem().encode())
            try:
                seq = self._commit(row, kind, before)
            except BaseException:
                if is_new:
                    key.unlink(missing_ok=True)
                raise
            self._settle()
        self._ring(seq, CONFIRM_TIMEOUT_S)
        return view

    def _commit(self, row: AuthorityRow, kind: EventKind, before: AuthorityState) -> int:
        """Put an authority in the place of the active one, which becomes `before`; give the event's place."""
        view = _view(row, 0)
        with self._store.write() as transaction:
            rows = known_authorities(self._path, transaction.reader().authorities())
            if any(_view(known, 0).fingerprint == view.fingerprint for known in rows):
                raise Conflict("this authority is known already; see: mqttprov ca show")
            if kind is EventKind.AUTHORITY_CREATED:
                self._check_unused(transaction.reader(), rows)
            for known in rows:
                state = before if known.state is AuthorityState.ACTIVE else known.state
                transaction.put_authority(AuthorityRow(known.certificate, state))
            transaction.put_authority(row)
            (event,) = transaction.append([self._event(kind, _named(view))])
        return event.seq

    def _made(self, new: _New, kind: EventKind) -> Authority:
        """Make or read the authority. Raises `ValueError`."""
        if new.certificate is not None and new.private_key is not None:
            made = Authority.from_pem(read(new.certificate, _ADVICE), read_private(new.private_key, _ADVICE))
            if not made.is_valid(self._now_ms()):
                raise ValueError("the authority's certificate is not valid now; bring one that is")
            return made
        name = new.name
        if name is None:
            # Names that differ: some verifiers choose an issuer by its name alone.
            number = len(self.show()) + 1 if kind is EventKind.AUTHORITY_ROTATED else 1
            name = _FIRST_NAME if number == 1 else f"{_FIRST_NAME} {number}"
        return Authority.create(name, self._now_ms(), days=new.days)

    def _check_unused(self, reader: Reader, rows: Sequence[AuthorityRow]) -> None:
        """Refuse when anybody may rely on the authority that would be replaced. Raises `Conflict`."""
        active = [row for row in rows if row.state is AuthorityState.ACTIVE]
        issued = [row.certificate for ended in (False, True) for row in reader.issued_certificates(0, ended=ended)]
        server = self._path / "server.pem"
        if server.exists():
            issued.append(read(server))
        key_ids = {_key_id(row) for row in active}
        if len(rows) > len(active) or any(_issuer(certificate) in key_ids for certificate in issued):
            raise Conflict("the authority that is here has issued certificates; replace it with: mqttprov ca rotate")

    def _settle(self) -> None:
        settle(self._path, self._store)

    def _views(self, reader: Reader) -> list[AuthorityView]:
        since_ms = self._now_ms() - int(MAX_DEVICE_LIFE.total_seconds() * 1000)
        live: dict[bytes | None, int] = {}
        for issued in reader.issued_certificates(since_ms, ended=False):
            certificate = x509.load_pem_x509_certificate(issued.certificate.encode())
            if certificate.not_valid_after_utc.timestamp() * 1000 > self._now_ms():
                issuer = issuer_key_id(certificate)
                live[issuer] = live.get(issuer, 0) + 1
        rows = known_authorities(self._path, reader.authorities())
        order = [*AuthorityState]
        views = [_view(row, live.get(_key_id(row), 0)) for row in reversed(rows)]
        return sorted(views, key=lambda view: order.index(view.state))

    def _event(self, kind: EventKind, text: str) -> Event:
        return Event(kind, self._now_ms(), self._actor, text=text)


def _view(row: AuthorityRow, live: int) -> AuthorityView:
    certificate = certificate_of(row)
    return AuthorityView(
        row.state,
        certificate.subject.rfc4514_string(),
        fingerprint(certificate.public_bytes(Encoding.DER)),
        f"{certificate.serial_number:x}",
        _ms(certificate.not_valid_before_utc),
        _ms(certificate.not_valid_after_utc),
        live,
    )


def _named(view: AuthorityView) -> str:
    return f"{view.subject} ({view.fingerprint[:16]})"


def _key_id(row: AuthorityRow) -> bytes:
    return certificate_of(row).extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest


def _issuer(certificate_pem: str) -> bytes | None:
    return issuer_key_id(x509.load_pem_x509_certificate(certificate_pem.encode()))


def _ms(at: datetime) -> int:
    return int(at.timestamp() * 1000)
