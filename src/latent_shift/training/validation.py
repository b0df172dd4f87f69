"""The loss on items that are never trained on, under noise that never changes, so that it can be compared."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from latent_shift.rng import StepRNG, step_seed
from latent_shift.training.checkpoint import State
from latent_shift.training.recipe import Divisible
from latent_shift.training.sharding import give_back
from latent_shift.training.train_step import to_device


class FixedItems:
    """The items of a validation, those of this process, kept in batches."""

    def __init__(self, data: Dataset[Any], recipe: Divisible, accelerator: Accelerator) -> None:
        assert recipe.validation is not None
        self.every = recipe.validation.every
        items = len(data)  # type: ignore[arg-type]
        if items % accelerator.num_processes:
            raise ValueError(
                f"validation.items {items} cannot be shared by {accelerator.num_processes} processes"
            )
        rng = StepRNG.of(
            step_seed(recipe.seed, 0), items, accelerator.process_index, accelerator.num_processes
        )
        size = max(recipe.batch_size // accelerator.num_processes, 1)
        self.batches = [
            (default_collate([data[place] for place in some]), StepRNG(rng.seed, tuple(some), items))
            for some in _of_one_size(data, rng.batch_indices, size)
        ]

    @torch.no_grad()
    def loss(self, state: State, accelerator: Accelerator) -> Tensor:
        """The mean loss of the averaged weights over all items, a scalar."""
        objective, total = state.objective, torch.zeros((), device=accelerator.device)
        objective.eval()
        with state.averaged(), accelerator.autocast():
            for batch, rng in self.batches:
                figures = objective(to_device(batch, accelerator.device), rng)
                total += figures["loss"] * len(rng.batch_indices)
            give_back(objective)
        objective.train()
        total /= sum(len(rng.batch_indices) for _, rng in self.batches)
        return cast(Tensor, accelerator.reduce(total, "mean")) if accelerator.num_processes > 1 else total


def _of_one_size(data: Dataset[Any], places: Sequence[int], most: int) -> list[list[int]]:
    """The places in lists of at most `most` items of equal sizes."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for place in places:
        item = data[place]
        groups.setdefault(tuple(item["frames" if "frames" in item else "latents"].shape), []).append(place)
    return [some[at : at + most] for some in groups.values() for at in range(0, len(some), most)]
