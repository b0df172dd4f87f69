"""Which items a step sees: decided by seed and step alone, whatever the number of workers or processes.

`loader(dataset, ...)` is a torch DataLoader that begins at any step, so that a resumed run sees what it would
have seen. Each process gets its own slice of every batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import Any

from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from latent_shift.data.samplers import BatchSampler, batch_sampler_for


class StepSampler(Sampler[list[Any]]):
    """A sampler's indices, a list a step from `first_step` on, endless: every world_size-th of each batch."""

    def __init__(
        self, sampler: BatchSampler, first_step: int = 0, *, rank: int = 0, world_size: int = 1
    ) -> None:
        self.sampler, self.first_step, self.rank, self.world_size = sampler, first_step, rank, world_size

    def __iter__(self) -> Iterator[list[Any]]:
        for step in count(self.first_step):
            yield list(self.sampler.indices(step))[self.rank :: self.world_size]


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
    """Batches from `first_step` on: tensors stacked along a first axis, captions as a list.

    Raises ValueError for a batch that the processes cannot share evenly.
    """
    if batch_size % world_size:
        raise ValueError(f"batch_size {batch_size} cannot be shared evenly by {world_size} processes")
    sampler = batch_sampler_for(dataset, batch_size, seed)
    return DataLoader(
        dataset,
        batch_sampler=StepSampler(sampler, first_step, rank=rank, world_size=world_size),
        num_workers=workers,
        collate_fn=default_collate,
        persistent_workers=workers > 0,
        prefetch_factor=4 if workers else None,
    )
