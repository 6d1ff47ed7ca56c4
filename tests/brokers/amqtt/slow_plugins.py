"""Plugins for tests: they decide after a while, note what they are told, or fail. No test lives here."""

import asyncio
from typing import Any, ClassVar

from amqtt.plugins.base import BaseAuthPlugin, BasePlugin, BaseTopicPlugin


class SlowPlugin(BaseAuthPlugin, BaseTopicPlugin):  # type: ignore[misc]  # amqtt is not typed for others
    """Lets `guest` in and keeps `forbidden/` shut; every answer takes some turns of the loop, in a task."""

    async def authenticate(self, *, session: Any) -> bool | None:
        """Decide, later."""
        async with asyncio.timeout(5):
            await asyncio.sleep(0.01)
        return True if session.username == "guest" else None

    async def topic_filtering(self, *, session: Any = None, topic: Any = None, action: Any = None) -> bool | None:
        """Decide, later."""
        async with asyncio.timeout(5):
            await asyncio.sleep(0.002)
        return False if topic.startswith("forbidden/") else None


class BrokenPlugin(BaseAuthPlugin, BaseTopicPlugin):  # type: ignore[misc]  # amqtt is not typed for others
    """Fails whatever it is asked or told."""

    async def authenticate(self, *, session: Any) -> bool | None:
        """Fail."""
        raise RuntimeError("broken")

    async def topic_filtering(self, *, session: Any = None, topic: Any = None, action: Any = None) -> bool | None:
        """Fail for some topics."""
        if "broken" in topic:
            raise RuntimeError("broken")
        return None

    async def on_broker_client_connected(self, **_: Any) -> None:
        """Fail."""
        raise RuntimeError("broken")


class NotingPlugin(BasePlugin[Any]):  # type: ignore[misc]  # amqtt is not typed for others
    """Notes what it is told, and everything that it could know of sessions."""

    told: ClassVar[list[tuple[str, dict[str, Any]]]] = []

    async def on_broker_client_connected(self, **told: Any) -> None:
        """Note."""
        self.told.append(("connected", told))

    async def on_broker_client_disconnected(self, **told: Any) -> None:
        """Note."""
        self.told.append(("disconnected", told))

    async def on_broker_client_subscribed(self, **told: Any) -> None:
        """Note."""
        self.told.append(("subscribed", told))

    async def on_broker_client_unsubscribed(self, **told: Any) -> None:
        """Note."""
        self.told.append(("unsubscribed", told))

    async def on_broker_message_received(self, **told: Any) -> None:
        """Note."""
        self.told.append(("received", told))

    async def on_broker_message_broadcast(self, **told: Any) -> None:
        """Note."""
        self.told.append(("broadcast", told))

    async def on_broker_retained_message(self, **told: Any) -> None:
        """Note."""
        self.told.append(("retained", told))


class PacketPlugin(BasePlugin[Any]):  # type: ignore[misc]  # amqtt is not typed for others
    """Notes packets as (direction, class, client id or None) and the packets themselves."""

    told: ClassVar[list[tuple[str, str, str | None]]] = []
    packets: ClassVar[list[Any]] = []

    async def on_mqtt_packet_received(self, *, packet: Any, session: Any = None) -> None:
        """Note."""
        await self._note("in", packet, session)

    async def on_mqtt_packet_sent(self, *, packet: Any, session: Any = None) -> None:
        """Note."""
        await self._note("out", packet, session)

    async def _note(self, direction: str, packet: Any, session: Any) -> None:
        self.packets.append(packet)
        self.told.append((direction, type(packet).__name__, session.client_id if session is not None else None))


class SlowPacketPlugin(PacketPlugin):
    """Takes its time for every packet, more for one than for the other."""

    gate: ClassVar[asyncio.Event | None] = None  # if there is one, the plugin waits for it

    async def _note(self, direction: str, packet: Any, session: Any) -> None:
        if self.gate is not None:
            await self.gate.wait()
        else:
            await asyncio.sleep(0.002 * (len(self.told) % 2))
        await super()._note(direction, packet, session)


class BrokenPacketPlugin(PacketPlugin):
    """Fails for every packet, once it has noted it."""

    async def _note(self, direction: str, packet: Any, session: Any) -> None:
        await super()._note(direction, packet, session)
        raise RuntimeError("broken")
