"""A worker as a process: an assignment as a JSON line on stdin, what it tells as JSON lines on stdout.

If the assignment names no start, a second line does, once the worker has said that it is ready; more such lines tell
that the plan lasts longer. It ends early, with a
recording of what was, on SIGTERM and when stdin ends: its parent is gone.
"""

import asyncio
import contextlib
import os
import queue
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Final

import msgspec
import uvloop

from mqttprov_simulator.running.values import Assignment, Begin, Failure, FromWorker, Recording
from mqttprov_simulator.running.worker import Orders, Tell, work


class _Writer:
    """Writes lines in a thread: a parent that is busy must not stop the gateways."""

    def __init__(self) -> None:
        self.last: FromWorker | None = None
        self._lines: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._thread: Final = threading.Thread(target=self._write, name="stdout")
        self._thread.start()

    def tell(self, value: FromWorker) -> None:
        """Write a value as a line, soon."""
        self.last = value
        self._lines.put(msgspec.json.encode(value) + b"\n")

    def _write(self) -> None:
        # Without a parent that reads there is nothing to write for.
        with contextlib.suppress(BrokenPipeError):
            while (line := self._lines.get()) is not None:
                view = memoryview(line)
                while view:
                    view = view[os.write(sys.stdout.fileno(), view) :]

    def close(self) -> None:
        """Wait until all is written."""
        self._lines.put(None)
        self._thread.join()


def _lines_of_stdin() -> Iterator[bytes]:
    """Give lines as they come. Not by `sys.stdin`: a thread that waits in there holds up the end of the process."""
    rest = b""
    while chunk := os.read(sys.stdin.fileno(), 65_536):
        rest += chunk
        while b"\n" in rest:
            line, _, rest = rest.partition(b"\n")
            yield line
    if rest:
        yield rest


def main() -> int:
    """Run a worker; 0 after a Recording, 1 after a Failure."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends its workers itself
    lines, writer = _lines_of_stdin(), _Writer()
    try:
        try:
            assignment = msgspec.json.decode(next(lines, b""), type=Assignment)
        except msgspec.DecodeError as error:
            writer.tell(Failure(0, f"no assignment: {error}; a worker is started by a run, not by hand"))
            return 1
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_work_as_told(assignment, writer.tell, lines))
        return 0 if isinstance(writer.last, Recording) else 1
    finally:
        writer.close()


async def _work_as_told(assignment: Assignment, tell: Tell, lines: Iterator[bytes]) -> None:
    loop, orders = asyncio.get_running_loop(), Orders()
    loop.add_signal_handler(signal.SIGTERM, orders.stop.set)

    def begin(word: Begin) -> None:
        orders.over_at_s = word.over_at_s
        if not orders.begin.done():
            orders.begin.set_result(word.starts_at)

    def listen() -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            for line in lines:
                loop.call_soon_threadsafe(begin, msgspec.json.decode(line, type=Begin))
            loop.call_soon_threadsafe(orders.stop.set)

    threading.Thread(target=listen, name="stdin", daemon=True).start()
    await work(assignment, tell, orders)
