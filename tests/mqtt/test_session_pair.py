"""A client and a server session over a link that cuts their bytes into random slices."""

from collections.abc import Iterator
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from mqttprov.mqtt import (
    ClientEvent,
    ClientSession,
    Connect,
    ConnectReceived,
    Message,
    MessageDelivered,
    MessageReceived,
    Properties,
    ProtocolVersion,
    Published,
    PublishReceived,
    ReasonCode,
    ServerEvent,
    ServerLimits,
    ServerSession,
    SubscribeReceived,
)

UNHURRIED = settings(deadline=None)  # a busy machine is no fault


class Link:
    """Two sessions and the bytes between them; every step moves one slice of either direction."""

    def __init__(self, client: ClientSession, server: ServerSession, order: Random) -> None:
        self.client = client
        self.server = server
        self.order = order
        self.to_server = b""
        self.to_client = b""
        self.client_events: list[ClientEvent] = []
        self.server_events: list[ServerEvent] = []

    def step(self) -> bool:
        """Move one slice; False if nothing is on its way."""
        self.to_server += self.client.take_output()
        self.to_client += self.server.take_output()
        if not self.to_server and not self.to_client:
            return False
        size = self.order.choice((1, 2, 5, 30, 1000))
        if self.to_server and (not self.to_client or self.order.random() < 0.5):
            part, self.to_server = self.to_server[:size], self.to_server[size:]
            self._serve(self.server.receive(part))
        else:
            part, self.to_client = self.to_client[:size], self.to_client[size:]
            self.client_events += self.client.receive(part)
        return True

    def _serve(self, events: list[ServerEvent]) -> None:
        for event in events:
            self.server_events.append(event)
            if isinstance(event, ConnectReceived):
                self._serve(self.server.accept())
            elif isinstance(event, SubscribeReceived):
                self.server.suback(
                    event.subscribe.packet_id, tuple(ReasonCode.GRANTED_QOS_1 for _ in event.subscribe.subscriptions)
                )
            elif isinstance(event, PublishReceived) and event.publish.packet_id is not None:
                self.server.acknowledge(event.publish.packet_id)


def numbers(count: int) -> Iterator[bytes]:
    """Return distinguishable payloads."""
    return (str(number).encode() for number in range(count))


@UNHURRIED
@given(
    version=st.sampled_from(list(ProtocolVersion)),
    receive_maximum=st.integers(1, 5),
    count=st.integers(0, 12),
    order=st.randoms(use_true_random=False),
)
def test_qos_1_arrives_exactly_once_in_order_in_both_directions(
    version: ProtocolVersion, receive_maximum: int, count: int, order: Random
) -> None:
    """Whatever the slices and windows, no message is lost, doubled or overtaken (MQTT section 4.6)."""
    wishes = Properties(receive_maximum=receive_maximum) if version is ProtocolVersion.V5 else Properties()
    client = ClientSession(Connect("c", version, properties=wishes))
    server = ServerSession(ServerLimits(receive_maximum=receive_maximum))
    link = Link(client, server, order)
    while not client.connected:
        assert link.step()
    client.subscribe([("down", 1)])
    from_client, from_server = list(numbers(count)), list(numbers(count))
    while True:
        if from_client and order.random() < 0.3:
            client.publish("up", from_client.pop(0), 1)
        if from_server and order.random() < 0.3:
            assert server.publish(Message("down", from_server.pop(0)), 1).taken
        if not link.step() and not from_client and not from_server:
            break
    expected = list(numbers(count))
    assert [e.publish.payload for e in link.server_events if isinstance(e, PublishReceived)] == expected
    assert [e.publish.payload for e in link.client_events if isinstance(e, MessageReceived)] == expected
    assert [e.reason_code for e in link.client_events if isinstance(e, Published)] == [ReasonCode.SUCCESS] * count
    assert len({e.packet_id for e in link.server_events if isinstance(e, MessageDelivered)}) == count
    assert not server.closed
    assert not client.closed
    assert server.pending.in_flight == server.pending.queued_messages == server.pending.unacknowledged == 0


@UNHURRIED
@given(st.sampled_from(list(ProtocolVersion)), st.binary(max_size=300), st.randoms(use_true_random=False))
def test_sessions_survive_any_bytes_from_the_other_side(version: ProtocolVersion, noise: bytes, order: Random) -> None:
    """Noise behind a good beginning gives events or one ProtocolViolated, never an exception, on either side (P9)."""
    link = Link(ClientSession(Connect("c", version)), ServerSession(ServerLimits()), order)
    while link.step():
        pass
    assert link.client.connected
    for at in range(0, len(noise), 7):
        link.client.receive(noise[at : at + 7])
        link.server.receive(noise[at : at + 7])
    assert link.client.receive(b"") == [] or link.client.closed
