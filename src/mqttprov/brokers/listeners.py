"""Where clients come in: TCP and TLS, MQTT as it is or in WebSockets. A TLS handshake counts as a connection (P9).

asyncio would tell of a TLS connection only after its handshake, and there could be any number of those. So sockets of
TLS listeners are accepted here: who is one too many is closed before a byte is read.
"""

import asyncio
import logging
import socket
from collections.abc import Callable
from typing import Final, NamedTuple

from mqttprov.brokers.broker import EmbeddedBroker
from mqttprov.brokers.connection import Connection
from mqttprov.brokers.tls import ClientTrust

BACKLOG: Final = 4096  # the usual 100 turns a connection storm into seconds of SYN retries (amqtt-and-ceilings.md)
TLS_HANDSHAKE_TIMEOUT_S: Final = 10.0
TLS_SHUTDOWN_TIMEOUT_S: Final = 5.0
_ACCEPTED_AT_ONCE: Final = 64  # then others have their turn in the loop
_ACCEPT_AGAIN_S: Final = 1.0

_log = logging.getLogger(__name__)


class Door(NamedTuple):
    """A kind of listener: the scheme of its URL, the path, and what stands between a transport and a `Connection`."""

    scheme: str
    path: str
    wrap: Callable[[Connection], asyncio.Protocol]


class Listeners:
    """All listeners of one broker."""

    def __init__(self, broker: EmbeddedBroker) -> None:
        self._broker = broker
        self._servers: list[asyncio.Server] = []
        self._tls: list[_TlsListener] = []

    async def open(self, door: Door, host: str, port: int, tls: ClientTrust | None) -> str:
        """Listen; give the URL. Raises `OSError`."""
        loop = asyncio.get_running_loop()
        sockets = await _bound(host, port)
        shown = f"[{host}]" if ":" in host else host
        url = f"{door.scheme}://{shown}:{sockets[0].getsockname()[1]}{door.path}"
        for sock in sockets:
            if tls is not None:
                self._tls.append(_TlsListener(self._broker, door, sock, tls))
            else:
                server = await loop.create_server(
                    lambda: door.wrap(self._broker.new_connection()), sock=sock, backlog=BACKLOG
                )
                self._servers.append(server)
        return url

    def close(self) -> None:
        """Let nobody in any more; handshakes under way are cut off."""
        for server in self._servers:
            server.close()
        for listener in self._tls:
            listener.close()
        self._servers.clear()
        self._tls.clear()


class _TlsListener:
    """Accepts on one socket and shakes hands."""

    def __init__(self, broker: EmbeddedBroker, door: Door, sock: socket.socket, tls: ClientTrust) -> None:
        self._broker = broker
        self._door = door
        self._socket = sock
        self._trust = tls
        self._loop = asyncio.get_running_loop()
        self._handshakes: set[asyncio.Task[None]] = set()
        self._again: asyncio.TimerHandle | None = None
        self._loop.add_reader(sock, self._accept)

    def _accept(self) -> None:
        for _ in range(_ACCEPTED_AT_ONCE):
            try:
                sock, address = self._socket.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:  # no more files, no more memory
                _log.error("no connection is accepted for %d s: %s", _ACCEPT_AGAIN_S, error)
                self._loop.remove_reader(self._socket)
                self._again = self._loop.call_later(_ACCEPT_AGAIN_S, self._loop.add_reader, self._socket, self._accept)
                return
            connection = self._broker.new_connection()
            connection.source = str(address[0])
            if not self._broker.admit(connection):
                sock.close()
                continue
            task = self._loop.create_task(self._shake_hands(sock, connection))
            self._handshakes.add(task)
            task.add_done_callback(self._handshakes.discard)

    async def _shake_hands(self, sock: socket.socket, connection: Connection) -> None:
        entered = False
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            transport, _ = await self._loop.connect_accepted_socket(
                lambda: self._door.wrap(connection),
                sock,
                ssl=self._trust.context(),
                ssl_handshake_timeout=TLS_HANDSHAKE_TIMEOUT_S,
                ssl_shutdown_timeout=TLS_SHUTDOWN_TIMEOUT_S,
            )
            entered = True
            self._trust.settle(transport.get_extra_info("ssl_object"))
        except OSError as error:  # those of TLS are such, too
            _log.info("no TLS with %s: %s", connection.source, error)
        finally:
            if not entered:
                sock.close()
                self._broker.closed(connection)

    def close(self) -> None:
        self._loop.remove_reader(self._socket)
        if self._again is not None:
            self._again.cancel()
        self._socket.close()
        for task in self._handshakes:
            task.cancel()


async def _bound(host: str, port: int) -> list[socket.socket]:
    """Listen on all addresses of a host, and on one port: what the first of them got, if any free one will do."""
    addresses = await asyncio.get_running_loop().getaddrinfo(
        host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    sockets: list[socket.socket] = []
    try:
        for family, address in dict.fromkeys((family, address) for family, _, _, _, address in addresses):
            chosen = sockets[0].getsockname()[1] if sockets else port
            sockets.append(socket.create_server((address[0], chosen), family=family, backlog=BACKLOG))
            sockets[-1].setblocking(False)
    except OSError:
        for sock in sockets:
            sock.close()
        raise
    return sockets
