"""Our own broker with the responder in one process: listeners, signals, start and end (`mqttprov serve`).

This is where time, randomness and the event loop come from; the parts below are given them.
"""

import asyncio
import contextlib
import gc
import logging
import os
import resource
import signal
import ssl
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol

import uvloop

from mqttprov.brokers import tls
from mqttprov.brokers.bell import Bell
from mqttprov.brokers.broker import EmbeddedBroker
from mqttprov.brokers.listeners import Door, Listeners
from mqttprov.brokers.outcomes import Outcome
from mqttprov.brokers.websocket import PATH, WebSocket
from mqttprov.core.audit import ChainedEvent, EventKind
from mqttprov.core.credentials import SignedCertificate
from mqttprov.mqtt import ReasonCode
from mqttprov.responder.certificate_lists import PeriodicLists
from mqttprov.responder.checkpoints import CheckpointWriter, PeriodicCheckpoints
from mqttprov.responder.service import Responder
from mqttprov.responder.state_directory import StateDirectory
from mqttprov.responder.state_files import StateError
from mqttprov.store.protocol import StoreUnavailable

OUTBOX_INTERVAL_S: Final = 0.1
DRAIN_TIMEOUT_S: Final = 15.0
CLOSE_TIMEOUT_S: Final = 2.0
_AUTHORITIES_CHANGED: Final = frozenset(
    {EventKind.AUTHORITY_CREATED, EventKind.AUTHORITY_ROTATED, EventKind.AUTHORITY_RETIRED}
)
_SPARE_FILES: Final = 64  # kept free of connections: database, log, listeners
MQTT: Final = Door("mqtt", "", lambda connection: connection)
MQTTS: Final = Door("mqtts", "", lambda connection: connection)
WS: Final = Door("ws", PATH, WebSocket)
WSS: Final = Door("wss", PATH, WebSocket)

_log = logging.getLogger(__name__)


class BrokerError(Exception):
    """The broker cannot start; the text says what, why and what to do."""


def now_ms() -> int:
    """Give the wall clock in ms since the epoch."""
    return time.time_ns() // 1_000_000


