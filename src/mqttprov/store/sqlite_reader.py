"""Questions to the SQLite store, and how its rows become the values of `mqttprov.core.model`. Nothing here writes."""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from mqttprov.core.audit import ChainedEvent, ChainHead, EventKind
from mqttprov.core.login import LoginFacts, OperatorFacts
from mqttprov.core.model import (
    Credential,
    CredentialStatus,
    CredentialsType,
    Device,
    LifecycleState,
    OperatorRole,
    Profile,
    ReprovisionPolicy,
    Strategy,
    Token,
)
from mqttprov.core.names import fold
from mqttprov.store.protocol import CredentialRow, DeviceRow, ProfileRow, StoreUnavailable, TokenRow


def _load_statements() -> dict[str, str]:
    text = (resources.files("mqttprov.store") / "statements.sql").read_text("utf-8")
    named = (part.split("\n", 1) for part in text.split("-- name: ")[1:])
    return {name.strip(): statement.strip() for name, statement in named}


STATEMENTS: Final = _load_statements()
Row = tuple[Any, ...]
_R = TypeVar("_R", bound=msgspec.Struct)

_labels = msgspec.json.Decoder(dict[str, str]).decode
_words = msgspec.json.Decoder(tuple[str, ...]).decode


@lru_cache(maxsize=256)
def profile_from_row(row: Row) -> Profile:
    """Make a profile from its ten columns; the same columns give the same object."""
    id_, name, strategy, type_, reprovision, min_secret, unicode_names, label_keys, publish, subscribe = row
    return Profile(
        id_,
        name,
        Strategy(strategy),
        CredentialsType(type_),
        ReprovisionPolicy(reprovision),
        min_secret,
        bool(unicode_names),
        _words(label_keys),
        _words(publish),
        _words(subscribe),
    )


def token_from_row(row: Row, profile: Profile) -> Token:
    """Make a registration token from its ten columns."""
    id_, name, key, verifier, labels, limit, used, expires_ms, pattern, revoked_ms = row
    return Token(id_, profile, name, key, verifier, _labels(labels), limit, used, expires_ms, pattern, revoked_ms)


def device_from_row(row: Row) -> Device:
    """Make a device from the first ten columns."""
    id_, name, fold_, profile_id, state, created_ms, token_id, owner, labels, gateway = row[:10]
    return Device(
        id_, name, fold_, profile_id, LifecycleState(state), created_ms, token_id, owner, _labels(labels), bool(gateway)
    )


def credential_from_row(row: Row) -> Credential:
    """Make a credential from the first fourteen columns."""
    device_id, generation, type_, login_key, proof, status, *rest = row[:14]
    verifier, username, client_id, certificate, public_key, supplied, issued_ms, first_login_ms = rest
    return Credential(
        device_id,
        generation,
        CredentialsType(type_),
        login_key,
        proof,
        CredentialStatus(status),
        verifier,
        username,
        client_id,
        certificate,
        public_key,
        bool(supplied),
        issued_ms,
        first_login_ms,
    )


def _row(kind: type[_R], row: Row, converted: dict[str, Any]) -> _R:
    """Make a listed row from columns in the order of its fields, some of them converted."""
    return kind(**{**dict(zip(kind.__struct_fields__, row, strict=True)), **converted})


@contextmanager
def _translated(path: Path | None) -> Iterator[None]:
    try:
        yield
    except sqlite3.DatabaseError as error:
        raise StoreUnavailable(
            f"the database {path or ''} cannot be read: {error}; restore it from a backup"
        ) from error


class SqliteReader:
    """Answers questions over one connection (`Reader`). For one thread."""

    def __init__(self, connection: sqlite3.Connection, path: Path | None) -> None:
        self._connection = connection
        self._path = path

    def _all(self, statement: str, parameters: Sequence[Any] = ()) -> list[Row]:
        with _translated(self._path):
            return self._connection.execute(STATEMENTS[statement], parameters).fetchall()

    def find_logins(self, login_keys: Sequence[str]) -> list[LoginFacts]:
        """Find live credentials by login key (`Reader.find_logins`)."""
        wanted = (*login_keys, None, None, None)[:3]
        return [
            LoginFacts(credential_from_row(row), device_from_row(row[14:]), profile_from_row(row[24:]))
            for row in self._all("logins", wanted)
        ]

    def find_operator(self, name: str) -> OperatorFacts | None:
        """Find an operator's login (`Reader.find_operator`)."""
        rows = self._all("operator", (name,))
        return OperatorFacts(rows[0][0], OperatorRole(rows[0][1]), rows[0][2]) if rows else None

    def certificates(self) -> list[str]:
        """Give the certificates of live credentials (`Reader.certificates`)."""
        return [row[0] for row in self._all("certificates")]

    def profiles(self, name: str | None = None) -> list[ProfileRow]:
        """List profiles (`Reader.profiles`)."""
        rows = self._all("profiles", (fold(name) if name is not None else None,))
        return [ProfileRow(profile_from_row(row[:10]), *row[10:]) for row in rows]

    def tokens(self, profile: str | None = None, name_or_key: str | None = None) -> list[TokenRow]:
        """List registration tokens (`Reader.tokens`)."""
        wanted = tuple(fold(text) if text is not None else None for text in (profile, name_or_key))
        return [_row(TokenRow, row, {"labels": _labels(row[4])}) for row in self._all("tokens", wanted)]

    def devices(self, name: str | None = None) -> Iterator[DeviceRow]:
        """List devices (`Reader.devices`)."""
        with _translated(self._path):
            wanted = (fold(name) if name is not None else None,)
            for row in self._connection.execute(STATEMENTS["devices"], wanted):
                yield _row(DeviceRow, row, {"labels": _labels(row[5]), "gateway": bool(row[7])})

    def credentials_of(self, device_id: str) -> list[CredentialRow]:
        """List a device's generations (`Reader.credentials_of`)."""
        rows = self._all("credentials_of", (device_id,))
        return [_row(CredentialRow, row, {"supplied": bool(row[3])}) for row in rows]

    def operators(self) -> list[tuple[str, OperatorRole, int]]:
        """List operators (`Reader.operators`)."""
        return [(name, OperatorRole(role), created_ms) for name, role, created_ms in self._all("operators")]

    def states(self) -> dict[str, int]:
        """Count devices by state (`Reader.states`)."""
        return {str(state): count for state, count in self._all("states")}

    def events(self, after_seq: int = 0, limit: int = -1) -> Iterator[ChainedEvent]:
        """Give audit events in order (`Reader.events`)."""
        with _translated(self._path):
            for row in self._connection.execute(STATEMENTS["events_after"], (after_seq, limit)):
                yield ChainedEvent(row[0], EventKind(row[1]), *row[2:])

    def head(self) -> ChainHead:
        """Give the end of the chain (`Reader.head`)."""
        rows = self._all("chain_head")
        return ChainHead(*rows[0]) if rows else ChainHead()

    def published_seq(self) -> int:
        """Give the outbox's place (`Reader.published_seq`)."""
        return int(self._all("published_seq")[0][0])

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()
