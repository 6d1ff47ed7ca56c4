"""Workers on the machines of a Dask cluster: each is a task there that runs a worker process and passes its words on.

Only this module and `dask_crew` know Dask. What travels is JSON of ours; a task is this module's `carry`.
"""

import queue
import threading
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
    from distributed import Event, Variable, get_worker  # noqa: PLC0415 - an optional package

    orders = msgspec.json.decode(assignment, type=Assignment)
    if version != mqttprov.__version__:
        text = f"a machine of the cluster has mqttprov {mqttprov.__version__}, this one {version}; install the same"
        return msgspec.json.encode(Failure(orders.worker, text))
    worker = get_worker()
    begin, stop = Variable(f"{run}-begin"), Event(f"{run}-stop")
    said: queue.SimpleQueue[FromWorker] = queue.SimpleQueue()
    crew = LocalCrew()
    ended = threading.Event()
    try:
        crew.start([orders], said.put)
        threading.Thread(target=_obey, args=(crew, begin, stop, ended), daemon=True).start()
        while True:
            word = said.get()
            if isinstance(word, Recording | Failure):
                return msgspec.json.encode(word)
            worker.log_event(run, msgspec.json.encode(word).decode())
    finally:
        ended.set()
        crew.end()


def _obey(crew: LocalCrew, begin: Any, stop: Any, ended: threading.Event) -> None:
    """Pass on when the run begins and that it is to stop; both are kept by the scheduler."""
    begun = False
    while not ended.is_set():
        try:
            if not begun:
                crew.begin(msgspec.json.decode(begin.get(timeout=_LISTEN_S), type=Begin).starts_at)
                begun = True
            elif stop.wait(timeout=_LISTEN_S):
                crew.stop()
                return
        except TimeoutError:
            if stop.is_set():
                crew.stop()
                return
