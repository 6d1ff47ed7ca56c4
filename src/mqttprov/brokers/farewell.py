"""How a device leaves: its sessions end, and a gateway that is retired is first asked to wipe its credentials.

What the device may still do is not decided here: by the time of any of this its credentials are revoked. A session is
kept for nothing but the gateway's answer, and no longer than the operator's command said.
"""

import asyncio
import json
from collections.abc import Callable, Iterable
from typing import Final, Generic, Protocol, TypeVar

from mqttprov.core.audit import ChainedEvent, Event, EventKind, parse_body
from mqttprov.core.login import Principal
from mqttprov.mqtt import ReasonCode
from mqttprov.responder.service import Responder

# The method takes no parameters: the vendor's gateway fails on `{}` and takes null (thingsboard.md section 11.3).
WIPE_CALL: Final = b'{"method":"gateway_remove_provisioned_credentials","params":null}'
_RESPONSE: Final = "v1/devices/me/rpc/response/"


class Leaving(Protocol):
    """A device's session, of whichever broker."""

    principal: Principal | None
    source: str

    def end(self, reason: ReasonCode) -> None:
        """End it from our side."""


S = TypeVar("S", bound=Leaving)


class Host(Protocol[S]):
    """The broker whose sessions end."""

    responder: Responder

    def call(self, connections: Iterable[S], number: int, payload: bytes) -> list[S]:
        """Call a procedure of a device on those of its sessions that listen to calls; give them."""


class _Farewell(Generic[S]):
    """A retired device whose gateway has been asked; `listening` are its sessions that may still answer."""

    def __init__(self, event: ChainedEvent, name: str, listening: set[S]) -> None:
        self.event = event
        self.name = name
        self.listening = listening
        self.timer: asyncio.TimerHandle | None = None


class Farewells(Generic[S]):
    """Ends sessions of devices, at once or after a last word; tells when those that an audit event ends have ended."""

    def __init__(self, broker: Host[S], loop: asyncio.AbstractEventLoop) -> None:
        self._broker = broker
        self._loop = loop
        self._waiting: dict[str, _Farewell[S]] = {}  # by device id
        self._open: set[int] = set()  # events whose farewell is not over, or not recorded yet
        self._callers: list[tuple[int, Callable[[], None]]] = []

    def begin(self, event: ChainedEvent, connections: Iterable[S]) -> None:
        """End the sessions of the device that the event names; a gateway that it retires may answer first."""
        sessions = list(connections)
        listening: set[S] = set()
        farewell = None
        if sessions and event.kind == EventKind.DECOMMISSIONED:
            body = body_of(event)
            if body is not None and body.wait_s:
                listening = set(self._broker.call(sessions, event.seq, WIPE_CALL))
                farewell = _Farewell(event, body.device or "", listening)
                self._open.add(event.seq)
                self._wait(farewell, body.wait_s)
        for connection in sessions:
            if connection not in listening:
                connection.end(ReasonCode.NOT_AUTHORIZED)
        if farewell is not None and not listening:
            self._finish(farewell, "it does not listen to remote calls")

    def _wait(self, farewell: _Farewell[S], wait_s: float) -> None:
        if farewell.listening and farewell.event.device_id:
            self._waiting[farewell.event.device_id] = farewell
            why = f"it did not answer within {wait_s:g} s"
            farewell.timer = self._loop.call_later(wait_s, self._finish, farewell, why)

    def heard(self, connection: S, topic: str, payload: bytes) -> None:
        """Take note of what a device said, in case it is the answer that is waited for."""
        farewell = self._of(connection)
        if farewell is not None and topic == f"{_RESPONSE}{farewell.event.seq}":
            self._finish(farewell, why_not_wiped(payload), connection.source)

    def left(self, connection: S) -> None:
        """Take note that a session has ended."""
        farewell = self._of(connection)
        if farewell is not None:
            farewell.listening.discard(connection)
            if not farewell.listening:
                self._finish(farewell, "its connection ended before it answered", connection.source)

    def when_settled(self, seq: int, then: Callable[[], None]) -> None:
        """Call `then` once nothing that began with this event is open; others may still say farewell."""
        self._callers.append((seq, then))
        self._settle()

    def _of(self, connection: S) -> _Farewell[S] | None:
        principal = connection.principal
        farewell = self._waiting.get(principal.device_id) if principal is not None and self._waiting else None
        return farewell if farewell is not None and connection in farewell.listening else None

    def _finish(self, farewell: _Farewell[S], why_not: str | None, source: str | None = None) -> None:
        device_id = farewell.event.device_id or ""
        self._waiting.pop(device_id, None)
        if farewell.timer is not None:
            farewell.timer.cancel()
        for connection in list(farewell.listening):
            connection.end(ReasonCode.NOT_AUTHORIZED)

        def recorded() -> None:
            self._open.discard(farewell.event.seq)
            self._settle()

        self._broker.responder.record_wipe(farewell.name, device_id, why_not, source, recorded)

    def _settle(self) -> None:
        ready = [then for seq, then in self._callers if seq not in self._open]
        self._callers = [(seq, then) for seq, then in self._callers if seq in self._open]
        for then in ready:
            then()


def body_of(event: ChainedEvent) -> Event | None:
    """Give what the event says; None for one that was damaged in the store, of which only its columns are left."""
    try:
        return parse_body(event.body)[1]
    except ValueError:
        return None


def why_not_wiped(payload: bytes) -> str | None:
    """Read a gateway's answer: None when it says that its credentials are removed."""
    try:
        answer = json.loads(payload)
    except (ValueError, RecursionError):
        return "its answer is not JSON"
    code = answer.get("code") if isinstance(answer, dict) else None
    if code == 200:
        return None
    return f"it answered with code {code}" if isinstance(code, int) else "its answer holds no code"
