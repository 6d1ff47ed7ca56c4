"""A run as a whole with scripted workers and a target that only remembers what was done to it."""

import os
import sys
import threading
from pathlib import Path

import msgspec
import pytest
from tests.simulator.test_crew import SCRIPT, scenario

from mqttprov_simulator.report.file import read_result, write_result
from mqttprov_simulator.report.result import RunResult
from mqttprov_simulator.results import Progress
from mqttprov_simulator.running.conduct import RunError, conduct
from mqttprov_simulator.running.crew import LocalCrew
from mqttprov_simulator.running.values import Endpoint, TokenKey
from mqttprov_simulator.scenario.model import GatewayFault, Scenario, Stop, TargetFault
from mqttprov_simulator.targets.target import TargetError


class RememberingTarget:
    """A target of no processes but this one."""

    name = "remembering"
    endpoints = (Endpoint(host="127.0.0.1", port=1),)
    operator = None
    state = None

    def __init__(self, error: str | None = None, *, lost: str | None = None) -> None:
        self.lost = lost
        self.tokens = {"default/default": TokenKey("key", "hidden-secret")}
        self.about = {"broker": "none"}
        self.done: list[str] = []
        self.error = error

    def pids(self) -> dict[str, int]:
        """Give this process."""
        return {"broker": os.getpid()}

    def strike(self, fault: TargetFault) -> None:
        """Remember it."""
        if self.error is not None:
            raise TargetError(self.error)
        self.done.append(f"strike {fault.kind}")

    def heal(self, fault: TargetFault) -> None:
        """Remember it."""
        self.done.append(f"heal {fault.kind}")

    def trouble(self) -> str | None:
        """Have what it was made with."""
        return self.lost


def _run(
    mode: str,
    played: Scenario,
    *,
    workers: int = 2,
    target: RememberingTarget | None = None,
    stop: threading.Event | None = None,
    watched: list[Progress] | None = None,
) -> RunResult:
    crew = LocalCrew([sys.executable, str(SCRIPT), mode])
    watch = None if watched is None else watched.append
    return conduct(
        played, target or RememberingTarget(), crew, workers=workers, command="mqttprov swarm run told",
        warnings=("load: high",), watch=watch, stop=stop,
    )  # fmt: skip


def test_a_run_gives_one_result_of_all_its_parts(tmp_path: Path) -> None:
    """Seconds, histograms, CPU, standings and checks of all workers, and it can be kept as a file."""
    watched: list[Progress] = []
    result = _run("well", scenario(8), watched=watched)
    assert (result.registered, result.online_at_end, result.expected, result.workers) == (8, 8, 8, 2)
    assert result.histograms["latency"] == {100: 8}
    assert result.refusals == {"NOT_FOUND": 2}
    assert set(result.cpu_s) == {"broker", "swarm-0", "swarm-1"}
    assert result.rss_bytes["swarm-0"] == 1 << 20
    assert result.rss_bytes["broker"] > 1 << 20
    assert result.all_online_at_s is not None
    assert sum(second.registered for second in result.seconds) == 8
    assert result.warnings == ("load: high",)
    assert {check.promise: check.state for check in result.checks}["shared-credential"] == "held"
    assert watched[-1].registered == 8
    assert watched[-1].held == 10
    write_result(tmp_path / "result.json", result)
    assert read_result(tmp_path / "result.json") == result
    assert b"hidden-secret" not in msgspec.json.encode(result)


def test_a_broken_promise_fails_the_run_and_names_the_gateway() -> None:
    """What a worker sees comes to the verdict and to the live view."""
    watched: list[Progress] = []
    result = _run("breaks", scenario(8), workers=1, watched=watched)
    (broken,) = [check for check in result.checks if check.state == "broken"]
    assert broken.promise == "echoed"
    assert broken.broken[0].gateways == ("fleet/000000",)
    assert result.verdict.state == "failed"
    assert watched[-1].broken == {"echoed": 1}
    assert watched[-1].held == 9


def test_a_run_ends_when_its_target_is_lost() -> None:
    """Nothing can come of it any more; the result says what ended."""
    target = RememberingTarget(lost="the broker ended by itself with status -9: it wrote nothing")
    result = _run("until-stopped", scenario(4), workers=1, target=target)
    assert [error.partition(",")[0] for error in result.errors] == ["it was ended early", target.lost]
    assert result.verdict.state == "failed"


