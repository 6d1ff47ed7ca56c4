"""`mqttprov http-auth` as a process: the HTTP listener, the responder behind it, and its session with the broker.

This is where time, randomness and the event loop come from.
"""

import asyncio
import contextlib
import logging
import secrets
import signal
import socket
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec
import uvicorn
import uvloop

from mqttprov.brokers.bell import Bell
from mqttprov.brokers.broker_link import BrokerAddress
from mqttprov.brokers.http_auth.answering import Answering
from mqttprov.brokers.http_auth.app import Desks
from mqttprov.brokers.http_auth.desk import Desk
from mqttprov.brokers.http_auth.routed_responder import RoutedResponder
from mqttprov.brokers.responder_run import DRAIN_TIMEOUT_S, TICK_S, drain, new_responder
from mqttprov.core.credentials import SignedCertificate
from mqttprov.responder.service import Responder
from mqttprov.responder.state_directory import StateDirectory
from mqttprov.responder.state_files import StateError, one_at_a_time, read_private, write_once

SECRET_FILE: Final = Path("keys") / "http-auth-secret"
MIN_SECRET_CHARS: Final = 22
MAX_CONNECTIONS: Final = 1024
MAX_HEADER_BYTES: Final = 16_384
IDLE_TIMEOUT_S: Final = 120  # brokers keep connections for the next question


class HttpAuthError(Exception):
    """It cannot start; the text says what, why and what to do."""


class Certificate(msgspec.Struct, frozen=True):
    """Files (PEM) with which the listener speaks TLS."""

    chain: Path
    private_key: Path


def path_secret(state: Path) -> str:
    """Give the secret that brokers have in the path of their questions; one is made if there is none.

    Raises `StateError`.
    """
    path = state / SECRET_FILE
    try:
        with one_at_a_time(state):
            write_once(path, secrets.token_urlsafe(24).encode() + b"\n")
    except OSError as error:
        raise StateError(f"{path} cannot be written: {error}") from error
    secret = read_private(path).strip()
    if len(secret) < MIN_SECRET_CHARS or not all(c.isascii() and (c.isalnum() or c in "-_") for c in secret):
        raise StateError(
            f"{path} must hold {MIN_SECRET_CHARS} or more letters, digits, '-' and '_'; remove it for a new one"
        )
    return secret


def listener_settings(desk: Desk, secret: str, certificate: Certificate | None) -> uvicorn.Config:
    """Give how the listener is run: what it takes is bounded, and what it logs holds no path."""
    logging.getLogger("uvicorn.access").disabled = True  # paths hold the secret, whoever listens to the log
    return uvicorn.Config(
        Desks(desk, secret).application(),
        http="h11",  # the one that bounds headers
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        limit_concurrency=MAX_CONNECTIONS,
        h11_max_incomplete_event_size=MAX_HEADER_BYTES,
        timeout_keep_alive=IDLE_TIMEOUT_S,
        timeout_graceful_shutdown=int(DRAIN_TIMEOUT_S),
        ssl_certfile=None if certificate is None else certificate.chain,
        ssl_keyfile=None if certificate is None else certificate.private_key,
    )


class Broker(msgspec.Struct, frozen=True):
    """The broker whose requests are answered; how to verify it, None for plain MQTT; what to call once we are there."""

    address: BrokerAddress
    tls: ssl.SSLContext | None
    on_connected: Callable[[str], None]


