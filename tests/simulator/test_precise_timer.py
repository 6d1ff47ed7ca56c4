"""The kernel's timer on a loop: never early, again and again, and gone when it is closed."""

import asyncio
import time

import pytest
import uvloop

from mqttprov_simulator.precise_timer import PreciseTimer


async def _wakes(gaps_s: list[float]) -> list[float]:
    """Arm it for one gap after the other; give how late each wake was."""
    late_s: list[float] = []
    done = asyncio.Event()
    due_s = time.monotonic()

    def wake() -> None:
        late_s.append(time.monotonic() - due_s)
        after() if gaps_s else done.set()

    def after() -> None:
        nonlocal due_s
        due_s = time.monotonic() + gaps_s.pop(0)
        timer.arm(due_s)

    timer = PreciseTimer(wake)
    after()
    await asyncio.wait_for(done.wait(), 30)
    timer.close()
    timer.close()
    return late_s


@pytest.mark.parametrize("loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_it_wakes_when_it_is_due_and_not_before(loop_factory: object) -> None:
    """Also for fractions of a millisecond and for what has passed already; one wake for each word."""
    gaps_s = [0.0003, 0.0027, 0.0, -5.0, 0.0104]
    with asyncio.Runner(loop_factory=loop_factory) as runner:  # type: ignore[arg-type]  # a parameter is an object
        late_s = runner.run(_wakes(list(gaps_s)))
    assert len(late_s) == len(gaps_s)
    assert min(late_s) >= 0


async def test_a_later_word_replaces_an_earlier_one() -> None:
    """And a closed timer says nothing."""
    woken: list[float] = []
    timer = PreciseTimer(lambda: woken.append(time.monotonic()))
    first_s = time.monotonic() + 0.05
    timer.arm(first_s)
    timer.arm(first_s + 0.05)
    await asyncio.sleep(0.15)
    assert len(woken) == 1
    assert woken[0] >= first_s + 0.05
    timer.arm(time.monotonic())
    timer.close()
    await asyncio.sleep(0.01)
    assert len(woken) == 1
