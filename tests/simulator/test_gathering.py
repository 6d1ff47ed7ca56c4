"""What several workers say becomes one run: every second, every state, every broken promise."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from tests.simulator.test_crew import scenario

from mqttprov_simulator.running.gathering import Gathering, add_up, counted, merged
from mqttprov_simulator.running.values import Moment, Recording, Second


def _moment(worker: int, at_s: float, running: Second, *closed: Second, online: int = 0) -> Moment:
    return Moment(
        worker=worker, at_s=at_s, second=running, closed=closed, online=online, registered=online, cpu_s=at_s / 4
    )


def _recording(worker: int, **changes: object) -> Recording:
    recording = Recording(
        worker=worker, gateways=2, latency={1: 2}, service={1: 2}, lag={}, login={}, telemetry={}, rpc={}, refusals={},
        lost_connections={}, strikes={}, standings=[], cpu_s=3.0, rss_bytes=1, ended_at_s=9.0,
    )  # fmt: skip
    return msgspec.structs.replace(recording, **changes)


def test_seconds_of_all_workers_add_up() -> None:
    """Also those that still run, and the last ones of a worker that has ended."""
    gathered = Gathering(scenario(), 2)
    gathered.take(_moment(0, 1.5, Second(at_s=1, due=1), Second(at_s=0, due=2, latency={5: 1}, states={"new": 2})))
    gathered.take(_moment(1, 1.2, Second(at_s=1, due=4), Second(at_s=0, due=3, latency={5: 2}, states={"new": 1})))
    first, second = gathered.seconds()
    assert (first.due, first.latency, first.states) == (5, {5: 3}, {"new": 3})
    assert second.due == 5
    gathered.end(_recording(0))
    assert [one.due for one in gathered.seconds()] == [5, 5]


def test_a_worker_that_has_ended_stands_as_it_stood() -> None:
    """Its gateways do not vanish from the picture while the others go on."""
    gathered = Gathering(scenario(), 2)
    gathered.take(_moment(0, 0.5, Second(at_s=0, states={"online": 2})))
    gathered.end(_recording(0))
    ended = Second(at_s=0, states={"new": 2})
    gathered.take(_moment(1, 1.5, Second(at_s=1, states={"online": 1, "new": 1}), ended))
    assert [one.states for one in gathered.seconds()] == [{"online": 2, "new": 2}, {"online": 3, "new": 1}]
    progress = gathered.progress(1.5, cpu_cores={}, faults=(), held=10)
    assert progress.states == {"online": 3, "new": 1}


def test_the_processor_time_of_a_worker_counts_from_its_first_word() -> None:
    """Making keys for a fleet may take seconds before the run; they are not the first second's."""
    gathered = Gathering(scenario(), 2)
    assert gathered.cpu == {}
    gathered.take(_moment(1, 2.0, Second(at_s=2)))
    assert gathered.cpu == {1: (2.0, 0.5)}


def test_all_are_online_when_the_last_worker_says_so() -> None:
    """The moment is kept, whatever comes after it."""
    gathered = Gathering(scenario(4), 2)
    gathered.take(_moment(0, 1.0, Second(at_s=1), online=2))
    gathered.take(_moment(1, 2.5, Second(at_s=2), online=2))
    gathered.take(_moment(1, 3.5, Second(at_s=3), online=1))
    assert gathered.all_online_at_s == 2.5
    assert (gathered.registered, gathered.online) == (3, 3)


def test_progress_tells_of_the_last_seconds() -> None:
    """Rates are those of the last second that all have told whole, percentiles of the last five; no older ones."""
    gathered = Gathering(scenario(), 1)
    closed = [Second(at_s=at_s, due=10, started=9, registered=at_s, latency={at_s: 1}) for at_s in range(20)]
    running = Second(at_s=20, strikes={"power-loss": 2}, states={"online": 3})
    gathered.take(_moment(0, 20.1, running, *closed))
    gathered.broken["echoed"] += 2
    progress = gathered.progress(20.1, cpu_cores={"broker": 0.5}, faults=("broker-kill",), held=9)
    assert (progress.offered_per_s, progress.registrations_per_s, progress.late) == (10.0, 18.0, 20)
    assert progress.p50_ms is not None
    assert progress.p50_ms > 0.013
    assert progress.faults == ("broker-kill", "power-loss 2")
    assert (progress.held, progress.broken) == (9, {"echoed": 2})


def test_recordings_merge() -> None:
    """Histograms and counts are those of the whole fleet."""
    both = [_recording(0, refusals={"NOT_FOUND": 1}), _recording(1, latency={1: 1, 7: 1}, refusals={"FAILURE": 4})]
    assert merged(both)["latency"] == {1: 3, 7: 1}
    assert list(counted(one.refusals for one in both).items()) == [("FAILURE", 4), ("NOT_FOUND", 1)]


_SECONDS = st.builds(
    Second,
    at_s=st.just(3),
    due=st.integers(0, 99),
    lost=st.integers(0, 99),
    latency=st.dictionaries(st.integers(0, 20), st.integers(1, 9)),
    strikes=st.dictionaries(st.sampled_from(["a", "b"]), st.integers(1, 9)),
)


@given(st.lists(_SECONDS, min_size=1), st.randoms(use_true_random=False))
def test_the_order_in_which_workers_speak_does_not_matter(parts: list[Second], chance: object) -> None:
    """Adding up is the same in any order and in any grouping."""
    shuffled = list(parts)
    chance.shuffle(shuffled)  # type: ignore[attr-defined]  # Hypothesis gives a random.Random
    assert add_up(parts) == add_up([add_up(shuffled[:1]), *shuffled[1:]])
