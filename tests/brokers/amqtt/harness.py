"""A stock, unmodified amqtt broker with our plugin, in the test's own loop; the tools of `tests.brokers.harness`.

No test lives here.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from amqtt.broker import Broker
from tests.brokers.harness import Client, Running, new_state

from mqttprov.brokers.amqtt_plugin import ProvisioningPlugin
from mqttprov.brokers.responder_run import now_ms
from mqttprov.brokers.tls import make_server_certificate
from mqttprov.mqtt import Connect, ProtocolVersion, ReasonCode, Will
from mqttprov.responder.state_directory import StateDirectory

PLUGIN = "mqttprov.brokers.amqtt_plugin.ProvisioningPlugin"
NOT_AUTHORIZED = ReasonCode.NOT_AUTHORIZED


class Stock(Running):
    """A stock amqtt broker; its clients speak MQTT 3.1.1, as it does."""

    def __init__(self, path: Path, *, plugins: dict[str, Any] | None = None, tls: bool = False) -> None:
        super().__init__(path, new_state(path), tls=tls)
        self.state = StateDirectory(path)
        self._plugins = plugins or {}
        self.plugin: ProvisioningPlugin

    def config(self) -> dict[str, Any]:
        """Write the broker's configuration, as an operator of amqtt would."""
        listeners: dict[str, Any] = {"default": {"type": "tcp", "bind": "127.0.0.1:0"}}
        if self._tls:
            certificate, key = make_server_certificate(self.state.authority, "127.0.0.1", self.path, now_ms())
            listeners["tls"] = {
                "bind": "127.0.0.1:0",
                "ssl": True,
                "certfile": str(certificate),
                "keyfile": str(key),
                "cafile": str(self.path / "authority.pem"),
            }
        return {"listeners": listeners, "plugins": {PLUGIN: {"state": str(self.path)}, **self._plugins}}

    async def start(self) -> None:
        """Start amqtt."""
        self.amqtt = Broker(self.config())
        await self.amqtt.start()
        self.plugin = self.amqtt.plugins_manager.get_plugin("ProvisioningPlugin")
        self.port = self._port_of("default")
        if self._tls:
            self.tls_port = self._port_of("tls")

    def _port_of(self, listener: str) -> int:
        return int(self.amqtt._servers[listener].instance.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        """End it."""
        await self.amqtt.shutdown()

    async def login(
        self,
        username: str | None,
        password: str | None = None,
        *,
        client_id: str = "",
        version: ProtocolVersion = ProtocolVersion.V311,
        will: Will | None = None,
        keep_alive_s: int = 60,
        clean: bool = True,
        **options: Any,
    ) -> Client:
        """Log in and assert that it succeeds."""
        secret = password.encode() if password is not None else None
        connect = Connect(
            client_id,
            version=version,
            username=username,
            password=secret,
            will=will,
            keep_alive_s=keep_alive_s,
            clean_start=clean,
        )
        client = await self.open(connect, **options)
        assert await client.connack() == ReasonCode.SUCCESS
        return client

    async def attempt(self, connect: Connect, **options: Any) -> ReasonCode:
        """Try to log in; give the reason of CONNACK."""
        return await (await self.open(connect, **options)).connack()

    def identities(self) -> int:
        """Count the sessions that have logged in."""
        sessions = self.plugin._desk.sessions._by_key.values()
        return sum(ours.principal is not None for ours in sessions)

    async def quiet(self) -> None:
        """Wait until amqtt's event tasks have run."""
        for _ in range(5):
            await asyncio.sleep(0)
        await self.amqtt.plugins_manager.wait_fired_events()


@contextlib.asynccontextmanager
async def stock(path: Path, **options: Any) -> AsyncIterator[Stock]:
    """Run a stock broker with our plugin on a new state directory; end it and all its clients afterwards."""
    broker = Stock(path, **options)
    await broker.start()
    try:
        yield broker
    finally:
        for client in broker.clients:
            client.abort()
        await broker.stop()
        broker.state.close()
