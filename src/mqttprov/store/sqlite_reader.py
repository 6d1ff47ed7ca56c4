"""Questions to the SQLite store, and how its rows become the values of `mqttprov.core.model`. Nothing here writes."""

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, lru_cache
from importlib import resources
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from mqttprov.core.audit import ChainedEvent, ChainHead
from mqttprov.core.factory import ChainFacts, FactoryFacts
from mqttprov.core.login import LoginFacts, OperatorFacts, SupersededLogin
from mqttprov.core.model import (
    Chain,
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
    Transfer,
)
from mqttprov.core.names import fold
from mqttprov.core.selectors import Relation
from mqttprov.store.protocol import (
    AuthorityRow,
    AuthorityState,
    ClientIdFightRow,
    CredentialRow,
    DeviceQuery,
    DeviceRow,
    FailedAttemptsRow,
    IssuedCertificateRow,
    Listed,
    ProfileRow,
    ProvisioningSourceRow,
    RegisteredRow,
    ReusedNameRow,
    SharedKeyRow,
    StoreUnavailable,
    SupersededInUseRow,
    TokenRow,
    UnownedDeviceRow,
    WaitingDeviceRow,
)


def _load_statements() -> dict[str, str]:
    text = (resources.files("mqttprov.store") / "statements.sql").read_text("utf-8")
    named = (part.split("\n", 1) for part in text.split("-- name: ")[1:])
    return {name.strip(): statement.strip() for name, statement in named}


STATEMENTS: Final = _load_statements()
_MAX_INTEGER: Final = 2**63 - 1  # of SQLite
Row = tuple[Any, ...]
_R = TypeVar("_R", bound=msgspec.Struct)
_T = TypeVar("_T")

# An enumeration looks a value up six times slower.
_state = cache(LifecycleState)
_type = cache(CredentialsType)
_status = cache(CredentialStatus)
_labels = msgspec.json.Decoder(dict[str, str]).decode
_words = msgspec.json.Decoder(tuple[str, ...]).decode
_sources = msgspec.json.Decoder(list[str | None]).decode
_superseded = msgspec.json.Decoder(list[SupersededLogin]).decode


@lru_cache(maxsize=256)
def profile_from_row(row: Row) -> Profile:
    """Make a profile from its eleven columns; the same columns give the same object."""
    id_, name, strategy, type_, reprovision, min_secret, unicode_names, label_keys, publish, subscribe, rotate = row
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
        bool(rotate),
    )


def token_from_row(row: Row, profile: Profile) -> Token:
    """Make a registration token from its fourteen columns."""
    id_, name, key, verifier, labels, *rest = row
    return Token(id_, profile, name, key, verifier, _labels(labels), *rest)


def device_from_row(row: Row) -> Device:
    """Make a device from the first eighteen columns."""
    id_, name, fold_, profile_id, state, created_ms, token_id, owner, labels, gateway, *rest = row[:18]
    rotate_from, claim, factory_key, to_owner, code, expires_ms, transferred_ms, last_seen_ms = rest
    return Device(
        id_,
        name,
        fold_,
        profile_id,
        _state(state),
        created_ms,
        token_id,
        owner,
        _labels(labels),
        bool(gateway),
        rotate_from,
        claim,
        factory_key,
        None if to_owner is None else Transfer(to_owner, code, expires_ms),
        transferred_ms,
        last_seen_ms,
    )


