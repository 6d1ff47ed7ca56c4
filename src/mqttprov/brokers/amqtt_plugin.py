"""The plugin for a stock amqtt 0.12 broker: provisioning, logins, permissions, audit events and kicks.

    plugins:
      mqttprov.brokers.amqtt_plugin.ProvisioningPlugin:
        state: /path/to/state

amqtt's hooks are here and nothing else. No hook raises: amqtt would leave a session behind that never ends. What a
stock amqtt cannot give is in `amqtt_shortcomings`; our own broker gives it.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from amqtt.broker import RetainedApplicationMessage
from amqtt.contexts import Action
from amqtt.plugins.base import BaseAuthPlugin, BaseTopicPlugin

from mqttprov.brokers.amqtt_seam import AmqttSession, other_plugins
from mqttprov.brokers.amqtt_shortcomings import warn
from mqttprov.brokers.responder_run import BrokerRun
from mqttprov.brokers.stock_desk import StockDesk
from mqttprov.responder.state_directory import StateDirectory

_TURN_S: Final = 1.0

_log: Final = logging.getLogger(__name__)


class ProvisioningPlugin(BaseAuthPlugin, BaseTopicPlugin):  # type: ignore[misc]  # amqtt is not typed for others
    """Serves one state directory on the broker that loads it. Nobody is let in before it is ready or after it."""

    @dataclass
    class Config:
        """The plugin's part of the broker's configuration."""

        state: str
        """The state directory, made by `mqttprov init`."""

    def __init__(self, context: Any) -> None:
        """Open the state; a broker whose state is missing or damaged must not start. Raises `StateError`."""
        super().__init__(context)
        self._broker = context._broker_instance  # noqa: SLF001 - amqtt gives plugins no public way to one session
        self._ready = False
        self._turn_handle: asyncio.TimerHandle | None = None
        self._state = StateDirectory(Path(self.config.state))
        self._run = BrokerRun(self._state, context.loop)

    # --- life ---

    async def on_broker_pre_start(self) -> None:
        """Be ready before the first client; what fails here leaves a broker that refuses everybody."""
        loop = asyncio.get_running_loop()
        others = other_plugins(self._broker, self, lambda plugin: isinstance(plugin, BaseAuthPlugin))
        try:
            self._desk = StockDesk(
                self._broker,
                loop,
                self._run.responder,
                self._state.keys,
                alone=not others,
                later=lambda topic, payload, qos: RetainedApplicationMessage(None, topic, payload, qos),
            )
            await self._run.open(
                self._desk.publish_event,
                self._desk.publish_checkpoint,
                self._desk.settle,
                lambda _: None,  # whom the listener trusts is amqtt's, from its own configuration
            )
            self._run.start()
        except Exception:  # noqa: BLE001 - amqtt would go on without a word
            _log.exception("mqttprov could not start; this broker refuses every login")
            return
        self._ready = True
        self._turn(loop)
        warn(self._broker, others)

    def _turn(self, loop: asyncio.AbstractEventLoop) -> None:
        self._desk.turn()
        self._turn_handle = loop.call_later(_TURN_S, self._turn, loop)

    async def on_broker_pre_shutdown(self) -> None:
        """Answer what was accepted and publish the last events while clients are still there, then let nobody in."""
        if not self._ready:
            return
        self._ready = False
        if self._turn_handle is not None:
            self._turn_handle.cancel()
        try:
            await self._run.finish()
            await self._desk.finish_deliveries()
        except Exception:  # noqa: BLE001 - the broker is to go on with its end
            _log.exception("mqttprov did not end in order; what is missing is done at its next start")

    async def close(self) -> None:
        """Let go of the state directory."""
        await self._run.close()
        self._state.close()

    # --- questions ---

    async def authenticate(self, *, session: Any) -> bool | None:
        """Decide a login."""
        if not self._ready:
            return False
        try:
            return await self._desk.authenticate(session)
        except Exception:  # noqa: BLE001 - amqtt would close without CONNACK
            _log.exception("a login could not be decided")
            return False

    async def topic_filtering(self, *, session: Any = None, topic: str | None = None, action: Any = None) -> bool:
        """Decide what a session subscribes to, publishes and receives."""
        if not self._ready or session is None or topic is None:
            return False
        decide: Callable[[AmqttSession, str], bool] = {
            Action.SUBSCRIBE: self._desk.may_subscribe,
            Action.PUBLISH: self._desk.may_route,
            Action.RECEIVE: self._desk.may_receive,
        }[action]
        try:
            return decide(session, topic)
        except Exception:  # noqa: BLE001 - amqtt would leave a session behind that never ends
            _log.exception("a permission could not be decided")
            return False

    # --- news ---

    async def on_broker_client_connected(self, *, client_id: str, client_session: Any) -> None:
        """Take up a session."""
        self._tell(lambda: self._desk.sessions.connected(client_session))

    async def on_broker_client_disconnected(self, *, client_id: str, client_session: Any) -> None:
        """Let a session go."""
        self._tell(lambda: self._desk.sessions.left(client_session))

    async def on_broker_client_subscribed(self, *, client_id: str, topic: str, qos: int) -> None:
        """Take note of a subscription."""
        self._tell(lambda: self._desk.subscribed(client_id, topic, qos))

    async def on_broker_client_unsubscribed(self, *, client_id: str, topic: str) -> None:
        """Take note of its end."""
        self._tell(lambda: self._desk.unsubscribed(client_id, topic))

    async def on_broker_message_received(self, *, client_id: str, message: Any) -> None:
        """Handle a message. This runs before amqtt asks whether it may be routed."""
        if message is None:
            return
        if message.publish_packet is not None and self._ready and self._desk.sessions.at(client_id) is not None:
            # amqtt pushes retained messages to clients that never asked for them, whatever they may receive.
            message.publish_packet.retain_flag = False
        self._tell(lambda: self._desk.heard(client_id, message.topic, bytes(message.data), message.qos or 0))

    def _tell(self, what: Callable[[], None]) -> None:
        if self._ready:
            try:
                what()
            except Exception:  # noqa: BLE001 - amqtt swallows it without a word
                _log.exception("what a client did could not be handled")
