"""The demo: the embedded target, and a swarm that registers with it.

Nothing of it is left afterwards. It prints progress only; the summary is given back.
"""

from pathlib import Path
from typing import Final

import msgspec
from rich.console import Console

from mqttprov.core.audit import BrokenChain, verify
from mqttprov.store.sqlite import SqliteStore
from mqttprov_simulator.live import LiveView
from mqttprov_simulator.plan import SwarmPlan
from mqttprov_simulator.results import Summary
from mqttprov_simulator.scenario.model import Group, Scenario, Storm
from mqttprov_simulator.swarm import run_swarm
from mqttprov_simulator.targets.embedded import embedded
from mqttprov_simulator.targets.own_target import OwnTarget
from mqttprov_simulator.targets.target import TargetError

_SWARM_TIMEOUT_S: Final = 80.0
_HOLD_S: Final = 2.0


class DemoError(Exception):
    """The demo's broker did not do its part; the text says how, with what it wrote."""


def run_demo(*, gateways: int = 1000, console: Console, live: bool) -> Summary:
    """Run the demo, two minutes at most, and say how it went; `console` gets the progress.

    Raises DemoError, and what `run_swarm` raises.
    """
    scenario = Scenario(
        name="demo", summary="", groups=(Group(name="demo", gateways=gateways, arrivals=Storm()),)
    )  # for the target: how many gateways, and no more than every state directory has
    try:
        with embedded(scenario) as target:
            with LiveView(console, live=live) as view:
                broker = target.pids()["broker"]
                result = run_swarm(_plan(gateways, target), on_progress=view.update, broker_pid=broker)
            summary = _with_store(result.summary, target.state)
        trouble = target.trouble()
    except TargetError as error:
        raise DemoError(str(error)) from error
    if trouble is not None:
        raise DemoError(trouble)
    return summary


def _plan(gateways: int, target: OwnTarget) -> SwarmPlan:
    token, (endpoint,) = target.tokens["default/default"], target.endpoints
    assert endpoint.port is not None  # noqa: S101 - for the type checker: the embedded target has a plain listener
    return SwarmPlan(
        host=endpoint.host,
        port=endpoint.port,
        key=token.key,
        secret=token.secret,
        gateways=gateways,
        name_prefix="demo-",
        stay_connected=True,
        hold_s=_HOLD_S,
        timeout_s=_SWARM_TIMEOUT_S,
    )


def _with_store(summary: Summary, state: Path) -> Summary:
    """Add what the store has to say: devices by state, and whether the audit chain holds (P5)."""
    store = SqliteStore(state / "mqttprov.db")
    try:
        reader = store.reader()
        try:
            events, verified = verify(reader.events()).seq, True
        except BrokenChain:
            events, verified = reader.head().seq, False
        summary = msgspec.structs.replace(
            summary, devices_by_state=reader.states(), audit_events=events, audit_verified=verified
        )
        reader.close()
        return summary
    finally:
        store.close()
