"""Processes and folders of a run that is killed: they go with it."""

import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

from mqttprov_simulator.leash import Leash

_TIMEOUT_S = 30.0
_SLEEPS = [sys.executable, "-c", "import time; time.sleep(600)"]
_RUN = """
import subprocess, sys
from mqttprov_simulator.leash import Leash
leash = Leash()
(leash.folder / "secret").write_text("x")
sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
leash.hold(sleeper.pid)
print(sleeper.pid, leash.folder, flush=True)
sys.stdin.read()
"""


def _gone(process: int) -> bool:
    """Wait for the end of a process that is not our child."""
    ready, _, _ = select.select([process], [], [], _TIMEOUT_S)
    return bool(ready)


def test_what_is_held_goes_with_a_process_that_is_killed() -> None:
    """SIGKILL lets nobody tidy up: its processes are killed and its folder, in which are keys, is removed."""
    run = subprocess.Popen([sys.executable, "-c", _RUN], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with run:
        assert run.stdout is not None
        pid, _, folder = run.stdout.readline().decode().strip().partition(" ")
        sleeper = os.pidfd_open(int(pid))
        assert Path(folder, "secret").exists()
        run.send_signal(signal.SIGKILL)
        run.wait(_TIMEOUT_S)
    assert _gone(sleeper)
    os.close(sleeper)
    until_s = time.monotonic() + _TIMEOUT_S
    while Path(folder).exists() and time.monotonic() < until_s:
        time.sleep(0.02)  # nothing tells of it
    assert not Path(folder).exists()


def test_what_is_still_held_when_it_is_closed_is_killed() -> None:
    """Closing leaves nothing, also where whoever started a process has lost it; one that has ended harms nobody."""
    leash = Leash()
    with subprocess.Popen(_SLEEPS) as sleeper, subprocess.Popen([sys.executable, "-c", ""]) as short:
        short.wait(_TIMEOUT_S)
        for process in (sleeper, short):
            leash.hold(process.pid)
        leash.close()
        assert sleeper.wait(_TIMEOUT_S) == -signal.SIGKILL
    assert not leash.folder.exists()


def test_a_run_goes_on_when_the_holder_is_ended() -> None:
    """Somebody may end it from outside; then only what it is there for is lost."""
    leash = Leash()
    leash._holder.kill()
    leash._holder.wait(_TIMEOUT_S)
    leash.hold(os.getpid())
    leash.close()
    assert not leash.folder.exists()
