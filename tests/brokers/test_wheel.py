"""The deadline wheel in pure time."""

from hypothesis import given
from hypothesis import strategies as st

from mqttprov.brokers.wheel import HORIZON_S, DeadlineWheel


class Item:
    """Something with a deadline that may move; notes when it expired."""

    def __init__(self, deadline_s: float | None) -> None:
        self.deadline = deadline_s
        self.slot = 0
        self.expired_s: float | None = None
        self.now_s = 0.0

    def deadline_s(self) -> float | None:
        """Give the deadline."""
        return self.deadline

    def expire(self) -> None:
        """Note it."""
        assert self.expired_s is None
        self.expired_s = self.now_s


@given(
    st.lists(st.tuples(st.floats(0, 50), st.lists(st.tuples(st.floats(0, 30), st.floats(0, 20)), max_size=5))),
    st.floats(0.1, 7),
)
def test_what_is_overdue_ends_within_a_turn_and_a_second_and_never_before(
    plans: list[tuple[float, list[tuple[float, float]]]], turn_s: float
) -> None:
    """Whatever signs of life there are: nothing expires early, nothing later than a second and a turn (P9)."""
    wheel = DeadlineWheel(0.0)
    items = []
    for first, lives in plans:
        item = Item(first)
        wheel.watch(item)
        items.append((item, sorted(lives)))
    now = 0.0
    while now < 130:
        now += turn_s
        for item, lives in items:
            while lives and lives[0][0] <= now:
                at, more = lives.pop(0)
                if item.expired_s is None and item.deadline is not None and at < item.deadline:
                    item.deadline = max(item.deadline, at + more)
            item.now_s = now
        wheel.turn(now)
        for item, _ in items:
            assert item.deadline is not None
            assert (item.expired_s is None) or item.expired_s >= item.deadline
            assert (item.expired_s is not None) or now < item.deadline + 1 + turn_s


def test_what_has_no_deadline_any_more_is_forgotten() -> None:
    """A connection that is gone, or that never times out, leaves the wheel."""
    wheel = DeadlineWheel(100.0)
    item = Item(105.0)
    wheel.watch(item)
    item.deadline = None
    wheel.turn(1000.0)
    assert item.expired_s is None
    item.deadline = 1001.0
    wheel.turn(2000.0)
    assert item.expired_s is None


def test_an_item_that_comes_and_goes_is_noted_once_and_not_for_longer_than_the_horizon() -> None:
    """However often a deadline moves there and back, the wheel keeps a bounded number of notes, and forgets (P9)."""
    wheel = DeadlineWheel(0.0)
    item = Item(None)
    for now in range(3 * HORIZON_S):
        for distance in (1_000_000, 5, 1_000_000):
            item.deadline = now + distance
            wheel.watch(item)
        wheel.turn(now)
        assert sum(map(len, wheel._slots.values())) <= HORIZON_S + 1
    item.deadline = None
    wheel.turn(3 * HORIZON_S + HORIZON_S)
    assert not wheel._slots


def test_a_nearer_deadline_is_met() -> None:
    """Watching again when the deadline has come nearer is enough."""
    wheel = DeadlineWheel(0.0)
    item = Item(100.0)
    wheel.watch(item)
    item.deadline = 3.0
    wheel.watch(item)
    item.now_s = 5.0
    wheel.turn(5.0)
    assert item.expired_s == 5.0
