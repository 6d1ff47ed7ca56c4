"""The write transaction of the SQLite store. Opening and migrations are in `sqlite`, questions in `sqlite_reader`.

A batch is written with few, large statements: each step of the engine gives up Python's global lock, and getting it
back from a busy event loop costs far more than the rows themselves. Rows hold plain text and numbers, for Python asks
at length how to bind anything else, None and booleans included.
"""

import sqlite3
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from itertools import chain as flatten
from itertools import compress
from pathlib import Path
from typing import Any, Final

import msgspec

from mqttprov.core.audit import ChainedEvent, ChainHead, Event, chain
from mqttprov.core.facts import (
    ActivateCredential,
    ChangeOwner,
    ChangeState,
    CountRegistration,
    CreateDevice,
    DeviceFacts,
    Effect,
    Facts,
    IssueCredential,
    ProvisionDevice,
    ReleaseName,
    RequestRotation,
    SetLabels,
    SetTransfer,
    SupersedeCredentials,
)
from mqttprov.core.model import Chain, Credential, Device, OperatorRole, Profile
from mqttprov.core.names import fold
from mqttprov.store.protocol import AuthorityRow, Conflict, LimitExceeded, NewToken, TokenRow
from mqttprov.store.sqlite_reader import (
    STATEMENTS,
    SqliteReader,
    credential_from_row,
    device_from_row,
    profile_from_row,
    token_from_row,
)

_CHUNKS: Final = (128, 64, 32, 16, 8, 4, 2, 1)  # rows per statement; few sizes, so that all stay in the statement cache

_TABLES: Final = {
    "device": "id, name, fold, profile_id, state, token_id, owner, labels, gateway, created_ms, last_generation, "
    "claim, factory_key, last_seen_ms",
    "registration": "device_id, token_id, at_ms",
    "credential": "device_id, generation, type, ended, login_key, verifier, proof, username, client_id, certificate, "
    "public_key, supplied, issued_ms, first_login_ms",
    "audit_event": "seq, at_ms, kind, device_id, body, hash",
}
_COLUMNS: Final = {table: columns.split(", ") for table, columns in _TABLES.items()}

_encode = msgspec.json.Encoder().encode


def _json(value: Any) -> str:
    return _encode(value).decode()


@lru_cache(maxsize=256)
def _insert_statement(table: str, columns: tuple[str, ...], rows: int) -> str:
    one = f"({', '.join('?' * len(columns))})"
    return f"INSERT INTO {table} ({', '.join(columns)}) VALUES {', '.join([one] * rows)}"  # noqa: S608 - names from the table above


def _insert(connection: sqlite3.Connection, table: str, rows: Sequence[tuple[Any, ...]]) -> None:
    """Insert rows; what none of them has is not mentioned, because to bind NULL costs four times as much as a value."""
    if not rows:
        return
    held = [any(value is not None for value in column) for column in zip(*rows, strict=True)]
    columns = tuple(compress(_COLUMNS[table], held))
    done = 0
    for size in _CHUNKS:
        while len(rows) - done >= size:
            values = flatten.from_iterable([compress(row, held) for row in rows[done : done + size]])
            connection.execute(_insert_statement(table, columns, size), tuple(values))
            done += size


