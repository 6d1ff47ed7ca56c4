"""Draws the transition table: `python -m mqttprov.gateway.diagram > docs/gateway-machine.md`.

Nothing but the page lives here; a test holds the committed one to it.
"""

import sys
from collections.abc import Iterator

from mqttprov.gateway.events import StopRequested
from mqttprov.gateway.transitions import IGNORED, MEANINGS, TRANSITIONS, State


def page() -> str:
    """The whole page, as it must be committed."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    yield "# The gateway's state machine"
    yield ""
    yield "Generated from `mqttprov.gateway.transitions`; do not edit. After a change there run"
    yield "`python -m mqttprov.gateway.diagram > docs/gateway-machine.md`."
    yield ""
    yield "```mermaid"
    yield "stateDiagram-v2"
    yield f"    [*] --> {State.NEW}"
    for (old, new), names in _edges().items():
        yield f"    {old} --> {new}: {', '.join(names)}"
    yield f"    {State.STOPPED} --> [*]"
    yield "```"
    yield ""
    yield "`StopRequested` leads from every state to `stopped`; these edges are left out of the drawing."
    yield ""
    yield "| state | meaning |"
    yield "|---|---|"
    for state in State:
        yield f"| `{state}` | {MEANINGS[state]} |"
    yield ""
    yield "## What is ignored on purpose"
    yield ""
    yield "Every other event in every other state is in the drawing."
    yield ""
    yield "| events | in the states | reason |"
    yield "|---|---|---|"
    for (events, reason), states in _ignored().items():
        yield f"| {', '.join(events)} | {', '.join(f'`{state}`' for state in states)} | {reason} |"


def _edges() -> dict[tuple[State, State], list[str]]:
    edges: dict[tuple[State, State], list[str]] = {}
    for (old, event), transition in TRANSITIONS.items():
        if event is not StopRequested:
            for new in transition.next_states:
                edges.setdefault((old, new), []).append(event.__name__)
    return edges


def _ignored() -> dict[tuple[tuple[str, ...], str], list[State]]:
    events_of: dict[tuple[State, str], tuple[str, ...]] = {}
    for (state, event), reason in IGNORED.items():
        events_of[state, reason] = (*events_of.get((state, reason), ()), event.__name__)
    rows: dict[tuple[tuple[str, ...], str], list[State]] = {}
    for (state, reason), names in events_of.items():
        rows.setdefault((names, reason), []).append(state)
    return rows


if __name__ == "__main__":
    sys.stdout.write(page())
