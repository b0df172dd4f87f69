"""Batches of one bucket each, the same from whatever step a run begins."""

import pytest

from latent_shift.data.samplers import BucketBatchSampler

BUCKETS = [0, 1, 0, None, 0, 1, 0, 2, 0, 0, 1]  # six of 0, three of 1, one of 2


def test_a_batch_is_of_one_bucket_and_an_epoch_of_all_items():
    batches = BucketBatchSampler(BUCKETS, 4, seed=0)
    epochs = [[batches.indices(epoch * 4 + step) for step in range(4)] for epoch in range(2)]
    for epoch in epochs:
        for indices in epoch:
            assert len(indices) == 4
            assert len({BUCKETS[index % len(BUCKETS)] for index in indices}) == 1
        seen = {index % len(BUCKETS) for indices in epoch for index in indices}
        assert seen == set(range(len(BUCKETS))) - {3}
    everything = [index for epoch in epochs for indices in epoch for index in indices]
    assert len(set(everything)) == len(everything)  # never the same window twice
    assert epochs[0] != [[index - min(map(min, epochs[1])) for index in indices] for indices in epochs[1]]


def test_a_run_that_begins_later_sees_the_same():
    whole, later = BucketBatchSampler(BUCKETS, 2, seed=5), BucketBatchSampler(BUCKETS, 2, seed=5)
    steps = [whole.indices(step) for step in range(40)]
    assert [later.indices(step) for step in range(39, 20, -1)] == steps[39:20:-1]
    assert [BucketBatchSampler(BUCKETS, 2, seed=6).indices(step) for step in range(40)] != steps


def test_nothing_to_batch_is_an_error():
    with pytest.raises(ValueError, match="none of the files can be opened"):
        BucketBatchSampler([None, None], 2, seed=0)
