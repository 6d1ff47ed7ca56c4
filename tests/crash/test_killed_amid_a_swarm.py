"""Proof of P1, P2, P5 and P10: `serve` is killed with SIGKILL amid a swarm, over and over.

Every credential that was told logs in afterwards, no registration token passes its limit, the audit chain verifies and
fits the credentials, and the fleet ends online without a person.
"""

import asyncio
import os
import random
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from tests.brokers.harness import ACTOR
from tests.crash.child import Child
from tests.crash.promises import check_store, logs_in

from mqttprov.brokers.responder_run import now_ms
from mqttprov.gateway.backoff import MachineSettings
from mqttprov.mqtt import ReasonCode
from mqttprov.responder.administration import IssuedToken, TokenChange
from mqttprov.responder.state_directory import StateDirectory
from mqttprov_simulator.plan import SwarmPlan
from mqttprov_simulator.results import GatewayRecord
from mqttprov_simulator.swarm import swarm

ROUNDS = 20
GATEWAYS = 60
LIMIT = 50
RATE_PER_S = 250.0
SEED = 20_261_122
HURRIED = MachineSettings(
    backoff_base_s=0.05, backoff_cap_s=0.5, connect_timeout_s=5.0, reply_timeout_s=5.0, heartbeat_s=None
)


@contextmanager
def opened(child: Child) -> Iterator[StateDirectory]:
    """Open the state beside the broker, as an operator's command line does."""
    state = StateDirectory(child.state)
    try:
        yield state
    finally:
        state.close()


async def one_round(child: Child, number: int, chance: random.Random) -> tuple[list[GatewayRecord], int]:
    """Run a swarm on a token of its own, kill the broker in the middle and start it again.

    Gives the gateways and how many devices there were of this round at the moment of the kill.
    """
    with opened(child) as state:
        token = state.administration(ACTOR, now_ms, os.urandom).create_token(
            "default", f"round-{number}", TokenChange(max_registrations=LIMIT)
        )
    plan = SwarmPlan(
        host="127.0.0.1",
        port=child.port,
        key=token.key,
        secret=token.secret,
        gateways=GATEWAYS,
        rate_per_s=RATE_PER_S,
        credentials_types=("ACCESS_TOKEN", "MQTT_BASIC"),
        name_prefix=f"round-{number}-",
        seed=number,
        stay_connected=True,
        timeout_s=120.0,
        give_up_after_refusals=1,
        machine=HURRIED,
    )
    fleet = asyncio.create_task(swarm(plan))
    await asyncio.sleep(chance.uniform(0.02, 1.1 * GATEWAYS / RATE_PER_S))  # the moment of the kill, not a wait
    await child.kill()
    with opened(child) as state:
        (row,) = state.store.reader().tokens(None, token.key)
    await child.start()
    result = await fleet
    summary = result.summary
    assert (summary.registered, summary.states.get("online")) == (LIMIT, LIMIT), (number, summary)
    refused = Counter(record.refused for record in result.gateways if not record.registered)
    assert refused == {"NOT_FOUND": GATEWAYS - LIMIT}, (number, summary)
    assert set(summary.refusals) == {"NOT_FOUND"}, (number, summary)  # no login was ever refused
    return result.gateways, row.used


@pytest.mark.timeout(600)
async def test_twenty_kills_break_no_promise(child: Child, issued: IssuedToken) -> None:
    """Limits exact (P1), told means durable (P2), chain whole (P5), everybody online at the end (P10)."""
    chance = random.Random(SEED)  # noqa: S311 - moments of kills, not a secret
    await child.start()
    told: list[bytes] = []
    amid = 0
    for number in range(ROUNDS):
        gateways, used_at_kill = await one_round(child, number, chance)
        told += [record.credentials for record in gateways if record.credentials is not None]
        amid += 0 < used_at_kill < LIMIT
    assert amid >= ROUNDS // 2, f"only {amid} kills came amid the registrations"
    assert len(told) == ROUNDS * LIMIT
    reasons = Counter([await logs_in(child.port, credentials) for credentials in told])
    assert reasons == {ReasonCode.SUCCESS: ROUNDS * LIMIT}
    with opened(child) as state:
        check_store(state, {f"round-{number}": LIMIT for number in range(ROUNDS)})
    await child.stop()
    log = child.log.read_text()
    assert "Traceback" not in log
    assert "ERROR" not in log
    assert issued.secret not in log
