"""How gateways stand at the end, who is missing, and whether credentials that ended still work."""

from collections.abc import Sequence
from typing import Final

from mqttprov.gateway import actions
from mqttprov_simulator.driver import Route
from mqttprov_simulator.running.population import Routes
from mqttprov_simulator.running.probes import let_in, probe_login
from mqttprov_simulator.running.promises import Holding, Promises
from mqttprov_simulator.running.replies import fingerprint_of
from mqttprov_simulator.running.values import Standing
from mqttprov_simulator.virtual_gateway import VirtualGateway

_MAX_PROBES: Final = 200


def standing_of(holding: Holding, gateway: VirtualGateway) -> Standing:
    """Write down how a gateway stands."""
    drawn = holding.drawn
    return Standing(
        gateway=drawn.gateway,
        device=drawn.device,
        group=drawn.group.name,
        state=gateway.state,
        registered=gateway.registered,
        fingerprints=holding.told,
        stored=fingerprint_of(gateway.stored),
        online_at_s=None if holding.online_at_s is None else round(holding.online_at_s, 3),
        refused=gateway.refused,
    )


def look_for_absent(
    holdings: Sequence[Holding],
    gateways: Sequence[VirtualGateway],
    promises: Promises,
    *,
    at_s: float,
    planned_end_s: float,
    within_s: float,
    timed_out: bool,
) -> None:
    """Put down who is expected online and is not, `within_s` after the plan and its own last fault are over (P10).

    To be called once the plan's own time is over, or the run is `timed_out`: that waits no longer, but for those that
    something happened to after the plan.
    """
    for holding, gateway in zip(holdings, gateways, strict=True):
        if holding.placed or holding.expected.entry != "online":
            continue
        excused_until_s = holding.struck_until_s + within_s
        if at_s >= excused_until_s or (timed_out and holding.struck_until_s <= planned_end_s):
            passed_s = at_s - max(planned_end_s, holding.struck_until_s)
            promises.absent(holding, at_s, gateway.state, f"{passed_s:.1f} s after the last planned event")


def waited_for(holdings: Sequence[Holding]) -> int:
    """Count who is expected online and is not."""
    return sum(not holding.placed and holding.expected.entry == "online" for holding in holdings)


async def probe_old_credentials(
    holdings: Sequence[Holding],
    gateways: Sequence[VirtualGateway],
    promises: Promises,
    routes: Routes,
    at_s: float,
) -> int:
    """Try older generations and credentials of suspended devices: they must be refused (P7).

    Gives how many were seen to be refused or not; nobody answers where the broker is gone.
    """
    looked_at = 0
    tried: list[tuple[Holding, str]] = []
    logins: list[tuple[actions.Connect, Route]] = []

    def add(holding: Holding, stored: bytes | None, seen: str) -> None:
        login = None if stored is None or len(logins) >= _MAX_PROBES else probe_login(stored, holding.drawn.device)
        if login is not None:
            tried.append((holding, seen))
            logins.append((login, routes.probing(len(logins), tls=holding.drawn.group.tls)))

    for holding in promises.older:
        if holding.accepted:
            add(holding, holding.older, "its older credentials still log in after newer ones were used")
    for holding, gateway in zip(holdings, gateways, strict=True):
        if holding.expected.ended and at_s > holding.expected.touched_s:
            if holding.online_at_s is not None:
                looked_at += 1
                promises.note_broken("old-still-works", at_s, "its device was suspended, and it is online", holding)
            else:
                add(holding, gateway.stored, "its device was suspended, and its credentials still log in")
    for (holding, seen), accepted in zip(tried, await let_in(logins), strict=True):
        looked_at += accepted is not None
        if accepted:
            promises.note_broken("old-still-works", at_s, seen, holding)
    return looked_at
