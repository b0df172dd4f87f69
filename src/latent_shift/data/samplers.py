"""Plans: which visits each step of a training sees, whoever takes them.

A plan is an endless list of batches, decided by its seed alone and asked for by the number of the step, so
that a run begins anywhere and sees what it would have seen. A dataset may have a plan of its own (`plan_of`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch.utils.data import Dataset

from latent_shift.rng import item_rng, step_seed

_KIND_STREAM, _OFTEN_STREAM = 1 << 33, 1 << 34


class BatchSampler(Protocol):
    """The visits of each step, counted from 0."""

    def visits(self, step: int) -> Sequence[Any]:
        """`batch_size` of them, as the dataset takes them."""
        ...


class ShuffledSampler:
    """Every epoch another order of all items.

    A visit is epoch * length + index: the dataset sees which item it is, and which time it is seen. A batch
    may reach over the end of an epoch.
    """

    def __init__(self, length: int, batch_size: int, seed: int) -> None:
        self.length, self.batch_size, self.seed = length, batch_size, seed
        self._epoch, self._order = -1, torch.empty(0, dtype=torch.long)

    def visits(self, step: int) -> list[int]:
        """The visits of a step."""
        return [self._visit(step * self.batch_size + place) for place in range(self.batch_size)]

    def _visit(self, position: int) -> int:
        epoch, place = divmod(position, self.length)
        if epoch != self._epoch:
            own = torch.Generator().manual_seed(step_seed(self.seed, epoch))
            self._epoch, self._order = epoch, torch.randperm(self.length, generator=own)
        return epoch * self.length + int(self._order[place])


class WeightedSampler:
    """All items by turns, but in a share of the places one of those named, by turns of their own.

    often: indices of the named items. Raises ValueError where there are none.
    """

    def __init__(self, length: int, often: Sequence[int], share: float, batch_size: int, seed: int) -> None:
        if not often:
            raise ValueError("no item is to be seen often: name some")
        self.length, self.often, self.share, self.seed = length, often, share, seed
        self._all = ShuffledSampler(length, batch_size, seed)
        self._few = ShuffledSampler(len(often), batch_size, seed + 1)

    def visits(self, step: int) -> list[int]:
        """The visits of a step."""
        pairs = zip(self._all.visits(step), self._few.visits(step), strict=True)
        rng = item_rng(self.seed, step, _OFTEN_STREAM)
        return [self._named(few) if rng.random() < self.share else every for every, few in pairs]

    def _named(self, visit: int) -> int:
        epoch, place = divmod(visit, len(self.often))
        return epoch * self.length + self.often[place]


class ImageVideoMix(Dataset[dict[str, Any]]):
    """Clips, and in a share of the steps images of another source in their place; as long as the clips."""

    def __init__(self, clips: Dataset[Any], images: Dataset[Any], share: float) -> None:
        self.clips, self.images, self.share = clips, images, share

    def __len__(self) -> int:
        return len(self.clips)  # type: ignore[arg-type]

    def __getitem__(self, visit: tuple[bool, int]) -> dict[str, Any]:
        is_image, own = visit
        item: dict[str, Any] = (self.images if is_image else self.clips)[own]
        return item

    def plan(self, batch_size: int, seed: int) -> ImageVideoSampler:
        """Whole batches of clips, or of images."""
        return ImageVideoSampler(
            sampler_for(self.clips, batch_size, seed),
            sampler_for(self.images, batch_size, seed + 1),
            self.share,
            seed,
        )


class ImageVideoSampler:
    """Visits (is it an image, its number) of a `Mixed` dataset."""

    def __init__(self, clips: BatchSampler, images: BatchSampler, share: float, seed: int) -> None:
        self.clips, self.images, self.share, self.seed = clips, images, share, seed

    def visits(self, step: int) -> list[tuple[bool, int]]:
        """The visits of a step, all of one kind."""
        is_image = item_rng(self.seed, step, _KIND_STREAM).random() < self.share
        plan = self.images if is_image else self.clips
        return [(is_image, visit) for visit in plan.visits(step)]


def sampler_for(dataset: Dataset[Any], batch_size: int, seed: int) -> BatchSampler:
    """The dataset's own plan, or permutations of all its items."""
    own = getattr(dataset, "plan", None)
    if own is not None:
        plan: BatchSampler = own(batch_size, seed)
        return plan
    return ShuffledSampler(len(dataset), batch_size, seed)  # type: ignore[arg-type]
