"""A timer of the kernel for a loop: it wakes when it is due. The loops' own timers count whole milliseconds.

Rounding them up makes every gateway late, rounding them down spins until it is time: a third of the CPU time of a swarm
at a few hundred arrivals a second. Python has timerfd from 3.13 on; until then the C library is asked for it.
"""

import asyncio
import ctypes
import os
from collections.abc import Callable
from typing import Final

_CLOCK_MONOTONIC: Final = 1
_TFD_TIMER_ABSTIME: Final = 1
_LIBC: Final = ctypes.CDLL(None, use_errno=True)
_SET_TIME: Final = _LIBC.timerfd_settime


class _Times(ctypes.Structure):
    """struct itimerspec: interval and first expiry, each in seconds and nanoseconds."""

    _fields_ = (
        ("interval_s", ctypes.c_long),
        ("interval_ns", ctypes.c_long),
        ("at_s", ctypes.c_long),
        ("at_ns", ctypes.c_long),
    )


class PreciseTimer:
    """One timer, armed again and again. Made on the loop; to be closed."""

    def __init__(self, wake: Callable[[], None]) -> None:
        """`wake` is called on the loop when it is due. Raises OSError."""
        self._loop: Final = asyncio.get_running_loop()
        self._wake: Final = wake
        self._times: Final = _Times()
        self._times_at: Final = ctypes.byref(self._times)
        self._armed = False
        self._descriptor = _LIBC.timerfd_create(_CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        if self._descriptor < 0:
            raise OSError(ctypes.get_errno(), "no timer can be made")
        self._loop.add_reader(self._descriptor, self._fired)

    def arm(self, due_s: float) -> None:
        """Wake at this time of the monotonic clock, at once if it has passed; any earlier word is forgotten."""
        # Zero would disarm it.
        self._set(max(1, int(due_s * 1e9)))
        self._armed = True

    def _set(self, due_ns: int) -> None:
        times = self._times
        times.at_s, times.at_ns = divmod(due_ns, 1_000_000_000)
        _SET_TIME(self._descriptor, _TFD_TIMER_ABSTIME, self._times_at, None)

    def _fired(self) -> None:
        # It says so until it is read or set anew, and mostly it is.
        self._armed = False
        self._wake()
        if not self._armed and self._descriptor >= 0:
            self._set(0)

    def close(self) -> None:
        """Never wake again; harmless when repeated."""
        if self._descriptor >= 0:
            self._loop.remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1