class SqliteTransaction:
    """The write transaction (`WriteTransaction`)."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._connection = connection
        self._path = path
        self._head: ChainHead | None = None

    def load(self, token_keys: Collection[str], folds: Collection[str], login_keys: Collection[str]) -> Facts:
        """Load facts for a batch (`WriteTransaction.load`)."""
        execute = self._connection.execute
        tokens = {}
        for row in execute(STATEMENTS["tokens_by_key"], (_json(list(token_keys)),)).fetchall() if token_keys else ():
            tokens[row[2]] = token_from_row(row[:14], profile_from_row(row[14:]))
        devices: dict[str, DeviceFacts] = {}
        by_id: dict[str, DeviceFacts] = {}
        for row in execute(STATEMENTS["devices_by_fold"], (_json(list(folds)),)).fetchall() if folds else ():
            facts = DeviceFacts(device_from_row(row), [], set(), row[18])
            devices[facts.device.fold] = by_id[facts.device.id] = facts
        if by_id:
            ids = (_json(list(by_id)),)
            for row in execute(STATEMENTS["live_credentials"], ids).fetchall():
                by_id[row[0]].credentials.append(credential_from_row(row))
            offered = [facts.device.id for facts in by_id.values() if facts.device.transfer is not None]
            for row in execute(STATEMENTS["ended_credentials"], (_json(offered),)).fetchall() if offered else ():
                by_id[row[0]].ended.append(credential_from_row(row))
            for device_id, token_id in execute(STATEMENTS["registrations_of"], ids).fetchall():
                by_id[device_id].registered_by.add(token_id)
        logins: dict[str, str] = {}
        if login_keys:
            logins.update(execute(STATEMENTS["owners_of_logins"], (_json(list(login_keys)),)).fetchall())
        for facts in by_id.values():
            logins.update((c.login_key, c.device_id) for c in facts.credentials)
        return Facts(tokens, devices, logins)

    def write(self, facts: Facts, effects: Sequence[Effect]) -> None:
        """Write the effects of a batch, each row once and in its last state (`WriteTransaction.write`)."""
        created: dict[str, Device] = {}
        changed: dict[str, Device] = {}
        issued: dict[tuple[str, int], Credential] = {}
        ended: set[tuple[str, int]] = set()
        activated: dict[tuple[int, int, str], list[str]] = {}
        registrations: list[tuple[str, int, int]] = []
        for effect in effects:
            match effect:
                case CreateDevice(device):
                    created[device.fold] = device
                case IssueCredential(fold_, credential):
                    issued[credential.device_id, credential.generation] = credential
                    changed[fold_] = facts.devices[fold_].device
                case CountRegistration(token_id, _, device_id, _, at_ms):
                    registrations.append((device_id, token_id, at_ms))
                case ActivateCredential(device_id, fold_, generation, at_ms):
                    state = str(facts.devices[fold_].device.state)
                    activated.setdefault((generation, at_ms, state), []).append(device_id)
                case ProvisionDevice() | ChangeState() | SetLabels():
                    changed[effect.fold] = facts.devices[effect.fold].device
                case SupersedeCredentials(device_id, _, generations):
                    ended.update((device_id, generation) for generation in generations)
                case _:
                    self._write_one(effect)
        _insert(self._connection, "device", [self._device_row(d, facts) for d in created.values()])
        moved = [self._device_row(d, facts) for fold_, d in changed.items() if fold_ not in created]
        self._change("update_devices", [(r[0], r[4], r[7], r[5], r[8], r[10], r[13]) for r in moved])
        # Ended and activated generations first: a new one may take over a login key that is free only then.
        for (generation, at_ms, state), device_ids in activated.items():
            self._activate(device_ids, generation, at_ms, state)
        self._change("end_credentials", [place for place in ended if place not in issued])
        _insert(self._connection, "credential", [self._credential_row(c) for c in issued.values()])
        _insert(self._connection, "registration", registrations)
        self._use_tokens(registrations)

    def _write_one(self, effect: ReleaseName | RequestRotation | SetTransfer | ChangeOwner) -> None:
        """Write what operators do to one device, and what is too rare to be gathered."""
        execute = self._connection.execute
        match effect:
            case ReleaseName(device_id, _, name):
                execute(STATEMENTS["release_name"], (device_id, name))
            case RequestRotation(device_id, _, generation):
                execute(STATEMENTS["request_rotation"], (device_id, generation))
            case SetTransfer(device_id, _, offer):
                code = (offer.to_owner, offer.code, offer.expires_ms) if offer else (None, None, None)
                execute(STATEMENTS["set_transfer"], (device_id, *code))
            case ChangeOwner(device_id, _, owner, transferred_ms):
                execute(STATEMENTS["change_owner"], (device_id, owner, transferred_ms))

    @staticmethod
    def _device_row(device: Device, facts: Facts) -> tuple[Any, ...]:
        last_generation = facts.devices[device.fold].last_generation
        return (
            device.id,
            device.name,
            device.fold,
            device.profile_id,
            str(device.state),
            device.token_id,
            device.owner,
            _json(device.labels),
            int(device.gateway),
            device.created_ms,
            last_generation,
            device.claim,
            device.factory_key,
            device.last_seen_ms,
        )

    @staticmethod
    def _credential_row(credential: Credential) -> tuple[Any, ...]:
        return (
            credential.device_id,
            credential.generation,
            str(credential.type),
            int(credential.ended),
            credential.login_key,
            credential.verifier,
            credential.proof,
            credential.username,
            credential.client_id,
            credential.certificate,
            credential.public_key,
            int(credential.supplied),
            credential.issued_ms,
            credential.first_login_ms,
        )

    def _change(self, statement: str, rows: Sequence[tuple[Any, ...]]) -> None:
        if rows:
            self._connection.execute(STATEMENTS[statement], (_json(rows),))

    def _activate(self, device_ids: list[str], generation: int, at_ms: int, state: str) -> None:
        """Note the first login of many devices, all with the same generation; what is not stored yet comes with it."""
        ids = _json(device_ids)
        self._connection.execute(STATEMENTS["activate_devices"], (state, at_ms, ids))
        self._connection.execute(STATEMENTS["activate_credentials"], (generation, at_ms, ids))

    def _use_tokens(self, registrations: list[tuple[str, int, int]]) -> None:
        uses: dict[int, list[int]] = {}
        for _, token_id, at_ms in registrations:
            uses.setdefault(token_id, []).append(at_ms)
        for token_id, times in uses.items():
            change = {"id": token_id, "n": len(times), "at_ms": max(times)}
            if self._connection.execute(STATEMENTS["use_token"], change).rowcount != 1:
                raise LimitExceeded(f"token {token_id} would get more registrations than its maximum")

    def append(self, events: Sequence[Event]) -> list[ChainedEvent]:
        """Chain and store events (`WriteTransaction.append`)."""
        if self._head is None:
            row = self._connection.execute(STATEMENTS["chain_head"]).fetchone()
            self._head = ChainHead(*row) if row else ChainHead()
        chained = []
        for event in events:
            stored, self._head = chain(self._head, event)
            chained.append(stored)
        _insert(
            self._connection,
            "audit_event",
            [(e.seq, e.at_ms, str(e.kind), e.device_id, e.body, e.hash) for e in chained],
        )
        return chained

    def mark_published(self, seq: int) -> None:
        """Move the outbox on (`WriteTransaction.mark_published`)."""
        self._connection.execute(STATEMENTS["mark_published"], (seq,))

    def mark_seen(self, device_ids: Sequence[str], at_ms: int) -> None:
        """Note that devices are in use (`WriteTransaction.mark_seen`)."""
        self._connection.execute(STATEMENTS["mark_seen"], (at_ms, _json(device_ids)))

    def add_profile(self, profile: Profile, created_ms: int, chain: Chain | None = None) -> Profile:
        """Store a new profile (`WriteTransaction.add_profile`)."""
        row = (profile.name, fold(profile.name), profile.strategy, profile.credentials_type, profile.reprovision,
               profile.min_secret_chars, profile.unicode_names, _json(profile.label_keys),
               _json(profile.publish_topics), _json(profile.subscribe_topics), profile.rotate_on_first_use, created_ms,
               chain and chain.authorities, chain and chain.subject_pattern)  # fmt: skip
        with _unique(f"a profile named {profile.name!r} exists already"):
            row_id = self._connection.execute(STATEMENTS["insert_profile"], row).lastrowid
        return msgspec.structs.replace(profile, id=row_id)

    def update_profile(self, profile: Profile, chain: Chain | None) -> None:
        """Store what of a profile may change (`WriteTransaction.update_profile`)."""
        row = (profile.rotate_on_first_use, chain and chain.authorities, chain and chain.subject_pattern, profile.id)
        self._connection.execute(STATEMENTS["update_profile"], row)

    def add_token(self, token: NewToken) -> int:
        """Store a new registration token (`WriteTransaction.add_token`)."""
        row = (token.profile_id, token.name, fold(token.name), token.key, token.verifier, _json(token.labels),
               token.max_registrations, token.expires_ms, token.device_name_pattern, token.created_ms,
               token.owner)  # fmt: skip
        with _unique(f"this profile has a token named {token.name!r} already"):
            return self._connection.execute(STATEMENTS["insert_token"], row).lastrowid or 0

    def update_token(self, token: TokenRow) -> None:
        """Store what of a token may change (`WriteTransaction.update_token`)."""
        row = (_json(token.labels), token.max_registrations, token.expires_ms, token.device_name_pattern,
               token.revoked_ms, token.id)  # fmt: skip
        self._connection.execute(STATEMENTS["update_token"], row)

    def rotate_token(self, token_id: int, verifier: str, old_until_ms: int | None) -> None:
        """Store a token's new secret (`WriteTransaction.rotate_token`)."""
        change = {"id": token_id, "verifier": verifier, "until_ms": old_until_ms}
        self._connection.execute(STATEMENTS["rotate_token"], change)

    def add_operator(self, name: str, role: OperatorRole, verifier: str, created_ms: int) -> None:
        """Store an operator's login (`WriteTransaction.add_operator`)."""
        with _unique(f"an operator named {name!r} exists already"):
            self._connection.execute(STATEMENTS["insert_operator"], (name, role, verifier, created_ms))

    def put_operator(self, name: str, verifier: str | None) -> None:
        """Change or remove a login (`WriteTransaction.put_operator`)."""
        if verifier is None:
            self._connection.execute(STATEMENTS["delete_operator"], (name,))
        else:
            self._connection.execute(STATEMENTS["update_operator"], (verifier, name))

    def put_authority(self, authority: AuthorityRow) -> None:
        """Store a certificate authority (`WriteTransaction.put_authority`)."""
        self._connection.execute(STATEMENTS["put_authority"], (authority.certificate, authority.state))

    def reader(self) -> SqliteReader:
        """Ask within this transaction (`WriteTransaction.reader`)."""
        return SqliteReader(self._connection, self._path)


@contextmanager
def _unique(text: str) -> Iterator[None]:
    try:
        yield
    except sqlite3.IntegrityError as error:
        raise Conflict(text) from error
