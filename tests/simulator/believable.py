"""Results that look like those of real runs, made without running anything: a fleet, a broker of some capacity, faults.

A coarse model in steps of a second. What it is good for: pages, verdicts and comparisons that must cope with what runs
really give (a start, a restart of the broker with all that comes back, a slow end), the same for the same arguments.
"""

import random
from collections import Counter

import msgspec

from mqttprov_simulator.histogram import Buckets, Histogram
from mqttprov_simulator.report.result import Check, Environment, Mark, RunResult, Sample, Verdict
from mqttprov_simulator.report.verdict import verdict
from mqttprov_simulator.report.words import PROMISES
from mqttprov_simulator.running.values import Broken, Promise, Second
from mqttprov_simulator.scenario.model import Constant, GatewayFault, Group, Scenario, TargetFault, Thresholds

_RESTART_S, _BACK_S = 20, 23
_ENVIRONMENT = Environment(
    cores=4,
    memory_bytes=24 * 2**30,
    kernel="6.1.0-18-amd64",
    python="3.11.7",
    mqttprov="0.4.0",
    load_before=0.31,
    settings={"net.core.somaxconn": "4096", "open files": "1048576", "uvloop": "0.22.1"},
)
_CPU_US = {"swarm": 130.0, "broker": 180.0, "responder": 60.0}


def scenario(gateways: int = 10_000, rate_per_s: float = 280.0, **thresholds: float) -> Scenario:
    """Give a scenario like the shipped `broker-restart`."""
    return Scenario(
        name="broker-restart",
        summary="A fleet comes up while its broker is restarted.",
        groups=(Group(name="plant", gateways=gateways, arrivals=Constant(rate_per_s=rate_per_s)),),
        seed=7,
        warm_up_s=3.0,
        faults=(
            GatewayFault(kind="cut-after-request", probability=0.02),
            GatewayFault(kind="power-loss", probability=0.01, for_s=4),
            GatewayFault(kind="slow-save", at_s=30, share=0.2, for_s=1.5, spread_s=4),
        ),
        target_faults=(TargetFault(kind="broker-restart", at_s=_RESTART_S, for_s=_BACK_S - _RESTART_S),),
        thresholds=Thresholds(**thresholds),
    )


