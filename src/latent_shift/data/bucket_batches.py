"""Batches of one size each, where clips keep their shapes (`framing.Buckets`): which visits a step sees.

The counterpart of a plain permutation: every epoch shuffles each bucket, cuts it into batches, and shuffles
these. Seed and step alone decide, so a run begins at any step and sees what it would have seen.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from latent_shift.rng import item_rng

_BATCHES_STREAM = 1 << 32  # beyond the numbers of buckets, each of which is a stream of its own


class BucketBatches:
    """The visits of each step, all of one bucket; the last batch of a bucket is filled up from its front.

    bucket_of: of each entry, None for one to leave out (`Videos.bucket_of`). No visit comes twice: an entry
    that fills up a batch is seen in another window. Raises ValueError where no entry is left.
    """

    def __init__(self, bucket_of: Sequence[int | None], batch_size: int, seed: int) -> None:
        self.length, self.batch_size, self.seed = len(bucket_of), batch_size, seed
        self._members = {
            bucket: [index for index, one in enumerate(bucket_of) if one == bucket]
            for bucket in sorted({one for one in bucket_of if one is not None})
        }
        if not self._members:
            raise ValueError("no entry has a bucket: none of the files can be opened")
        self._batches = [
            (bucket, place)
            for bucket, members in self._members.items()
            for place in range(0, len(members), batch_size)
        ]
        # How often an entry may be needed in one epoch, to fill up the last batch of a small bucket.
        self._rounds = max(-(-batch_size // len(members)) + 1 for members in self._members.values())
        self._epoch, self._orders, self._turns = -1, dict[int, list[int]](), list[int]()

    def visits(self, step: int) -> list[int]:
        """The visits of a step, `batch_size` of them."""
        epoch, turn = divmod(step, len(self._batches))
        self._shuffle(epoch)
        bucket, first = self._batches[self._turns[turn]]
        order = self._orders[bucket]
        chosen = [divmod(place, len(order)) for place in range(first, first + self.batch_size)]
        return [(epoch * self._rounds + again) * self.length + order[place] for again, place in chosen]

    def _shuffle(self, epoch: int) -> None:
        if epoch == self._epoch:
            return
        self._epoch = epoch
        self._turns = _shuffled(range(len(self._batches)), item_rng(self.seed, epoch, _BATCHES_STREAM))
        self._orders = {
            bucket: _shuffled(members, item_rng(self.seed, epoch, bucket))
            for bucket, members in self._members.items()
        }


def _shuffled(numbers: Sequence[int], rng: np.random.Generator) -> list[int]:
    """A permutation by uniform numbers alone, which are the same with every version of numpy."""
    return [numbers[int(place)] for place in np.argsort(rng.random(len(numbers)), kind="stable")]
