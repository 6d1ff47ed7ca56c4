"""Draws the life of a device: `python -m mqttprov.cli.lifecycle_page > docs/lifecycle.md`.

Nothing but the page lives here; a test holds the committed one to the table in `mqttprov.core.lifecycle`.
"""

import sys
from collections.abc import Iterator
from typing import Final

from mqttprov.core.lifecycle import (
    EVENT_MEANINGS,
    STATE_MEANINGS,
    TRANSITIONS,
    LifecycleEvent,
    may_log_in,
    may_provision,
)
from mqttprov.core.model import LifecycleState

_END: Final = """
A device that was suspended goes on as what it was: `active` if it has logged in with a credential that it still holds,
else `provisioned`. That is read from its credentials, so there is no second place that could say something else.

A released tombstone is known as `<name>#<id>` from then on. No device name may hold `#`, so nobody can ever ask for it;
id, credentials' history and audit events stay with it. The name begins again with a new device and a new id."""


def page() -> str:
    """Give the whole page, as it must be committed."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    yield "# The life of a device"
    yield ""
    yield "Generated from `mqttprov.core.lifecycle`; do not edit. After a change there run"
    yield "`python -m mqttprov.cli.lifecycle_page > docs/lifecycle.md`."
    yield ""
    yield "```mermaid"
    yield "stateDiagram-v2"
    yield f"    [*] --> {LifecycleState.MANUFACTURED}"
    for (old, new), names in _edges().items():
        yield f"    {old} --> {new}: {', '.join(names)}"
    yield "```"
    yield ""
    yield "| state | meaning | may provision | may log in |"
    yield "|---|---|---|---|"
    for state in LifecycleState:
        allowed = " | ".join("yes" if may(state) else "no" for may in (may_provision, may_log_in))
        yield f"| `{state}` | {STATE_MEANINGS[state]} | {allowed} |"
    yield ""
    yield "| event | meaning |"
    yield "|---|---|"
    for event in LifecycleEvent:
        yield f"| `{event}` | {EVENT_MEANINGS[event]} |"
    yield ""
    yield "Every pair of state and event that is not drawn is an error that changes nothing."
    yield _END


def _edges() -> dict[tuple[LifecycleState, LifecycleState], list[str]]:
    edges: dict[tuple[LifecycleState, LifecycleState], list[str]] = {}
    for (old, event), new in TRANSITIONS.items():
        edges.setdefault((old, new), []).append(event)
    return edges


if __name__ == "__main__":
    sys.stdout.write(page())
