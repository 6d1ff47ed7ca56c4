"""The targets that a run starts itself: what is in them, what can be done to them, and that nothing of them is left."""

import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import msgspec
import pytest

from mqttprov.admin import Admin
from mqttprov.brokers.mosquitto.gate_build import missing_packages
from mqttprov_simulator.checks.store import StoreWatch
from mqttprov_simulator.plan import SwarmPlan
from mqttprov_simulator.results import Summary
from mqttprov_simulator.scenario.model import Group, Life, Profile, Scenario, Storm, TargetFault, Token
from mqttprov_simulator.swarm import run_swarm
from mqttprov_simulator.targets.embedded import embedded
from mqttprov_simulator.targets.mosquitto import _built_gate, mosquitto
from mqttprov_simulator.targets.target import Target, TargetError

Open = Callable[[Scenario], AbstractContextManager[Target]]
SCENARIO = Scenario(
    name="tested",
    summary="",
    groups=(
        Group(name="open", gateways=20, arrivals=Storm()),
        Group(name="line", gateways=5, arrivals=Storm(), token="capped", tls=True),
        Group(name="known", gateways=5, arrivals=Storm(), profile="factory", life=Life(rpc_every_s=1.0)),
    ),
    profiles=(Profile(name="factory", strategy="pre-provisioned", reprovision="refuse"),),
    tokens=(Token(name="capped", max_registrations=3), Token(name="default", profile="factory", max_registrations=4)),
)


@pytest.fixture(autouse=True)
def _temporary_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Where targets make their folders; afterwards nothing of them is left."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    yield
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("mqttprov-")] == []


@pytest.fixture(params=[embedded, mosquitto], ids=["embedded", "mosquitto"])
def own(request: pytest.FixtureRequest, need: Callable[[str], None]) -> Open:
    """Either target; that with Mosquitto needs it, and what its gate is compiled with."""
    if request.param is mosquitto:
        need("mosquitto")
        if missing_packages():
            reason = f"the gate cannot be compiled; run as root: apt-get install {' '.join(missing_packages())}"
            pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    return request.param  # type: ignore[no-any-return] # `request` is untyped


def swarm(target: Target, gateways: int = 20, *, token: str = "default/default") -> Summary:  # noqa: S107 - a name
    """Register gateways with a target, riding out what happens."""
    port, issued = target.endpoints[0].port, target.tokens[token]
    assert port is not None
    plan = SwarmPlan(host=target.endpoints[0].host, port=port, key=issued.key, secret=issued.secret, gateways=gateways,
                     stay_connected=True, hold_s=0.1, timeout_s=40)  # fmt: skip
    base = msgspec.structs.replace(plan.machine, backoff_base_s=0.1, backoff_cap_s=0.5)
    return run_swarm(msgspec.structs.replace(plan, machine=base)).summary


def test_it_has_what_the_scenario_needs_and_survives_every_fault(own: Open) -> None:
    """Profiles, tokens with their maximum, devices, an operator; each fault ends and the port stays (P1, P5, P10)."""
    with own(SCENARIO) as target:
        assert set(target.tokens) == {"default/default", "default/capped", "factory/default"}
        assert target.state is not None
        assert target.operator is not None
        assert (target.endpoints[0].tls_port is None, target.endpoints[0].ca_pem is None) == (False, False)
        with Admin(target.state) as admin:
            assert sorted(device.name for device in admin.devices()) == [f"known-{n:06}" for n in range(1, 6)]
            assert {(t.profile, t.name): t.max_registrations for t in admin.tokens()} == {
                ("default", "default"): None, ("default", "capped"): 3, ("factory", "default"): 4,
            }  # fmt: skip
            assert [name for name, *_ in admin.operators()] == [target.operator[0]]
        assert swarm(target).registered == 20
        before = target.pids()
        for kind in ("responder-kill", "broker-restart", "responder-freeze"):
            fault = TargetFault(kind=kind, at_s=0.0)
            target.strike(fault)
            target.heal(fault)
            assert target.trouble() is None
        assert target.pids().keys() == before.keys()
        assert not set(target.pids().values()) & set(before.values())
        assert swarm(target).states == {"online": 20}
        watch = StoreWatch(target.state, target.tokens)
        assert [(check.promise, check.state) for check in watch.close({}, 1.0)] == [
            ("limit-exceeded", "held"), ("no-event", "held"),
        ]  # fmt: skip
        processes = target.pids().values()
    assert target.trouble() is None
    assert not [pid for pid in processes if Path(f"/proc/{pid}").exists()]


