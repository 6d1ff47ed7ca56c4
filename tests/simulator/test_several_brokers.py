"""One service behind several brokers: two of ours on one state directory, and a fleet that is spread over them."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mqttprov.admin import Admin, initialise
from mqttprov.embed import Broker, Outcome, SessionBegun
from mqttprov_simulator.running.playing import Where, play
from mqttprov_simulator.scenario.model import Action, Constant, Group, Life, Scenario, Stop

_FLEET = Group(
    name="a", gateways=40, arrivals=Constant(rate_per_s=100), life=Life(attributes_every_s=0.3, rpc_every_s=0.3)
)
SCENARIO = Scenario(
    name="spread",
    summary="",
    groups=(_FLEET,),
    actions=(
        Action(kind="rotate-devices", at_s=0.8, share=0.5),
        Action(kind="suspend-devices", at_s=1.2, share=0.4),
    ),
    stop=Stop(hold_s=0.5, timeout_s=30),
)


class _Seen:
    """Whose sessions one broker has begun. `url` is where it listens."""

    def __init__(self) -> None:
        self.url = ""
        self.begun: set[str] = set()

    def take(self, outcome: Outcome) -> None:
        if isinstance(outcome, SessionBegun) and not outcome.principal.name.startswith("swarm-"):
            self.begun.add(outcome.principal.name)


@contextmanager
def _brokers(state: Path, count: int) -> Iterator[list[_Seen]]:
    """Let brokers run on one state directory, in a loop and thread of their own."""
    seen = [_Seen() for _ in range(count)]
    loop, ready = asyncio.new_event_loop(), threading.Event()

    async def serve() -> None:
        brokers = [Broker(state, port=0) for _ in seen]
        for broker, looks in zip(brokers, seen, strict=True):
            broker.on_outcome(looks.take)
            await broker.start()
            (looks.url,) = broker.urls
        ready.set()
        await over.wait()
        for broker in brokers:
            await broker.stop()

    over = asyncio.Event()
    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    try:
        assert ready.wait(20)
        yield seen
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join(20)
        loop.close()


def test_a_fleet_over_two_brokers_on_one_state_is_one_fleet(tmp_path: Path) -> None:
    """P3, P5, P7: each gateway has its broker, where kicks and calls reach it; promises are checked over both."""
    state = tmp_path / "state"
    initialise(state)
    with _brokers(state, 2) as seen:
        where = Where(target=",".join(one.url for one in seen), state=state, processes=2)
        result = play(SCENARIO, where)
        for number, one in enumerate(seen):
            assert one.begun == {f"a-{place + 1:06}" for place in range(40) if place % 2 == number}
    assert (result.registered, result.expected, result.errors) == (40, 40, ())
    assert [check.promise for check in result.checks if check.state == "broken"] == []
    held = {check.promise: check.looked_at for check in result.checks if check.state == "held"}
    assert held["no-event"] > 40
    assert held["old-still-works"] > 0
    assert held["not-online"] == 40
    with Admin(state) as admin:
        suspended = {int(device.name[2:]) for device in admin.devices() if device.state == "suspended"}
    assert {number % 2 for number in suspended} == {0, 1}
    assert result.online_at_end == 40 - len(suspended)
    assert not [reason for reason in result.lost_connections if "RPC" in reason or "operator" in reason]
    assert sum(result.histograms["rpc"].values()) > 40
