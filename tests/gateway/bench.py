"""What the tests of the machine share: a machine on the bench, and the replies it gets."""

import json

from hypothesis import HealthCheck, settings

from mqttprov.gateway import actions as a
from mqttprov.gateway import events as e
from mqttprov.gateway.backoff import MachineSettings
from mqttprov.gateway.machine import GatewayMachine
from mqttprov.gateway.transitions import State

REQUEST = b'{"provisionDeviceKey":"KEY","provisionDeviceSecret":"SECRET","deviceName":"gw-1"}'
TOKEN_REPLY = b'{"credentialsValue":"token-1","credentialsType":"ACCESS_TOKEN","status":"SUCCESS"}'
BASIC_REPLY = (
    b'{"credentialsValue":{"clientId":"c1","userName":"u1","password":"p1"},'
    b'"credentialsType":"MQTT_BASIC","status":"SUCCESS"}'
)
X509_REPLY = b'{"credentialsValue":"MIIB","credentialsType":"X509_CERTIFICATE","status":"SUCCESS"}'
REPLY_TOPIC = "/provision/response"
RPC_TOPIC = "v1/devices/me/rpc/request/7"
TO_PROVISION = a.Connect("provisioning", "", "provision", None, 60, 4, False)
BY_TOKEN = a.Connect("operational", "", "token-1", None, 120, 5, False)
REMOVE_CALL = e.MessageReceived(RPC_TOPIC, b'{"method":"gateway_remove_provisioned_credentials","params":{}}')

# How long examples take says nothing about the code: the machine may be busy, Unicode tables not cached yet.
UNTIMED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


class Bench:
    """A machine on the bench: feeds events, keeps the last actions."""

    def __init__(
        self, settings: MachineSettings | None = None, *, jitter: float = 0.5, certificate: bool = False
    ) -> None:
        self.now_s = 1000.0
        self.machine = GatewayMachine(
            REQUEST, settings or MachineSettings(), rng=lambda: jitter, has_client_certificate=certificate
        )
        self.actions: list[a.Action] = []

    def feed(self, *events: e.Event) -> list[a.Action]:
        """Give the actions of the last event."""
        for event in events:
            self.actions = self.machine.handle(event, self.now_s)
        return self.actions

    def fire_timer(self) -> list[a.Action]:
        """Fire the timer that the last actions armed."""
        (timer,) = [action for action in self.actions if isinstance(action, a.SetTimer)]
        self.now_s += timer.delay_s
        return self.feed(e.TimerFired(timer.timer))

    def delay_s(self) -> float:
        """What the last actions armed the timer to."""
        (timer,) = [action for action in self.actions if isinstance(action, a.SetTimer)]
        return timer.delay_s

    def refuse_logins(self, count: int) -> None:
        """From `connecting`: refuse that many logins, with the back-offs between them."""
        for index in range(count):
            self.feed(e.ConnectRefused(0x87))
            if index < count - 1:
                self.fire_timer()

    @property
    def state(self) -> State:
        """The machine's, read anew each time."""
        return self.machine.state


def started(stored: bytes | None = None, *, certificate: bool = False) -> Bench:
    """Power is on."""
    bench = Bench(certificate=certificate)
    bench.feed(e.Started(stored))
    return bench


def online(settings: MachineSettings | None = None) -> Bench:
    """Logged in with a stored token."""
    bench = Bench(settings)
    bench.feed(e.Started(TOKEN_REPLY), e.ConnectSucceeded())
    return bench


def publishes(actions: list[a.Action]) -> list[tuple[str, object]]:
    """Topics and decoded payloads of what is published."""
    return [(action.topic, json.loads(action.payload)) for action in actions if isinstance(action, a.Publish)]


def without_changes(actions: list[a.Action]) -> list[a.Action]:
    """What is to be carried out."""
    return [action for action in actions if not isinstance(action, a.StateChanged)]
