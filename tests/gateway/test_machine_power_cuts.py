"""P10 as a property: power cuts between any two actions, lost replies, full disks; the gateway ends online."""

import json
import random
from collections import deque

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mqttprov.gateway import actions as a
from mqttprov.gateway import events as e
from mqttprov.gateway.backoff import MachineSettings
from mqttprov.gateway.machine import GatewayMachine
from mqttprov.gateway.replies import Credentials, parse_reply
from mqttprov.gateway.transitions import State

REQUEST = b'{"provisionDeviceKey":"KEY","provisionDeviceSecret":"SECRET","deviceName":"gw-1"}'
REMOVE = e.MessageReceived("v1/devices/me/rpc/request/1", b'{"method":"gateway_remove_provisioned_credentials"}')


class ModelServer:
    """P4 in a few lines: the same answer until its first login, then the next generation; the old one works on."""

    def __init__(self) -> None:
        self.devices: dict[str, int] = {}  # name -> newest generation
        self.active: dict[str, int] = {}  # name -> generation that logged in last
        self.requests: set[bytes] = set()
        self.suspended = False

    def reply(self, request: bytes) -> bytes:
        """Answer a provision request."""
        self.requests.add(request)
        name = json.loads(request)["deviceName"]
        newest = self.devices.get(name, 0)
        if newest == self.active.get(name, 0):  # none yet, or used
            newest += 1
        self.devices[name] = newest
        token = f"{name}/{newest}"
        return json.dumps({"status": "SUCCESS", "credentialsType": "ACCESS_TOKEN", "credentialsValue": token}).encode()

    def login(self, username: str | None) -> e.Event:
        """Answer a CONNECT."""
        name, _, generation = (username or "").rpartition("/")
        known = {self.devices.get(name, 0), self.active.get(name, 0)} - {0}
        if self.suspended or not generation or int(generation) not in known:
            return e.ConnectRefused(0x87)
        self.active[name] = max(int(generation), self.active.get(name, 0))
        return e.ConnectSucceeded()


class Plan:
    """What goes wrong: one drawn number per step, 0 once they are used up."""

    def __init__(self, faults: list[int]) -> None:
        self._faults = deque(faults)

    def next(self) -> int:
        """Draw the next fault."""
        return self._faults.popleft() if self._faults else 0

    @property
    def over(self) -> bool:
        """Whether nothing goes wrong any more."""
        return not self._faults


POWER_CUT, NETWORK_FAULT, DISK_FULL, REMOVAL, SUSPEND, RESUME = 1, 2, 3, 4, 5, 6
FAULTS = st.lists(st.integers(0, 6), max_size=60)


