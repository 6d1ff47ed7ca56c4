"""Our own gateway against our own broker, both real: the whole way, over sockets and files."""

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.brokers.harness import TIMEOUT_S, Running

from mqttprov.gateway.actions import StateChanged
from mqttprov.gateway.backoff import MachineSettings
from mqttprov.gateway.client import GatewayClient
from mqttprov.gateway.settings import GatewaySettings
from mqttprov.mqtt import ReasonCode

NAME = "Factory-Gateway-01"
FAST = MachineSettings(backoff_base_s=0.01, backoff_cap_s=0.05, heartbeat_s=0.05, refusals_before_reprovisioning=2)


class Watched:
    """A gateway in a thread of its own and the states that it went through."""

    def __init__(self, broker: Running, directory: Path, **supplied: str) -> None:
        directory.mkdir(exist_ok=True)
        variables = {"KEY": broker.issued.key, "SECRET": broker.issued.secret, "NAME": NAME, **supplied}
        environment = {f"TB_GW_PROVISIONING_DEVICE_{name}": value for name, value in variables.items()}
        settings = GatewaySettings.from_environment(
            environment, host="127.0.0.1", port=broker.port, directory=directory
        )
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()
        self.states: list[str] = []
        self.client = GatewayClient(settings, machine_settings=FAST, on_state=self._note)

    def _note(self, change: StateChanged) -> None:
        self._loop.call_soon_threadsafe(self._add, str(change.new))

    def _add(self, state: str) -> None:
        self.states.append(state)
        self._changed.set()

    async def until(self, state: str, times: int = 1) -> None:
        """Wait until the gateway was in this state so often."""
        async with asyncio.timeout(TIMEOUT_S):
            while self.states.count(state) < times:
                self._changed.clear()
                await self._changed.wait()


@asynccontextmanager
async def gateway(broker: Running, directory: Path, **supplied: str) -> AsyncIterator[Watched]:
    """Run a gateway until the context ends."""
    watched = Watched(broker, directory, **supplied)
    running = asyncio.create_task(asyncio.to_thread(watched.client.run))
    try:
        yield watched
    finally:
        watched.client.stop()
        async with asyncio.timeout(TIMEOUT_S):
            await running


def credential_states(broker: Running) -> list[str]:
    """Give the statuses of all generations of the device, oldest first."""
    reader = broker.state.store.reader()
    (device,) = reader.devices(NAME)
    states = [row.status for row in reader.credentials_of(device.id)]
    reader.close()
    return states


async def test_a_gateway_provisions_saves_connects_and_publishes(broker: Running, tmp_path: Path) -> None:
    """From key and secret to telemetry that an operator sees; a restart uses what was saved (P10)."""
    operator = await broker.operator()
    await operator.subscribe(f"v1/devices/{NAME}/telemetry")
    async with gateway(broker, tmp_path / "gw") as first:
        await first.until("online")
        assert json.loads((await operator.message()).payload).keys() == {"heartbeat"}
    saved = (tmp_path / "gw" / ".credentials").read_bytes()
    async with gateway(broker, tmp_path / "gw") as second:
        await second.until("online")
        assert second.states == ["connecting", "online"]
    assert (tmp_path / "gw" / ".credentials").read_bytes() == saved
    assert credential_states(broker) == ["active"]


async def test_an_operator_makes_a_gateway_provision_again(broker: Running, tmp_path: Path) -> None:
    """The RPC wipes the file and is answered; the gateway comes back by itself with the next generation (P10)."""
    operator = await broker.operator()
    async with gateway(broker, tmp_path / "gw") as watched:
        await operator.subscribe(f"v1/devices/{NAME}/telemetry")
        await operator.message()  # a heartbeat: what it subscribed to before is in place
        await operator.subscribe(f"v1/devices/{NAME}/rpc/response/+")
        request = json.dumps({"method": "gateway_remove_provisioned_credentials", "params": {}}).encode()
        await operator.publish(f"v1/devices/{NAME}/rpc/request/7", request)
        answer = await operator.message()
        while not answer.topic.endswith("/rpc/response/7"):
            answer = await operator.message()
        assert json.loads(answer.payload)["code"] == 200
        await watched.until("online", 2)
    assert credential_states(broker) == ["superseded", "active"]


async def test_a_suspended_gateway_comes_back_without_a_person_once_it_is_resumed(
    broker: Running, tmp_path: Path
) -> None:
    """Refused logins lead to provisioning, refused provisioning back to the stored credentials (P7, P10)."""
    database = sqlite3.connect(broker.path / "mqttprov.db", isolation_level=None)
    async with gateway(broker, tmp_path / "gw") as watched:
        await watched.until("online")
        database.execute("UPDATE device SET state = 'suspended'")
        broker.broker.disconnect_all(ReasonCode.ADMINISTRATIVE_ACTION)
        before = len(watched.states)
        await watched.until("awaiting_reply", 4)  # once at first, and again and again while it is refused
        assert "online" not in watched.states[before:]
        database.execute("UPDATE device SET state = 'active'")
        await watched.until("online", 2)
    database.close()
    assert credential_states(broker)[-1] == "active"
