"""What third parties' amqtt plugins say: who may log in, who may do what; and what they are told.

amqtt's rules hold: of all that answer with yes or no, none may say no and one must say yes; None is no answer. On
topics our own permissions are one of the voices. Plugins see a client as amqtt's `Session`, without any secret of ours.
"""

from collections.abc import Callable, Iterable
from typing import Any, Final

from amqtt.broker import RetainedApplicationMessage
from amqtt.contexts import Action
from amqtt.events import BrokerEvents, MQTTEvents
from amqtt.plugins.manager import PluginManager
from amqtt.session import IncomingApplicationMessage, Session

from mqttprov.brokers.amqtt_packet_news import PacketNews
from mqttprov.brokers.plugin_calls import PluginCalls
from mqttprov.core.login import Principal
from mqttprov.mqtt import Connect, Message, Publish

_EVENTS: Final = tuple(
    event
    for event in BrokerEvents
    if event
    not in {BrokerEvents.PRE_START, BrokerEvents.POST_START, BrokerEvents.PRE_SHUTDOWN, BrokerEvents.POST_SHUTDOWN}
)


class _Connected:
    """Stands where amqtt's sessions have a state machine, which costs 0.3 ms for each."""

    state = "connected"

    def is_connected(self) -> bool:
        return self.state == "connected"


class SessionView(Session):  # type: ignore[misc]  # amqtt is not typed for others
    """A client as plugins know clients."""

    def _init_states(self) -> None:
        self.transitions = _Connected()


class Voices:
    """All plugins of one broker."""

    def __init__(self, manager: PluginManager[Any], calls: PluginCalls) -> None:
        self._calls = calls
        plugins = manager.plugins
        self._auth = [plugin.authenticate for plugin in plugins if hasattr(plugin, "authenticate")]
        self._topic = [plugin.topic_filtering for plugin in plugins if hasattr(plugin, "topic_filtering")]
        self._told = _hooks(plugins, _EVENTS)
        of_packets = _hooks(plugins, tuple(MQTTEvents))
        self.packets = PacketNews(of_packets, calls) if of_packets else None  # None: nobody wants to know of them
        self.decide_logins = bool(self._auth)
        self.decide_topics = bool(self._topic)
        self.any = bool(self._auth or self._topic or self._told or of_packets)

    # --- questions ---

    def authenticate(self, view: SessionView, done: Callable[[bool], None]) -> bool:
        """Ask who may know this client; tell whether `done` was called already."""
        return self._calls.start(self._agree(self._auth, none_means=False, session=view), done, failed=False)

    def may(self, view: SessionView, topic: str, action: Action, done: Callable[[bool], None]) -> bool:
        """Ask whether a client, to whom we have said yes, may do this."""
        question = self._agree(self._topic, none_means=True, session=view, topic=topic, action=action)
        return self._calls.start(question, done, failed=False)

    def denied(self, view: SessionView, filters: Iterable[str], done: Callable[[frozenset[str] | None], None]) -> bool:
        """Ask which of these filters a client may not subscribe to; None: it could not be found out."""

        async def ask() -> frozenset[str]:
            denied = [
                topic_filter
                for topic_filter in filters
                if not await self._agree(
                    self._topic, none_means=True, session=view, topic=topic_filter, action=Action.SUBSCRIBE
                )
            ]
            return frozenset(denied)

        return self._calls.start(ask(), done)

    async def _agree(self, methods: list[Any], *, none_means: bool, **arguments: Any) -> bool:
        answers = [await self._calls.call(method, **arguments) for method in methods]
        heard = [answer for answer in answers if answer is not None]
        return all(heard) if heard else none_means

    # --- news ---

    def tell(self, event: str, **arguments: Any) -> None:
        """Tell all who want to know; what they do with it has no effect here."""
        hooks = self._told.get(event)
        if hooks is not None:
            for hook in hooks:
                self._calls.start(self._calls.call(hook, **arguments), _nothing)

    def tell_of_message(self, event: str, view: SessionView, publish: Publish) -> None:
        """Tell of a client's message."""
        if event in self._told:
            message = IncomingApplicationMessage(
                publish.packet_id, publish.topic, publish.qos, publish.payload, publish.retain
            )
            self.tell(event, client_id=view.client_id, message=message)

    def tell_of_retained(self, view: SessionView | None, message: Message) -> None:
        """Tell of a message that is retained from now on, or of a topic that was cleared."""
        if BrokerEvents.RETAINED_MESSAGE in self._told:
            self.tell(BrokerEvents.RETAINED_MESSAGE, client_id=None, retained_message=retained(view, message))


def _hooks(plugins: Iterable[Any], events: Iterable[str]) -> dict[str, list[Any]]:
    """Give the methods of plugins that want to be told, by event; events that nobody hooks are not there."""
    return {
        event: hooks
        for event in events
        if (hooks := [hook for plugin in plugins if (hook := getattr(plugin, f"on_{event}", None)) is not None])
    }


def retained(view: SessionView | None, message: Message) -> RetainedApplicationMessage:
    """Give a retained message as amqtt knows them."""
    return RetainedApplicationMessage(view, message.topic, message.payload, message.qos)


def view_of(connect: Connect, source: str, tls: Any, principal: Principal | None) -> SessionView:
    """Give a client as plugins may know it: one of ours by its name, never by a token or with its password (P6)."""
    view = SessionView()
    view.client_id = connect.client_id
    view.clean_session = connect.clean_start
    view.keep_alive = connect.keep_alive_s
    view.remote_address = source
    view.ssl_object = tls
    if principal is not None:
        view.username = principal.name
    else:
        view.username = connect.username
        view.password = connect.password.decode("utf-8", "replace") if connect.password is not None else None
    if connect.will is not None:
        view.will_flag = True
        view.will_topic, view.will_message = connect.will.topic, connect.will.payload
        view.will_qos, view.will_retain = connect.will.qos, connect.will.retain
    return view


def _nothing(_: object) -> None:
    """Take a result that means nothing."""
