"""Renewal of certificates in virtual time: when it begins, what it risks (nothing), and power cuts all along (P10)."""

import json
import random
from collections import deque
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.gateway.bench import UNTIMED, X509_REPLY, without_changes
from tests.gateway.test_machine_power_cuts import Plan

from mqttprov.gateway import actions as a
from mqttprov.gateway import events as e
from mqttprov.gateway.backoff import MachineSettings
from mqttprov.gateway.machine import GatewayMachine
from mqttprov.gateway.renewal import LOOK_EVERY_S, Life
from mqttprov.gateway.transitions import State

DAY_S = 86_400.0
TOTAL_S = 90 * DAY_S
POWER_CUT, NETWORK_FAULT, DISK_FULL, REFUSAL = 1, 2, 3, 4
FAULTS = st.lists(st.integers(0, 4), max_size=60)
QUIET = MachineSettings(heartbeat_s=None)


class Server:
    """Issues certificates by key: the same key, not used yet, gets the same one again (P4); a login ends older ones."""

    def __init__(self, *, same_key_only: bool = False) -> None:
        self.issued: list[tuple[str, float]] = []  # key and end of each generation
        self.active = -1
        self.refusing = False
        self._same_key_only = same_key_only

    def reply(self, request: bytes, now_s: float) -> bytes:
        """Answer a provision request."""
        key = json.loads(request)["csr"]
        held = {k for k, _ in self.issued[max(self.active, 0) :]}
        if self.refusing or (self._same_key_only and held and key not in held):
            return b'{"status":"FAILURE","errorMsg":"not now"}'
        unused = [n for n, (k, _) in enumerate(self.issued) if n > self.active and k == key]
        if not unused:
            self.issued.append((key, now_s + TOTAL_S))
            unused = [len(self.issued) - 1]
        return json.dumps(
            {"status": "SUCCESS", "credentialsType": "X509_CERTIFICATE", "credentialsValue": str(unused[-1])}
        ).encode()

    def login(self, generation: int, now_s: float) -> e.Event:
        """Answer a TLS handshake with a certificate."""
        if generation < self.active or self.issued[generation][1] <= now_s:
            return e.ConnectRefused(0x87)
        self.active = max(self.active, generation)
        return e.ConnectSucceeded()


class Device:
    """Hardware of a gateway with two slots for credentials and two for keys, which survive power cuts."""

    def __init__(self, server: Server, plan: Plan, seed: int = 1) -> None:
        self.server, self.plan, self.rng = server, plan, random.Random(seed)  # noqa: S311  a reproducible test
        self.now_s = 0.0
        self.stored: bytes | None = None
        self.renewed: bytes | None = None
        self.keys = 1
        self.key, self.next_key = "key-1", ""
        self.offline_since_s: float | None = 0.0
        self.longest_offline_s = 0.0
        self.power_on()

    def power_on(self) -> None:
        """Only what is on the disk is left."""
        self.machine = GatewayMachine(
            self.request(self.key), QUIET, rng=self.rng.random, has_client_certificate=True, life=self.life
        )
        self.timer: a.SetTimer | None = None
        self.inbox: deque[e.Event] = deque([e.Started(self.stored, self.renewed)])
        self.note(online=False)

    @staticmethod
    def request(key: str) -> bytes:
        """The provision request with this key."""
        return json.dumps({"csr": key}).encode()

    @staticmethod
    def generation(reply: bytes) -> int:
        """Which certificate it is."""
        return int(json.loads(reply)["credentialsValue"])

    def life(self) -> Life | None:
        """By the wall clock, which is right here."""
        if self.stored is None:
            return None
        return Life(self.server.issued[self.generation(self.stored)][1] - self.now_s, TOTAL_S)

    def note(self, *, online: bool) -> None:
        """Measure how long it is offline."""
        if online and self.offline_since_s is not None:
            self.longest_offline_s = max(self.longest_offline_s, self.now_s - self.offline_since_s)
            self.offline_since_s = None
        elif not online and self.offline_since_s is None:
            self.offline_since_s = self.now_s

    def run(self, until_s: float) -> None:
        """Let time pass; power may fail before each action."""
        while self.inbox or (self.timer is not None and self.now_s + self.timer.delay_s <= until_s):
            fault = self.plan.next()
            self.server.refusing = fault == REFUSAL
            if not self.inbox:
                assert self.timer is not None
                self.now_s += self.timer.delay_s
                self.inbox.append(e.TimerFired(self.timer.timer))
                self.timer = None
            for action in self.machine.handle(self.inbox.popleft(), self.now_s):
                if self.plan.next() == POWER_CUT:
                    self.power_on()
                    break
                self.carry_out(action)
            self.note(online=self.machine.state is State.ONLINE)
        self.now_s = max(self.now_s, until_s) if self.timer is None else self.now_s

    def carry_out(self, action: a.Action) -> None:
        """Be driver, disk and network."""
        match action:
            case a.Connect():
                self.connect(action)
            case a.Publish(topic="/provision/request"):
                reply = self.server.reply(action.payload, self.now_s)
                if self.plan.next() != NETWORK_FAULT:
                    self.inbox.append(e.MessageReceived("/provision/response", reply))
            case a.MakeRequest(new_key):
                if new_key and not self.next_key:
                    self.keys += 1
                    self.next_key = f"key-{self.keys}"
                self.inbox.append(e.RequestMade(self.request(self.next_key if new_key else self.key)))
            case a.SaveCredentials(content, renewed):
                self.save(content, renewed=renewed)
            case a.AdoptRenewed():
                self.stored, self.renewed = self.renewed, None
                if self.next_key:
                    self.key, self.next_key = self.next_key, ""
            case a.Disconnect():
                self.inbox = deque(event for event in self.inbox if isinstance(event, e.CredentialsSaved))
            case a.SetTimer() | a.CancelTimer():
                self.timer = action if isinstance(action, a.SetTimer) else None
            case _:
                pass

    def connect(self, action: a.Connect) -> None:
        """Show the certificate that is on the disk at this moment, in the operational role."""
        if self.plan.next() == NETWORK_FAULT:
            self.inbox.append(e.ConnectFailed("fault"))
        elif action.role == "provisioning":
            self.inbox.append(e.ConnectSucceeded())
        else:
            reply = self.renewed if action.renewed else self.stored
            assert reply is not None
            self.inbox.append(self.server.login(self.generation(reply), self.now_s))

    def save(self, content: bytes, *, renewed: bool) -> None:
        """All or nothing; a renewal never touches what is stored."""
        if self.plan.next() == DISK_FULL:
            self.inbox.append(e.CredentialsSaveFailed("No space left on device"))
            return
        if renewed:
            self.renewed = content
        else:
            self.stored = content
        self.inbox.append(e.CredentialsSaved())