def test_a_full_disk_fails_closed_and_loses_nothing(own: Open) -> None:
    """P2, P5: while files cannot grow requests get FAILURE; afterwards it goes on by itself, and the chain holds."""
    fault = TargetFault(kind="disk-full", at_s=0.0)
    with own(SCENARIO) as target:
        assert swarm(target).registered == 20
        target.strike(fault)
        port, token = target.endpoints[0].port, target.tokens["default/capped"]
        assert port is not None
        refused = run_swarm(
            SwarmPlan(
                host="127.0.0.1",
                port=port,
                key=token.key,
                secret=token.secret,
                gateways=2,
                name_prefix="late-",
                timeout_s=20,
                give_up_after_refusals=1,
            )
        )
        assert refused.summary.refusals == {"FAILURE": 2}
        target.heal(fault)
        assert swarm(target, 3, token="default/capped").registered == 3
        assert target.state is not None
        watch = StoreWatch(target.state, target.tokens)
        assert [check.state for check in watch.close({}, 1.0)] == ["held", "held"]
        with Admin(target.state) as admin:
            assert admin.token("capped", "default").used == 3
    assert target.trouble() is None


def test_faults_may_overlap() -> None:
    """Who is killed while it stands still, on a full disk, is started when the last of that is over."""
    frozen, full, killed = (
        TargetFault(kind=kind, at_s=0.0) for kind in ("responder-freeze", "disk-full", "broker-kill")
    )
    with embedded(SCENARIO) as target:
        for fault in (frozen, full, killed):
            target.strike(fault)
        until_s = time.monotonic() + 10
        while target.pids():
            assert time.monotonic() < until_s
        target.heal(frozen)
        assert target.pids() == {}
        target.heal(killed)
        target.heal(full)
        assert swarm(target).registered == 20
    assert target.trouble() is None


def test_a_broker_that_ends_by_itself_is_told() -> None:
    """With its status and what it wrote; a fault that is healed then does not start it anew."""
    frozen = TargetFault(kind="responder-freeze", at_s=0.0)
    with embedded(SCENARIO) as target:
        target.strike(frozen)
        os.kill(target.pids()["broker"], signal.SIGKILL)
        with pytest.raises(TargetError, match="broker"):
            target.heal(frozen)
        assert "the broker ended by itself with status -9" in (target.trouble() or "")
    assert "status -9" in (target.trouble() or "")


@pytest.mark.parametrize(
    ("scenario", "word"),
    [
        (msgspec.structs.replace(SCENARIO, profiles=()), "no profile"),
        (msgspec.structs.replace(SCENARIO, profiles=(Profile(name="default", reprovision="refuse"),)), "another name"),
    ],
)
def test_what_cannot_be_made_is_told_before_anything_starts(scenario: Scenario, word: str) -> None:
    """A profile that is not listed, and one that every state directory has otherwise."""
    with pytest.raises(TargetError, match=word), embedded(scenario):
        pass


def test_without_mosquitto_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """The program, or what the gate is compiled with."""
    monkeypatch.setattr(shutil, "which", lambda *_args, **_kwargs: None)
    with pytest.raises(TargetError, match="apt-get install mosquitto"), mosquitto(SCENARIO):
        pass
    monkeypatch.undo()
    _built_gate.cache_clear()
    found = shutil.which
    monkeypatch.setattr(shutil, "which", lambda name, **_: "/bin/true" if name == "mosquitto" else found("nothing"))
    with pytest.raises(TargetError, match="apt-get install make"), mosquitto(SCENARIO):
        pass
