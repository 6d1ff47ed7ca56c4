"""Keeps the responder connected to its broker: connects, makes the connection ready, and again when it is lost."""

import asyncio
import contextlib
import logging
import random
import ssl
import time
from collections.abc import Awaitable, Callable
from typing import Final, Generic, TypeVar

from mqttprov.brokers.broker_link import BrokerAddress, Link, LinkLost
from mqttprov.brokers.gate_link import GateRefused
from mqttprov.gateway.backoff import MachineSettings, backoff_delay_s

CONNECT_TIMEOUT_S: Final = 10.0
_BACKOFF: Final = MachineSettings(backoff_base_s=0.25, backoff_cap_s=15.0)
_SETTLED_AFTER_S: Final = 30.0  # a connection that lasted for so long begins the back-off anew

_log = logging.getLogger(__name__)
L = TypeVar("L", bound=Link)


class StandingLink(Generic[L]):
    """Keeps a link to one broker: connects, prepares it, and does so again whenever it is lost."""

    def __init__(
        self,
        address: BrokerAddress,
        new_link: Callable[[], L],
        *,
        tls: ssl.SSLContext | None,
        prepare: Callable[[L], Awaitable[None]],
    ) -> None:
        """`prepare` makes a connection ready for use, or raises `LinkLost` or `GateRefused`."""
        self.address = address
        self._new_link = new_link
        self._tls = tls
        self._prepare = prepare
        self._link: L | None = None
        self._is_up = asyncio.Event()
        self._complaint = ""  # the last one: what goes on is told once
        self._task: asyncio.Task[None] | None = None

    @property
    def link(self) -> L | None:
        """The connection that can be spoken over, if there is one."""
        return self._link

    @property
    def is_up(self) -> bool:
        """Whether there is a connection, and it is ready."""
        return self._is_up.is_set()

    async def up(self) -> L:
        """Wait for a connection that is up."""
        while True:
            await self._is_up.wait()
            if self._link is not None:
                return self._link

    async def start(self) -> None:
        """Connect, however long that takes. Raises `GateRefused` when the broker is there but refuses us."""
        attempt = 0
        while True:
            try:
                link = await self._open()
                break
            except (OSError, LinkLost) as error:
                attempt = await self._retry(attempt, self._unreachable(error))
        self._task = asyncio.create_task(self._run(link))

    async def close(self) -> None:
        """Say goodbye for good."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        if self._link is not None:
            self._link.close()

    async def _run(self, first: L) -> None:
        link: L | None = first
        attempt = 0
        while True:
            if link is not None:
                began_s = time.monotonic()
                why = await self._watch(link)
                attempt = 0 if time.monotonic() - began_s > _SETTLED_AFTER_S else attempt
            attempt = await self._retry(attempt, why)
            link = None
            try:
                link = await self._open()
            except GateRefused as error:
                why = str(error)
            except (OSError, LinkLost) as error:
                why = self._unreachable(error)

    async def _watch(self, link: L) -> str:
        """Wait for the end of a connection; give the reason."""
        while not link.ended.done():
            await asyncio.wait({link.ended}, timeout=1.0)
            link.keep_alive()
        self._link = None
        self._is_up.clear()
        return f"lost {self.address.url}: {link.ended.result()}"

    async def _retry(self, attempt: int, why: str) -> int:
        if why != self._complaint:
            _log.warning("%s; trying again until it works", why)
            self._complaint = why
        await asyncio.sleep(backoff_delay_s(attempt, 0.0, _BACKOFF, random.random))
        return attempt + 1

    def _unreachable(self, error: Exception) -> str:
        why = "no answer" if isinstance(error, TimeoutError) else str(error)
        return f"cannot reach {self.address.url}: {why}"

    async def _open(self) -> L:
        link = self._new_link()
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                await link.open(self.address, self._tls)
                self._link = link  # from the first subscription on there may be something to answer
                await self._prepare(link)
        except BaseException:
            self._link = None
            link.abort("not wanted any more")
            raise
        self._is_up.set()
        if self._complaint:
            _log.warning("connected to %s again", self.address.url)
            self._complaint = ""
        return link