def test_a_year_goes_by_without_a_gap() -> None:
    """Each certificate is renewed with a quarter to a third of its life left, with a new key, and nobody notices."""
    server = Server()
    device = Device(server, Plan([]))
    device.run(365 * DAY_S)
    ends = [end_s for _, end_s in server.issued]
    lived = [later - earlier for earlier, later in pairwise(ends)]
    assert len(lived) in {5, 6}
    assert all(TOTAL_S * 2 / 3 <= one <= TOTAL_S * 3 / 4 + LOOK_EVERY_S for one in lived)
    assert len({key for key, _ in server.issued}) == len(server.issued)
    assert device.machine.state is State.ONLINE
    assert device.longest_offline_s < 1.0


def test_gateways_that_were_made_on_one_day_do_not_renew_at_one_time() -> None:
    """Entropy spreads them over a twelfth of the life."""
    times = []
    for seed in range(50):
        server = Server()
        Device(server, Plan([]), seed).run(80 * DAY_S)
        times.append(server.issued[1][1] - TOTAL_S)
    assert max(times) - min(times) > TOTAL_S / 16


@given(FAULTS, st.integers(0, 1000))
@settings(UNTIMED, max_examples=60)
def test_whatever_happens_it_ends_online_with_a_certificate_that_is_good(faults: list[int], seed: int) -> None:
    """Power cuts, lost replies, full disks and refusals at any instant of four lives (P10)."""
    device = Device(Server(), Plan(faults), seed)
    device.run(4 * TOTAL_S)
    assert device.machine.state is State.ONLINE
    life = device.life()
    assert life is not None
    assert life.left_s > TOTAL_S / 5
    assert device.server.active == Device.generation(device.stored or b"")


def test_a_power_cut_at_each_single_instant_of_a_renewal() -> None:
    """At every one of them the device comes back with what it has, and no generation is wasted (P4, P10)."""
    for instant in range(60):
        server = Server()
        device = Device(server, Plan([]))
        device.run(TOTAL_S / 2)
        device.plan = Plan([0] * instant + [POWER_CUT])
        device.run(1.2 * TOTAL_S)
        assert device.machine.state is State.ONLINE, instant
        assert len(server.issued) == 2, instant


def test_a_server_that_wants_the_old_key_gets_it() -> None:
    """A profile may ask for the same key (`same-key`): the attempt after a refused one brings that."""
    server = Server(same_key_only=True)
    device = Device(server, Plan([]))
    device.run(TOTAL_S)
    assert [key for key, _ in server.issued] == ["key-1", "key-1"]
    assert device.machine.state is State.ONLINE


def test_a_refused_renewal_costs_an_instant_and_is_tried_again() -> None:
    """As long as it is refused the gateway is online with what it has; it does not ask all the time."""
    asked: list[float] = []

    class Refusing(Server):
        def reply(self, request: bytes, now_s: float) -> bytes:
            """Refuse all but the first."""
            if self.issued:
                asked.append(now_s)
                return b'{"status":"FAILURE","errorMsg":"no"}'
            return super().reply(request, now_s)

    device = Device(Refusing(), Plan([]))
    device.run(0.99 * TOTAL_S)
    assert device.machine.state is State.ONLINE
    assert device.longest_offline_s < 60.0
    assert 20 < len(asked) < 80
    assert asked[0] >= TOTAL_S * 2 / 3


