"""The same run over a Dask cluster: two workers on loopback, results merged; and what is said where there is none."""

import os
import queue
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import distributed
import msgspec
import pytest
from tests.simulator.test_conduct import RememberingTarget
from tests.simulator.test_crew import SCRIPT, scenario

from mqttprov_simulator.running import crew
from mqttprov_simulator.running.conduct import conduct
from mqttprov_simulator.running.crew import CrewError
from mqttprov_simulator.running.dask_crew import DaskCrew
from mqttprov_simulator.running.playing import Where, play
from mqttprov_simulator.running.values import Assignment, FromWorker, Moment, Ready
from mqttprov_simulator.scenario.model import Stop


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Two processes that work for a scheduler in this one, without a dashboard, nothing beyond loopback."""
    with (
        distributed.LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            host="127.0.0.1",
            dashboard_address=None,
            silence_logs=50,
            local_directory=str(tmp_path_factory.mktemp("dask")),
        ) as cluster,  # fmt: skip
        distributed.Client(cluster, set_as_default=False) as client,
    ):
        yield client


def _play(cluster: Any, mode: str | None) -> None:
    """Let the cluster's processes carry scripted workers; None: real ones again."""
    command = [sys.executable, str(SCRIPT), mode] if mode is not None else list(crew._WORKER)

    def script(command: list[str]) -> None:
        from mqttprov_simulator.running import crew  # noqa: PLC0415 - in the cluster's process

        crew.LocalCrew.__init__.__defaults__ = (command,)

    cluster.run(script, command)


def test_a_run_over_a_cluster_is_one_run(cluster: Any) -> None:
    """Each process of the cluster carries its share; moments and recordings come together."""
    _play(cluster, "well")
    pids = cluster.run(os.getpid)
    assert len(set(pids.values())) == 2
    places = DaskCrew(cluster.scheduler.address)
    assert places.machines == 2
    result = conduct(scenario(8), RememberingTarget(), places, workers=2)
    assert (result.registered, result.expected, result.workers) == (8, 8, 2)
    assert sum(second.registered for second in result.seconds) == 8
    assert set(result.cpu_s) == {"broker", "swarm-0", "swarm-1"}
    assert result.histograms["latency"] == {100: 8}


def test_gateways_on_a_cluster_register_with_a_real_broker(cluster: Any) -> None:
    """Two real workers share a fleet, and every promise that can be checked holds over both."""
    _play(cluster, None)
    played = msgspec.structs.replace(scenario(20), stop=Stop(hold_s=0.0))
    result = play(played, Where(cluster=cluster.scheduler.address))
    assert (result.registered, result.online_at_end, result.workers, result.errors) == (20, 20, 2, ())
    states = {check.promise: check.state for check in result.checks}
    assert "broken" not in states.values()
    assert states["shared-credential"] == states["no-event"] == states["not-online"] == "held"


def test_a_run_over_a_cluster_can_be_ended_early(cluster: Any) -> None:
    """The word reaches the workers there, and they give what they have."""
    _play(cluster, "until-stopped")
    stop = threading.Event()
    threading.Timer(1.5, stop.set).start()
    result = conduct(scenario(4), RememberingTarget(), DaskCrew(cluster.scheduler.address), workers=2, stop=stop)
    assert len(result.seconds) >= 1
    assert "ended early" in result.errors[0]


def test_workers_end_when_whoever_asked_is_gone(cluster: Any) -> None:
    """Nobody would tell them to stop; the machines of the cluster are free again long before their time-out."""
    _play(cluster, "until-stopped")
    places = DaskCrew(cluster.scheduler.address)
    said: queue.SimpleQueue[FromWorker] = queue.SimpleQueue()
    assignment = Assignment(
        scenario=scenario(4), worker=0, workers=1, starts_at=0.0, endpoints=RememberingTarget.endpoints,
        tokens=RememberingTarget().tokens,
    )  # fmt: skip
    places.start([assignment], said.put)
    assert isinstance(said.get(timeout=30), Ready)
    places.begin(time.time())
    assert isinstance(said.get(timeout=30), Moment)
    assert any(cluster.run(_carries).values())
    places._client.close()  # as its end does, without a word to the workers
    until_s = time.monotonic() + 30
    while any(cluster.run(_carries).values()):
        assert time.monotonic() < until_s
        time.sleep(0.05)


def _carries(dask_worker: Any) -> bool:
    return bool(dask_worker.state.tasks)


def test_more_processes_than_the_cluster_has_are_refused(cluster: Any) -> None:
    """They would wait for each other forever."""
    places = DaskCrew(cluster.scheduler.address)
    with pytest.raises(CrewError, match="3 processes do not fit on the cluster, which does 2 at once"):
        conduct(scenario(8), RememberingTarget(), places, workers=3)


def test_without_a_scheduler_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """At once, and what to start."""
    monkeypatch.setattr("mqttprov_simulator.running.dask_crew._CONNECT_TIMEOUT_S", 0.2)
    with pytest.raises(CrewError, match="there is no Dask scheduler at tcp:"):
        DaskCrew("tcp://127.0.0.1:9")


def test_without_dask_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is an extra; what to install is named."""
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(CrewError, match=r"pip install 'mqttprov\[cluster\]'"):
        DaskCrew("tcp://127.0.0.1:9")
