"""Ports for servers that are ended and started again while a swarm connects. Nothing here listens."""

import secrets
import socket
from contextlib import ExitStack
from typing import Final

# Below those that Linux gives to outgoing connections (32768 and up): while a server is away, none of the swarm's own
# connections can take its port.
_FIRST: Final = 10_000
_GROUPS: Final = 10_500
_GROUP: Final = 2


def free_ports(count: int) -> list[int]:
    """Give so many ports (two at most), one behind the other, that nobody on loopback uses now."""
    while True:
        first = _FIRST + _GROUP * secrets.randbelow(_GROUPS)
        ports = list(range(first, first + count))
        with ExitStack() as probes:
            try:
                for port in ports:
                    probes.enter_context(socket.socket()).bind(("127.0.0.1", port))
            except OSError:
                continue
            return ports
