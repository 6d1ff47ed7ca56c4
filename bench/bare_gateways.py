"""Yardstick: what the two connections of a registration cost a Python process that does nothing else.

The bytes that a gateway of the swarm writes, ready made; of what it reads only the kind of packet and the token count.
No machine, no session, no promises, no figures: no generator on this interpreter and kernel takes less.
"""

import asyncio
from typing import Final, cast

from mqttprov.mqtt import Connect, Disconnect, ProtocolVersion, Puback, Publish, Subscribe, Subscription, encode

_V3: Final = ProtocolVersion.V311
_V5: Final = ProtocolVersion.V5
_HELLO: Final = encode(Connect("", _V3, True, 60, "provision"), _V3)
_GOODBYE: Final = encode(Puback(1), _V3) + encode(Disconnect(), _V3)
_FILTERS: Final = ("v1/devices/me/rpc/request/+", "v1/devices/me/attributes")
_LISTEN: Final = encode(Subscribe(1, tuple(Subscription(each, 1) for each in _FILTERS)), _V5)
_TOKEN: Final = b'"credentialsValue":"'
_CONNACK: Final = 0x20


class BareGateways:
    """So many of them, switched on at a constant rate; `online` is set once all have been let in with their tokens."""

    def __init__(self, port: int, gateways: int) -> None:
        self.loop: Final = asyncio.get_running_loop()
        self.online: Final = asyncio.Event()
        self.missing = gateways
        self._port: Final = port
        ask = encode(Subscribe(1, (Subscription("/provision/response", 1),)), _V3)
        self._asks: Final = [ask + encode(_request(number), _V3) for number in range(gateways)]
        self._transports: Final[list[asyncio.Transport]] = []
        self._tasks: Final[set[asyncio.Task[object]]] = set()

    async def start(self, rate_per_s: int) -> None:
        """Switch them on and wait until all are online."""
        start_s = self.loop.time()
        for number, ask in enumerate(self._asks):
            self.loop.call_at(start_s + number / rate_per_s, self._open, _Asking(self, ask))
        await self.online.wait()

    def second(self, token: str) -> None:
        """Connect with a token."""
        self._open(_Online(self, encode(Connect("", _V5, True, 120, token), _V5)))

    def _open(self, protocol: asyncio.Protocol) -> None:
        connect = self.loop.create_connection(lambda: protocol, "127.0.0.1", self._port)
        task = cast("asyncio.Task[object]", self.loop.create_task(connect))
        self._tasks.add(task)  # the loop itself keeps no task alive
        task.add_done_callback(self._tasks.discard)

    def let_in(self, transport: asyncio.Transport) -> None:
        """Count one that is online."""
        self._transports.append(transport)
        self.missing -= 1
        if not self.missing:
            self.online.set()

    def stop(self) -> None:
        """End all connections."""
        for transport in self._transports:
            transport.abort()


class _Asking(asyncio.Protocol):
    def __init__(self, gateways: BareGateways, ask: bytes) -> None:
        self._gateways = gateways
        self._ask = ask

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.write(_HELLO)

    def data_received(self, data: bytes) -> None:
        if data[0] == _CONNACK:
            self._transport.write(self._ask)
        elif (at := data.find(_TOKEN)) >= 0:  # the broker writes acknowledgement and reply at once
            at += len(_TOKEN)
            self._transport.write(_GOODBYE)
            self._transport.close()
            self._gateways.second(data[at : data.index(b'"', at)].decode())


class _Online(asyncio.Protocol):
    def __init__(self, gateways: BareGateways, hello: bytes) -> None:
        self._gateways = gateways
        self._hello = hello

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.write(self._hello)

    def data_received(self, data: bytes) -> None:
        if data[0] == _CONNACK:
            self._transport.write(_LISTEN)
            self._gateways.let_in(self._transport)


def _request(number: int) -> Publish:
    payload = b'{"provisionDeviceKey":"key","provisionDeviceSecret":"secret","deviceName":"bare-%06d"}' % number
    return Publish("/provision/request", payload, qos=1, packet_id=2)