def test_a_renewal_that_cannot_log_in_gives_way_to_what_was_stored() -> None:
    """Three refusals, then back to the credentials that work, which were never touched (make before break)."""

    class Broken(Server):
        def login(self, generation: int, now_s: float) -> e.Event:
            """Refuse all but the first generation."""
            return e.ConnectRefused(0x87) if generation else super().login(generation, now_s)

    device = Device(Broken(), Plan([]))
    device.run(0.8 * TOTAL_S)
    assert device.machine.state is State.ONLINE
    assert Device.generation(device.stored or b"") == 0
    device.power_on()
    device.run(0.81 * TOTAL_S)
    assert device.machine.state is State.ONLINE


def machine(life: Life | None) -> GatewayMachine:
    """One with this much of its certificate left."""
    return GatewayMachine(b"{}", QUIET, rng=lambda: 0.0, has_client_certificate=True, life=lambda: life)


@pytest.mark.parametrize("left_s", [0.0, -5.0])
def test_a_certificate_that_has_run_out_is_replaced_at_the_start(left_s: float) -> None:
    """Nobody has to be refused first; what is stored has its turn if that fails, for the clock may be wrong (P10)."""
    one = machine(Life(left_s, TOTAL_S))
    went = []
    for event in (e.Started(X509_REPLY), e.ConnectFailed("no network")):
        went += [action.new for action in one.handle(event, 0.0) if isinstance(action, a.StateChanged)]
    assert went == [State.CONNECTING_TO_PROVISION, State.WAITING_TO_CONNECT]


def test_credentials_that_do_not_run_out_arm_no_timer() -> None:
    """Nothing changes for tokens and for certificates that a gateway made itself."""
    one = machine(None)
    one.handle(e.Started(X509_REPLY), 0.0)
    assert not [x for x in one.handle(e.ConnectSucceeded(), 0.0) if isinstance(x, a.SetTimer)]


def test_heartbeats_go_on_while_a_renewal_is_awaited() -> None:
    """One timer serves both."""
    every_minute = MachineSettings(heartbeat_s=60.0)
    one = GatewayMachine(
        b"{}", every_minute, rng=lambda: 0.0, has_client_certificate=True, life=lambda: Life(TOTAL_S, TOTAL_S)
    )
    one.handle(e.Started(X509_REPLY), 0.0)
    actions = one.handle(e.ConnectSucceeded(), 0.0)
    for beat in range(1, 4):
        (timer,) = [x for x in actions if isinstance(x, a.SetTimer)]
        assert timer.delay_s == 60.0
        actions = one.handle(e.TimerFired(timer.timer), beat * 60.0)
        assert [json.loads(x.payload) for x in actions if isinstance(x, a.Publish)] == [{"heartbeat": beat}]


def test_a_clock_that_is_set_right_is_noticed() -> None:
    """A device that starts in 1970 and learns the time later renews within hours, not in 50 years."""
    left = [Life(60 * 365 * DAY_S, TOTAL_S)]
    one = GatewayMachine(b"{}", QUIET, rng=lambda: 0.0, has_client_certificate=True, life=lambda: left[0])
    one.handle(e.Started(X509_REPLY), 0.0)
    (timer,) = [x for x in one.handle(e.ConnectSucceeded(), 0.0) if isinstance(x, a.SetTimer)]
    assert timer.delay_s == LOOK_EVERY_S
    left[0] = Life(10 * DAY_S, TOTAL_S)
    assert a.MakeRequest(new_key=True) in one.handle(e.TimerFired(timer.timer), LOOK_EVERY_S)


def test_a_request_that_cannot_be_made_is_no_reason_to_go_offline() -> None:
    """A full disk: the gateway stays online and tries again later."""
    one = machine(Life(10.0, TOTAL_S))
    one.handle(e.Started(X509_REPLY), 0.0)
    one.handle(e.ConnectSucceeded(), 0.0)
    assert without_changes(one.handle(e.RequestNotMade("No space left on device"), 1.0)) == []
    assert one.state is State.ONLINE


def test_a_certificate_for_another_key_is_not_waited_for() -> None:
    """It never can be used: the gateway asks again instead of saving it again (P10)."""
    one = machine(None)
    one.handle(e.Started(None), 0.0)
    one.handle(e.ConnectSucceeded(), 0.0)
    one.handle(e.MessageReceived("/provision/response", X509_REPLY), 0.0)
    one.handle(e.CredentialsUnusable("not for a key of this gateway"), 0.0)
    assert one.state is State.WAITING_TO_PROVISION
