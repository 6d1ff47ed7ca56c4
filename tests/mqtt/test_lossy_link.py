"""Two peers over a link that breaks at any byte: what QoS 1 and 2 promise holds, in both directions (MQTT section 4.3).

Hypothesis plays the network and both applications. In the end the link holds long enough to deliver the rest; then
QoS 2 has arrived exactly once and QoS 1 at least once, each in the order of publishing (section 4.6).
"""

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from mqttprov.mqtt import (
    ClientSession,
    Connect,
    Connected,
    ConnectReceived,
    DeliveryState,
    Message,
    MessageReceived,
    Properties,
    ProtocolVersion,
    ProtocolViolated,
    PublishReceived,
    ServerLimits,
    ServerSession,
)

V5 = ProtocolVersion.V5
QOS = st.sampled_from([1, 2])
SIZES = st.sampled_from([1, 3, 7, 40, 1000])


class LossyLink(RuleBasedStateMachine):
    """A client and a server that keep their sessions over connections which come and go."""

    @initialize(version=st.sampled_from(list(ProtocolVersion)), up=st.integers(1, 4), down=st.integers(1, 4))
    def begin(self, version: ProtocolVersion, up: int, down: int) -> None:
        """Choose the protocol and both windows."""
        self.version = version
        self.limits = ServerLimits(receive_maximum=up, max_in_flight_messages=down)
        self.wishes = Properties(receive_maximum=down, session_expiry_interval_s=60) if version is V5 else Properties()
        self.server_state: DeliveryState | None = None
        self.client_state = DeliveryState(10_000, 100_000)
        kinds = [(way, qos) for way in ("up", "down") for qos in (1, 2)]
        self.published: dict[tuple[str, int], list[bytes]] = {kind: [] for kind in kinds}
        self.arrived: dict[tuple[str, int], list[bytes]] = {kind: [] for kind in kinds}
        self.connect()
        self.carry_up(1000)
        self.carry_down(1000)
        assert self.client.connected

    def connect(self) -> None:
        """Begin a connection, on which both go on with what they have."""
        self.up = True
        self.client = ClientSession(
            Connect("c", self.version, clean_start=False, properties=self.wishes), state=self.client_state
        )
        self.server = ServerSession(self.limits)
        self.to_server = self.to_client = b""

    @rule()
    def come_back(self) -> None:
        """Connect again."""
        if not self.up:
            self.connect()

    @rule()
    def break_link(self) -> None:
        """Lose the connection, and all bytes that are on their way."""
        if not self.up:
            return
        self.up = False
        self.server.connection_lost()
        if self.server.version is not None:  # else the session has not been given its state yet
            self.server_state = self.server.detach()
        self.client_state = self.client.detach()

    @rule(qos=QOS)
    def publish_up(self, qos: int) -> None:
        """Let the client publish, connected or not."""
        sent = self.published["up", qos]
        payload = str(len(sent)).encode()
        if self.up:
            self.client.publish(f"up/{qos}", payload, qos)
        else:
            self.client_state.enqueue(Message(f"up/{qos}", payload), qos)
        sent.append(payload)

    @rule(qos=QOS)
    def publish_down(self, qos: int) -> None:
        """Let the server publish to the client, once it knows it."""
        if self.server_state is None:
            return
        sent = self.published["down", qos]
        message = Message(f"down/{qos}", str(len(sent)).encode())
        if self.up and self.server.version is not None:
            taken = self.server.publish(message, qos)
        else:
            taken = self.server_state.enqueue(message, qos)
        assert taken.taken
        sent.append(message.payload)

    @rule(size=SIZES)
    def carry_up(self, size: int) -> None:
        """Bring some bytes to the server."""
        if self.up:
            self.to_server += self.client.take_output()
            part, self.to_server = self.to_server[:size], self.to_server[size:]
            self._serve(part)

    def _serve(self, part: bytes) -> None:
        events = self.server.receive(part)
        for event in events:
            assert not isinstance(event, ProtocolViolated), event.error
            if isinstance(event, ConnectReceived):
                known = self.server_state is not None
                self.server_state = self.server_state or DeliveryState(10_000, 100_000)
                events += self.server.accept(session_present=known, state=self.server_state, max_session_expiry_s=60)
            elif isinstance(event, PublishReceived):
                publish = event.publish
                self.arrived["up", publish.qos].append(publish.payload)
                self.server.acknowledge(publish.packet_id or 0)

    @rule(size=SIZES)
    def carry_down(self, size: int) -> None:
        """Bring some bytes to the client."""
        if not self.up:
            return
        self.to_client += self.server.take_output()
        part, self.to_client = self.to_client[:size], self.to_client[size:]
        for event in self.client.receive(part):
            assert not isinstance(event, ProtocolViolated), event.error
            if isinstance(event, MessageReceived):
                self.arrived["down", event.publish.qos].append(event.publish.payload)
            elif isinstance(event, Connected):
                assert event.lost == ()

    def teardown(self) -> None:
        """Let everything arrive, and hold it against the promises."""
        if not hasattr(self, "arrived"):
            return
        self.come_back()
        for _ in range(2_000):
            self.carry_up(1000)
            self.carry_down(1000)
            if not self.to_server and not self.to_client and self.client.connected and self._is_quiet():
                break
        for (way, qos), sent in self.published.items():
            got = self.arrived[way, qos]
            first = list(dict.fromkeys(got))
            assert first == sent, (way, qos)
            assert qos == 1 or got == sent, (way, "delivered twice")
        assert self.client.detach().is_empty
        assert self.server.pending.in_flight == self.server.pending.queued_messages == 0

    def _is_quiet(self) -> bool:
        self.to_server, self.to_client = self.client.take_output(), self.server.take_output()
        return not self.to_server and not self.to_client


LossyLink.TestCase.settings = settings(
    deadline=None, max_examples=60, stateful_step_count=50, suppress_health_check=list(HealthCheck)
)
TestLossyLink = LossyLink.TestCase
