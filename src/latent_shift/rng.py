"""All random streams: one for each item of a dataset, and those of a training step.

Data uses only uniform numbers from a counter-based generator: the streams of numpy's distributions may change
from one version to the next. The streams of a step depend on (seed, step, index in the whole batch) only, so
the items of a step meet the same noise in one process, in several, or in microbatches.

    item_rng(seed, index).random()                         # the same on every machine
    rng = StepRNG.of(step_seed(seed, step), batch_size)     # in training
    draw_noise(shape, rng.item_generators())
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Generator, Tensor

Choice = TypeVar("Choice")

_MASK = (1 << 64) - 1


def item_rng(seed: int, index: int, stream: int = 0) -> np.random.Generator:
    """Random stream of one item: the same for the same seed, index and stream, everywhere.

    Raises ValueError for a number that is not a whole number from 0 up to 2**63 - 1.
    """
    for name, value in (("seed", seed), ("index", index), ("stream", stream)):
        if not 0 <= value < 2**63:
            raise ValueError(f"{name} is {value}; it must be a whole number from 0 to 2**63 - 1")
    key = np.array([seed, index], dtype=np.uint64)
    return np.random.Generator(
        np.random.Philox(key=key, counter=np.array([0, 0, 0, stream], dtype=np.uint64))
    )


def clip_generator(seed: int | None) -> Generator:
    """Random stream of a generated clip, on the CPU, so that all devices draw the same; None draws a seed."""
    generator = Generator("cpu")
    if seed is None:
        generator.seed()
    else:  # of a seed torch's CPU generator uses 32 bits: larger ones would give the clips of smaller ones
        generator.manual_seed(seed if seed < 1 << 32 else step_seed(seed, 0))
    return generator


def choice(rng: np.random.Generator, choices: Sequence[Choice]) -> Choice:
    """One of the choices, all equally likely."""
    return choices[int(rng.random() * len(choices))]


def uniform(rng: np.random.Generator, low: float, high: float) -> float:
    """A number between low and high."""
    return low + (high - low) * float(rng.random())


def step_seed(seed: int, step: int, rank: int = 0) -> int:
    """A seed of its own for each step and process, far from its neighbours (splitmix64's mixing)."""
    mixed = (seed * 0x9E3779B97F4A7C15 + step * 0xD1B54A32D192ED03 + rank * 0x8CB92BA72F3D8DD7) & _MASK
    mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & _MASK
    return (mixed ^ (mixed >> 31)) >> 1  # torch takes 63 bits


@dataclass(frozen=True)
class StepRNG:
    """Random streams of one training step, for the items at hand.

    seed: of the step. batch_indices: of the items at hand in its batch of `batch_size`.
    """

    seed: int
    batch_indices: tuple[int, ...]
    batch_size: int

    @classmethod
    def of(cls, seed: int, batch_size: int, rank: int = 0, world_size: int = 1) -> StepRNG:
        """Streams for the slice of a batch that the data loader gives the process `rank` of `world_size`.

        seed: of the step (`step_seed`). batch_size: items of the whole batch, over all processes.
        """
        return cls(seed, tuple(range(rank, batch_size, world_size)), batch_size)

    def step_generator(self) -> Generator:
        """The stream that all items of the step share, in every process."""
        return Generator().manual_seed(self.seed)

    def item_generators(self, device: torch.device | str = "cpu") -> list[Generator]:
        """One stream for each item at hand, in order; on a GPU other numbers than on a CPU, and faster."""
        return [Generator(device).manual_seed(step_seed(self.seed, i + 1)) for i in self.batch_indices]

    def uniforms(self) -> Tensor:
        """A number from 0 to 1 for each item at hand, (items,), on the CPU."""
        all_items = torch.rand(self.batch_size, generator=Generator().manual_seed(step_seed(self.seed, 0)))
        return all_items[list(self.batch_indices)]

    def stratified_uniforms(self, start: float, frames: int = 1) -> Tensor:
        """A number from 0 to 1 for each frame of each item, (items, frames), evenly spaced over the batch.

        start: uniform, the step's. Stratified numbers vary less than drawn ones (arXiv 2107.00630, appendix
        I.1).
        """
        order = torch.arange(frames) * self.batch_size + torch.tensor(self.batch_indices)[:, None]
        return (start + order.double() / (frames * self.batch_size)) % 1

    def microbatches(self, batch: dict[str, Any], count: int) -> Iterator[tuple[dict[str, Any], StepRNG]]:
        """Split batch and streams into `count` equal parts; one part is the batch itself."""
        if count == 1:  # which may have values that are no items
            yield batch, self
            return
        size = len(self.batch_indices) // count
        for start in range(0, len(self.batch_indices), size):
            part = slice(start, start + size)
            microbatch = {key: values[part] for key, values in batch.items()}
            yield microbatch, replace(self, batch_indices=self.batch_indices[part])
