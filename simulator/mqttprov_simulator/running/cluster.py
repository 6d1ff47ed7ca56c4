"""Workers on the machines of a Dask cluster: each is a task there that runs a worker process and passes its words on.

Only this module and `dask_crew` know Dask. What travels is JSON of ours; a task is this module's `carry`.
"""

import contextlib
import queue
import threading
from collections.abc import Callable
from typing import Any, Final

import msgspec

import mqttprov
from mqttprov_simulator.running.crew import LocalCrew
from mqttprov_simulator.running.values import Assignment, Begin, Failure, FromWorker, Recording

_LISTEN_S: Final = 0.5


def carry(assignment: bytes, run: str, version: str) -> bytes:
    """Run one worker on this machine until it ends; give its recording or failure as JSON. A task of Dask.

    `run` names what is said to and fro: events of that topic hold the worker's words, the variable `<run>-begin` when
    the run starts, the event `<run>-stop` that it is to end early. `version` is that of whoever asks.
    """
    from distributed import Event, Variable, get_client, get_worker  # noqa: PLC0415 - an optional package

    orders = msgspec.json.decode(assignment, type=Assignment)
    if version != mqttprov.__version__:
        text = f"a machine of the cluster has mqttprov {mqttprov.__version__}, this one {version}; install the same"
        return msgspec.json.encode(Failure(orders.worker, text))
    worker, client = get_worker(), get_client()
    task = worker.get_current_task()

    def wanted() -> bool:
        """Whether whoever asked is still there: Dask takes back the tasks of a client that is gone."""
        known = worker.state.tasks.get(task)
        return known is not None and known.state != "cancelled"

    begin, stop = Variable(f"{run}-begin", client), Event(f"{run}-stop", client)
    said: queue.SimpleQueue[FromWorker] = queue.SimpleQueue()

    def lost(error: Exception) -> None:
        said.put(Failure(orders.worker, f"worker {orders.worker} hears the scheduler no more: {error}"))

    crew = LocalCrew()
    ended = threading.Event()
    try:
        crew.start([orders], said.put)
        threading.Thread(target=_obey, args=(crew, begin, stop, wanted, ended, lost), daemon=True).start()
        while True:
            word = said.get()
            if isinstance(word, Recording | Failure):
                return msgspec.json.encode(word)
            worker.log_event(run, msgspec.json.encode(word).decode())
    finally:
        ended.set()
        crew.end()


def _obey(
    crew: LocalCrew,
    begin: Any,
    stop: Any,
    wanted: Callable[[], bool],
    ended: threading.Event,
    lost: Callable[[Exception], None],
) -> None:
    """Pass on when the run begins and that it is to stop; the scheduler keeps both words. Stop if nobody wants it."""
    told: Begin | None = None
    try:
        while not ended.is_set():
            if not wanted() or stop.wait(timeout=0 if told is None else _LISTEN_S):
                crew.stop()
                return
            with contextlib.suppress(TimeoutError):
                word = msgspec.json.decode(begin.get(timeout=_LISTEN_S), type=Begin)
                if word != told:
                    told = word
                    crew.begin(word.starts_at, word.over_at_s)
    except Exception as error:  # noqa: BLE001 - a thread's error would vanish; it ends the worker
        lost(error)
