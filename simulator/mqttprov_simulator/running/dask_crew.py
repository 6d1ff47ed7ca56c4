"""The workers of a run on a Dask cluster (`cluster` is what runs there). Needs the extra `cluster`.

The assignments hold provision secrets: a cluster whose scheduler is not on this machine should speak TLS (`tls://`).
"""

import secrets
import time
from collections.abc import Sequence
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING, Any, Final

import msgspec

import mqttprov
from mqttprov_simulator.running import cluster
from mqttprov_simulator.running.crew import CrewError, Tell
from mqttprov_simulator.running.values import Assignment, Begin, Failure, FromWorker

if TYPE_CHECKING:
    from distributed import Future

_CONNECT_TIMEOUT_S: Final = 10
_END_TIMEOUT_S: Final = 20.0


class DaskCrew:
    """Workers on the machines of a cluster, as many as it has threads at most (`places`)."""

    def __init__(self, address: str) -> None:
        """Connect to the scheduler. Raises CrewError."""
        try:
            from distributed import Client  # noqa: PLC0415 - an optional package
        except ImportError as error:
            raise CrewError(
                "--cluster needs Dask, which is not installed; run: pip install 'mqttprov[cluster]'"
            ) from error
        try:
            self._client: Final = Client(address, timeout=_CONNECT_TIMEOUT_S, set_as_default=False)
        except (OSError, ValueError, TimeoutError) as error:
            raise CrewError(f"there is no Dask scheduler at {address}: {error}; start one: dask scheduler") from error
        threads: dict[str, int] = self._client.ncores()
        if not threads:
            self._client.close()
            raise CrewError(f"the cluster at {address} has no workers; start some with 'dask worker {address}'")
        # Every machine first once, then a second time: they share the work as evenly as can be.
        self._places: Final = [
            worker for turn in range(max(threads.values())) for worker, count in sorted(threads.items()) if turn < count
        ]
        self.machines: Final = len(threads)
        self._run: Final = f"mqttprov-{secrets.token_hex(8)}"
        self._futures: list[Future[bytes]] = []
        self._signals: tuple[Any, Any] | None = None

    def start(self, assignments: Sequence[Assignment], tell: Tell) -> None:
        """Give each to a worker of the cluster. Raises CrewError if there are too few."""
        from distributed import Event, Variable  # noqa: PLC0415 - an optional package

        if len(assignments) > len(self._places):
            raise CrewError(
                f"{len(assignments)} processes do not fit on the cluster, which does {len(self._places)} at once; "
                "ask for fewer, or start more Dask workers"
            )
        self._signals = (Variable(f"{self._run}-begin", client=self._client), Event(f"{self._run}-stop", self._client))
        decoder = msgspec.json.Decoder(FromWorker)
        self._client.subscribe_topic(self._run, lambda event: tell(decoder.decode(event[1])))
        for assignment, place in zip(assignments, self._places, strict=False):
            future = self._client.submit(
                cluster.carry, msgspec.json.encode(assignment), self._run, mqttprov.__version__,
                workers=[place], allow_other_workers=False, pure=False, retries=0,
            )  # fmt: skip
            self._futures.append(future)
            worker = assignment.worker
            future.add_done_callback(lambda done, worker=worker: tell(self._ending(done, worker, decoder)))

    def begin(self, starts_at: float, over_at_s: float = 0.0) -> None:
        """Leave the word with the scheduler, where all look for it."""
        assert self._signals is not None  # noqa: S101 - for the type checker: `start` made them
        self._signals[0].set(msgspec.json.encode(Begin(starts_at, over_at_s)))

    def stop(self) -> None:
        """Leave the word to stop with the scheduler."""
        assert self._signals is not None  # noqa: S101 - for the type checker: `start` made them
        self._signals[1].set()

    def end(self) -> None:
        """Let go of the cluster, once its workers have ended or after some seconds."""
        if self._signals is not None:
            self.stop()
            until_s = time.monotonic() + _END_TIMEOUT_S
            for future in self._futures:
                try:
                    future.exception(timeout=max(0.1, until_s - time.monotonic()))
                except (TimeoutError, CancelledError):
                    future.cancel()
            self._futures.clear()
            self._signals[0].delete()
            self._signals = None
        self._client.close()

    @staticmethod
    def _ending(done: "Future[bytes]", worker: int, decoder: "msgspec.json.Decoder[FromWorker]") -> FromWorker:
        """Give what a task ended with; a task that failed, or was lost with its machine, is a failure too."""
        try:
            return decoder.decode(done.result(timeout=_END_TIMEOUT_S))
        except Exception as error:  # noqa: BLE001 - whatever happened there is told as the worker's failure
            return Failure(worker, f"worker {worker} was lost on the cluster: {type(error).__name__}: {error}")
