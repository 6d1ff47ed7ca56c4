"""What the gateways of a worker tell, as figures: seconds, histograms, counts; and who is where the scenario wants it.

What it means for the promises is `promises`' matter.
"""

from collections import Counter
from collections.abc import Sequence
from time import monotonic
from typing import Final

from mqttprov_simulator.histogram import Buckets, count_in
from mqttprov_simulator.running.life import Life, sender_of
from mqttprov_simulator.running.promises import Holding, Promises
from mqttprov_simulator.running.seconds import Seconds
from mqttprov_simulator.scenario.model import GatewayFault
from mqttprov_simulator.struck_gateway import StruckGateway
from mqttprov_simulator.virtual_gateway import VirtualGateway

_OVERDUE_US: Final = 1_000_000
_UNKNOWN: Final = "NOT_FOUND"  # what a wrong secret is answered


class Watch:
    """A `struck_gateway.StrikeWatcher` for the gateways of one worker; `holdings` in the order of their numbers.

    `missing`: gateways that are not where the scenario wants them: online (or done), or refused.
    """

    def __init__(self, holdings: Sequence[Holding], warm_up_s: float) -> None:
        self.states: Counter[str] = Counter()
        self.promises: Final = Promises()
        self.seconds: Final = Seconds([holding.drawn.planned_s for holding in holdings], self.states)
        self.life: Life | None = None  # set before the first gateway begins, if any has one
        self.latency: Final[Buckets] = {}
        self.service: Final[Buckets] = {}
        self.lag: Final[Buckets] = {}
        self.login: Final[Buckets] = {}
        self.telemetry: Final[Buckets] = {}
        self.refusals: Final[Counter[str]] = Counter()
        self.lost_connections: Final[Counter[str]] = Counter()
        self.strikes: Final[Counter[str]] = Counter()
        self.online = 0
        self.registered = 0
        self.missing = sum(not holding.placed for holding in holdings)
        self._holdings: Final = holdings
        self._shut_out: Final[set[int]] = set()
        self._start_s = 0.0
        self._warm_up_s: Final = warm_up_s

    def begin(self, start_s: float) -> None:
        """Count from the planned start, by the monotonic clock."""
        self._start_s = start_s

    def _of(self, gateway: VirtualGateway) -> Holding:
        return self._holdings[gateway.spec.number]

    def _place(self, holding: Holding, placed: bool) -> None:
        if holding.placed is not placed:
            holding.placed = placed
            self.missing += -1 if placed else 1

    def started(self, gateway: VirtualGateway, lag_s: float, now_s: float) -> None:
        """Count a gateway that is switched on for the first time."""
        self.seconds.roll(now_s - self._start_s).started += 1
        if self._of(gateway).drawn.planned_s >= self._warm_up_s:
            count_in(self.lag, round(lag_s * 1e6))

    # --- struck_gateway.StrikeWatcher ---

    def came_online(self, gateway: VirtualGateway, now_s: float, *, first: bool) -> None:
        """Count a login, and the registration that it may end."""
        holding, at_s = self._of(gateway), now_s - self._start_s
        second = self.seconds.roll(at_s)
        second.came_online += 1
        self.online += 1
        login_us = round((now_s - gateway.connect_s) * 1e6)
        count_in(second.login, login_us)
        measured = holding.drawn.planned_s >= self._warm_up_s
        if measured:
            count_in(self.login, login_us)
        if first:
            latency_us = round((now_s - gateway.planned_s) * 1e6)
            second.registered += 1
            self.registered += 1
            count_in(second.latency, latency_us)
            if measured:
                count_in(self.latency, latency_us)
                count_in(self.service, round((now_s - gateway.started_s) * 1e6))
        holding.online_at_s = at_s
        holding.accepted = holding.used
        self.promises.came_online(holding, at_s)
        self._place(holding, True)
        if self.life is not None and gateway.spec.kind.stays:
            self.life.begin(gateway, holding)

    def went_offline(self, gateway: VirtualGateway, now_s: float) -> None:
        """Count it; a gateway that is to stay is missing now."""
        holding = self._of(gateway)
        holding.online_at_s = None
        self.online -= 1
        expected = holding.expected
        if expected.stays and expected.entry == "online" and not expected.ended:
            self._place(holding, False)

    def replied(self, gateway: VirtualGateway, payload: bytes, *, awaited: bool) -> None:
        """Look at a reply."""
        self.promises.replied(self._of(gateway), payload, monotonic() - self._start_s, awaited=awaited)

    def logs_in(self, gateway: VirtualGateway) -> None:
        """Note that what was told last is in use, if it is."""
        holding = self._of(gateway)
        if not holding.used and gateway.stored == holding.last:
            holding.used = True

    def heard(self, gateway: VirtualGateway, payload: bytes) -> None:
        """Look whether a gateway of this swarm said it."""
        sender = sender_of(payload)
        if sender is not None:
            self.promises.heard(self._of(gateway), sender, monotonic() - self._start_s)

    def refused(self, gateway: VirtualGateway, reason: str) -> None:
        """Count it by its reason; whoever may be refused, or cannot get in, is where it should be."""
        self.seconds.roll(monotonic() - self._start_s).refused += 1
        self.refusals[reason] += 1
        holding = self._of(gateway)
        if holding.expected.entry != "online":
            self._place(holding, True)
        elif isinstance(gateway, StruckGateway) and gateway.misled and reason == _UNKNOWN:
            # It had credentials when its secret went wrong, and they do not work any more.
            self._shut_out.add(gateway.spec.number)
            self._place(holding, True)

    def login_refused(self, gateway: VirtualGateway, reason_code: int) -> None:
        """Look at a refused login."""
        at_s = monotonic() - self._start_s
        self.promises.login_refused(self._of(gateway), reason_code, gateway.stored, at_s)

    def lost(self, gateway: VirtualGateway, reason: str) -> None:
        """Count it by its reason."""
        self.seconds.roll(monotonic() - self._start_s).lost += 1
        self.lost_connections[reason] += 1

    def acknowledged(self, gateway: VirtualGateway, token: int) -> None:
        """Count how long the acknowledgement took; the token says since when (`life`)."""
        if token >= (self._start_s + self._warm_up_s) * 1e6:
            count_in(self.telemetry, round(monotonic() * 1e6) - token)

    def unacknowledged(self, gateway: VirtualGateway, token: int) -> None:
        """Count it with the time that has passed."""
        self.lost_connections["a message was not acknowledged"] += 1
        self.acknowledged(gateway, token)

    def overdue(self, gateway: VirtualGateway, now_s: float) -> None:
        """At the end, count what it still waits for; not what has only just been said."""
        for token in gateway.owed:
            if now_s * 1e6 - token >= _OVERDUE_US:
                self.unacknowledged(gateway, token)

    def gave_up(self, gateway: VirtualGateway) -> None:
        """Never: gateways of a scenario do not."""

    def struck(self, gateway: StruckGateway, fault: GatewayFault, now_s: float) -> None:
        """Count a fault by its name, and what it excuses."""
        holding, at_s = self._of(gateway), now_s - self._start_s
        name = fault.name or fault.kind
        self.strikes[name] += 1
        strikes = self.seconds.roll(at_s).strikes
        strikes[name] = strikes.get(name, 0) + 1
        holding.struck_until_s = max(holding.struck_until_s, at_s + fault.for_s)
        if fault.kind == "wrong-secret" and gateway.stored is None and not fault.for_s:
            holding.misled = True
            self._place(holding, True)
        elif fault.kind == "power-loss" and (holding.misled or gateway.spec.number in self._shut_out):
            self._shut_out.discard(gateway.spec.number)
            holding.misled = False  # it learns the right one when it is switched on again
            self._place(holding, holding.expected.entry != "online")
