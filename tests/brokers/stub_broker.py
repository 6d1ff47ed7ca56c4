"""The other end of the responder's connection, as far as tests of that need a broker. No test lives here."""

import asyncio
from typing import cast

from mqttprov.mqtt import (
    ConnectReceived,
    MessageDelivered,
    PublishReceived,
    ReasonCode,
    ServerLimits,
    ServerSession,
    SubscribeReceived,
)
from mqttprov.mqtt.events import ServerEvent


class Server(asyncio.Protocol):
    """The other end: accepts everybody, acknowledges what it is told to, and notes what comes in which order."""

    connections: "list[Server]"

    def __init__(self, connections: "list[Server]") -> None:
        connections.append(self)
        self.session = ServerSession(ServerLimits())
        self.seen: list[tuple[str, bytes]] = []
        self.client_id = ""
        self.acknowledges = True
        self.grants = ReasonCode.GRANTED_QOS_1  # to every filter
        self.changed = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Note what comes, and answer."""
        for event in self.session.receive(data):
            self._take(event)
        self.flush()
        self.changed.set()

    def _take(self, event: ServerEvent) -> None:
        match event:
            case ConnectReceived(connect):
                self.client_id = connect.client_id
                self.session.accept()
            case SubscribeReceived(subscribe):
                self.session.suback(subscribe.packet_id, (self.grants,) * len(subscribe.subscriptions))
            case PublishReceived(publish):
                self.seen.append((publish.topic, publish.payload))
                if publish.packet_id is not None and self.acknowledges:
                    self.session.acknowledge(publish.packet_id)
            case MessageDelivered():
                self.seen.append(("PUBACK", b""))

    def flush(self) -> None:
        """Write."""
        self.transport.write(self.session.take_output())

    async def until(self, number: int) -> list[tuple[str, bytes]]:
        """Wait until so much has come."""
        async with asyncio.timeout(30):
            while len(self.seen) < number:
                self.changed.clear()
                await self.changed.wait()
        return self.seen
