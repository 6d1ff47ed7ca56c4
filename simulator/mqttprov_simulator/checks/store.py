"""What the target's database says, asked beside the running server by SQL of our own, so that a mistake of the server's
own code does not hide itself: limits (P1) each second, and at the end registrations with their events (P5), the chain.
"""

import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Final, Literal

from mqttprov.core.audit import BrokenChain, ChainedEvent, EventKind, verify
from mqttprov_simulator.checks.ledger import NAMED, ToldDevice
from mqttprov_simulator.report.result import Check
from mqttprov_simulator.running.values import Broken, TokenKey

_TIMEOUT_S: Final = 5.0
# After one of these a device has credentials that it had not before.
_GRANTS: Final = frozenset({EventKind.PROVISIONED, EventKind.REPROVISIONED, EventKind.TRANSFER_COMPLETED})
_REST: Final = 20  # times as long as a look took: a store of millions must not keep us, or itself, busy
_DATABASE: Final = "mqttprov.db"
_COUNTS: Final = """
SELECT t.key, p.name, t.name, t.max_registrations, t.used, coalesce(r.devices, 0)
FROM token AS t JOIN profile AS p ON p.id = t.profile_id
LEFT JOIN (SELECT token_id, count(*) AS devices FROM registration GROUP BY token_id) AS r ON r.token_id = t.id
"""
_EVENTS: Final = "SELECT seq, kind, at_ms, body, hash, device_id FROM audit_event ORDER BY seq"
_DEVICES: Final = """
SELECT d.id, d.fold, (SELECT count(*) FROM credential AS c WHERE c.device_id = d.id) FROM device AS d
"""
_REGISTRATIONS: Final = """
SELECT r.device_id, d.name, t.name FROM registration AS r
JOIN device AS d ON d.id = r.device_id JOIN token AS t ON t.id = r.token_id
"""


class StoreWatch:
    """Looks at a state directory while a run goes on. For one thread.

    `tokens`: those of the run, whose counts are looked at.
    """

    def __init__(self, state: Path, tokens: Mapping[str, TokenKey]) -> None:
        self._path: Final = state / _DATABASE
        self._keys: Final = {token.key for token in tokens.values()}
        self._told: Final[set[tuple[str, str]]] = set()
        self._rests_until_s = 0.0
        self._devices = 0  # that they have registered, as of the last look

    def look(self, at_s: float) -> list[Broken]:
        """Count what tokens have registered; give what is wrong and was not told before. To be called each second.

        A database that cannot be read now is read at the next look, and a large one is not looked at each time.
        """
        if at_s < self._rests_until_s:
            return []
        began_s = time.perf_counter()
        try:
            with closing(self._open()) as database:
                return self._counts(database, at_s)
        except sqlite3.DatabaseError:
            return []
        finally:
            self._rests_until_s = at_s + _REST * (time.perf_counter() - began_s)

    def close(self, devices: Mapping[str, ToldDevice], at_s: float) -> list[Check]:
        """Look at all of it, when the run is over: at limits, and that each telling has its device and its event.

        `devices`: what was told, as `Ledger.devices` has it.
        """
        try:
            with closing(self._open()) as database:
                over = self._counts(database, at_s)
                missing = [*_without_event(database, devices, at_s)]
                looked_at = database.execute("SELECT count(*) FROM audit_event").fetchone()[0]
        except sqlite3.DatabaseError as error:
            why = f"the database cannot be read: {error}"
            return [
                Check(promise="limit-exceeded", state="not checked", why_not=why),
                Check(promise="no-event", state="not checked", why_not=why),
            ]
        return [
            Check(promise="limit-exceeded", state=_state(over), looked_at=self._devices, broken=tuple(over)),
            Check(promise="no-event", state=_state(missing), looked_at=looked_at, broken=tuple(missing)),
        ]

    def _open(self) -> sqlite3.Connection:
        return sqlite3.connect(f"{self._path.absolute().as_uri()}?mode=ro", uri=True, timeout=_TIMEOUT_S)

    def _counts(self, database: sqlite3.Connection, at_s: float) -> list[Broken]:
        found = []
        self._devices = 0
        for key, profile, name, most, used, devices in database.execute(_COUNTS).fetchall():
            if key not in self._keys:
                continue
            self._devices += devices
            token = f"the token {profile}/{name}"
            if most is not None and devices > most and self._is_new(key, "over"):
                seen = f"{token} has registered {devices} devices, at most {most} are allowed"
                found.append(Broken(promise="limit-exceeded", gateways=(), at_s=at_s, seen=seen))
            if used != devices and self._is_new(key, "count"):
                seen = f"{token} counts {used} registrations, but has registered {devices} devices"
                found.append(Broken(promise="limit-exceeded", gateways=(), at_s=at_s, seen=seen))
        return found

    def _is_new(self, key: str, what: str) -> bool:
        if (key, what) in self._told:
            return False
        self._told.add((key, what))
        return True


def _state(found: list[Broken]) -> Literal["held", "broken"]:
    return "broken" if found else "held"


def _without_event(database: sqlite3.Connection, devices: Mapping[str, ToldDevice], at_s: float) -> Iterator[Broken]:
    """Find tellings and registrations that no event of the chain vouches for, and a chain that does not hold."""
    granted: dict[str, int] = {}

    def counted() -> Iterator[ChainedEvent]:
        for row in database.execute(_EVENTS):
            event = ChainedEvent(*row)
            if event.kind in _GRANTS and event.device_id is not None:
                granted[event.device_id] = granted.get(event.device_id, 0) + 1
            yield event

    try:
        verify(counted())
    except BrokenChain as error:
        yield _broken((), at_s, f"the audit chain does not verify: {error}")
        return  # what it says of devices is not to be believed
    there = {name: (device_id, generations) for device_id, name, generations in database.execute(_DEVICES)}
    for name, told in devices.items():
        device_id, generations = there.get(name, (None, 0))
        events, needed = granted.get(device_id or "", 0), len(told.fingerprints)
        if min(generations, events) < needed:
            seen = (
                f"{needed} different credentials were told, the store has {generations} and the chain {events} events"
            )
            yield _broken(told.gateways, at_s, seen)
    for device_id, name, token in database.execute(_REGISTRATIONS):
        if device_id not in granted:
            yield _broken((), at_s, f"a registration of token {token} is counted for {name}, which no event grants")


def _broken(gateways: Sequence[str], at_s: float, seen: str) -> Broken:
    return Broken(promise="no-event", gateways=tuple(gateways[:NAMED]), at_s=at_s, seen=seen)