class Device:
    """A gateway's hardware: one machine at a time, a disk that survives power cuts, a link to the model server."""

    def __init__(self, server: ModelServer, plan: Plan, seed: int) -> None:
        self.server, self.plan = server, plan
        self.rng = random.Random(seed)  # noqa: S311  a reproducible test
        self.disk: bytes | None = None
        self.stored_ever: list[bytes] = []
        self.now_s = 0.0
        self.power_on()

    def power_on(self) -> None:
        """All memory is lost; only the disk remains."""
        self.machine = GatewayMachine(REQUEST, MachineSettings(heartbeat_s=None), rng=self.rng.random)
        self.timer: a.SetTimer | None = None
        self.connected: str | None = None
        self.inbox: deque[e.Event] = deque([e.Started(self.disk)])

    def step(self) -> None:
        """Handle one event and carry out its actions; power may fail before and after each action."""
        fault = self.plan.next()
        self.server.suspended = fault == SUSPEND or (self.server.suspended and fault != RESUME and not self.plan.over)
        if fault == NETWORK_FAULT and self.connected:
            self.connected = None
            self.inbox.append(e.ConnectionLost("fault"))
        if fault == REMOVAL and self.machine.state is State.ONLINE:
            self.inbox.append(REMOVE)
        if not self.inbox:
            if self.timer is None:
                return
            self.now_s += self.timer.delay_s
            self.inbox.append(e.TimerFired(self.timer.timer))
        for action in self.machine.handle(self.inbox.popleft(), self.now_s):
            if self.plan.next() == POWER_CUT:
                self.power_on()
                return
            self.carry_out(action)
        if self.plan.next() == POWER_CUT:
            self.power_on()

    def carry_out(self, action: a.Action) -> None:
        """Be the driver, the disk and the network."""
        match action:
            case a.Connect():
                assert self.connected is None
                self.connect(action)
            case a.Publish(topic="/provision/request"):
                reply = self.server.reply(action.payload)
                if self.plan.next() != NETWORK_FAULT:
                    self.inbox.append(e.MessageReceived("/provision/response", reply))
            case a.Publish(token=int(token)) if self.plan.next() != NETWORK_FAULT:
                self.inbox.append(e.PublishAcknowledged(token))
            case a.Disconnect():
                self.connected = None
                self.inbox = deque(event for event in self.inbox if isinstance(event, e.CredentialsSaved))
            case a.SaveCredentials(content):
                self.save(content)
            case a.RemoveCredentials():
                self.disk = None
                self.inbox.append(e.CredentialsRemoved())
            case a.SetTimer():
                self.timer = action
            case a.CancelTimer():
                self.timer = None
            case _:
                pass

    def connect(self, action: a.Connect) -> None:
        """CONNECT: what is used to log in must be on the disk at this moment."""
        if self.plan.next() == NETWORK_FAULT:
            self.inbox.append(e.ConnectFailed("fault"))
            return
        answer: e.Event = e.ConnectSucceeded()
        if action.role == "operational":
            stored = parse_reply(self.disk or b"")
            assert isinstance(stored, Credentials)
            assert stored.username == action.username
            answer = self.server.login(action.username)
        if isinstance(answer, e.ConnectSucceeded):
            self.connected = action.role
        self.inbox.append(answer)

    def save(self, content: bytes) -> None:
        """The credentials file: all or nothing."""
        if self.plan.next() == DISK_FULL:
            self.inbox.append(e.CredentialsSaveFailed("No space left on device"))
            return
        self.disk = content
        self.stored_ever.append(content)
        self.inbox.append(e.CredentialsSaved())


@given(FAULTS, st.integers(0, 1000))
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])  # the machine may be busy
def test_whatever_happens_the_gateway_ends_online_as_one_device(faults: list[int], seed: int) -> None:
    """After the faults it is online with what is stored, as one device, having asked with the same bytes (P4, P10)."""
    server = ModelServer()
    device = Device(server, Plan(faults), seed)
    for _ in range(len(faults) + 100):
        device.step()
    assert device.plan.over
    assert device.machine.state is State.ONLINE
    assert device.connected == "operational"
    assert set(server.devices) == {"gw-1"}
    assert server.requests == {REQUEST}
    assert all(isinstance(parse_reply(stored), Credentials) for stored in device.stored_ever)


def test_a_power_cut_at_each_single_instant_loses_nothing() -> None:
    """Cut at the k-th opportunity of the first provisioning, for every k: one device, one generation used (P4, P10)."""
    for instant in range(40):
        server = ModelServer()
        device = Device(server, Plan([0] * instant + [POWER_CUT]), seed=1)
        for _ in range(60):
            device.step()
        assert device.machine.state is State.ONLINE, instant
        assert server.devices == {"gw-1": 1}, instant


def test_the_model_server_does_cut_the_power() -> None:
    """The faults above are reached: a cut after saving boots into the stored credentials."""
    device = Device(ModelServer(), Plan([]), seed=1)
    for _ in range(20):
        if device.disk is None:
            device.step()
    assert device.disk is not None
    device.power_on()
    device.step()
    assert device.machine.state is State.CONNECTING
