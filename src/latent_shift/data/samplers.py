"""Batch samplers: which items each step of a training sees.

A batch sampler is an endless list of batches, decided by its seed and indexed by the step, so that a run may
begin at any step and sees what it would have seen. An index is epoch * length + item: the dataset sees which
item it is, and how often it was seen before, which decides its window and caption.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch.utils.data import Dataset

from latent_shift.rng import item_rng, step_seed

# Streams of `item_rng`, beyond the numbers of buckets, each of which is a stream of its own.
_BUCKET_ORDER_STREAM, _KIND_STREAM, _OVERSAMPLING_STREAM = 1 << 32, 1 << 33, 1 << 34


class BatchSampler(Protocol):
    """The indices of each step, counted from 0."""

    def indices(self, step: int) -> Sequence[Any]:
        """`batch_size` indices, as the dataset takes them."""
        ...


def batch_sampler_for(dataset: Dataset[Any], batch_size: int, seed: int) -> BatchSampler:
    """The dataset's own batch sampler, else a shuffled one of all its items."""
    own = getattr(dataset, "batch_sampler", None)
    if own is not None:
        sampler: BatchSampler = own(batch_size, seed)
        return sampler
    return ShuffledSampler(len(dataset), batch_size, seed)  # type: ignore[arg-type]


def items_of(batch: dict[str, Any], otherwise: int) -> int:
    """Number of items at hand in a batch; `otherwise` where it does not name them."""
    return len(batch["key"]) if "key" in batch else otherwise


class ShuffledSampler:
    """All items in another order in every epoch; a batch may reach over the end of an epoch.

    drop_last: an epoch ends with its last whole batch, so that no item is twice in a batch; batch_size is
    then the length at most.
    """

    def __init__(self, length: int, batch_size: int, seed: int, *, drop_last: bool = False) -> None:
        self.length, self.batch_size, self.seed = length, batch_size, seed
        self._taken = length - length % batch_size if drop_last else length  # of each epoch
        self._epoch, self._order = -1, torch.empty(0, dtype=torch.long)

    def indices(self, step: int) -> list[int]:
        """The indices of a step."""
        start = step * self.batch_size
        return [self._index(position) for position in range(start, start + self.batch_size)]

    def _index(self, position: int) -> int:
        epoch, offset = divmod(position, self._taken)
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed(step_seed(self.seed, epoch))
            self._epoch, self._order = epoch, torch.randperm(self.length, generator=generator)
        return epoch * self.length + int(self._order[offset])


class WeightedSampler:
    """All items shuffled, but in a ratio of the places one of the oversampled items, shuffled on their own.

    oversampled: their numbers. Raises ValueError where there are none.
    """

    def __init__(
        self, length: int, oversampled: Sequence[int], ratio: float, batch_size: int, seed: int
    ) -> None:
        if not oversampled:
            raise ValueError("no item is to be oversampled: name some")
        self.length, self.oversampled, self.ratio, self.seed = length, oversampled, ratio, seed
        self._all = ShuffledSampler(length, batch_size, seed)
        self._few = ShuffledSampler(len(oversampled), batch_size, seed + 1)

    def indices(self, step: int) -> list[int]:
        """The indices of a step."""
        pairs = zip(self._all.indices(step), self._few.indices(step), strict=True)
        rng = item_rng(self.seed, step, _OVERSAMPLING_STREAM)
        return [self._oversampled(few) if rng.random() < self.ratio else one for one, few in pairs]

    def _oversampled(self, index: int) -> int:
        epoch, number = divmod(index, len(self.oversampled))
        return epoch * self.length + self.oversampled[number]


