"""Our own broker with the responder in one process: listeners, signals, start and end (`mqttprov serve`).

The event loop and what belongs to the process are from here; the responder's life is `responder_run`'s.
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
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final, Protocol

import uvloop

from mqttprov.brokers import tls
from mqttprov.brokers.broker import EmbeddedBroker
from mqttprov.brokers.listeners import Door, Listeners
from mqttprov.brokers.outcomes import Outcome
from mqttprov.brokers.responder_run import BrokerRun, now_ms
from mqttprov.brokers.websocket import PATH, WebSocket
from mqttprov.core.audit import ChainedEvent
from mqttprov.mqtt import ReasonCode
from mqttprov.responder.authorities import Authorities
from mqttprov.responder.doorbell import FOLDER
from mqttprov.responder.state_directory import StateDirectory

TURN_S: Final = 1.0
CLOSE_TIMEOUT_S: Final = 2.0
_SPARE_FILES: Final = 64  # kept free of connections: database, log, listeners
MQTT: Final = Door("mqtt", "", lambda connection: connection)
MQTTS: Final = Door("mqtts", "", lambda connection: connection)
WS: Final = Door("ws", PATH, WebSocket)
WSS: Final = Door("wss", PATH, WebSocket)

_log = logging.getLogger(__name__)


class BrokerError(Exception):
    """The broker cannot start; the text says what, why and what to do."""


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

    async def start(self) -> list[str]:
        """Open the listeners and give their URLs. Raises `BrokerError`, `StateError` and `StoreUnavailable`."""
        loop = asyncio.get_running_loop()
        self._trust: tls.ClientTrust | None = None
        self._run = BrokerRun(self._state, loop)
        self._listeners: Listeners | None = None
        try:
            urls = await self._open(loop)
        except BaseException:
            self._close_listeners()
            await self._run.close()
            raise
        self._run.start()
        self._turn()
        return urls

    async def _open(self, loop: asyncio.AbstractEventLoop) -> list[str]:
        self.broker = EmbeddedBroker(
            self._run.responder,
            loop,
            new_client_id=lambda: f"auto-{os.urandom(10).hex()}",
            max_connections=max(file_limit() - _SPARE_FILES, 1),
            on_outcome=self._on_outcome,
        )
        try:
            await self._run.open(
                self._publish_event, self.broker.publish_checkpoint, partial(settled, self.broker), self._take_up
            )
        except OSError as error:
            raise BrokerError(
                f"cannot listen for commands in {self._state.path / FOLDER}: {error.strerror or error}"
            ) from error
        if any(port is not None for _, port in self._secure):  # after the outbox took its place: no change is missed
            self._trust = self._client_trust()
        self._listeners = Listeners(self.broker)
        plain = [await self._listen(door, port, None) for door, port in self._plain if port is not None]
        return plain + [await self._listen(door, port, self._trust) for door, port in self._secure if port is not None]

    async def _listen(self, door: Door, port: int, trust: tls.ClientTrust | None) -> str:
        assert self._listeners is not None  # noqa: S101 - for the type checker: made before
        try:
            return await self._listeners.open(door, self._host, port, trust)
        except OSError as error:
            why = error.strerror or error
            raise BrokerError(f"cannot listen on {self._host}, port {port}: {why}; choose another port") from error

    def _client_trust(self) -> tls.ClientTrust:
        self._server_files = self._server_certificate()
        self._authorities_pem = self._trusted(self._run.authorities)
        try:
            trust = tls.ClientTrust(self._tls_context, self._run.responder.knows_certificate)
        except OSError as error:  # those of TLS are such, too
            raise BrokerError(f"the TLS certificate {self._server_files[0]} cannot be used: {error}") from error
        tls.warn_of_ended(self._server_files[0], now_ms())
        return trust

    def _server_certificate(self) -> tuple[Path, Path]:
        """Give the files of the broker's own certificate and private key; where there are none they are made."""
        settings, path = self._state.settings.tls, self._state.path
        if settings.certificate and settings.private_key:
            return path / settings.certificate, path / settings.private_key
        if settings.certificate or settings.private_key:
            raise BrokerError("[tls] in mqttprov.toml needs both 'certificate' and 'private_key', or neither")
        try:
            return self._made_certificate(self._run.authorities)
        except (OSError, ValueError) as error:
            raise BrokerError(f"cannot make a TLS certificate for {self._host}: {error}") from error

    def _trusted(self, authorities: Authorities) -> str:
        return "".join([authorities.certificates_pem, *self._run.responder.chain_authorities()])

    def _tls_context(self) -> ssl.SSLContext:
        required = self._state.settings.tls.client_certificates == "required"
        return tls.server_context(*self._server_files, self._authorities_pem, required=required)

    def _made_certificate(self, authorities: Authorities) -> tuple[Path, Path]:
        return tls.make_server_certificate(authorities.serving(now_ms()), self._host, self._state.path, now_ms())

    def _take_up(self, authorities: Authorities) -> None:
        """Trust these authorities from now on, and show a certificate of the one that signs ours."""
        if self._trust is not None:
            changed = authorities.serving(now_ms()).key_id != self._run.authorities.serving(now_ms()).key_id
            if changed and not self._state.settings.tls.certificate:
                self._server_files = self._made_certificate(authorities)
            self._authorities_pem = self._trusted(authorities)
            self._trust.renew()

    def _publish_event(self, event: ChainedEvent) -> None:
        self.broker.publish_event(event)
        self.broker.flush_soon()

    def _turn(self) -> None:
        """End what is overdue."""
        self.broker.turn()
        self._turn_handle = asyncio.get_running_loop().call_later(TURN_S, self._turn)

    async def stop(self) -> None:
        """Take no more connections, answer every accepted request, publish and sign the last events, say goodbye."""
        self._turn_handle.cancel()
        self._close_listeners()
        await self._run.finish()
        await say_goodbye(self.broker)
        await self._run.close()

    def _close_listeners(self) -> None:
        if self._listeners is not None:
            self._listeners.close()


async def settled(broker: EmbeddedBroker, seq: int) -> None:
    """Return when the sessions that this audit event ends are gone."""
    over = asyncio.Event()
    broker.flush()
    broker.farewells.when_settled(seq, over.set)
    await over.wait()
    await asyncio.sleep(0)  # a connection that was ended is closed in the loop's next turn


async def say_goodbye(broker: EmbeddedBroker) -> None:
    """End all sessions; cut off who does not take leave in time."""
    broker.flush()
    broker.disconnect_all(ReasonCode.SERVER_SHUTTING_DOWN)
    try:
        await asyncio.wait_for(broker.empty.wait(), CLOSE_TIMEOUT_S)
    except TimeoutError:
        broker.cut_off()
        await broker.empty.wait()


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
