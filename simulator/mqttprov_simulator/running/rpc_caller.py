"""Operators of the run: call devices over connections of their own and time their answers (two-way RPC)."""

import asyncio
import math
from collections import Counter
from collections.abc import Sequence
from itertools import count
from time import monotonic
from typing import Final

from mqttprov.gateway import actions
from mqttprov.gateway.rpc import PING_METHOD
from mqttprov_simulator.driver import Link, Route
from mqttprov_simulator.histogram import Buckets, count_in

_ANSWERS: Final = "v1/devices/+/rpc/response/+"
_CALL: Final = b'{"method":"%s","params":{}}' % PING_METHOD.encode()
_ANSWER_TIMEOUT_S: Final = 10.0
_RECONNECT_AFTER_S: Final = 1.0
_KEEP_ALIVE_S: Final = 60


class RpcCaller:
    """One for a worker and broker, with one connection; a `driver.Owner`. A lost connection is opened again.

    A call without an answer counts with the time-out in `latency`, and in `failed` by its reason; so does one that
    cannot be made. Calls that were due before `measured_from_s` (by the monotonic clock) are not in `latency`.
    """

    def __init__(self, route: Route, login: tuple[str, str], name: str) -> None:
        """`name`: nobody else's in the run; its client id and its calls have it."""
        self.latency: Final[Buckets] = {}
        self.failed: Final[Counter[str]] = Counter()
        self.ready: Final = asyncio.Event()  # connected for the first time
        self._route: Final = route
        self._login: Final = actions.Connect(
            "operational", f"swarm-operator-{name}", login[0], login[1], _KEEP_ALIVE_S, 5, False
        )
        self._name: Final = name
        self.measured_from_s = math.inf
        self._numbers: Final = count(1)
        self._waiting: dict[str, float] = {}  # call id -> when it was due; in the order of the calls
        self._is_connected = False
        self._again: asyncio.TimerHandle | None = None
        self._link: Link | None = Link(self, self._login, route)

    def call(self, device: str, due_s: float) -> None:
        """Call a device."""
        if self._link is None or not self._is_connected:
            self._fail(due_s, "an RPC found no operator connected")
            return
        call_id = f"{self._name}-{next(self._numbers)}"
        self._waiting[call_id] = due_s
        self._link.publish(actions.Publish(f"v1/devices/{device}/rpc/request/{call_id}", _CALL, 1))
        self._link.flush()

    def look(self, now_s: float) -> None:
        """Give up what waits for too long, and keep the connection alive; a few times a second."""
        while self._waiting:
            call_id, due_s = next(iter(self._waiting.items()))
            if now_s - due_s < _ANSWER_TIMEOUT_S:
                break
            del self._waiting[call_id]
            self._fail(due_s, "an RPC was not answered")
        if self._link is not None:
            self._link.keep_alive(now_s)

    def _fail(self, due_s: float, why: str) -> None:
        self.failed[why] += 1
        self._count(due_s, _ANSWER_TIMEOUT_S)

    def _count(self, due_s: float, took_s: float) -> None:
        if due_s >= self.measured_from_s:
            count_in(self.latency, round(took_s * 1e6))

    # --- driver.Owner ---

    def connected(self) -> None:
        """Ask for the answers."""
        self._is_connected = True
        self.ready.set()
        if self._link is not None:
            self._link.subscribe(actions.Subscribe((_ANSWERS,)))

    def message(self, topic: str, payload: bytes) -> None:
        """Take an answer; those of others' calls are none of ours."""
        due_s = self._waiting.pop(topic.rpartition("/")[2], None)
        if due_s is not None:
            self._count(due_s, monotonic() - due_s)

    def acknowledged(self, token: int) -> None:
        """Never: calls carry no token."""

    def refused_login(self, reason_code: int, *, said: bool = True) -> None:
        """Try again later."""
        self._lost(f"the operator's login was refused with reason code 0x{reason_code:02X}")

    def not_connected(self, why: str) -> None:
        """Try again later."""
        self._lost(f"the operator could not connect: {why}")

    def lost(self, why: str) -> None:
        """Connect again later."""
        self._lost(f"the operator's connection was lost: {why}")

    def _lost(self, why: str) -> None:
        self.failed[why] += 1
        self._is_connected = False
        self._link = None
        self._again = self._route.network.loop.call_later(_RECONNECT_AFTER_S, self._connect)

    def _connect(self) -> None:
        self._again = None
        self._link = Link(self, self._login, self._route)

    def close(self) -> None:
        """Say goodbye; what still waits for an answer counts with the time that has passed."""
        now_s = monotonic()
        for due_s in self._waiting.values():
            self._count(due_s, now_s - due_s)
        self._waiting.clear()
        if self._again is not None:
            self._again.cancel()
        if self._link is not None:
            self._link.close()
            self._link = None


class RpcCallers:
    """The callers of a worker, one for each broker in their order; a `life.Caller`.

    A device is called at the broker that its gateway goes to: brokers of one service need not pass messages on.
    """

    def __init__(self, routes: Sequence[Route], login: tuple[str, str], worker: int) -> None:
        self._callers: Final = [RpcCaller(route, login, f"w{worker}b{broker}") for broker, route in enumerate(routes)]

    async def ready(self) -> None:
        """Wait until all have been connected."""
        for caller in self._callers:
            await caller.ready.wait()

    def begin(self, measured_from_s: float) -> None:
        """Measure calls that are due from then on, by the monotonic clock."""
        for caller in self._callers:
            caller.measured_from_s = measured_from_s

    def call(self, number: int, device: str, due_s: float) -> None:
        """Call the device of the gateway with this number."""
        self._callers[number % len(self._callers)].call(device, due_s)

    def look(self, now_s: float) -> None:
        """As `RpcCaller.look`."""
        for caller in self._callers:
            caller.look(now_s)

    def close(self) -> None:
        """As `RpcCaller.close`."""
        for caller in self._callers:
            caller.close()

    def latency(self) -> Buckets:
        """Give that of all calls."""
        total: Counter[int] = Counter()
        for caller in self._callers:
            total.update(caller.latency)
        return dict(total)

    def failed(self) -> Counter[str]:
        """Give the calls that failed, by reason."""
        total: Counter[str] = Counter()
        for caller in self._callers:
            total.update(caller.failed)
        return total
