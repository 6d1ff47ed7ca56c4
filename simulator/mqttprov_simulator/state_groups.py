"""The states of the gateway's machine in the groups that people care about, in the order of a gateway's life. Pure."""

from typing import Final

from mqttprov.gateway.transitions import State

GROUPS: Final[dict[str, tuple[State, ...]]] = {
    "off": (State.NEW,),
    "provisioning": (State.CONNECTING_TO_PROVISION, State.AWAITING_REPLY),
    "saving": (State.SAVING, State.WAITING_TO_SAVE, State.REMOVING, State.ANSWERING_REMOVAL),
    "connecting": (State.CONNECTING,),
    "online": (State.ONLINE,),
    "backing off": (State.WAITING_TO_PROVISION, State.WAITING_TO_CONNECT),
    "stopped": (State.STOPPED,),
}
_GROUP_OF: Final[dict[str, str]] = {state: name for name, states in GROUPS.items() for state in states}


def grouped(states: dict[str, int]) -> dict[str, int]:
    """Give how many gateways are in each group; a state that is none of the machine's counts under its own name."""
    counts = dict.fromkeys(GROUPS, 0)
    for state, number in states.items():
        name = _GROUP_OF.get(state, state)
        counts[name] = counts.get(name, 0) + number
    return counts
