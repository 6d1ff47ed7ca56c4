"""amqtt's broker on our engine: its configuration, its context and third parties' plugins; our sessions and topics.

A subclass of amqtt's `Broker`, so that programs and plugins that know that class go on as they are. Its listeners (tcp,
ws, each with ssl), `max_connections` and plugins count; what amqtt does between a listener and a plugin is replaced.
"""

import asyncio
import contextlib
import logging
import os
import ssl
from collections.abc import Iterator, MutableMapping
from functools import partial
from pathlib import Path
from typing import Any, Final

from amqtt.broker import Broker as AmqttBroker
from amqtt.broker import RetainedApplicationMessage
from amqtt.contexts import BrokerConfig, ListenerConfig, ListenerType
from amqtt.errors import BrokerError, PluginError
from amqtt.events import BrokerEvents
from amqtt.utils import read_yaml_config
from dacite import DaciteError

from mqttprov.brokers import tls
from mqttprov.brokers.amqtt_engine import AmqttEngine, AmqttRouter
from mqttprov.brokers.amqtt_shortcomings import is_loopback
from mqttprov.brokers.amqtt_voices import SessionView, Voices, retained
from mqttprov.brokers.connection import Connection
from mqttprov.brokers.embedded import MQTT, MQTTS, TURN_S, WS, WSS, file_limit, say_goodbye, settled
from mqttprov.brokers.embedded import BrokerError as CannotStart
from mqttprov.brokers.listeners import Listeners
from mqttprov.brokers.plugin_calls import PluginCalls
from mqttprov.brokers.responder_run import BrokerRun
from mqttprov.core.audit import ChainedEvent
from mqttprov.mqtt import Grant, Message, Retained, TopicError, validate_topic_name
from mqttprov.responder.authorities import Authorities
from mqttprov.responder.state_directory import StateDirectory

PLUGIN: Final = "mqttprov.brokers.amqtt_plugin.ProvisioningPlugin"
_SPARE_FILES: Final = 64
_ANYBODY: Final = 2  # QoS of what plugins broadcast without saying one: each subscriber gets its own
_OWNER: Final = "amqtt"  # of what plugins retain

_log: Final = logging.getLogger(__name__)


