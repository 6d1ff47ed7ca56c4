"""What of the fleet should be looked at (`mqttprov audit report`): judgements are in `mqttprov.core.hygiene`."""

from itertools import groupby
from typing import Any, Final

import msgspec

from mqttprov.core.hygiene import Finding, FindingKind, alternates, is_near_limit
from mqttprov.store.protocol import Listed, Reader

MAX_ROWS: Final = 1000  # of one finding (P9); `Finding.count` is exact
MAX_NAMES: Final = 20  # device names or sources in a row


def report(reader: Reader, *, now_ms: int, within_ms: int) -> list[Finding]:
    """Give what was found, the most urgent first.

    `within_ms` is how long a device may take to enrol, a token may lie unused, and how far back failed attempts,
    superseded credentials and client-id fights count.
    """
    since_ms = now_ms - within_ms
    found = [
        _shared_keys(reader),
        _alternating(reader),
        _listed(FindingKind.SUPERSEDED_IN_USE, reader.superseded_in_use(since_ms, MAX_ROWS), "sources"),
        _listed(FindingKind.CLIENT_ID_FIGHTS, reader.client_id_fights(since_ms, MAX_ROWS), "sources"),
        _listed(FindingKind.FAILED_ATTEMPTS, reader.failed_attempts(since_ms, MAX_ROWS)),
        _listed(FindingKind.REUSED_NAMES, reader.reused_names(MAX_ROWS)),
        _listed(FindingKind.NO_OWNER, reader.devices_without_owner(MAX_ROWS)),
        _listed(FindingKind.NOT_LOGGED_IN, reader.devices_waiting("provisioned", since_ms, MAX_ROWS)),
        _listed(FindingKind.NEVER_PROVISIONED, reader.devices_waiting("manufactured", since_ms, MAX_ROWS)),
        *_tokens(reader, now_ms, since_ms),
    ]
    return [finding for finding in found if finding.count]


def _listed(kind: FindingKind, listed: Listed[Any], many: str | None = None) -> Finding:
    """Give a finding; a list in the field `many` is cut, as it may be long."""
    rows = [msgspec.structs.asdict(row) for row in listed.rows]
    if many is not None:
        for row in rows:
            row[many] = row[many][:MAX_NAMES]
    return Finding(kind, listed.count, rows)


def _shared_keys(reader: Reader) -> Finding:
    listed = reader.shared_keys(MAX_ROWS)
    rows = [
        {"public_key": row.public_key, "devices": sorted(row.devices)[:MAX_NAMES], "count": len(row.devices)}
        for row in listed.rows
    ]
    return Finding(FindingKind.SHARED_KEY, listed.count, rows)


def _alternating(reader: Reader) -> Finding:
    count, rows = 0, list[dict[str, Any]]()
    for _, group in groupby(reader.provisioning_sources(), key=lambda row: row.device_id):
        events = list(group)
        if alternates(row.source for row in events):
            count += 1
            if len(rows) < MAX_ROWS:
                sources = list(dict.fromkeys(row.source for row in events if row.source))
                rows.append({"device": events[-1].device, "sources": sources[:MAX_NAMES]})
    return Finding(FindingKind.ALTERNATING_SOURCES, count, rows)


def _tokens(reader: Reader, now_ms: int, since_ms: int) -> list[Finding]:
    valid = [
        row for row in reader.tokens() if row.revoked_ms is None and (row.expires_ms is None or row.expires_ms > now_ms)
    ]
    near = [row for row in valid if is_near_limit(row.used, row.max_registrations)]
    unused = [row for row in valid if row.used == 0 and row.created_ms < since_ms]
    return [
        Finding(
            kind,
            len(rows),
            [
                {"token": row.name, "profile": row.profile, "used": row.used, "max": row.max_registrations}
                for row in rows[:MAX_ROWS]
            ],
        )
        for kind, rows in ((FindingKind.TOKEN_NEAR_LIMIT, near), (FindingKind.TOKEN_UNUSED, unused))
    ]
