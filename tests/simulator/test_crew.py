"""Workers as processes of this machine: they are heard, told when to begin, ended, and never die unnoticed."""

import queue
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from mqttprov_simulator.running.crew import LocalCrew, processes_for
from mqttprov_simulator.running.processes import ProcessWatch
from mqttprov_simulator.running.values import (
    Assignment,
    Endpoint,
    Failure,
    FromWorker,
    Moment,
    Ready,
    Recording,
    TokenKey,
)
from mqttprov_simulator.scenario.model import Group, Scenario, Storm

SCRIPT = Path(__file__).parent / "scripted_worker.py"
_TIMEOUT_S = 30.0


def scenario(gateways: int = 4) -> Scenario:
    """A storm of one group."""
    return Scenario(name="told", summary="A test.", groups=(Group(name="fleet", gateways=gateways, arrivals=Storm()),))


def assignments(workers: int, gateways: int = 4) -> list[Assignment]:
    """Shares of a fleet."""
    return [
        Assignment(
            scenario=scenario(gateways), worker=worker, workers=workers, starts_at=0.0,
            endpoints=(Endpoint(host="127.0.0.1", port=1),), tokens={"default/default": TokenKey("key", "secret")},
        )
        for worker in range(workers)
    ]  # fmt: skip


class Heard:
    """What a crew's workers said."""

    def __init__(self, mode: str) -> None:
        self.crew = LocalCrew([sys.executable, str(SCRIPT), mode])
        self.said: queue.SimpleQueue[FromWorker] = queue.SimpleQueue()

    def start(self, workers: int) -> None:
        """Start so many."""
        self.crew.start(assignments(workers), self.said.put)

    def until(self, *kinds: type) -> list[FromWorker]:
        """Give what was said until something of these kinds was."""
        heard = [self.said.get(timeout=_TIMEOUT_S)]
        while not isinstance(heard[-1], kinds):
            heard.append(self.said.get(timeout=_TIMEOUT_S))
        return heard


@pytest.fixture
def heard(request: pytest.FixtureRequest) -> Iterator[Heard]:
    """A crew of scripted workers; nothing of it is left afterwards."""
    heard = Heard(request.param)
    yield heard
    heard.crew.end()
    assert all(worker._process.returncode is not None for worker in heard.crew._workers)


@pytest.mark.parametrize("heard", ["well"], indirect=True)
def test_workers_begin_together_and_end_with_a_recording(heard: Heard) -> None:
    """Nobody begins before all are ready and the word has come; each has all of its share in its recording."""
    heard.start(2)
    ready = [heard.said.get(timeout=_TIMEOUT_S) for _ in range(2)]
    assert {said.worker for said in ready if isinstance(said, Ready)} == {0, 1}
    assert heard.said.empty()
    heard.crew.begin(1.0)
    said = [*heard.until(Recording), *heard.until(Recording)]
    assert {one.worker: one.gateways for one in said if isinstance(one, Recording)} == {0: 2, 1: 2}
    assert sum(isinstance(one, Moment) for one in said) == 4


@pytest.mark.parametrize(
    ("heard", "text"),
    [
        ("dies", "worker 0 ended with status 3: no bread left"),
        ("fails", "1 open file; raise the limit"),
        ("babbles", "said 'Good morning', which is nothing of ours"),
        ("silent", "worker 0 ended with status 0: it wrote nothing"),
    ],
    indirect=["heard"],
)
def test_a_worker_that_does_not_do_its_part_is_told_once(heard: Heard, text: str) -> None:
    """Whatever happens to it, there is one failure that says what, with its own words."""
    heard.start(1)
    heard.crew.begin(1.0)
    failure = heard.until(Failure)[-1]
    assert isinstance(failure, Failure)
    assert text in failure.text
    heard.crew.end()
    assert heard.said.empty()


@pytest.mark.parametrize("heard", ["until-stopped"], indirect=True)
def test_a_run_can_be_ended_early_with_what_was(heard: Heard) -> None:
    """Asked to stop, workers give a recording."""
    heard.start(1)
    heard.crew.begin(1.0)
    heard.until(Moment)
    heard.crew.stop()
    heard.crew.stop()
    assert isinstance(heard.until(Recording, Failure)[-1], Recording)


@pytest.mark.parametrize("heard", ["deaf"], indirect=True)
def test_a_worker_that_does_not_end_is_ended(heard: Heard, monkeypatch: pytest.MonkeyPatch) -> None:
    """The wait for it is bounded, and its end is told."""
    monkeypatch.setattr("mqttprov_simulator.running.crew._END_TIMEOUT_S", 0.2)
    heard.start(1)
    heard.crew.begin(1.0)
    heard.until(Ready)
    heard.crew.end()
    failure = heard.until(Failure)[-1]
    assert isinstance(failure, Failure)
    assert "SIGKILL" in failure.text


def test_a_fleet_has_one_process_until_it_needs_more() -> None:
    """Ten thousand gateways are carried by one; more by as many as there are cores."""
    sizes = (1, 10_000, 10_001, 35_000, 1_000_000)
    assert [processes_for(size, 4, size, 1 << 20) for size in sizes] == [1, 1, 2, 4, 4]
    # What is open at the same time must fit into the open files of each.
    assert [processes_for(50_000, 2, count, 20_000) for count in (50_000, 500)] == [3, 2]
    assert processes_for(100, 2, 100, 500) == 1


def test_a_process_that_takes_over_a_part_adds_to_it() -> None:
    """A broker that was restarted has used what both of its processes have; what ended keeps what it had used."""
    watch = ProcessWatch()
    busy = "import sys\nfor _ in range(2_000_000): pass\nprint(1, flush=True)\nsys.stdin.read()"
    used = []
    for _ in range(2):
        with subprocess.Popen([sys.executable, "-c", busy], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            watch.look({"broker": process.pid})
            used.append(watch.cpu_s()["broker"])
    watch.look({})
    assert used[1] > used[0] > 0
    assert watch.cpu_s()["broker"] == used[1]
    assert watch.rss_bytes()["broker"] > 1 << 20


def test_secrets_do_not_show_in_what_is_printed_of_an_assignment() -> None:
    """P6: it goes over stdin, and its text names the run only."""
    (one,) = assignments(1)
    assert "secret" not in repr(one)
    assert b"secret" in msgspec.json.encode(one)
