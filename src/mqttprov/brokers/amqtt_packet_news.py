"""Tells amqtt's plugins of single packets: of those received before they are handled, of those sent once written.

Nothing of this is made unless a plugin hooks `on_mqtt_packet_*`. Secrets stay hidden (P3, P6): sessions that may only
provision are not told of at all, and of CONNECT only when it is known whom it is from. Nothing here raises into the
engine, and what waits for a slow plugin is bounded (P9).
"""

import asyncio
import logging
from collections import deque
from typing import Any, Final

import msgspec
from amqtt.events import MQTTEvents

from mqttprov.brokers.amqtt_packets import PacketReader, as_amqtt, disguised
from mqttprov.brokers.plugin_calls import PluginCalls
from mqttprov.core.credentials import PROVISION_LOGIN
from mqttprov.core.permissions import REQUEST_TOPIC
from mqttprov.mqtt import Connect, Packet, Publish

MAX_WAITING_PACKETS: Final = 10_000
MAX_WAITING_BYTES: Final = 16_777_216
MAX_PACKETS_AT_ONCE: Final = 200  # of one read or write: amqtt's packets cost much more than ours

_log: Final = logging.getLogger(__name__)


class PacketNews:
    """The plugins of one broker that want to know of packets, and how much waits for them."""

    def __init__(self, hooks: dict[str, list[Any]], calls: PluginCalls) -> None:
        """Begin with the hooks by event; an event without hooks is not there."""
        self._hooks = hooks
        self._calls = calls
        self._packets = 0
        self._bytes = 0
        self._left_out = 0

    def wants(self, event: str) -> bool:
        """Tell whether anybody hooks this event."""
        return event in self._hooks

    def enter(self, size_bytes: int) -> bool:
        """Let one more packet wait, if there is room."""
        if self._packets >= MAX_WAITING_PACKETS or self._bytes + size_bytes > MAX_WAITING_BYTES:
            if not self._left_out:
                _log.error("plugins are slower than packets come: some packets are not told")
            self._left_out += 1
            return False
        self._packets += 1
        self._bytes += size_bytes
        return True

    def leave(self, size_bytes: int) -> None:
        """Note that a packet waits no more."""
        self._packets -= 1
        self._bytes -= size_bytes
        if self._left_out and not self._packets:
            _log.warning("plugins have caught up; %d packets were not told", self._left_out)
            self._left_out = 0

    def start(self, event: str, arguments: dict[str, Any], done: Any) -> bool:
        """Call all hooks of an event, one after the other; tell whether `done` was called already."""
        return self._calls.start(self._tell(self._hooks[event], arguments), done)

    async def _tell(self, hooks: list[Any], arguments: dict[str, Any]) -> None:
        for hook in hooks:
            try:
                await self._calls.call(hook, **arguments)
            except Exception:  # noqa: BLE001 - it is somebody else's code
                _log.exception("a plugin failed")


class ConnectionPackets:
    """The packets of one connection; plugins hear of the next when they are done with the one before."""

    __slots__ = (
        "_away",
        "_budget",
        "_busy",
        "_connect",
        "_hidden",
        "_incoming",
        "_news",
        "_outgoing",
        "_view",
        "_waiting",
    )

    def __init__(self, news: PacketNews) -> None:
        self._news = news
        self._incoming = PacketReader()
        self._outgoing: PacketReader | None = None  # known with CONNECT
        self._connect: tuple[Connect, int] | None = None  # until it is known whom it is from: it holds the password
        self._view: Any = None  # amqtt's session, once it has begun
        self._hidden = False
        self._waiting: deque[tuple[str, Packet, int]] = deque()
        self._busy = False  # while what waits is told, or will be
        self._budget = 0  # how many packets may be told before others have their turn
        self._away = False  # while a plugin takes its time

    # --- what the connection says ---

    def received(self, data: bytes) -> None:
        """Take what the client sent."""
        if not self._hidden:
            self._read(self._incoming, data, MQTTEvents.PACKET_RECEIVED)

    def begun(self, view: Any) -> None:
        """Take that the client is accepted, and as whom plugins know it."""
        self._view = view
        self._tell_connect(view.username)
        for packet, size_bytes in self._incoming.resume():
            self._tell(MQTTEvents.PACKET_RECEIVED, packet, size_bytes)

    def hide(self) -> None:
        """Take that nobody may know of this session."""
        self._hidden = True
        self._connect = None
        self._incoming = PacketReader()  # it may hold a request that came with CONNECT

    def sent(self, data: bytes) -> None:
        """Take what was written to the client. Before it was accepted that is a refusal."""
        if self._view is None and not self._hidden:
            connect = self._connect[0] if self._connect is not None else None
            if connect is None or PROVISION_LOGIN in {connect.username, connect.client_id}:
                self.hide()
            else:
                self._tell_connect(None)
        if self._outgoing is not None and not self._hidden:
            self._read(self._outgoing, data, MQTTEvents.PACKET_SENT)

    # --- inside ---

    def _read(self, reader: PacketReader, data: bytes, event: str) -> None:
        self._budget = MAX_PACKETS_AT_ONCE
        for packet, size_bytes in reader.feed(data):
            if isinstance(packet, Connect):
                self._connect = (packet, size_bytes)
                self._outgoing = PacketReader(packet.version)
            else:
                self._tell(event, packet, size_bytes)

    def _tell_connect(self, username: str | None) -> None:
        if self._connect is not None:
            connect, size_bytes = self._connect
            self._connect = None
            self._tell(MQTTEvents.PACKET_RECEIVED, disguised(connect, username), size_bytes)

    def _tell(self, event: str, packet: Packet, size_bytes: int) -> None:
        if self._news.wants(event) and self._news.enter(size_bytes):
            if isinstance(packet, Publish) and packet.topic == REQUEST_TOPIC:
                packet = msgspec.structs.replace(packet, payload=b"")  # refused here, but may hold a key and a secret
            self._waiting.append((event, packet, size_bytes))
            self._go_on()

    def _go_on(self) -> None:
        """Tell what waits, until a plugin takes its time, or others have to have their turn."""
        if self._busy:
            return
        self._busy = True
        while self._waiting:
            if not self._budget:
                asyncio.get_running_loop().call_soon(self._again)
                return
            self._budget -= 1
            event, packet, size_bytes = self._waiting.popleft()
            self._news.leave(size_bytes)
            arguments = self._arguments(packet, size_bytes)
            if arguments is not None and not self._news.start(event, arguments, self._done):
                self._away = True
                return
        self._busy = False

    def _arguments(self, packet: Packet, size_bytes: int) -> dict[str, Any] | None:
        """Give what a hook is called with; None for a packet that amqtt does not know."""
        try:
            told = as_amqtt(packet, size_bytes)
        except Exception:  # noqa: BLE001 - it is somebody else's decoder
            _log.warning("amqtt cannot read a packet that plugins would be told of: %s", type(packet).__name__)
            return None
        if told is None:
            return None
        if self._view is None or isinstance(packet, Connect):
            return {"packet": told}
        return {"packet": told, "session": self._view}

    def _done(self, _: object) -> None:
        if self._away:
            self._away = False
            self._again()

    def _again(self) -> None:
        self._budget = MAX_PACKETS_AT_ONCE
        self._busy = False
        self._go_on()
