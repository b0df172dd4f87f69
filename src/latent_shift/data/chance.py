"""The dice of all data: one stream of random numbers for each item, the same on every machine.

Only uniform numbers from a counter-based generator are used, never numpy's distributions, whose streams may
change from one numpy version to the next.
"""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

Choice = TypeVar("Choice")

_MASK = (1 << 64) - 1


def generator(seed: int, index: int, stream: int = 0) -> np.random.Generator:
    """The random numbers of one item: the same for the same seed, index and stream, everywhere.

    Raises ValueError for a number that is not a whole number from 0 up to 2**63 - 1.
    """
    for name, value in (("seed", seed), ("index", index), ("stream", stream)):
        if not 0 <= value < 2**63:
            raise ValueError(f"{name} is {value}; it must be a whole number from 0 to 2**63 - 1")
    key = np.array([seed, index], dtype=np.uint64)
    return np.random.Generator(
        np.random.Philox(key=key, counter=np.array([0, 0, 0, stream], dtype=np.uint64))
    )


def step_seed(seed: int, step: int, rank: int = 0) -> int:
    """A seed of its own for each step and process, far from its neighbours (splitmix64's mixing)."""
    mixed = (seed * 0x9E3779B97F4A7C15 + step * 0xD1B54A32D192ED03 + rank * 0x8CB92BA72F3D8DD7) & _MASK
    mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & _MASK
    return (mixed ^ (mixed >> 31)) >> 1  # torch takes 63 bits


def pick(rng: np.random.Generator, choices: Sequence[Choice]) -> Choice:
    """One of the choices, all equally likely."""
    return choices[int(rng.random() * len(choices))]


def between(rng: np.random.Generator, low: float, high: float) -> float:
    """A number between low and high."""
    return low + (high - low) * float(rng.random())