def test_workers_are_told_when_the_plan_lasts_longer() -> None:
    """P10: gateways have their time from the end of what was done to the target."""
    stop, overs = threading.Event(), []

    class Crew(LocalCrew):
        def begin(self, starts_at: float, over_at_s: float = 0.0) -> None:
            overs.append(over_at_s)
            super().begin(starts_at, over_at_s)
            if over_at_s:
                stop.set()

    class SlowTarget(RememberingTarget):
        def heal(self, fault: TargetFault) -> None:
            threading.Event().wait(0.1)  # as a broker that takes its time to start
            super().heal(fault)

    played = msgspec.structs.replace(scenario(4), target_faults=(TargetFault(kind="broker-kill", at_s=0.0),))
    crew = Crew([sys.executable, str(SCRIPT), "until-stopped"])
    conduct(played, SlowTarget(), crew, stop=stop)
    assert overs[0] == 0.0
    assert 0.0 < overs[1] < 60.0


def test_faults_of_the_target_come_at_their_time_and_end() -> None:
    """They are marked as they were, with those that strike gateways by plan; all are healed before the result."""
    faults = (
        TargetFault(kind="broker-kill", at_s=0.0, for_s=0.05),
        TargetFault(kind="disk-full", at_s=0.1, for_s=99.0),
    )
    timed = (GatewayFault(kind="power-loss", at_s=0.2, for_s=1.0, name="lightning"),)
    target = RememberingTarget()
    result = _run("well", msgspec.structs.replace(scenario(40), target_faults=faults, faults=timed), target=target)
    assert target.done == ["strike broker-kill", "heal broker-kill", "strike disk-full", "heal disk-full"]
    marks = {mark.name: mark for mark in result.marks}
    assert list(marks) == ["broker-kill", "disk-full", "lightning"]
    assert marks["broker-kill"].until_s - marks["broker-kill"].at_s >= 0.04  # they are rounded
    assert marks["lightning"].until_s == pytest.approx(1.2)
    assert not result.errors


def test_a_fault_that_is_not_possible_fails_the_run() -> None:
    """It is told with its name and time; errors never vanish."""
    faults = (TargetFault(kind="broker-kill", at_s=0.1),)
    target = RememberingTarget(error="it is not ours")
    result = _run("well", msgspec.structs.replace(scenario(40), target_faults=faults), target=target)
    assert result.errors == ("broker-kill at 0.1 s: it is not ours",)
    assert result.verdict.state == "failed"


def test_a_run_that_is_stopped_gives_what_was() -> None:
    """Faults that go on are healed, and the result says that it was ended early."""
    stop, target = threading.Event(), RememberingTarget()
    played = msgspec.structs.replace(
        scenario(4), target_faults=(TargetFault(kind="responder-freeze", at_s=0.0, for_s=99.0),)
    )

    class UntilAllAreOnline(list[Progress]):
        def append(self, progress: Progress) -> None:
            if progress.registered == 4 and target.done:
                stop.set()

    result = _run("until-stopped", played, target=target, stop=stop, watched=UntilAllAreOnline())
    assert result.registered == 4
    assert target.done == ["strike responder-freeze", "heal responder-freeze"]
    assert "ended early" in result.errors[0]


@pytest.mark.parametrize(("mode", "text"), [("fails", "1 open file"), ("silent", "ended with status 0")])
def test_a_worker_that_fails_ends_the_run(mode: str, text: str) -> None:
    """With its own words, whether it was ready or not."""
    with pytest.raises(RunError, match=text):
        _run(mode, scenario(4))


def test_a_worker_that_never_ends_does_not_hold_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Past the scenario's time-out and some more it is ended by force."""
    monkeypatch.setattr("mqttprov_simulator.running.conduct._CLOSING_S", 0.3)
    monkeypatch.setattr("mqttprov_simulator.running.crew._END_TIMEOUT_S", 0.2)
    with pytest.raises(RunError, match="did not come to an end"):
        _run("deaf", msgspec.structs.replace(scenario(4), stop=Stop(timeout_s=0.2)), workers=1)
