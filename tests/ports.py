"""Ports for servers that are told theirs some time before they listen. No test lives here."""

import secrets
import socket
from contextlib import ExitStack

# Below those that Linux takes for outgoing connections (32768 and up): nothing else comes in between by chance.
_FIRST = 10_000
_PAIRS = 11_000


def free_port() -> int:
    """Give a port that nobody uses now, and neither the one behind it."""
    while True:
        port = _FIRST + 2 * secrets.randbelow(_PAIRS)
        with ExitStack() as probes:
            try:
                for number in (port, port + 1):
                    probes.enter_context(socket.socket()).bind(("127.0.0.1", number))
            except OSError:
                continue
            return port
