"""Who is on a stock amqtt broker: sessions enter, displace older ones, are kept while their clients are away, and end.

What they may do and hear is not decided here.
"""

import asyncio
import os
from collections.abc import Callable, Iterator
from typing import Final

from mqttprov.brokers.amqtt_seam import (
    AmqttBroker,
    AmqttHandler,
    AmqttSession,
    cut_off,
    move_subscription,
    remove_subscription,
)
from mqttprov.brokers.stock_session import ENTER_TIMEOUT_S, PROVISIONING_TIMEOUT_S, StockSession, session_of
from mqttprov.brokers.wheel import DeadlineWheel
from mqttprov.core.audit import ChainedEvent
from mqttprov.core.limits import MAX_SESSIONS_PER_DEVICE
from mqttprov.core.login import Principal, Role, identities_in
from mqttprov.core.secrets import Keys

_SHOWN_CLIENT_ID_CHARS: Final = 64


class StockSessions:
    """All sessions that we let in; `on_left` is called when one has ended."""

    def __init__(
        self,
        broker: AmqttBroker,
        loop: asyncio.AbstractEventLoop,
        keys: Keys,
        on_left: Callable[[StockSession], None],
    ) -> None:
        self._broker = broker
        self._loop = loop
        self._keys = keys
        self._on_left = on_left
        self._wheel = DeadlineWheel(loop.time())
        self._by_key: dict[str, StockSession] = {}
        self._by_identity: dict[str, dict[StockSession, None]] = {}
        self._leaving: dict[StockSession, asyncio.Task[None] | None] = {}  # ended; None: amqtt does not know it yet
        self._refused_key = f"refused/{os.urandom(16).hex()}"

    # --- who is here ---

    def at(self, key: str) -> StockSession | None:
        """Give the session that amqtt knows by this client id, if it is ours."""
        return self._by_key.get(key)

    def of_device(self, device_id: str) -> list[StockSession]:
        """Give a device's sessions."""
        return list(self._by_identity.get(device_id, ()))

    def of_event(self, event: ChainedEvent) -> list[StockSession]:
        """Give the sessions of the device or operator that an audit event names."""
        return [each for identity in identities_in(event) for each in self.of_identity(identity)]

    def of_device_named(self, name: str) -> list[StockSession]:
        """Give the sessions of the device with this name."""
        return list(self._by_identity.get(f"name:{name}", ()))

    def connected_devices(self) -> Iterator[str]:
        """Give the ids of the devices that are connected."""
        for ours in self._by_key.values():
            if ours.handler is not None and ours.principal is not None and ours.principal.device_id:
                yield ours.principal.device_id

    def listeners(self) -> list[StockSession]:
        """Give the sessions of operators and observers."""
        return list(self._by_identity.get("listeners", ()))

    # --- they enter ---

    def refuse(self, session: AmqttSession) -> None:
        """Let a refused CONNECT touch nobody. amqtt keeps sessions that it refused: all of them in one place."""
        session.client_id = self._refused_key
        session.clean_session = True

    def enter_guest(self, session: AmqttSession) -> None:
        """Take in a session that may only provision: never taken over, never kept, without a will."""
        session.clean_session = True
        session.will_flag = False
        session.client_id = f"provision/{os.urandom(16).hex()}"
        self._add(StockSession(session, session.client_id, None, self._loop.time() + ENTER_TIMEOUT_S, self.end))

    def enter(self, session: AmqttSession, principal: Principal) -> StockSession:
        """Take in a session that has logged in; only now may it displace another one of the same principal."""
        client_id = session.client_id or ""
        identity = principal.identity
        proof = self._keys.mac("amqtt-session", identity, client_id)[:32]
        key = f"{principal.name}/{client_id[:_SHOWN_CLIENT_ID_CHARS]}/{proof}"
        displaced = self._by_key.get(key)
        ours = StockSession(session, key, principal, self._loop.time() + ENTER_TIMEOUT_S, self.end)
        if displaced is not None:
            if ours.kept and displaced.kept:
                self._inherit(ours, displaced)
            self.end(displaced, with_will=True)
        session.client_id = key
        for other in self.of_identity(identity):
            # The older generation ended in the commit that activated this one (words.md).
            if other.principal is not None and other.principal.generation < principal.generation:
                self.end(other, with_will=True)
        self._add(ours)
        others = self._by_identity[identity]
        if len(others) > MAX_SESSIONS_PER_DEVICE:
            self.end(next(iter(others)), with_will=True)
        return ours

    def of_identity(self, identity: str) -> list[StockSession]:
        """Give the sessions of one principal."""
        return list(self._by_identity.get(identity, ()))

    def _inherit(self, ours: StockSession, displaced: StockSession) -> None:
        """Go on with the subscriptions of a kept session and with what waited for it."""
        ours.asked, displaced.asked = displaced.asked, set()
        ours.filters, displaced.filters = displaced.filters, {}
        for topic_filter in ours.asked:
            move_subscription(self._broker, topic_filter, displaced.session, ours.session)
        waiting = displaced.session.retained_messages
        while not waiting.empty():
            ours.session.retained_messages.put_nowait(waiting.get_nowait())
        ours.session.parent = 1  # CONNACK says "session present"

    def _add(self, ours: StockSession) -> None:
        self._by_key[ours.key] = ours
        for group in _groups(ours):
            self._by_identity.setdefault(group, {})[ours] = None
        self._wheel.watch(ours)

    # --- they are connected, they leave ---

    def connected(self, session: AmqttSession) -> None:
        """Note that CONNACK is out; one that was ended meanwhile is cut off now."""
        ours = session_of(session)
        if ours is None:
            return
        handler = self._handler_of(ours)
        if ours.ended:
            if handler is not None:
                self._forget(ours)
                self._cut_off(ours, handler)
            return
        ours.handler = handler
        ours.entering = False
        ours.deadline = self._loop.time() + PROVISIONING_TIMEOUT_S if ours.principal is None else None

    def left(self, session: AmqttSession) -> None:
        """Note that a client has gone; its session ends with it unless it is kept."""
        ours = session_of(session)
        if ours is None or ours.ended:
            return
        ours.handler = None
        self._on_left(ours)
        if not ours.kept:
            ours.ended = True
            self._forget(ours)

    def end(self, ours: StockSession, *, with_will: bool = False) -> None:
        """End a session now: nothing more goes in or out, and nothing of it is kept (P7)."""
        if ours.ended:
            return
        ours.ended = True
        ours.session.will_flag = ours.session.will_flag and with_will
        ours.session.clean_session = True
        handler = self._handler_of(ours) or ours.handler
        self._forget(ours)
        ours.session.clear_queues()
        if handler is not None:
            self._cut_off(ours, handler)
        elif ours.entering:
            # `connected` will cut it off, unless the client has gone before its CONNACK, which amqtt does not tell.
            self._leaving[ours] = None
            self._loop.call_later(ENTER_TIMEOUT_S, self._leaving.pop, ours, None)
        self._on_left(ours)

    def abandon(self, ours: StockSession) -> None:
        """Refuse a session after all that was ended before amqtt knew it."""
        self._leaving.pop(ours, None)
        self.refuse(ours.session)

    def holds(self, ours: StockSession, handler: AmqttHandler) -> bool:
        """Tell whether amqtt still has this connection for this session; both are compared, neither by its name."""
        return self._handler_of(ours) is handler

    def _handler_of(self, ours: StockSession) -> AmqttHandler | None:
        """Give the connection that amqtt has for exactly this session."""
        session, handler = self._broker.sessions.get(ours.key, (None, None))
        return handler if session is ours.session else None

    def _cut_off(self, ours: StockSession, handler: AmqttHandler) -> None:
        ours.handler = None
        task = self._loop.create_task(cut_off(handler))
        self._leaving[ours] = task
        task.add_done_callback(lambda _: self._leaving.pop(ours, None))

    def _forget(self, ours: StockSession) -> None:
        """Take a session out of everything, of amqtt's subscriptions too, which would outlive it."""
        if self._by_key.get(ours.key) is ours:
            del self._by_key[ours.key]
        for group in _groups(ours):
            members = self._by_identity.get(group, {})
            members.pop(ours, None)
            if not members:
                self._by_identity.pop(group, None)
        for topic_filter in ours.asked:
            remove_subscription(self._broker, topic_filter, ours.session)
        ours.asked.clear()
        ours.filters.clear()
        if self._handler_of(ours) is not None:
            del self._broker.sessions[ours.key]

    # --- time ---

    def turn(self) -> None:
        """End what is overdue, and forget what amqtt has let expire; to be called about once a second."""
        self._wheel.turn(self._loop.time())
        for ours in list(self._by_key.values()):
            if ours.handler is None and not ours.entering and ours.key not in self._broker.sessions:
                ours.ended = True
                self._forget(ours)

    async def settled(self) -> None:
        """Wait until all that have been ended are gone."""
        while self._leaving:
            tasks = [task for task in self._leaving.values() if task is not None]
            if tasks:
                await asyncio.wait(tasks)
            else:
                await asyncio.sleep(0.01)  # amqtt is about to tell us of the connection


def _groups(ours: StockSession) -> tuple[str, ...]:
    """Give the lists that a session is in: those of its identity, and of a device's name or of all who may listen."""
    principal = ours.principal
    if principal is None:
        return ()
    wider = f"name:{principal.name}" if principal.role is Role.DEVICE else "listeners"
    return principal.identity, wider
