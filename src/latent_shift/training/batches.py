"""Which items a step sees: decided by seed and step alone, whatever the number of workers or processes.

`loader(dataset, ...)` is a torch DataLoader that begins at any step, so that a resumed run sees what it would
have seen. Each process gets its own slice of every batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate


def step_seed(seed: int, step: int, rank: int = 0) -> int:
    """A seed of its own for each step and process, far from its neighbours (splitmix64's mixing)."""
    mixed = (seed * 0x9E3779B97F4A7C15 + step * 0xD1B54A32D192ED03 + rank * 0x8CB92BA72F3D8DD7) & _MASK
    mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & _MASK
    return (mixed ^ (mixed >> 31)) >> 1  # torch takes 63 bits


_MASK = (1 << 64) - 1


class StepSampler(Sampler[list[int]]):
    """Lists of visits, one a step from `first_step` on, without end; each epoch is another permutation.

    A visit is epoch * length + index: the dataset sees which item it is, and which time it is seen. A batch
    may reach over the end of an epoch. Of each batch this process gets every world_size-th visit.
    """

    def __init__(
        self,
        length: int,
        batch_size: int,
        seed: int,
        first_step: int = 0,
        *,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if batch_size % world_size:
            raise ValueError(f"batch_size {batch_size} cannot be shared evenly by {world_size} processes")
        self.length, self.batch_size, self.seed = length, batch_size, seed
        self.first_step, self.rank, self.world_size = first_step, rank, world_size
        self._epoch, self._order = -1, torch.empty(0, dtype=torch.long)

    def __iter__(self) -> Iterator[list[int]]:
        step = self.first_step
        while True:
            start = step * self.batch_size
            yield [self._visit(p) for p in range(start + self.rank, start + self.batch_size, self.world_size)]
            step += 1

    def _visit(self, position: int) -> int:
        epoch, place = divmod(position, self.length)
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed(step_seed(self.seed, epoch))
            self._epoch, self._order = epoch, torch.randperm(self.length, generator=generator)
        return epoch * self.length + int(self._order[place])


def loader(
    dataset: Dataset[Any],
    batch_size: int,
    seed: int,
    first_step: int,
    *,
    workers: int,
    rank: int,
    world_size: int,
) -> DataLoader[Any]:
    """Batches from `first_step` on: tensors stacked along a first axis, captions as a list."""
    sampler = StepSampler(
        len(dataset),  # type: ignore[arg-type]
        batch_size,
        seed,
        first_step,
        rank=rank,
        world_size=world_size,
    )
    return DataLoader(
        dataset,
        batch_sampler=sampler,
        num_workers=workers,
        collate_fn=default_collate,
        persistent_workers=workers > 0,
        prefetch_factor=4 if workers else None,
    )
