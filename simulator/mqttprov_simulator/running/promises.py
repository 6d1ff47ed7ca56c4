"""What each gateway of a worker was told, and the promises that show at a gateway: P2, P3, P4, echoes, entry, P10.

Cheap while the run goes on: a reply is read once, a login costs a comparison. Nothing is decided by chance or clock
here; times are seconds since the planned start.
"""

from collections import Counter
from typing import Final

from mqttprov_simulator.running.expected import Expected
from mqttprov_simulator.running.replies import look_into
from mqttprov_simulator.running.values import Broken, Promise, Told
from mqttprov_simulator.scenario.drawing import DrawnGateway

# MQTT 5 reason codes that speak of the credentials themselves; bans and server troubles do not.
CREDENTIALS_REFUSED: Final = frozenset({0x86, 0x87})
MAX_OLDER_KEPT: Final = 200  # credentials kept to see that they are refused at the end
_MAX_LISTED: Final = 500  # of each promise; what breaks for all must not fill the memory (P9)


class Holding:
    """What a gateway was told and what became of it; kept for the whole run.

    `last`: the last reply with credentials, `used`: it has connected with them, `accepted`: it was online with them.
    `older`: credentials that it was online with before. `placed`: it is where the scenario wants it. `misled`: it knows
    a wrong secret, for good. `struck_until_s`: when the last fault of its own was over. `said`: messages so far.
    """

    __slots__ = (
        "accepted",
        "broken",
        "drawn",
        "expected",
        "last",
        "misled",
        "older",
        "online_at_s",
        "placed",
        "said",
        "struck_until_s",
        "told",
        "used",
    )

    def __init__(self, drawn: DrawnGateway, expected: Expected) -> None:
        self.drawn: Final = drawn
        self.expected: Final = expected
        self.told: tuple[str, ...] = ()
        self.last: bytes | None = None
        self.used = False
        self.accepted = False
        self.older: bytes | None = None
        self.online_at_s: float | None = None
        self.placed = expected.ended
        self.misled = False
        self.struck_until_s = 0.0
        self.said = 0
        self.broken: tuple[Promise, ...] = ()


class Promises:
    """Looks at what gateways see, and collects what was told and what was broken."""

    def __init__(self) -> None:
        self._told: list[Told] = []
        self._broken: list[Broken] = []
        self._listed: Counter[Promise] = Counter()
        self.older: Final[list[Holding]] = []
        self.repeated = 0  # how often a gateway was told what it had been told before

    def take_told(self) -> tuple[Told, ...]:
        """Give what was told since the last call."""
        told, self._told = tuple(self._told), []
        return told

    def take_broken(self) -> tuple[Broken, ...]:
        """Give what was seen broken since the last call."""
        broken, self._broken = tuple(self._broken), []
        return broken

    def note_broken(self, promise: Promise, at_s: float, seen: str, holding: Holding, *others: str) -> None:
        """Put down a broken promise, once for a gateway."""
        if promise in holding.broken:
            return
        holding.broken = (*holding.broken, promise)
        self._listed[promise] += 1
        if self._listed[promise] == _MAX_LISTED:
            seen += "; there are more, which are not listed"
        if self._listed[promise] <= _MAX_LISTED:
            gateways = (holding.drawn.gateway, *others)
            self._broken.append(Broken(promise=promise, gateways=gateways, at_s=round(at_s, 3), seen=seen))

    def replied(self, holding: Holding, payload: bytes, at_s: float, *, awaited: bool) -> None:
        """Look at a message on the reply topic (P3, P4)."""
        reply, drawn = look_into(payload), holding.drawn
        own = reply.device is None or reply.device.casefold() == drawn.device.casefold()
        if not own:
            self.note_broken("reply-to-another", at_s, f"it got the reply for {reply.device}", holding)
        elif not awaited:
            self.note_broken("reply-to-another", at_s, "it got a reply that it had not asked for", holding)
        if reply.fingerprint is None:
            return
        if holding.told and holding.told[-1] == reply.fingerprint:
            self.repeated += 1
            return
        if holding.told:
            self._told_anew(holding, at_s, own=own)
        holding.told = (*holding.told, reply.fingerprint)
        holding.last, holding.used, holding.accepted = payload, False, False
        self._told.append(Told(drawn.gateway, drawn.device, reply.fingerprint, round(at_s, 3)))

    def _told_anew(self, holding: Holding, at_s: float, *, own: bool) -> None:
        excused = holding.expected.shared or at_s >= holding.expected.touched_s
        if own and not holding.used and not excused:
            text = "it asked again before it had used its credentials, and was told others"
            self.note_broken("answer-changed", at_s, text, holding)
        if holding.accepted and not holding.expected.shared and len(self.older) < MAX_OLDER_KEPT:
            if holding.older is None:
                self.older.append(holding)
            holding.older = holding.last

    def login_refused(self, holding: Holding, reason_code: int, stored: bytes | None, at_s: float) -> None:
        """Look at a CONNACK that refused stored credentials (P2)."""
        expected = holding.expected
        excused = expected.shared or at_s >= expected.touched_s
        if reason_code in CREDENTIALS_REFUSED and not excused and stored is not None and stored == holding.last:
            text = f"the credentials that it was told last were refused with reason code 0x{reason_code:02X}"
            self.note_broken("told-not-durable", at_s, text, holding)

    def came_online(self, holding: Holding, at_s: float) -> None:
        """Look at who gets in."""
        if holding.expected.entry == "refused":
            self.note_broken("let-in", at_s, "it was to be refused and is online", holding)
        elif holding.misled:
            self.note_broken("let-in", at_s, "it came online with a wrong secret", holding)

    def heard(self, holding: Holding, sender: str, at_s: float) -> None:
        """Put down that a gateway got what a gateway published."""
        others = () if sender == holding.drawn.gateway else (sender,)
        self.note_broken("echoed", at_s, f"it got the attributes that {sender} published", holding, *others)

    def absent(self, holding: Holding, at_s: float, state: str, why: str) -> None:
        """Put down that a gateway is not online in time (P10)."""
        self.note_broken("not-online", at_s, f"its state is {state}, {why}", holding)