def credential_from_row(row: Row) -> Credential:
    """Make a credential from the first fourteen columns."""
    device_id, generation, type_, login_key, proof, status, *rest = row[:14]
    verifier, username, client_id, certificate, public_key, supplied, issued_ms, first_login_ms = rest
    return Credential(
        device_id,
        generation,
        _type(type_),
        login_key,
        proof,
        _status(status),
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


def _known(sources: str) -> list[str]:
    return sorted(source for source in _sources(sources) if source is not None)


def _login_from_row(row: Row) -> LoginFacts:
    return LoginFacts(credential_from_row(row), device_from_row(row[14:]), profile_from_row(row[32:]))


def _profile_row(row: Row) -> ProfileRow:
    chain = None if row[14] is None else Chain(row[14], row[15])
    created_ms, tokens, devices = row[11:14]
    return ProfileRow(profile_from_row(row[:11]), created_ms, tokens, devices, chain)


def _factory_from_row(row: Row) -> FactoryFacts:
    name, fold_, state, transferred, rotating, key = row[:6]
    return FactoryFacts(
        name, fold_, LifecycleState(state), bool(transferred), bool(rotating), profile_from_row(row[6:]), key
    )


def _chain_from_row(row: Row) -> ChainFacts:
    return ChainFacts(profile_from_row(row[3:]), Chain(row[0], row[1]), row[2])


def _json(values: Sequence[str]) -> str:
    return msgspec.json.encode(values).decode()


_RELATIONS: Final = {
    Relation.EQUAL: "d.labels ->> ? = ?",
    Relation.NOT_EQUAL: "d.labels ->> ? IS NOT ?",
    Relation.EXISTS: "d.labels ->> ? IS NOT NULL",
}


def _conditions(query: DeviceQuery) -> tuple[str, list[Any]]:
    """Give a query as SQL; only what is asked for is in it, so that each condition can use its index."""
    asked = [
        ("d.fold = ?", _folded(query.name)),
        ("p.fold = ?", _folded(query.profile)),
        ("d.owner = ?", query.owner),
        ("d.state = ?", query.state),
        ("d.id > ?", query.after),
        ("coalesce(d.last_seen_ms, d.created_ms) < ?", query.unseen_since_ms),
    ]
    terms = [term for term, value in asked if value is not None]
    values: list[Any] = [value for _, value in asked if value is not None]
    if query.unseen_since_ms is not None and query.state is None:
        terms.append("d.state <> 'decommissioned'")  # nobody waits for these
    for selector in query.selectors:
        terms.append(_RELATIONS[selector.relation])
        values.append(f'$."{selector.key}"')  # the key holds no quote (`names.check_labels`)
        if selector.relation is not Relation.EXISTS:
            values.append(selector.value)
    return " AND ".join(terms) or "TRUE", values


def _folded(text: str | None) -> str | None:
    return None if text is None else fold(text)


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    """Turn what a damaged file does to us into `StoreUnavailable`, also values that are none of ours."""
    try:
        yield
    except (sqlite3.DatabaseError, ValueError, msgspec.MsgspecError) as error:
        raise StoreUnavailable(f"the database {path} cannot be read: {error}; restore it from a backup") from error


class SqliteReader:
    """Answers questions over one connection (`Reader`). For one thread."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._connection = connection
        self._path = path

    def _all(self, statement: str, parameters: Sequence[Any], make: Callable[[Row], _T]) -> list[_T]:
        with _translated(self._path):
            return [make(row) for row in self._connection.execute(STATEMENTS[statement], parameters).fetchall()]

    def _each(self, statement: str, parameters: Sequence[Any], make: Callable[[Row], _T]) -> Iterator[_T]:
        with _translated(self._path):
            for row in self._connection.execute(STATEMENTS[statement], parameters):
                yield make(row)

    def find_logins(self, login_keys: Sequence[str]) -> list[LoginFacts]:
        """Find live credentials by login key (`Reader.find_logins`)."""
        return self._all("logins", (_json(login_keys),), _login_from_row)

    def find_superseded(self, login_keys: Sequence[str]) -> dict[str, list[SupersededLogin]]:
        """Find superseded credentials by login key (`Reader.find_superseded`)."""
        asked = (msgspec.json.encode(login_keys).decode(),)
        return dict(self._all("superseded", asked, lambda row: (str(row[0]), _superseded(row[1]))))

    def find_operator(self, name: str) -> OperatorFacts | None:
        """Find an operator's login (`Reader.find_operator`)."""
        found = self._all("operator", (name,), lambda row: OperatorFacts(row[0], OperatorRole(row[1]), row[2]))
        return found[0] if found else None

    def knows_certificate(self, login_key: str) -> bool:
        """Look for a registered certificate (`Reader.knows_certificate`)."""
        return self._all("knows_certificate", (login_key,), lambda row: bool(row[0]))[0]

    def factory_devices(self, public_key: str | None = None, fold: str | None = None) -> list[FactoryFacts]:
        """Find devices by factory key or name (`Reader.factory_devices`)."""
        return self._all("factory_devices", (public_key, fold), _factory_from_row)

    def chains(self) -> list[ChainFacts]:
        """List the profiles with a chain (`Reader.chains`)."""
        return self._all("chains", (), _chain_from_row)

    def ended_certificates(self, login_keys: Sequence[str]) -> list[str]:
        """Find superseded certificates by login key (`Reader.ended_certificates`)."""
        return self._all("ended_certificates", (_json(login_keys),), lambda row: str(row[0]))

    def issued_certificates(self, since_ms: int, *, ended: bool) -> Iterator[IssuedCertificateRow]:
        """Give what our authorities issued (`Reader.issued_certificates`)."""
        return self._each("issued_certificates", (since_ms, ended), lambda row: IssuedCertificateRow(*row))

    def authorities(self) -> list[AuthorityRow]:
        """List certificate authorities (`Reader.authorities`)."""
        return self._all("authorities", (), lambda row: AuthorityRow(row[0], AuthorityState(row[1])))

    def profiles(self, name: str | None = None) -> list[ProfileRow]:
        """List profiles (`Reader.profiles`)."""
        return self._all("profiles", (_folded(name),), _profile_row)

    def tokens(self, profile: str | None = None, name_or_key: str | None = None) -> list[TokenRow]:
        """List registration tokens (`Reader.tokens`)."""
        wanted = (_folded(profile), _folded(name_or_key))
        return self._all("tokens", wanted, lambda row: _row(TokenRow, row, {"labels": _labels(row[4])}))

    def devices(self, name: str | None = None) -> Iterator[DeviceRow]:
        """List devices (`Reader.devices`)."""
        return self.find_devices(DeviceQuery(name))

    def find_devices(self, query: DeviceQuery) -> Iterator[DeviceRow]:
        """List selected devices (`Reader.find_devices`)."""
        conditions, values = _conditions(query)
        statement = f"{STATEMENTS['devices']} WHERE {conditions} ORDER BY d.id LIMIT ?"
        values.append(-1 if query.limit is None else min(query.limit, _MAX_INTEGER))
        with _translated(self._path):
            for row in self._connection.execute(statement, values):
                yield _row(
                    DeviceRow, row, {"labels": _labels(row[5]), "gateway": bool(row[7]), "rotation_due": bool(row[13])}
                )

    def registered(self, token_id: int) -> Iterator[RegisteredRow]:
        """List what a token registered (`Reader.registered`)."""
        return self._each("registered", (token_id,), lambda row: RegisteredRow(*row))

    def credentials_of(self, device_id: str) -> list[CredentialRow]:
        """List a device's generations (`Reader.credentials_of`)."""
        return self._all(
            "credentials_of", (device_id,), lambda row: _row(CredentialRow, row, {"supplied": bool(row[3])})
        )

    def operators(self) -> list[tuple[str, OperatorRole, int]]:
        """List operators (`Reader.operators`)."""
        return self._all("operators", (), lambda row: (row[0], OperatorRole(row[1]), row[2]))

    def states(self) -> dict[str, int]:
        """Count devices by state (`Reader.states`)."""
        return dict(self._all("states", (), lambda row: (str(row[0]), int(row[1]))))

    def events(self, after_seq: int = 0, limit: int = -1) -> Iterator[ChainedEvent]:
        """Give audit events in order (`Reader.events`); whether they are what was written is for `audit.verify`."""
        return self._each("events_after", (after_seq, limit), lambda row: ChainedEvent(*row))

    def events_of_device(self, device_id: str) -> Iterator[ChainedEvent]:
        """Give a device's audit events (`Reader.events_of_device`)."""
        return self._each("events_of_device", (device_id,), lambda row: ChainedEvent(*row))

    def events_with(self, field: str, value: str, limit: int) -> list[ChainedEvent]:
        """Look through all audit events (`Reader.events_with`); quotes within strings are escaped, so this is exact."""
        needle = f'"{field}":{msgspec.json.encode(value).decode()}'
        return self._all("events_with", (needle, limit), lambda row: ChainedEvent(*row))

    def _listed(self, statement: str, parameters: Sequence[Any], make: Callable[[Row], _T]) -> Listed[_T]:
        """Give rows whose first column is how many there are in all."""
        rows = self._all(statement, parameters, lambda row: (int(row[0]), make(row[1:])))
        return Listed(rows[0][0] if rows else 0, [row for _, row in rows])

    def shared_keys(self, limit: int) -> Listed[SharedKeyRow]:
        """List keys under several names (`Reader.shared_keys`)."""
        return self._listed("shared_keys", (limit,), lambda row: SharedKeyRow(row[0], list(_words(row[1]))))

    def provisioning_sources(self) -> Iterator[ProvisioningSourceRow]:
        """Give sources of busy devices (`Reader.provisioning_sources`)."""
        return self._each("provisioning_sources", (), lambda row: ProvisioningSourceRow(*row))

    def failed_attempts(self, since_ms: int, limit: int) -> Listed[FailedAttemptsRow]:
        """List refused sources (`Reader.failed_attempts`)."""
        return self._listed(
            "failed_attempts",
            (since_ms, limit),
            lambda row: FailedAttemptsRow(row[0], row[1], sorted(_words(row[2])), row[3]),
        )

    def superseded_in_use(self, since_ms: int, limit: int) -> Listed[SupersededInUseRow]:
        """List superseded credentials that were tried (`Reader.superseded_in_use`)."""
        return self._listed(
            "superseded_in_use",
            (since_ms, limit),
            lambda row: SupersededInUseRow(row[0], row[1], _known(row[2]), *row[3:]),
        )

    def client_id_fights(self, since_ms: int, limit: int) -> Listed[ClientIdFightRow]:
        """List devices that fight (`Reader.client_id_fights`)."""
        return self._listed(
            "client_id_fights", (since_ms, limit), lambda row: ClientIdFightRow(row[0], _known(row[1]), *row[2:])
        )

    def reused_names(self, limit: int) -> Listed[ReusedNameRow]:
        """List devices that asked again (`Reader.reused_names`)."""
        return self._listed("reused_names", (limit,), lambda row: ReusedNameRow(*row))

    def devices_without_owner(self, limit: int) -> Listed[UnownedDeviceRow]:
        """List devices without owner (`Reader.devices_without_owner`)."""
        return self._listed("devices_without_owner", (limit,), lambda row: UnownedDeviceRow(*row))

    def devices_waiting(self, state: str, until_ms: int, limit: int) -> Listed[WaitingDeviceRow]:
        """List devices that wait in a state (`Reader.devices_waiting`)."""
        return self._listed("devices_waiting", (state, until_ms, limit), lambda row: WaitingDeviceRow(*row))

    def head(self) -> ChainHead:
        """Give the end of the chain (`Reader.head`)."""
        found = self._all("chain_head", (), lambda row: ChainHead(*row))
        return found[0] if found else ChainHead()

    def published_seq(self) -> int:
        """Give the outbox's place (`Reader.published_seq`)."""
        return self._all("published_seq", (), lambda row: int(row[0]))[0]

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()
