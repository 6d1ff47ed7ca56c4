"""Proof of P1, P2, P5 and P10 on Mosquitto: 2,000 gateways come while responders are killed and the broker restarts.

Every credential that was told logs in afterwards, the registration token yields exactly its limit, the audit chain
verifies and fits the credentials, and the fleet ends online without a person.
"""

import asyncio
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.brokers.harness import ACTOR, new_state
from tests.brokers.mosquitto.beside import Mosquitto, Respond
from tests.brokers.mosquitto.test_faults import HURRIED
from tests.crash.promises import check_store, logs_in

from mqttprov.brokers.responder_run import now_ms
from mqttprov.mqtt import ReasonCode
from mqttprov.responder.administration import IssuedToken, TokenChange
from mqttprov.responder.state_directory import StateDirectory
from mqttprov_simulator.plan import SwarmPlan
from mqttprov_simulator.swarm import swarm

GATEWAYS = 2_000
LIMIT = 1_950
RATE_PER_S = 500.0
STARTED_AT_ONCE = 200


class Site:
    """Mosquitto with the gate and responders, each in a process of its own, as in production."""

    def __init__(self, folder: Path, plugin: Path) -> None:
        new_state(folder / "state")
        self.state = StateDirectory(folder / "state")
        self.mosquitto = Mosquitto(folder, folder / "state", plugin)
        self.responders = [Respond(folder, folder / "state", self.mosquitto) for _ in range(2)]

    def token(self) -> IssuedToken:
        """Make a registration token that has not enough for all of them."""
        administration = self.state.administration(ACTOR, now_ms, os.urandom)
        return administration.create_token("default", "storm", TokenChange(max_registrations=LIMIT))

    async def until_used(self, number: int) -> None:
        """Wait until so many have registered."""
        reader = self.state.store.reader()
        try:
            async with asyncio.timeout(120):
                while next(row.used for row in reader.tokens(None, "storm")) < number:  # noqa: ASYNC110 - others do it
                    await asyncio.sleep(0.005)
        finally:
            reader.close()

    async def until_all_are_active(self) -> None:
        """Wait until the first login of every device is recorded."""
        reader = self.state.store.reader()
        try:
            async with asyncio.timeout(120):
                while reader.states() != {"active": LIMIT}:  # noqa: ASYNC110 - others do it
                    await asyncio.sleep(0.05)
        finally:
            reader.close()

    async def suffer(self) -> None:
        """Kill one responder, the broker, all responders, and let the broker end well: each amid the registrations."""
        await self.until_used(200)
        await self.responders[0].end(signal.SIGKILL)
        await self.until_used(400)
        await self.mosquitto.end(signal.SIGKILL)
        await self.mosquitto.start()
        await self.responders[0].start()
        await self.until_used(800)
        for responder in self.responders:
            await responder.end(signal.SIGKILL)
        await asyncio.gather(*(responder.start() for responder in self.responders))
        await self.until_used(1_200)
        assert await self.mosquitto.end(signal.SIGTERM) == 0
        await self.mosquitto.start()
        await self.until_used(1_600)
        await self.responders[1].end(signal.SIGKILL)


@pytest.fixture
async def site(tmp_path: Path, plugin: Path) -> AsyncIterator[Site]:
    """Run it."""
    one = Site(tmp_path, plugin)
    try:
        await one.mosquitto.start()
        for responder in one.responders:
            await responder.start()
        yield one
    finally:
        for process in (*one.responders, one.mosquitto):
            if process.is_started:
                await process.end()
        one.state.close()


@pytest.mark.timeout(600)
async def test_two_thousand_gateways_ride_out_everything(site: Site) -> None:
    """Limit exact (P1), told means durable (P2), chain whole (P5), everybody online at the end (P10)."""
    token = site.token()
    plan = SwarmPlan(
        host="127.0.0.1",
        port=site.mosquitto.port,
        key=token.key,
        secret=token.secret,
        gateways=GATEWAYS,
        rate_per_s=RATE_PER_S,
        concurrency=STARTED_AT_ONCE,
        credentials_types=("ACCESS_TOKEN", "MQTT_BASIC"),
        seed=1,
        stay_connected=True,
        timeout_s=300.0,
        give_up_after_refusals=1,
        machine=HURRIED,
    )
    fleet = asyncio.create_task(swarm(plan))
    await site.suffer()
    result = await fleet
    assert (result.summary.registered, result.summary.states.get("online")) == (LIMIT, LIMIT), result.summary
    refused = Counter(record.refused for record in result.gateways if not record.registered)
    assert refused == {"NOT_FOUND": GATEWAYS - LIMIT}, result.summary
    # Provisioning logins are refused while no responder is there; those of devices never were, and would be recorded.
    assert set(result.summary.refusals) <= {"NOT_FOUND", "CONNACK NOT_AUTHORIZED"}, result.summary
    reader = site.state.store.reader()
    assert reader.events_with("kind", "login-refused", 1) == []
    reader.close()
    told = [record.credentials for record in result.gateways if record.credentials is not None]
    reasons = Counter([await logs_in(site.mosquitto.port, credentials) for credentials in told])
    assert reasons == {ReasonCode.SUCCESS: LIMIT}
    # A first login that only a broker knew of that is gone is recorded with the next one.
    await site.until_all_are_active()
    check_store(site.state, {"storm": LIMIT})
    for process in (site.mosquitto, *site.responders):
        log = process.log.read_text()
        assert "Traceback" not in log
        assert token.secret not in log
