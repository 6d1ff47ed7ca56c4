"""Our broker with amqtt's configuration, in the test's own loop. No test lives here."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from tests.brokers.harness import Running, new_state

from mqttprov.brokers.amqtt_broker import Broker
from mqttprov.brokers.broker import EmbeddedBroker
from mqttprov.responder.state_directory import StateDirectory

PLUGIN = "mqttprov.brokers.amqtt_plugin.ProvisioningPlugin"


class Ours(Running):
    """A broker of ours that amqtt's configuration describes."""

    def __init__(
        self, path: Path, plugins: dict[str, Any] | None = None, listeners: dict[str, Any] | None = None
    ) -> None:
        super().__init__(path, new_state(path))
        self.state = StateDirectory(path)
        self._plugins = plugins or {}
        self._listeners = listeners or {"default": {"type": "tcp", "bind": "127.0.0.1:0"}}

    async def start(self) -> None:
        """Start it."""
        self.amqtt = Broker(
            {"listeners": self._listeners, "plugins": {PLUGIN: {"state": str(self.path)}, **self._plugins}}
        )
        await self.amqtt.start()
        self.port = int(self.amqtt.urls[0].rsplit(":", 1)[1])

    async def stop(self) -> None:
        """End it."""
        await self.amqtt.shutdown()

    @property
    def broker(self) -> EmbeddedBroker:
        """The engine."""
        return self.amqtt.engine


@contextlib.asynccontextmanager
async def ours(path: Path, plugins: dict[str, Any] | None = None, **options: Any) -> AsyncIterator[Ours]:
    """Run it on a new state directory; end it and all its clients afterwards."""
    broker = Ours(path, plugins, **options)
    await broker.start()
    try:
        yield broker
    finally:
        for client in broker.clients:
            client.abort()
        await broker.stop()
        broker.state.close()