class Broker(AmqttBroker):  # type: ignore[misc]  # amqtt is not typed for others
    """amqtt's `Broker`, served by our engine.

    The state directory is the one that `plugins` names for our plugin, or `state`, which stays the caller's to close.
    """

    def __init__(
        self,
        config: Any = None,
        loop: asyncio.AbstractEventLoop | None = None,
        plugin_namespace: str | None = None,
        *,
        state: StateDirectory | None = None,
    ) -> None:
        """Read the configuration (amqtt's `BrokerConfig`, or a dictionary of the same form) and load plugins.

        Raises amqtt's errors, and `StateError`.
        """
        if not isinstance(config, BrokerConfig):
            # amqtt's default plugins let everybody in; here plugins are those that are listed.
            config = BrokerConfig.from_dict({"plugins": {}, **(config or {})})
        plugins: Any = config.plugins or {}  # amqtt has made a dictionary of a list
        named = (plugins.pop(PLUGIN, None) or {}).get("state")
        if state is None and named is None:
            raise BrokerError(f"no state directory is named: add {PLUGIN} with its 'state' to 'plugins'")
        if state is not None and named is not None and Path(named).resolve() != state.path.resolve():
            raise BrokerError(f"the configuration names the state directory {named}, but this is {state.path}")
        super().__init__(config, loop, plugin_namespace)
        self._owns_state = state is None
        self._state = state if state is not None else StateDirectory(Path(str(named)))
        self._run: BrokerRun | None = None
        self._listeners: list[Listeners] = []
        self._turn_handle: asyncio.TimerHandle | None = None
        self.urls: list[str] = []

    # --- life ---

    async def start(self) -> None:
        """Open the listeners; their URLs are in `urls`. Raises amqtt's `BrokerError`, and `StateError`."""
        self.transitions.start()
        loop = asyncio.get_running_loop()
        await self.plugins_manager.fire_event(BrokerEvents.PRE_START, wait=True)
        self._calls = PluginCalls(loop)
        self._run = BrokerRun(self._state, loop)
        self._authorities_pem = self._trusted(self._run, self._run.authorities)
        trusts = {name: self._trust_of(each, self._run) for name, each in self.listeners_config.items() if each.ssl}
        self._trusts = list(trusts.values())
        self.engine = AmqttEngine(
            self._run.responder,
            loop,
            new_client_id=lambda: f"auto-{os.urandom(10).hex()}",
            max_connections=max(file_limit() - _SPARE_FILES, 1),
            voices=Voices(self.plugins_manager, self._calls),
        )
        try:
            await self._run.open(
                self._publish_event, self.engine.publish_checkpoint, partial(settled, self.engine), self._take_up
            )
            self._take_up(self._run.authorities)  # after the outbox took its place: no change is missed
            for name, listener in self.listeners_config.items():
                await self._listen(name, listener, trusts.get(name))
            self._run.start()
        except BaseException as error:
            await self._end()
            self.transitions.starting_fail()
            if isinstance(error, OSError):
                raise BrokerError(f"Broker instance can't be started: {error.strerror or error}") from error
            raise
        self.transitions.starting_success()
        self._turn(loop)
        await self.plugins_manager.fire_event(BrokerEvents.POST_START, wait=True)

    async def _listen(self, name: str, listener: ListenerConfig, trust: tls.ClientTrust | None) -> None:
        if listener.type == ListenerType.EXTERNAL or not listener.bind:
            raise BrokerError(f"listener '{name}' is external, which only amqtt's own engine can serve")
        doors = {ListenerType.TCP: (MQTT, MQTTS), ListenerType.WS: (WS, WSS)}[listener.type]
        host, port = self._split_bindaddr_port(listener.bind, 8883 if listener.type == ListenerType.WS else 1883)
        entrance = _Entrance(self.engine, listener.max_connections)
        listeners = Listeners(entrance)  # type: ignore[arg-type] # it is asked for no more than `_Entrance` has
        self._listeners.append(listeners)
        self.urls.append(await listeners.open(doors[trust is not None], (host or "").strip("[]"), port, trust))

    def _trust_of(self, listener: ListenerConfig, run: BrokerRun) -> tls.ClientTrust:
        if listener.certfile is None or listener.keyfile is None:
            raise BrokerError("'certfile' or 'keyfile' configuration parameter missing")
        certificate, key = Path(listener.certfile), Path(listener.keyfile)

        def make() -> ssl.SSLContext:
            context = tls.server_context(certificate, key, self._authorities_pem, required=False)
            if listener.cafile or listener.capath or listener.cadata:
                context.load_verify_locations(listener.cafile, listener.capath, listener.cadata)
            return context

        try:
            return tls.ClientTrust(make, run.responder.knows_certificate)
        except OSError as error:  # those of TLS are such, too
            raise BrokerError(f"Can't use cert file '{listener.certfile}': {error}") from error

    @staticmethod
    def _trusted(run: BrokerRun, authorities: Authorities) -> str:
        return "".join([authorities.certificates_pem, *run.responder.chain_authorities()])

    def _take_up(self, authorities: Authorities) -> None:
        """Trust these authorities from now on."""
        if self._run is not None and self._trusts:
            self._authorities_pem = self._trusted(self._run, authorities)
            for trust in self._trusts:
                trust.renew()

    def _publish_event(self, event: ChainedEvent) -> None:
        self.engine.publish_event(event)
        self.engine.flush_soon()

    def _turn(self, loop: asyncio.AbstractEventLoop) -> None:
        self.engine.turn()
        self._turn_handle = loop.call_later(TURN_S, self._turn, loop)

    async def shutdown(self) -> None:
        """Take no more connections, answer every accepted request, tell the plugins, say goodbye."""
        await self.plugins_manager.fire_event(BrokerEvents.PRE_SHUTDOWN, wait=True)
        self.transitions.shutdown()
        await self._end()
        await self.plugins_manager.fire_event(BrokerEvents.POST_SHUTDOWN, wait=True)
        await self.plugins_manager.close()
        self.transitions.stopping_success()

    async def _end(self) -> None:
        for listeners in self._listeners:
            listeners.close()
        self._listeners.clear()
        if self._turn_handle is not None:
            self._turn_handle.cancel()
        if self._run is not None:
            await self._run.finish()
            await say_goodbye(self.engine)
            await self._calls.close()
            await self._run.close()
            self._run = None
        if self._owns_state:
            self._state.close()

    # --- what plugins may ask of the broker (amqtt's BrokerContext) ---

    async def internal_message_broadcast(self, topic: str, data: bytes, qos: int | None = None) -> None:
        """Publish on behalf of a plugin."""
        message = self._message(topic, data, _ANYBODY if qos is None else qos)
        self.engine.router.route(None, message, own=False)
        self.engine.flush_soon()

    async def retain_message(
        self,
        source_session: Any,
        topic_name: str | None,
        data: bytes | bytearray | None,
        qos: int | None = None,
    ) -> None:
        """Retain on behalf of a plugin; without data, clear what is retained."""
        del source_session
        message = self._message(topic_name or "", bytes(data or b""), qos or 0)
        self._retain(message)
        self.engine.voices.tell_of_retained(None, message)

    def _retain(self, message: Message) -> None:
        if not self.engine.router.retained.keep(Retained(message, _OWNER), self.engine.now_s()):
            _log.warning("a message that a plugin retains is not kept: no room")

    def _message(self, topic: str, data: bytes, qos: int) -> Message:
        validate_topic_name(topic)
        return Message(topic, bytes(data), qos, arrived_s=self.engine.now_s())

    async def add_subscription(self, subscription: tuple[str, int], session: Any) -> int:
        """Subscribe a connected client on behalf of a plugin, if the client may; give the QoS or 0x80."""
        topic_filter, qos = subscription
        for member, view in self.engine.views.items():
            if view is session and member.connection is not None:
                router = self.engine.router
                return router.subscribe_for(member, topic_filter, qos) if isinstance(router, AmqttRouter) else 0x80
        # Sessions belong to who logged in with them, so none is made up for a client id.
        _log.warning("a plugin subscribes somebody who is not connected; that is not done")
        return 0x80

    def create_offline_session(self, client_id: str) -> tuple[None, SessionView]:
        """Give a session that nobody has; it is forgotten."""
        view = SessionView()
        view.client_id = client_id
        view.transitions.state = "disconnected"
        return None, view

    @property
    def sessions(self) -> dict[str, tuple[Any, Any]]:
        """All sessions that have logged in, by client id, as plugins know them; handlers are amqtt's and not here."""
        return {str(view.client_id): (view, None) for view in self._views().values()}

    @property
    def subscriptions(self) -> dict[str, list[tuple[Any, int]]]:
        """All subscriptions by filter, in the broker's topics."""
        found: dict[str, list[tuple[Any, int]]] = {}
        for member, view in self._views().items():
            for topic_filter in member.filters:
                granted: Grant | None = self.engine.router.tree.granted(topic_filter, member)
                found.setdefault(topic_filter, []).append((view, granted.qos if granted else 0))
        return found

    @property
    def retained_messages(self) -> MutableMapping[str, RetainedApplicationMessage]:
        """All retained messages by topic; what a plugin puts there is retained."""
        return _RetainedMessages(self)

    def _views(self) -> dict[Any, SessionView]:
        return self.engine.views if hasattr(self, "engine") else {}


