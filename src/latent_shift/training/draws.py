"""The random numbers of a step: one stream for the step, and one for each item of its batch.

They depend on (seed, step, place in the whole batch) alone, so the items of a step meet the same noise
whether one process takes them together, several share them, or they are taken in parts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor

from latent_shift.data.chance import step_seed


@dataclass(frozen=True)
class Draws:
    """Of the items at hand. seed: of the step. places: of the items in its batch of `batch_size`."""

    seed: int
    places: tuple[int, ...]
    batch_size: int

    @classmethod
    def of(cls, seed: int, batch_size: int, rank: int = 0, world_size: int = 1) -> Draws:
        """For the slice of a batch that `loader` gives the process `rank` of `world_size`."""
        return cls(seed, tuple(range(rank, batch_size, world_size)), batch_size)

    def step(self) -> Generator:
        """What all items of the step have in common, in every process."""
        return Generator().manual_seed(self.seed)

    def items(self, device: torch.device | str = "cpu") -> list[Generator]:
        """One for each item at hand, in order; on a GPU other numbers than on a CPU, and faster."""
        return [Generator(device).manual_seed(step_seed(self.seed, place + 1)) for place in self.places]

    def chances(self) -> Tensor:
        """A number from 0 to 1 for each item at hand, (items,), on the CPU."""
        all_items = torch.rand(self.batch_size, generator=Generator().manual_seed(step_seed(self.seed, 0)))
        return all_items[list(self.places)]

    def spread(self, start: float, frames: int = 1) -> Tensor:
        """A place from 0 to 1 for each frame of each item (items, frames), over the whole batch even.

        start: uniform, the step's. Even places vary less than drawn ones (arXiv 2107.00630, appendix I.1).
        """
        order = torch.arange(frames) * self.batch_size + torch.tensor(self.places)[:, None]
        return (start + order.double() / (frames * self.batch_size)) % 1

    def parts(self, batch: dict[str, Any], count: int) -> Iterator[tuple[dict[str, Any], Draws]]:
        """Batch and draws in `count` equal parts."""
        size = len(self.places) // count
        for start in range(0, len(self.places), size):
            own = slice(start, start + size)
            part = {key: values[own] for key, values in batch.items()}
            yield part, Draws(self.seed, self.places[own], self.batch_size)
