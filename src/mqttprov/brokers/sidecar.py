"""The responder beside Mosquitto (`mqttprov respond`): an MQTT client that answers what the gate plugin passes on.

This is where time, randomness and the event loop come from. Any number of them may run on one state and one machine:
the broker shares requests among them, and one of them follows the audit chain.
"""

import asyncio
import contextlib
import gc
import logging
import signal
import ssl
import stat
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec
import uvloop

from mqttprov.brokers.broker_link import BrokerAddress, parse_url
from mqttprov.brokers.chain_follower import ChainFollower
from mqttprov.brokers.embedded import BrokerError
from mqttprov.brokers.gate_desk import SHARED_FILTERS, GateDesk
from mqttprov.brokers.gate_link import GateLink, GateRefused
from mqttprov.brokers.responder_run import ResponderRun
from mqttprov.brokers.standing_link import StandingLink
from mqttprov.core.credentials import SignedCertificate
from mqttprov.core.permissions import RESPONSE_TOPIC
from mqttprov.mqtt import Publish
from mqttprov.responder.doorbell import FOLDER
from mqttprov.responder.state_directory import StateDirectory
from mqttprov.store.protocol import StoreUnavailable

GOODBYE_TIMEOUT_S: Final = 2.0
MAX_PASSWORD_CHARS: Final = 127  # what the gate plugin reads of its file

_log = logging.getLogger(__name__)


class SidecarSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The file of `mqttprov respond --config`; paths in it are relative to it."""

    broker: str | None = None
    password_file: Path | None = None
    state: Path | None = None


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

    def __init__(self, state: StateDirectory, address: BrokerAddress, password: str) -> None:
        self._state = state
        self._address = address
        self._password = password
        self.failed: asyncio.Future[str] = asyncio.get_running_loop().create_future()  # why it cannot go on

    async def start(self) -> None:
        """Connect, however long the broker takes to be there. Raises `BrokerError` and `StateError`."""
        loop = asyncio.get_running_loop()
        self._run = ResponderRun(self._state, loop, self._sign, verb="respond")
        responder = self._run.responder
        self._gate = StandingLink(self._address, self._new_link, tls=self._tls(), prepare=self._prepare)
        self._desk = GateDesk(responder, lambda: self._gate.link)
        self._follower = ChainFollower(self._state.path, responder, self._gate)
        responder.start()
        try:
            await self._open()
        except BaseException:
            responder.close()
            await self._run.close()
            raise
        self._following = loop.create_task(self._follower.run(self._run.checkpoints))
        self._run.keep_ticking(self._turn)

    def _new_link(self) -> GateLink:
        return GateLink(self._address, self._password, self._on_message)

    def _sign(
        self, csr_pem: str, device_id: str, device_name: str, serial_entropy: bytes, at_ms: int
    ) -> SignedCertificate:
        """Have a device's certificate issued by the authority that is active now, whoever made it so."""
        return self._state.authority.sign_device(csr_pem, device_id, device_name, serial_entropy, at_ms)

    async def _open(self) -> None:
        try:
            await self._run.hear(self._follower.publish_checkpoint, self._follower.settled)
        except OSError as error:
            raise BrokerError(
                f"cannot listen for commands in {self._state.path / FOLDER}: {error.strerror or error}"
            ) from error
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

    async def _prepare(self, link: GateLink) -> None:
        """Make a connection ready. Raises `GateRefused` when there is no gate, or one that knows us not."""
        # A broker without gate takes commands too, and does nothing about them. What it does not do is to keep us from
        # the replies, which are nobody's but the requester's.
        (forbidden,) = await link.subscribe(RESPONSE_TOPIC)
        codes = await link.subscribe(*SHARED_FILTERS) if forbidden >= 0x80 else ()
        if not codes or any(code >= 0x80 for code in codes):
            raise GateRefused(
                f"{self._address.url} takes the login but does not act like the gate: the gate plugin is not loaded; "
                "see 'plugin' in the broker's configuration"
            )

    def _on_message(self, link: GateLink, publish: Publish) -> None:
        if self._follower.heard(publish):
            link.settle(publish.packet_id)
        else:
            self._desk.message(link, publish)

    def _turn(self) -> bool:
        try:
            self._state.store.check()
        except StoreUnavailable as error:  # nothing heals it but a new start, on whatever file is there then
            if not self.failed.done():
                self.failed.set_result(str(error))
        return self._run.responder.tick()

    async def stop(self) -> None:
        """Take nothing more, answer every accepted request, publish and sign the last events, say goodbye."""
        self._following.cancel()
        await asyncio.gather(self._following, return_exceptions=True)
        with contextlib.suppress(Exception):  # whatever it is that ends the connection, the gate asks others again
            async with asyncio.timeout(GOODBYE_TIMEOUT_S):
                if self._gate.link is not None:
                    await self._gate.link.unsubscribe(*SHARED_FILTERS)
        await self._run.drain()
        try:
            async with asyncio.timeout(GOODBYE_TIMEOUT_S):
                await self._follower.finish()
        except TimeoutError:
            _log.error("the last audit events are published after the next start")
        await self._run.sign_off()
        await self._gate.close()
        await self._run.close()


async def _respond(
    state: StateDirectory,
    address: BrokerAddress,
    password: str,
    on_connected: Callable[[str], None],
) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    sidecar = Sidecar(state, address, password)
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
    on_connected: Callable[[str], None],
) -> None:
    """Run the responder until SIGTERM or SIGINT; `on_connected` gets the broker's URL once. Raises `BrokerError`."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_respond(state, address, password, on_connected))
