"""A conversation written down as bytes, and the smallest broker and the smallest client that can hold it.

A script is a text with one step per line: `C` is what the client says, `S` what the server says, both in hex. One of
them is under test: what it says is all that it says then, and its letter alone is silence. `X` is the end of the
connection. `!` is something that its user does, by the name of an action. What stands behind `#` explains the bytes.
Who says more, less or something else at any step fails the test.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

from mqttprov.mqtt import (
    ClientEvent,
    ClientSession,
    Connect,
    ConnectReceived,
    DeliveryState,
    MessageReceived,
    PublishReceived,
    ReasonCode,
    ServerEvent,
    ServerLimits,
    ServerSession,
    SubscribeReceived,
    UnsubscribeReceived,
)

Action = Callable[[Any], object]

# CONNECT of client `c`, clean, keep alive 60 s, and the answer. In MQTT 5 it wants no reasons in words (17 00).
HELLO_311 = """
C 100d 00044d515454 04 02 003c 000163
S 2002 00 00
"""
HELLO_5 = """
C 1010 00044d515454 05 02 003c 02 1700 000163
S 200e 00 00 0b 210064 220010 2700040000
"""


class Peer(Protocol):
    """Who is under test, and by which letter it goes."""

    @property
    def letter(self) -> str:
        """C for a client, S for a server."""

    @property
    def session(self) -> Any:
        """Its session."""

    def hear(self, data: bytes) -> None:
        """Take a read."""


class Server:
    """One session whose broker takes everything: grants each filter, acknowledges each message, keeps the session."""

    letter: Final = "S"

    def __init__(self, limits: ServerLimits | None = None, state: DeliveryState | None = None) -> None:
        self.limits = limits or ServerLimits()
        self.session = ServerSession(self.limits)
        self.state = state
        self.taken: list[bytes] = []  # payloads that were handed over
        self.refuses: ReasonCode | None = None
        self.holds = False  # acknowledges nothing by itself

    def hear(self, data: bytes) -> None:
        """Pass a read to the session and answer as the broker."""
        self._serve(self.session.receive(data))

    def _serve(self, events: list[ServerEvent]) -> None:
        session = self.session
        for event in events:
            if isinstance(event, ConnectReceived):
                self._serve(
                    session.accept(
                        assigned_client_id=None if event.connect.client_id or event.connect.version == 4 else "auto",
                        max_session_expiry_s=100,
                        session_present=self.state is not None,
                        state=self.state,
                    )
                )
            elif isinstance(event, PublishReceived):
                self.taken.append(event.publish.payload)
                if event.publish.packet_id is not None and not self.holds:
                    session.acknowledge(event.publish.packet_id, self.refuses or ReasonCode.SUCCESS)
            elif isinstance(event, SubscribeReceived):
                wished = [ReasonCode(each.qos) for each in event.subscribe.subscriptions]
                session.suback(event.subscribe.packet_id, tuple(wished))
            elif isinstance(event, UnsubscribeReceived):
                session.unsuback(
                    event.unsubscribe.packet_id, (ReasonCode.SUCCESS,) * len(event.unsubscribe.topic_filters)
                )


class Client:
    """One session, and everything that it told its user."""

    letter: Final = "C"

    def __init__(self, connect: Connect, **options: Any) -> None:
        self.session = ClientSession(connect, **options)
        self.events: list[ClientEvent] = []

    def hear(self, data: bytes) -> None:
        """Pass a read to the session."""
        self.events += self.session.receive(data)

    @property
    def taken(self) -> list[bytes]:
        """What was handed over: payloads."""
        return [event.publish.payload for event in self.events if isinstance(event, MessageReceived)]


def play(peer: Peer, script: str, actions: Mapping[str, Action] | None = None) -> None:
    """Hold a conversation. Raises AssertionError with the line at which the one under test departs from it."""
    for line in script.strip().splitlines():
        kind, _, rest = line.split("#")[0].strip().partition(" ")
        if kind == peer.letter:
            assert peer.session.take_output().hex() == rest.replace(" ", ""), line
        elif kind in {"C", "S"}:
            peer.hear(bytes.fromhex(rest))
        elif kind == "X":
            assert peer.session.closed, line
        elif kind == "!":
            (actions or {})[rest](peer)
        else:
            assert not kind, f"no step: {line}"
    assert peer.session.take_output() == b"", "it says more than is written down"