class HttpAuthServer:
    """The listener and what is behind it, within a running event loop."""

    def __init__(self, state: StateDirectory, host: str, port: int, *, certificate: Certificate | None) -> None:
        self._state = state
        self._address = (host, port)
        self._certificate = certificate
        self._secret = path_secret(state.path)
        self._stopping = asyncio.Event()

    async def run(self, broker: Broker | None, on_listening: Callable[[str], None]) -> None:
        """Serve until SIGTERM or SIGINT; `on_listening` gets the URL. Raises `HttpAuthError` and `StateError`."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopping.set)
        self._authorities = self._state.authorities()
        answering = self._answering(is_ours=broker is not None)
        listener = self._bind()
        responder = new_responder(self._state, loop, self._sign)
        reader = self._state.store.reader()
        desk = Desk(responder, reader, self._state.keys, now_s=time.monotonic, answering=answering.now)
        responder.start()
        try:
            async with contextlib.AsyncExitStack() as stack:
                routed = None
                if broker is not None:
                    routed = RoutedResponder(responder, desk, answering, broker.address, broker.tls)
                    await self._join(stack, responder, routed, broker)
                ticking = loop.create_task(self._tick(responder, routed))
                stack.callback(ticking.cancel)
                on_listening(self._url(listener))
                await self._serve(desk, listener)
        finally:
            listener.close()
            await drain(responder)
            responder.release()
            reader.close()
            answering.close()

    def _answering(self, *, is_ours: bool) -> Answering:
        try:
            return Answering(self._state.path, is_ours=is_ours)
        except OSError as error:
            raise HttpAuthError(f"cannot write in {self._state.path}: {error.strerror or error}") from error

    def _bind(self) -> socket.socket:
        host, port = self._address
        try:
            return socket.create_server(self._address, family=socket.AF_INET6 if ":" in host else socket.AF_INET)
        except (OSError, OverflowError) as error:
            raise HttpAuthError(f"cannot listen on {host}:{port}: {error}; choose another address") from error

    def _url(self, listener: socket.socket) -> str:
        host = self._address[0]
        shown = f"[{host}]" if ":" in host else host
        return f"{'http' if self._certificate is None else 'https'}://{shown}:{listener.getsockname()[1]}"

    def _sign(
        self, csr_pem: str, device_id: str, device_name: str, serial_entropy: bytes, at_ms: int
    ) -> SignedCertificate:
        return self._authorities.active.sign_device(csr_pem, device_id, device_name, serial_entropy, at_ms)

    async def _join(
        self, stack: contextlib.AsyncExitStack, responder: Responder, routed: RoutedResponder, broker: Broker
    ) -> None:
        """Be the responder on the broker too; commands that end sessions wait until that has happened there."""
        responder.open_outbox(routed.publish_event)
        bell = Bell(self._state.path)
        await bell.open(routed.act)
        stack.push_async_callback(bell.close)
        task = asyncio.get_running_loop().create_task(self._connect(routed, broker))
        stack.push_async_callback(routed.link.close)
        stack.callback(task.cancel)

    async def _connect(self, routed: RoutedResponder, broker: Broker) -> None:
        await routed.link.start()
        broker.on_connected(broker.address.url)

    async def _tick(self, responder: Responder, routed: RoutedResponder | None) -> None:
        while True:
            more = responder.tick(publish=routed is not None and routed.link.is_up)
            await asyncio.sleep(0 if more else TICK_S)

    async def _serve(self, desk: Desk, listener: socket.socket) -> None:
        server = uvicorn.Server(listener_settings(desk, self._secret, self._certificate))
        stopper = asyncio.get_running_loop().create_task(self._stop(server))
        try:
            # It takes the signals for its own while it serves, and raises them again at its end.
            await server.serve(sockets=[listener])
        finally:
            stopper.cancel()

    async def _stop(self, server: uvicorn.Server) -> None:
        await self._stopping.wait()
        server.should_exit = True


def serve(
    state: StateDirectory,
    host: str,
    port: int,
    *,
    certificate: Certificate | None,
    broker: Broker | None,
    on_listening: Callable[[str], None],
) -> None:
    """Run until SIGTERM or SIGINT. Raises `HttpAuthError` and `StateError`. Port 0 takes any free one."""

    async def run() -> None:
        await HttpAuthServer(state, host, port, certificate=certificate).run(broker, on_listening)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())
