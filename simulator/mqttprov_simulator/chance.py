"""Randomness for virtual gateways: one small stream of numbers each, drawn from the seed. Pure."""

from functools import lru_cache
from hashlib import blake2b
from typing import Final

_MASK: Final = (1 << 64) - 1


def _mix(number: int) -> int:
    """Scatter 64 bits (the finaliser of SplitMix64: Steele, Lea and Flood, OOPSLA 2014)."""
    number = (number ^ number >> 30) * 0xBF58476D1CE4E5B9 & _MASK
    number = (number ^ number >> 27) * 0x94D049BB133111EB & _MASK
    return number ^ number >> 31


class ChanceStream:
    """Numbers in [0, 1), the same ones for the same seed and place, independent of every other place.

    A counter that is hashed: a hundred bytes, where `random.Random` takes 2.5 KiB (reference/simulation.md 11.2).
    """

    __slots__ = ("_state",)

    def __init__(self, seed: int, place: int) -> None:
        self._state = _mix((_mix(seed & _MASK) + place) & _MASK)

    def __call__(self) -> float:
        """Draw the next number."""
        self._state = (self._state + 0x9E3779B97F4A7C15) & _MASK
        return (_mix(self._state) >> 11) / (1 << 53)


@lru_cache(maxsize=4096)
def sub_seed(seed: int, *purpose: str) -> int:
    """Give the seed of a sub-stream: `ChanceStream(sub_seed(seed, "arrival", group), place)`.

    What is drawn for one purpose then changes nothing that is drawn for another.
    """
    # A length before each part, so that ("ab", "c") and ("a", "bc") differ.
    text = "".join(f"{len(part)}:{part}" for part in (str(seed), *purpose))
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest())
