"""What a step sees depends on seed and step alone."""

from itertools import islice

import pytest
import torch
from torch.utils.data import Dataset

from latent_shift.training.batches import StepSampler, loader, step_seed


def visits(count, *options, **more):
    return list(islice(StepSampler(*options, **more), count))


def flat(batches):
    return [visit for batch in batches for visit in batch]


def test_each_epoch_is_another_permutation_of_everything():
    seen = flat(visits(10, 10, 4, 0))  # 40 visits: four epochs of 10, over the ends of which batches reach
    epochs = [seen[start : start + 10] for start in range(0, 40, 10)]
    assert [sorted(epoch) for epoch in epochs] == [
        list(range(start, start + 10)) for start in range(0, 40, 10)
    ]
    assert len({tuple(visit % 10 for visit in epoch) for epoch in epochs}) == 4


def test_it_begins_at_any_step():
    assert visits(6, 7, 3, 5, 4) == visits(10, 7, 3, 5)[4:]


def test_the_processes_share_each_batch():
    whole = visits(5, 11, 6, 1)
    shares = [visits(5, 11, 6, 1, rank=rank, world_size=3) for rank in range(3)]
    assert [sorted(flat(share)) for share in zip(*shares, strict=True)] == [sorted(batch) for batch in whole]
    with pytest.raises(ValueError, match="batch_size 6 cannot be shared evenly by 4 processes"):
        StepSampler(11, 6, 1, world_size=4)


def test_another_seed_is_another_order():
    assert visits(1, 100, 10, 0) != visits(1, 100, 10, 1)


def test_seeds_of_neighbouring_steps_are_far_apart():
    seeds = {step_seed(seed, step, rank) for seed in range(20) for step in range(20) for rank in range(4)}
    assert len(seeds) == 1600
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert min(abs(a - b) for a, b in zip(sorted(seeds), sorted(seeds)[1:], strict=False)) > 2**32


class Echo(Dataset):
    def __len__(self):
        return 5

    def __getitem__(self, visit):
        return {"visit": torch.tensor(visit), "caption": str(visit)}


@pytest.mark.parametrize("workers", [0, 2])
def test_the_loader_follows_the_sampler(workers):
    batches = islice(loader(Echo(), 2, 0, 3, workers=workers, rank=0, world_size=1), 3)
    assert [batch["caption"] for batch in batches] == [[str(v) for v in b] for b in visits(3, 5, 2, 0, 3)]
