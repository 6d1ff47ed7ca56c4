"""The disks of virtual gateways: real credentials files, written and read in threads so that the loop never waits."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from mqttprov.gateway.credentials_file import CredentialsFile

_THREADS: Final = 8  # they wait for the disk, not for the processor

Done = Callable[[bytes | None, str | None], None]
"""What is stored now, or why it is not."""


class Disk:
    """One for all gateways of a process; each has a folder of its own, which must exist.

    `wanted` is asked in the thread before anything is touched: a gateway without power writes nothing any more. What
    ends is told on the loop, unless it is not wanted by then.
    """

    def __init__(self) -> None:
        self._loop: Final = asyncio.get_running_loop()
        self._threads: Final = ThreadPoolExecutor(_THREADS, thread_name_prefix="gateway-disk")

    def save(self, folder: Path, content: bytes, wanted: Callable[[], bool], done: Done) -> None:
        """Replace the stored credentials, all or nothing (P10)."""

        def job() -> bytes:
            CredentialsFile(folder).save(content)
            return content

        self._submit(job, wanted, done)

    def remove(self, folder: Path, wanted: Callable[[], bool], done: Done) -> None:
        """Remove the stored credentials."""

        def job() -> None:
            CredentialsFile(folder).remove()

        self._submit(job, wanted, done)

    def read(self, folder: Path, wanted: Callable[[], bool], done: Done) -> None:
        """Read them; what cannot be read or used counts as absent."""
        self._submit(CredentialsFile(folder).read, wanted, done)

    def _submit(self, job: Callable[[], bytes | None], wanted: Callable[[], bool], done: Done) -> None:
        def work() -> None:
            if not wanted():
                return
            content, error = None, None
            try:
                content = job()
            except OSError as failure:
                error = failure.strerror or type(failure).__name__
            except Exception as failure:  # noqa: BLE001 - whatever it is, it must not be lost in a thread
                mistake = {"message": "a gateway's disk failed", "exception": failure}
                self._loop.call_soon_threadsafe(self._loop.call_exception_handler, mistake)
                return
            self._loop.call_soon_threadsafe(tell, content, error)

        def tell(content: bytes | None, error: str | None) -> None:
            if wanted():
                done(content, error)

        self._threads.submit(work)

    def close(self) -> None:
        """Forget what has not begun and wait for the rest; on the loop, when no gateway is left."""
        self._threads.shutdown(wait=True, cancel_futures=True)
