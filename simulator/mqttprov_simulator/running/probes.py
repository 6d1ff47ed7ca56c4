"""After the run: credentials that are not to work any more try to log in, and must be refused (P7)."""

import asyncio
from collections.abc import Sequence
from typing import Final

import msgspec

from mqttprov.gateway import actions
from mqttprov.gateway.logins import login_of
from mqttprov.gateway.replies import Refusal
from mqttprov_simulator.driver import Link, Route

_AT_ONCE: Final = 20
_ANSWER_TIMEOUT_S: Final = 5.0
_KEEP_ALIVE_S: Final = 10


class _Probe:
    """One login; a `driver.Owner`."""

    def __init__(self, login: actions.Connect, route: Route) -> None:
        self.answer: Final[asyncio.Future[bool | None]] = route.network.loop.create_future()
        self._link: Final = Link(self, login, route)

    def _answered(self, let_in: bool | None) -> None:
        if not self.answer.done():
            self.answer.set_result(let_in)

    def connected(self) -> None:
        """It works."""
        self._answered(True)

    def refused_login(self, reason_code: int, *, said: bool = True) -> None:
        """It does not."""
        self._answered(False)

    def message(self, topic: str, payload: bytes) -> None:
        """Not waited for."""

    def acknowledged(self, token: int) -> None:
        """Not waited for."""

    def not_connected(self, why: str) -> None:
        """Nobody answers."""
        self._answered(None)

    def lost(self, why: str) -> None:
        """Hung up without an answer: not let in, at any rate."""
        self._answered(False)

    def close(self) -> None:
        """End it."""
        self._link.close()


def probe_login(stored: bytes, name: str) -> actions.Connect | None:
    """Give the login of a stored reply under a client id of its own; None where there is none to try.

    Certificates are left out: each generation of a gateway shows the same one.
    """
    login = login_of(stored, _KEEP_ALIVE_S, has_client_certificate=False)
    if isinstance(login, Refusal):
        return None
    if login.client_id:  # the credentials are bound to it
        return login
    return msgspec.structs.replace(login, client_id=f"probe-{name}")


async def let_in(logins: Sequence[tuple[actions.Connect, Route]]) -> list[bool | None]:
    """Try them all, some at a time: whether each was let in, None if nobody answered."""
    gate = asyncio.Semaphore(_AT_ONCE)

    async def one(login: actions.Connect, route: Route) -> bool | None:
        async with gate:
            probe = _Probe(login, route)
            try:
                return await asyncio.wait_for(probe.answer, _ANSWER_TIMEOUT_S)
            except TimeoutError:
                return None
            finally:
                probe.close()

    return await asyncio.gather(*[one(login, route) for login, route in logins])
