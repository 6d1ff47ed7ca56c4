"""The responder beside Mosquitto (`mqttprov respond`): an MQTT client that answers what the gate plugin passes on.

This is where time, randomness and the event loop come from. Any number of them may run on one state and one machine:
the broker shares requests among them, and one of them follows the audit chain.
"""

import asyncio
import contextlib
import gc
import logging
import os
import signal
import ssl
import stat
import sys
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec
import uvloop

from mqttprov.brokers.bell import Bell
from mqttprov.brokers.chain_follower import ChainFollower
from mqttprov.brokers.embedded import BrokerError
from mqttprov.brokers.gate_desk import SHARED_FILTERS, GateDesk
from mqttprov.brokers.gate_link import BrokerAddress, Link, parse_url
from mqttprov.brokers.mosquitto.trust_keeper import TrustKeeper
from mqttprov.brokers.responder_run import DRAIN_TIMEOUT_S, now_ms
from mqttprov.brokers.standing_link import GateRefused, StandingLink
from mqttprov.core.credentials import SignedCertificate
from mqttprov.core.permissions import RESPONSE_TOPIC
from mqttprov.mqtt import Publish
from mqttprov.responder.checkpoints import CheckpointWriter, PeriodicCheckpoints
from mqttprov.responder.service import Responder
from mqttprov.responder.state_directory import StateDirectory
from mqttprov.store.protocol import StoreUnavailable

TICK_S: Final = 0.1
GOODBYE_TIMEOUT_S: Final = 2.0
MAX_PASSWORD_CHARS: Final = 127  # what the gate plugin reads of its file

_log = logging.getLogger(__name__)


class SidecarSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The file of `mqttprov respond --config`; paths in it are relative to it."""

    broker: str | None = None
    password_file: Path | None = None
    state: Path | None = None
    trust: Path | None = None  # where Mosquitto looks for client certificates


def read_settings(path: Path) -> SidecarSettings:
    """Read the file. Raises `BrokerError`."""
    try:
        values = tomllib.loads(path.read_text("utf-8"))
        settings = msgspec.convert(values, SidecarSettings, dec_hook=lambda _, text: path.parent / text)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        known = ", ".join(SidecarSettings.__struct_fields__)
        raise BrokerError(f"the settings in {path} cannot be used: {error}; known are: {known}") from error
    return settings


def read_password(path: Path) -> str:
    """Read the responder's password, one line that only we may read. Raises `BrokerError`."""
    try:
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            raise BrokerError(f"{path} is a secret but others may read it; run: chmod 600 {path}")
        password = path.read_text("utf-8").split("\n", 1)[0].rstrip("\r")
    except (OSError, UnicodeDecodeError) as error:
        raise BrokerError(f"the responder's password in {path} cannot be read: {error}") from error
    if not 0 < len(password.encode()) <= MAX_PASSWORD_CHARS:
        raise BrokerError(
            f"{path} must hold the responder's password in one line of at most {MAX_PASSWORD_CHARS} bytes"
        )
    return password


def address_of(url: str) -> BrokerAddress:
    """Read a broker's URL. Raises `BrokerError`."""
    try:
        return parse_url(url)
    except ValueError as error:
        raise BrokerError(str(error)) from error


