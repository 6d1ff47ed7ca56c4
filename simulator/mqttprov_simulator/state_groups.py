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


def grouped(states: dict[str, int]) -> dict[str, int]:
    """Give how many gateways are in each group; a state that is none of the machine's is a group of its own."""
    known = {state for group in GROUPS.values() for state in group}
    counts = {name: sum(states.get(state, 0) for state in group) for name, group in GROUPS.items()}
    return counts | {state: number for state, number in states.items() if state not in known}