class EmbeddedServer:
    """Broker, responder and listeners of one state directory, within a running event loop.

    Port 0 takes any free one; None opens no such listener. `on_outcome` is told what happens and must not raise.
    """

    def __init__(
        self,
        state: StateDirectory,
        *,
        host: str,
        port: int | None,
        tls_port: int | None = None,
        ws_port: int | None = None,
        wss_port: int | None = None,
        on_outcome: Callable[[Outcome], None] | None = None,
    ) -> None:
        self._state = state
        self._on_outcome = on_outcome
        self._host = host
        self._plain = ((MQTT, port), (WS, ws_port))
        self._secure = ((MQTTS, tls_port), (WSS, wss_port))
        self._ticks: list[asyncio.TimerHandle] = []
        self._stopping = False

    async def start(self) -> list[str]:
        """Open the listeners and give their URLs. Raises `BrokerError`, `StateError` and `StoreUnavailable`."""
        loop = asyncio.get_running_loop()
        signer = self._state.audit_signer(os.urandom)
        self._state.settle_authorities()
        self._authorities = self._state.authorities()
        self._context: ssl.SSLContext | None = None
        checkpoints = CheckpointWriter(self._state.store, signer, self._state.checkpoints_path)
        self._responder = Responder(
            self._state.store,
            self._state.keys,
            now_ms=now_ms,
            now_s=time.monotonic,
            entropy=os.urandom,
            call_soon=loop.call_soon_threadsafe,
            sign=self._sign,
        )
        self._bell: Bell | None = None
        self._listeners: Listeners | None = None
        try:
            urls = await self._open(loop, checkpoints)
        except BaseException:
            self._close_listeners()
            await self._close_bell()
            self._responder.release()
            raise
        self._responder.start()
        self._tick()
        self._turn()
        return urls

    async def _open(self, loop: asyncio.AbstractEventLoop, checkpoints: CheckpointWriter) -> list[str]:
        secure = any(port is not None for _, port in self._secure)
        self._context = context = self._tls_context() if secure else None
        self.broker = EmbeddedBroker(
            self._responder,
            loop,
            new_client_id=lambda: f"auto-{os.urandom(10).hex()}",
            max_connections=max(file_limit() - _SPARE_FILES, 1),
            trust_certificate=(lambda pem: tls.trust(context, [pem])) if context else None,
            on_outcome=self._on_outcome,
        )
        self._responder.open_outbox(self._publish_event)
        if context is not None:  # after the outbox took its place: no certificate is registered between the two
            tls.trust(context, [self._authorities.certificates_pem, *self._responder.certificates()])
        self._lists = PeriodicLists(
            self._state.certificate_lists(now_ms),
            now_s=time.monotonic,
            run_aside=lambda function: loop.run_in_executor(None, function),
            call_soon=loop.call_soon_threadsafe,
        )
        self._checkpoints = PeriodicCheckpoints(
            checkpoints,
            self.broker.publish_checkpoint,
            now_s=time.monotonic,
            run_aside=lambda function: loop.run_in_executor(None, function),
            call_soon=loop.call_soon_threadsafe,
        )
        try:
            self._bell = Bell(self._state.path)  # before the first client, so that a command finds every session
            await self._bell.open(self._act)
        except OSError as error:
            raise BrokerError(f"cannot listen for commands in {self._state.path}: {error.strerror or error}") from error
        self._listeners = Listeners(self.broker)
        plain = [await self._listen(door, port, None) for door, port in self._plain if port is not None]
        return plain + [await self._listen(door, port, context) for door, port in self._secure if port is not None]

    async def _listen(self, door: Door, port: int, context: ssl.SSLContext | None) -> str:
        assert self._listeners is not None  # noqa: S101 - for the type checker: made before
        try:
            return await self._listeners.open(door, self._host, port, context)
        except OSError as error:
            why = error.strerror or error
            raise BrokerError(f"cannot listen on {self._host}, port {port}: {why}; choose another port") from error

    def _tls_context(self) -> ssl.SSLContext:
        settings, path = self._state.settings.tls, self._state.path
        if settings.certificate and settings.private_key:
            certificate, key = path / settings.certificate, path / settings.private_key
        elif settings.certificate or settings.private_key:
            raise BrokerError("[tls] in mqttprov.toml needs both 'certificate' and 'private_key', or neither")
        else:
            certificate, key = self._made_certificate(path)
        try:
            return tls.server_context(certificate, key, required=settings.client_certificates == "required")
        except (OSError, ssl.SSLError) as error:
            raise BrokerError(f"the TLS certificate {certificate} cannot be used: {error}") from error

    def _made_certificate(self, path: Path) -> tuple[Path, Path]:
        try:
            return tls.make_server_certificate(self._authorities.serving(now_ms()), self._host, path, now_ms())
        except (OSError, ValueError) as error:
            raise BrokerError(f"cannot make a TLS certificate for {self._host}: {error}") from error

    def _sign(
        self, csr_pem: str, device_id: str, device_name: str, serial_entropy: bytes, at_ms: int
    ) -> SignedCertificate:
        """Have a device's certificate issued by the authority that is active now."""
        return self._authorities.active.sign_device(csr_pem, device_id, device_name, serial_entropy, at_ms)

    def _publish_event(self, event: ChainedEvent) -> None:
        if event.kind in _AUTHORITIES_CHANGED:
            self._take_up_authorities()
        self._lists.note(event)
        self.broker.publish_event(event)

    def _take_up_authorities(self) -> None:
        """Sign and trust as the store says now, without a restart; what cannot be taken up leaves all as it was."""
        try:
            authorities = self._state.authorities()
            if self._context is not None:
                tls.trust(self._context, [authorities.certificates_pem])
                changed = authorities.serving(now_ms()).key_id != self._authorities.serving(now_ms()).key_id
                self._authorities = authorities
                if changed and not self._state.settings.tls.certificate:
                    self._context.load_cert_chain(*self._made_certificate(self._state.path))
            self._authorities = authorities
        except (StateError, StoreUnavailable, BrokerError, OSError) as error:
            _log.error("the certificate authorities were not taken up; restart after this is repaired: %s", error)

    def _tick(self) -> None:
        """Publish audit events, of this process and of others."""
        more = self._responder.tick()
        self._checkpoints.tick(self._responder.published_seq)
        self._lists.tick()
        self.broker.flush()
        delay = 0.0 if more else OUTBOX_INTERVAL_S
        self._repeat(0, delay, self._tick)

    async def _act(self, seq: int) -> None:
        """Act on the audit chain up to this place; return when it had its effect. Raises `StoreUnavailable`."""
        settled = asyncio.Event()
        self._responder.catch_up(seq)
        self.broker.flush()
        self.broker.farewells.when_settled(seq, settled.set)
        await settled.wait()
        await asyncio.sleep(0)  # a connection that was ended is closed in the loop's next turn

    def _turn(self) -> None:
        """End what is overdue."""
        self.broker.turn()
        self._repeat(1, 1.0, self._turn)

    def _repeat(self, place: int, delay_s: float, function: Callable[[], None]) -> None:
        if not self._stopping:
            handle = asyncio.get_running_loop().call_later(delay_s, function)
            self._ticks[place : place + 1] = [handle]

    async def stop(self) -> None:
        """Take no more connections, answer every accepted request, publish and sign the last events, say goodbye."""
        self._stopping = True
        for handle in self._ticks:
            handle.cancel()
        self._close_listeners()
        self._responder.close()
        loop = asyncio.get_running_loop()
        if not await loop.run_in_executor(None, self._responder.join, DRAIN_TIMEOUT_S):
            _log.error("some requests could not be committed within %d s", DRAIN_TIMEOUT_S)
        await asyncio.sleep(0)  # the last answers are delivered before this goes on
        self._responder.finish()
        note = await loop.run_in_executor(None, self._checkpoints.write_now)
        await loop.run_in_executor(None, self._lists.write_now)
        if note is not None:
            self.broker.publish_checkpoint(note)
        self.broker.flush()
        self.broker.disconnect_all(ReasonCode.SERVER_SHUTTING_DOWN)
        try:
            await asyncio.wait_for(self.broker.empty.wait(), CLOSE_TIMEOUT_S)
        except TimeoutError:
            self.broker.cut_off()
            await self.broker.empty.wait()
        await self._close_bell()
        self._responder.release()

    async def _close_bell(self) -> None:
        if self._bell is not None:
            await self._bell.close()

    def _close_listeners(self) -> None:
        if self._listeners is not None:
            self._listeners.close()


def file_limit() -> int:
    """Give how many files this process may have open."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return min(soft, 1_000_000) if soft != resource.RLIM_INFINITY else 1_000_000


def _raise_file_limit() -> None:
    """Allow as many open files as the system lets us."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


class Server(Protocol):
    """What `serve` runs."""

    async def start(self) -> list[str]:
        """Open the listeners and give their URLs. Raises `BrokerError`, `StateError` and `StoreUnavailable`."""

    async def stop(self) -> None:
        """End it in order."""


async def _serve(server: Server, on_listening: Callable[[list[str]], None]) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    on_listening(await server.start())
    # What lives from start to end need not be looked at again by every collection.
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
    # The writer thread needs the interpreter only for moments between two steps of SQLite.
    sys.setswitchinterval(0.001)
    await stop.wait()
    _log.info("stopping")
    await server.stop()


def serve(server: Server, on_listening: Callable[[list[str]], None]) -> None:
    """Run broker and responder until SIGTERM or SIGINT; `on_listening` gets the URLs once. Raises `BrokerError`.

    The process is the broker's: what belongs to the process as a whole is set here, and nowhere else.
    """
    _raise_file_limit()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(server, on_listening))