class Sidecar:
    """The responder of one state directory beside one broker, within a running event loop."""

    def __init__(
        self, state: StateDirectory, address: BrokerAddress, password: str, *, trust: Path | None = None
    ) -> None:
        """`trust` is the folder of client certificates that the broker trusts, if it takes any."""
        self._state = state
        self._trust = trust
        self._address = address
        self._password = password
        self._bell: Bell | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self.failed: asyncio.Future[str] = asyncio.get_running_loop().create_future()  # why it cannot go on

    async def start(self) -> None:
        """Connect, however long the broker takes to be there. Raises `BrokerError` and `StateError`."""
        loop = asyncio.get_running_loop()
        signer = self._state.audit_signer(os.urandom)
        self._responder = Responder(
            self._state.store,
            self._state.keys,
            now_ms=now_ms,
            now_s=time.monotonic,
            entropy=os.urandom,
            call_soon=loop.call_soon_threadsafe,
            sign=self._sign,
        )
        self._gate = StandingLink(
            self._address, self._password, tls=self._tls(), prepare=self._prepare, on_message=self._on_message
        )
        keeper = None if self._trust is None else TrustKeeper(self._trust, self._state, self._responder)
        self._desk = GateDesk(self._responder, lambda: self._gate.link, keeper.granted if keeper else None)
        self._follower = ChainFollower(self._state.path, self._responder, self._gate, keeper.met if keeper else None)
        self._checkpoints = PeriodicCheckpoints(
            CheckpointWriter(self._state.store, signer, self._state.checkpoints_path),
            self._follower.publish_checkpoint,
            now_s=time.monotonic,
            run_aside=lambda function: loop.run_in_executor(None, function),
            call_soon=loop.call_soon_threadsafe,
        )
        self._responder.start()
        try:
            if keeper is not None:
                keeper.begin()
            await self._open()
        except BaseException:
            self._responder.close()
            self._responder.release()
            if self._bell is not None:
                await self._bell.close()
            raise
        self._tasks = [loop.create_task(self._follower.run(self._checkpoints)), loop.create_task(self._tick())]

    def _sign(
        self, csr_pem: str, device_id: str, device_name: str, serial_entropy: bytes, at_ms: int
    ) -> SignedCertificate:
        """Have a device's certificate issued by the authority that is active now, whoever made it so."""
        return self._state.authority.sign_device(csr_pem, device_id, device_name, serial_entropy, at_ms)

    async def _open(self) -> None:
        try:
            self._bell = Bell(self._state.path, "respond")  # before the first session that a command may have to end
            await self._bell.open(self._follower.settled)
        except OSError as error:
            raise BrokerError(f"cannot listen for commands in {self._state.path}: {error.strerror or error}") from error
        try:
            await self._gate.start()
        except GateRefused as error:
            raise BrokerError(str(error)) from error

    def _tls(self) -> ssl.SSLContext | None:
        """Trust what the system trusts and our own authority, which `serve` and the set-up make certificates with."""
        if not self._address.tls:
            return None
        context = ssl.create_default_context()
        context.load_verify_locations(cadata=self._state.authority.certificate_pem)
        return context

    async def _prepare(self, link: Link) -> None:
        """Make a connection ready. Raises `GateRefused` when there is no gate, or one that knows us not."""
        # A broker without gate takes commands too, and does nothing about them. What it does not do is to keep us from
        # the replies, which are nobody's but the requester's.
        (forbidden,) = await link.subscribe(RESPONSE_TOPIC)
        codes = await link.subscribe(*SHARED_FILTERS) if forbidden >= 0x80 else ()
        if not codes or any(code >= 0x80 for code in (*codes, await link.execute("hello - 0"))):
            raise GateRefused(
                f"{self._address.url} takes the login but does not act like the gate: the gate plugin is not loaded; "
                "see 'plugin' in the broker's configuration"
            )

    def _on_message(self, link: Link, publish: Publish) -> None:
        if self._follower.heard(publish):
            link.settle(publish.packet_id)
        else:
            self._desk.message(link, publish)

    async def _tick(self) -> None:
        while True:
            self._responder.tick()
            try:
                self._state.store.check()
            except StoreUnavailable as error:  # nothing heals it but a new start, on whatever file is there then
                self.failed.set_result(str(error))
                return
            await asyncio.sleep(TICK_S)

    async def stop(self) -> None:
        """Take nothing more, answer every accepted request, publish and sign the last events, say goodbye."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        with contextlib.suppress(Exception):  # whatever it is that ends the connection, the gate asks others again
            async with asyncio.timeout(GOODBYE_TIMEOUT_S):
                if self._gate.link is not None:
                    await self._gate.link.unsubscribe(*SHARED_FILTERS)
        self._responder.close()
        loop = asyncio.get_running_loop()
        if not await loop.run_in_executor(None, self._responder.join, DRAIN_TIMEOUT_S):
            _log.error("some requests could not be committed within %d s", DRAIN_TIMEOUT_S)
        await asyncio.sleep(0)  # the last answers are delivered before this goes on
        self._responder.finish()
        try:
            async with asyncio.timeout(GOODBYE_TIMEOUT_S):
                await self._follower.finish()
        except TimeoutError:
            _log.error("the last audit events are published after the next start")
        note = await loop.run_in_executor(None, self._checkpoints.write_now)
        if note is not None:
            self._follower.publish_checkpoint(note)
        await self._gate.close()
        if self._bell is not None:
            await self._bell.close()
        self._responder.release()


async def _respond(
    state: StateDirectory,
    address: BrokerAddress,
    password: str,
    trust: Path | None,
    on_connected: Callable[[str], None],
) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    sidecar = Sidecar(state, address, password, trust=trust)
    starting = loop.create_task(sidecar.start())
    stopping = loop.create_task(stop.wait())
    await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        return
    starting.result()
    on_connected(address.url)
    # What lives from start to end need not be looked at again by every collection.
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
    # The writer thread needs the interpreter only for moments between two steps of SQLite.
    sys.setswitchinterval(0.001)
    ends: tuple[asyncio.Future[Any], ...] = (stopping, sidecar.failed)
    await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    _log.info("stopping")
    await sidecar.stop()
    if sidecar.failed.done():
        raise BrokerError(sidecar.failed.result())


def respond(
    state: StateDirectory,
    address: BrokerAddress,
    password: str,
    *,
    trust: Path | None,
    on_connected: Callable[[str], None],
) -> None:
    """Run the responder until SIGTERM or SIGINT; `on_connected` gets the broker's URL once. Raises `BrokerError`.

    `trust` is the folder of client certificates that the broker trusts, if it takes any.
    """
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_respond(state, address, password, trust, on_connected))