class BucketBatchSampler:
    """Batches of one size each (`resize.Buckets`): every epoch shuffles each bucket and the order of batches.

    bucket_of: the bucket of each item, None for one to leave out. The last batch of a bucket is filled up
    from its front; no index comes twice, so an item that fills up a batch is seen in another window. Raises
    ValueError where no item is left.
    """

    def __init__(self, bucket_of: Sequence[int | None], batch_size: int, seed: int) -> None:
        self.length, self.batch_size, self.seed = len(bucket_of), batch_size, seed
        self._members = {
            bucket: [item for item, one in enumerate(bucket_of) if one == bucket]
            for bucket in sorted({one for one in bucket_of if one is not None})
        }
        if not self._members:
            raise ValueError("no entry has a bucket: none of the files can be opened")
        self._batches = [
            (bucket, start)
            for bucket, members in self._members.items()
            for start in range(0, len(members), batch_size)
        ]
        # How often an item may be needed in one epoch, to fill up the last batch of a small bucket.
        self._rounds = max(-(-batch_size // len(members)) + 1 for members in self._members.values())
        self._epoch, self._orders, self._batch_order = -1, dict[int, list[int]](), list[int]()

    def indices(self, step: int) -> list[int]:
        """The indices of a step."""
        epoch, number = divmod(step, len(self._batches))
        self._shuffle(epoch)
        bucket, start = self._batches[self._batch_order[number]]
        order = self._orders[bucket]
        chosen = [divmod(position, len(order)) for position in range(start, start + self.batch_size)]
        return [(epoch * self._rounds + again) * self.length + order[offset] for again, offset in chosen]

    def _shuffle(self, epoch: int) -> None:
        if epoch == self._epoch:
            return
        self._epoch = epoch
        batches = range(len(self._batches))
        self._batch_order = _shuffled(batches, item_rng(self.seed, epoch, _BUCKET_ORDER_STREAM))
        self._orders = {
            bucket: _shuffled(members, item_rng(self.seed, epoch, bucket))
            for bucket, members in self._members.items()
        }


def _shuffled(numbers: Sequence[int], rng: np.random.Generator) -> list[int]:
    """A permutation from uniform numbers only, which are the same with every version of numpy."""
    return [numbers[int(position)] for position in np.argsort(rng.random(len(numbers)), kind="stable")]


class ImageVideoMix(Dataset[dict[str, Any]]):
    """Clips, and in a ratio of the steps images of another dataset in their place; as long as the clips.

    Its indices are pairs: whether it is an image, and the index in that dataset.

    image_ratio: ratio of the batches that have images. image_batch_size: how many; None for as many as clips.
    """

    def __init__(
        self,
        clips: Dataset[Any],
        images: Dataset[Any],
        image_ratio: float,
        image_batch_size: int | None = None,
    ) -> None:
        self.clips, self.images, self.image_ratio = clips, images, image_ratio
        self.image_batch_size = image_batch_size

    def __len__(self) -> int:
        return len(self.clips)  # type: ignore[arg-type]

    def __getitem__(self, index: tuple[bool, int]) -> dict[str, Any]:
        is_image, own = index
        item: dict[str, Any] = (self.images if is_image else self.clips)[own]
        return item

    def batch_sampler(self, batch_size: int, seed: int) -> ImageVideoSampler:
        """Whole batches of clips, or of images."""
        clips = batch_sampler_for(self.clips, batch_size, seed)
        images = batch_sampler_for(self.images, self.image_batch_size or batch_size, seed + 1)
        return ImageVideoSampler(clips, images, self.image_ratio, seed)


class ImageVideoSampler:
    """Batch sampler of an `ImageVideoMix`."""

    def __init__(self, clips: BatchSampler, images: BatchSampler, image_ratio: float, seed: int) -> None:
        self.clips, self.images, self.image_ratio, self.seed = clips, images, image_ratio, seed

    def indices(self, step: int) -> list[tuple[bool, int]]:
        """The indices of a step, all of one kind."""
        is_image = item_rng(self.seed, step, _KIND_STREAM).random() < self.image_ratio
        sampler = self.images if is_image else self.clips
        return [(is_image, index) for index in sampler.indices(step)]
