"""What gateways do when they are online: telemetry, attributes, and calls that operators make to them.

One heap and one timer for all of them: each is due in even steps from a moment of its own chance. The token of a
message is the microsecond at which it was due, so that its acknowledgement tells how late everything was.
"""

import heapq
import math
import time
from collections.abc import Callable
from itertools import count
from time import monotonic
from typing import Any, Final, Protocol

import msgspec

from mqttprov.gateway.rpc import ATTRIBUTES_TOPIC, TELEMETRY_TOPIC
from mqttprov_simulator.chance import ChanceStream
from mqttprov_simulator.precise_timer import PreciseTimer
from mqttprov_simulator.running.promises import Holding
from mqttprov_simulator.virtual_gateway import VirtualGateway

_MARK: Final = "swarm"
_RPC: Final = "rpc"


class Caller(Protocol):
    """An operator who calls devices."""

    def call(self, number: int, device: str, due_s: float) -> None:
        """Call a device now. `number`: of its gateway; `due_s`: when it was due, by the monotonic clock."""


class _Habit:
    """Something that a gateway does again and again during one login, which `connect_s` tells from the next."""

    __slots__ = ("connect_s", "every_s", "gateway", "holding", "topic")

    def __init__(self, gateway: VirtualGateway, holding: Holding, topic: str, every_s: float) -> None:
        self.gateway: Final = gateway
        self.holding: Final = holding
        self.topic: Final = topic
        self.every_s: Final = every_s
        self.connect_s: Final = gateway.connect_s


class Life:
    """The lives of all gateways of a worker."""

    def __init__(self, chance_of: Callable[[Holding], ChanceStream], caller: Caller | None) -> None:
        self._chance_of: Final = chance_of
        self._caller: Final = caller
        self._due: list[tuple[float, int, _Habit]] = []
        self._numbers: Final = count()
        self._timer: Final = PreciseTimer(self._act)
        self._wakes_s = math.inf
        self._chances: dict[str, ChanceStream] = {}  # kept, so that every login draws anew

    def begin(self, gateway: VirtualGateway, holding: Holding) -> None:
        """A gateway has come online: let it do what its group does."""
        life = holding.drawn.group.life
        habits = (
            (TELEMETRY_TOPIC, life.telemetry_every_s),
            (ATTRIBUTES_TOPIC, life.attributes_every_s),
            (_RPC, life.rpc_every_s),
        )
        for topic, every_s in habits:
            if every_s is not None:
                # A call must not come before the gateway has subscribed to calls.
                first_s = monotonic() + every_s * (self._chance(holding)() + (topic == _RPC))
                heapq.heappush(self._due, (first_s, next(self._numbers), _Habit(gateway, holding, topic, every_s)))
        self._arm()

    def _chance(self, holding: Holding) -> ChanceStream:
        name = holding.drawn.gateway
        chance = self._chances.get(name)
        if chance is None:
            chance = self._chances[name] = self._chance_of(holding)
        return chance

    def _arm(self) -> None:
        if self._due and self._due[0][0] < self._wakes_s:
            self._wakes_s = self._due[0][0]
            self._timer.arm(self._wakes_s)

    def _act(self) -> None:
        self._wakes_s = math.inf
        now_s = monotonic()
        while self._due and self._due[0][0] <= now_s:
            due_s, _number, habit = heapq.heappop(self._due)
            if habit.gateway.online and habit.gateway.connect_s == habit.connect_s:
                self._do(habit, due_s)
                heapq.heappush(self._due, (due_s + habit.every_s, next(self._numbers), habit))
        self._arm()

    def _do(self, habit: _Habit, due_s: float) -> None:
        gateway, holding = habit.gateway, habit.holding
        if habit.topic == _RPC:
            if self._caller is not None:
                self._caller.call(holding.drawn.number, holding.drawn.device, due_s)
            return
        holding.said += 1
        payload = _payload(holding, gateway.clock_skew_s(), habit.topic)
        gateway.say(habit.topic, payload, round(due_s * 1e6))

    def end(self) -> None:
        """Let nobody do anything any more."""
        self._due.clear()
        self._timer.close()


def _payload(holding: Holding, skew_s: float, topic: str) -> bytes:
    values: dict[str, Any] = {_MARK: holding.drawn.gateway, "n": holding.said}
    if topic == TELEMETRY_TOPIC and skew_s:
        values = {"ts": round((time.time() + skew_s) * 1000), "values": values}
    return msgspec.json.encode(values)


class _Said(msgspec.Struct, gc=False):
    swarm: Any = None


_SAID: Final = msgspec.json.Decoder(_Said)


def sender_of(payload: bytes) -> str | None:
    """Give the gateway whose message this is; None if it is nobody's of a swarm."""
    try:
        said = _SAID.decode(payload).swarm
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return said if isinstance(said, str) else None