class _Fleet:
    """The model's state, second by second."""

    def __init__(self, plan: Scenario, seed: int, speed: float) -> None:
        self.rng = random.Random(seed)  # noqa: S311 - it draws a picture
        self.speed = speed
        self.gateways = plan.groups[0].gateways
        arrivals = plan.groups[0].arrivals
        assert isinstance(arrivals, Constant)
        self.rate = arrivals.rate_per_s
        self.capacity = 1_500 * speed
        self.due = self.registered = self.online = self.again = 0
        self.all_latency, self.all_login, self.all_service = Histogram(), Histogram(), Histogram()

    def step(self, at_s: int) -> Second:
        """Give the next second."""
        down = _RESTART_S <= at_s < _BACK_S
        due = min(self.gateways - self.due, round(self.rate))
        self.due += due
        lost = self.online if at_s == _RESTART_S else min(self.online, self.rng.randrange(4) if due else 0)
        self.online -= lost
        self.again += lost
        able = 0 if down else round(self.capacity * (0.3 if at_s == _BACK_S else 0.55 if at_s == 0 else 1))
        waiting = self.due - self.registered
        new = min(waiting, able)
        back = min(self.again, max(0, able - new)) if at_s != _BACK_S else self.again // 5
        self.registered, self.again, self.online = self.registered + new, self.again - back, self.online + new + back
        behind_s = 0.0 if at_s < _RESTART_S else max(0.0, (waiting - due) / self.capacity)
        second = Second(
            at_s=at_s,
            due=due,
            started=due,
            registered=new,
            came_online=new + back,
            lost=lost + (2 * due if down else 0),
            refused=self.rng.randrange(3) + (round(self.capacity / 4) if at_s == _BACK_S else 0),
            latency=self._latency(new, behind_s + (1.2 if _RESTART_S < at_s < _BACK_S + 4 else 0), slow=at_s < 2),
            login=self._login(new + back, busy=at_s in range(_BACK_S, _BACK_S + 4)),
            strikes=self._strikes(at_s, due),
        )
        second.states = self._states(waiting - new, at_s, due)
        return second

    def _latency(self, number: int, behind_s: float, *, slow: bool) -> Buckets:
        histogram = Histogram()
        for _ in range(number):
            own_ms = self.rng.lognormvariate(1.5, 0.55) * (5 if slow else 1) / self.speed
            if self.rng.random() < 0.02:
                own_ms += self.rng.uniform(80, 1_100)  # cut once, tried again
            value_us = round(own_ms * 1000 + self.rng.random() * 2 * behind_s * 1e6)
            histogram.record(value_us)
            if not slow:
                self.all_latency.record(value_us)
                self.all_service.record(round(value_us * 0.97))
        return histogram.buckets

    def _login(self, number: int, *, busy: bool) -> Buckets:
        histogram = Histogram()
        for _ in range(number):
            value_us = round(self.rng.lognormvariate(0.6, 0.5) * (60 if busy else 1) * 1000 / self.speed)
            histogram.record(value_us)
            self.all_login.record(value_us)
        return histogram.buckets

    def histograms(self) -> dict[str, Buckets]:
        """Give those of the whole run."""
        lag = Histogram()
        for _ in range(1_000):
            lag.record(round(self.rng.lognormvariate(4.5, 0.5)))
        return {
            "latency": self.all_latency.buckets,
            "service": self.all_service.buckets,
            "login": self.all_login.buckets,
            "lag": lag.buckets,
        }

    def _strikes(self, at_s: int, due: int) -> dict[str, int]:
        drawn = {
            "cut-after-request": sum(self.rng.random() < 0.02 for _ in range(due)),
            "power-loss": sum(self.rng.random() < 0.01 for _ in range(due)),
            "slow-save": round(self.gateways * 0.05) if 30 <= at_s < 34 else 0,
            "broker-restart": 1 if at_s == _RESTART_S else 0,
        }
        return {name: number for name, number in drawn.items() if number}

    def _states(self, unregistered: int, at_s: int, due: int) -> dict[str, int]:
        under_way = unregistered + self.again
        saving = min(unregistered, round(self.gateways * 0.04)) if 30 <= at_s < 36 else min(unregistered, due // 60)
        rest = under_way - saving
        backing = rest * 7 // 10 if _RESTART_S <= at_s < _BACK_S + 4 else rest // 8
        asking = min(rest - backing, unregistered - min(saving, unregistered))
        states = {
            "new": self.gateways - self.due,
            "connecting_to_provision": asking // 3,
            "awaiting_reply": asking - asking // 3,
            "saving": saving,
            "waiting_to_connect": backing,
            "connecting": rest - backing - asking,
            "online": self.online,
        }
        return {state: number for state, number in states.items() if number}


def _samples(seconds: tuple[Second, ...], rng: random.Random, speed: float, workers: int) -> tuple[Sample, ...]:
    samples = []
    for second in seconds:
        work = second.came_online / 1e6
        cores = {f"swarm-{n}": work * _CPU_US["swarm"] / workers + 0.01 * rng.random() for n in range(workers)}
        cores["broker"] = min(1.0, work * _CPU_US["broker"] / speed + 0.02 * rng.random())
        cores["responder"] = min(1.0, second.registered / 1e6 * _CPU_US["responder"] / speed + 0.01 * rng.random())
        samples.append(Sample(second.at_s + 1.0, {name: round(used, 3) for name, used in cores.items()}))
    return tuple(samples)


def _checks(broken: tuple[Broken, ...], gateways: int, *, unseen: bool) -> tuple[Check, ...]:
    checks = []
    for promise in PROMISES:
        own = tuple(b for b in broken if b.promise == promise)
        if unseen and promise in {"limit-exceeded", "no-event"}:
            checks.append(Check(promise=promise, state="not checked", why_not="the store of this target is not ours"))
        else:
            checks.append(Check(promise=promise, state="broken" if own else "held", looked_at=gateways, broken=own))
    return tuple(checks)


def broken(promise: Promise, gateways: int = 2, seen: str = "both were told credential 6c1f") -> Broken:
    """Give a promise that was seen broken with the first gateways."""
    names = tuple(f"plant/{n:06d}" for n in range(1, gateways + 1))
    return Broken(promise=promise, gateways=names, at_s=24.25, seen=seen)


def result(
    plan: Scenario | None = None,
    *,
    seed: int = 7,
    speed: float = 1.0,
    workers: int = 2,
    broke: tuple[Broken, ...] = (),
    unseen: bool = False,
    **changes: object,
) -> RunResult:
    """Give a whole result with its verdict; `changes` replace fields before it is judged. `speed` is the server's."""
    plan = plan or scenario()
    fleet = _Fleet(plan, seed, speed)
    seconds: list[Second] = []
    while not seconds or fleet.online < fleet.gateways or seconds[-1].at_s < 40:
        seconds.append(fleet.step(len(seconds)))
    strikes = Counter[str]()
    for second in seconds:
        strikes.update(second.strikes)
    samples = _samples(tuple(seconds), fleet.rng, speed, workers)
    processes = samples[0].cores
    made = RunResult(
        scenario=msgspec.json.decode(msgspec.json.encode(plan)),
        seed=seed,
        plan_digest="9f2c41d07be85a366e0d",
        target="embedded",
        command=f"mqttprov swarm run broker-restart --target embedded --gateways {fleet.gateways} --seed {seed}",
        began_at="2026-11-22T20:35:28Z",
        duration_s=len(seconds) + 0.4,
        workers=workers,
        gateways=fleet.gateways,
        expected=fleet.gateways,
        registered=fleet.registered,
        online_at_end=fleet.online,
        all_online_at_s=next(s.at_s for s in seconds if s.states.get("online", 0) == fleet.gateways) + 0.62,
        seconds=tuple(seconds),
        samples=samples,
        marks=(
            Mark(_RESTART_S, _BACK_S, "broker-restart", "broker-restart"),
            Mark(30.0, 34.0, "slow-save", "slow-save"),
        ),
        histograms=fleet.histograms(),
        refusals={"login: server unavailable": sum(s.refused for s in seconds) - 31, "FAILURE": 31},
        lost_connections={"closed by the broker": sum(s.lost for s in seconds) - 90, "time-out": 90},
        strikes=dict(strikes),
        cpu_s={name: round(sum(sample.cores[name] for sample in samples), 3) for name in processes},
        rss_bytes={name: 96 * 2**20 if name == "broker" else 71 * 2**20 for name in processes},
        tcp_counters={"ListenOverflows": 0, "ListenDrops": 0, "TCPTimeouts": 0},
        checks=_checks(broke, fleet.gateways, unseen=unseen),
        verdict=Verdict(state="passed"),
        environment=_ENVIRONMENT,
    )
    made = msgspec.structs.replace(made, **changes)
    return msgspec.structs.replace(made, verdict=verdict(made, plan))