class _Entrance:
    """The engine as one listener sees it: with a limit of its own."""

    def __init__(self, engine: AmqttEngine, max_connections: int) -> None:
        self._engine = engine
        self._max_connections = max_connections

    def new_connection(self) -> Connection:
        """Make what serves one client."""
        connection = self._engine.new_connection()
        if self._max_connections > 0:
            self._engine.limit(connection, self, self._max_connections)
        return connection

    def admit(self, connection: Connection) -> bool:
        """Count a connection."""
        return self._engine.admit(connection)

    def closed(self, connection: Connection) -> None:
        """Note its end."""
        self._engine.closed(connection)


class _RetainedMessages(MutableMapping[str, Any]):
    """The retained messages as amqtt's plugins use them."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._store = broker.engine.router.retained

    def _all(self) -> list[Retained]:
        now_s = self._broker.engine.now_s()
        return [*self._store.match("#", now_s), *self._store.match("$SYS/#", now_s)]

    def __getitem__(self, topic: str) -> Any:
        found = self._store.get(topic)
        if found is None:
            raise KeyError(topic)
        return retained(None, found.message)

    def __setitem__(self, topic: str, message: Any) -> None:
        with contextlib.suppress(TopicError):
            self._broker._retain(self._broker._message(topic, message.data or b"", message.qos or 0))  # noqa: SLF001 - its own part

    def __delitem__(self, topic: str) -> None:
        self._store.forget(topic)

    def __iter__(self) -> Iterator[str]:
        return iter([each.message.topic for each in self._all()])

    def __len__(self) -> int:
        return len(self._store)


class AmqttServer:
    """A broker with amqtt's configuration file, as `serve` runs brokers."""

    def __init__(self, state: StateDirectory, config: Path, *, insecure: bool) -> None:
        self._state = state
        self._path = config
        self._insecure = insecure

    async def start(self) -> list[str]:
        """Open the listeners and give their URLs. Raises the `BrokerError` of our own brokers."""
        try:
            self._broker = Broker(read_yaml_config(self._path), state=self._state)
            if not self._insecure:
                self._refuse_open_listeners()
            await self._broker.start()
        except (BrokerError, PluginError, DaciteError, OSError, ValueError, TypeError, LookupError) as error:
            why = str(error) or str(error.__cause__ or type(error).__name__)
            raise CannotStart(f"amqtt's configuration {self._path} cannot be served: {why}") from error
        return self._broker.urls

    def _refuse_open_listeners(self) -> None:
        for name, listener in self._broker.listeners_config.items():
            if not listener.ssl and not is_loopback(str(listener.bind or "")):
                raise BrokerError(
                    f"listener '{name}' is not on loopback, and without TLS anybody on the way reads keys and secrets; "
                    "give it ssl with certfile and keyfile (or --insecure, if the network is your own)"
                )

    async def stop(self) -> None:
        """End it."""
        await self._broker.shutdown()
