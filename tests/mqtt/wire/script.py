"""A conversation written down as bytes, and the smallest broker that can hold it.

A script is a text with one step per line: `C` is what the client sends, `S` all that the server then says, both in hex;
`S` alone is silence, `X` the end of the connection. `!` is something that the broker does, by the name of an action.
What stands behind `#` explains the bytes. A server that says more, less or something else at any step fails the test.
"""

from collections.abc import Callable, Mapping

from mqttprov.mqtt import (
    ConnectReceived,
    DeliveryState,
    PublishReceived,
    ReasonCode,
    ServerEvent,
    ServerLimits,
    ServerSession,
    SubscribeReceived,
    UnsubscribeReceived,
)

Action = Callable[["Server"], object]

# CONNECT of client `c`, clean, keep alive 60 s, and the answer. In MQTT 5 it wants no reasons in words (17 00).
HELLO_311 = """
C 100d 00044d515454 04 02 003c 000163
S 2002 00 00
"""
HELLO_5 = """
C 1010 00044d515454 05 02 003c 02 1700 000163
S 200e 00 00 0b 210064 220010 2700040000
"""


class Server:
    """One session whose broker takes everything: grants each filter, acknowledges each message, keeps the session."""

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


def play(server: Server, script: str, actions: Mapping[str, Action] | None = None) -> None:
    """Hold a conversation. Raises AssertionError with the line at which the server departs from it."""
    for line in script.strip().splitlines():
        kind, _, rest = line.split("#")[0].strip().partition(" ")
        if kind == "C":
            server.hear(bytes.fromhex(rest))
        elif kind == "S":
            assert server.session.take_output().hex() == rest.replace(" ", ""), line
        elif kind == "X":
            assert server.session.closed, line
        elif kind == "!":
            (actions or {})[rest](server)
        else:
            assert not kind, f"no step: {line}"
    assert server.session.take_output() == b"", "the server says more than is written down"
