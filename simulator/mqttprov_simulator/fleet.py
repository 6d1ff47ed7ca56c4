"""The gateways of a `SwarmPlan`: making them, and what they tell, counted. `swarm` starts and ends them."""

import asyncio
from collections.abc import Callable
from typing import Final

from mqttprov.gateway.requests import encode_request
from mqttprov_simulator.chance import ChanceStream
from mqttprov_simulator.driver import Route
from mqttprov_simulator.gateway_spec import GatewaySpec, Kind
from mqttprov_simulator.plan import SwarmPlan
from mqttprov_simulator.tally import Tally
from mqttprov_simulator.virtual_gateway import VirtualGateway


class Fleet:
    """What the gateways of one run tell, in counts: a `virtual_gateway.Watcher`."""

    def __init__(self, plan: SwarmPlan, tally: Tally, on_settled: Callable[[], None]) -> None:
        """`on_settled` is called when a gateway is no longer in flight: registered for the first time, or given up."""
        self._plan: Final = plan
        self._tally: Final = tally
        self.states = tally.states
        self.online = 0
        self.settled = 0
        self.changed: Final = asyncio.Event()  # set when the fleet becomes complete
        self._on_settled: Final = on_settled

    @property
    def complete(self) -> bool:
        """Whether all gateways have settled and, if they are to stay connected, all but those given up are online."""
        gateways = self._plan.gateways
        reached = self.online + self._tally.gave_up if self._plan.stay_connected else self.settled
        return reached == gateways == self.settled

    def _note(self, online: int, settled: int) -> None:
        self.online += online
        self.settled += settled
        if self.complete:
            self.changed.set()
        if settled:
            self._on_settled()

    def came_online(self, gateway: VirtualGateway, now_s: float, *, first: bool) -> None:
        """Count it, and its registration."""
        if first:
            self._tally.register(gateway.planned_s, gateway.started_s, now_s)
        self._note(online=1, settled=int(first))

    def went_offline(self, gateway: VirtualGateway, now_s: float) -> None:
        """Count it."""
        self._note(online=-1, settled=0)

    def refused(self, gateway: VirtualGateway, reason: str) -> None:
        """Count it by its reason."""
        self._tally.refusals[reason] += 1

    def lost(self, gateway: VirtualGateway, reason: str) -> None:
        """Count it by its reason."""
        self._tally.lost_connections[reason] += 1

    def gave_up(self, gateway: VirtualGateway) -> None:
        """Count it as settled."""
        self._tally.gave_up += 1
        self._note(online=0, settled=1)

    # What a plan does not ask about.

    def replied(self, gateway: VirtualGateway, payload: bytes, *, awaited: bool) -> None:
        """Not looked at."""

    def logs_in(self, gateway: VirtualGateway) -> None:
        """Not looked at."""

    def heard(self, gateway: VirtualGateway, payload: bytes) -> None:
        """Not looked at."""

    def login_refused(self, gateway: VirtualGateway, reason_code: int) -> None:
        """Not looked at; `refused` counts it."""

    def acknowledged(self, gateway: VirtualGateway, token: int) -> None:
        """Never: they say nothing."""

    def unacknowledged(self, gateway: VirtualGateway, token: int) -> None:
        """Never: they say nothing."""


def gateways_of(plan: SwarmPlan, fleet: Fleet, route_from: Callable[[str | None], Route]) -> list[VirtualGateway]:
    """Make them all. `route_from` gives the way to the broker from a source address."""
    kind = Kind(settings=plan.machine, stays=plan.stay_connected, gives_up_after=plan.give_up_after_refusals)
    routes: dict[str | None, Route] = {}
    gateways = []
    for number in range(plan.gateways):
        source = plan.source_address(number)
        if source not in routes:
            routes[source] = route_from(source)
        name = plan.device_name(number)
        spec = GatewaySpec(
            number=number,
            name=name,
            device=name,
            request=encode_request(plan.request(number)),
            kind=kind,
            route=routes[source],
            chance=ChanceStream(plan.seed, number),
        )
        gateways.append(VirtualGateway(spec, fleet))
    return gateways
