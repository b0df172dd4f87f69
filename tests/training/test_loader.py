"""What a step sees depends on seed and step alone."""

from itertools import islice

import pytest
import torch
from torch.utils.data import Dataset

from latent_shift.data.samplers import ImageVideoMix, ShuffledSampler, WeightedSampler, batch_sampler_for
from latent_shift.rng import step_seed
from latent_shift.training.datasets import StepSampler, loader


def indices(count, length, batch_size, seed, first_step=0, **share):
    return list(islice(StepSampler(ShuffledSampler(length, batch_size, seed), first_step, **share), count))


def flat(batches):
    return [visit for batch in batches for visit in batch]


def test_each_epoch_is_another_permutation_of_everything():
    seen = flat(indices(10, 10, 4, 0))  # 40 visits: four epochs of 10, over the ends of which batches reach
    epochs = [seen[start : start + 10] for start in range(0, 40, 10)]
    assert [sorted(epoch) for epoch in epochs] == [
        list(range(start, start + 10)) for start in range(0, 40, 10)
    ]
    assert len({tuple(visit % 10 for visit in epoch) for epoch in epochs}) == 4


def test_it_begins_at_any_step():
    assert indices(6, 7, 3, 5, 4) == indices(10, 7, 3, 5)[4:]


def test_the_processes_share_each_batch():
    whole = indices(5, 11, 6, 1)
    shares = [indices(5, 11, 6, 1, rank=rank, world_size=3) for rank in range(3)]
    assert [sorted(flat(share)) for share in zip(*shares, strict=True)] == [sorted(batch) for batch in whole]
    with pytest.raises(ValueError, match="batch_size 6 cannot be shared evenly by 4 processes"):
        loader(Echo(), 6, 0, 0, workers=0, rank=0, world_size=4)
    loader(Echo(), 16, 0, 0, workers=0, rank=0, world_size=2, parts=4)
    message = "batch_size 12 .* by 2 processes with gradient_accumulation_steps 4; take a multiple of 8"
    with pytest.raises(ValueError, match=message):
        loader(Echo(), 12, 0, 0, workers=0, rank=0, world_size=2, parts=4)


def test_another_seed_is_another_order():
    assert indices(1, 100, 10, 0) != indices(1, 100, 10, 1)


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
    assert [batch["caption"] for batch in batches] == [[str(v) for v in b] for b in indices(3, 5, 2, 0, 3)]


class Named(Echo):
    def __init__(self, name):
        self.name = name

    def __getitem__(self, visit):
        return {"caption": f"{self.name} {visit}"}


def test_a_step_is_of_clips_or_of_images_by_its_number_alone():
    mixed = ImageVideoMix(Named("clip"), Named("image"), image_ratio=0.4)
    steps = [mixed.batch_sampler(2, 3).indices(step) for step in range(300)]
    kinds = [{is_image for is_image, _ in visits} for visits in steps]
    assert all(len(kind) == 1 for kind in kinds)
    assert 0.3 < sum(kind == {True} for kind in kinds) / 300 < 0.5
    batches = list(islice(loader(mixed, 2, 3, 5, workers=2, rank=0, world_size=1), 20))
    for step, batch in enumerate(batches, 5):
        assert batch["caption"] == [f"{'image' if image else 'clip'} {v}" for image, v in steps[step]]
    seen = {visit % 5 for is_image, visit in sum(steps, []) if is_image}
    assert seen == set(range(5))


def test_a_dataset_may_have_a_batch_sampler_of_its_own():
    class Own(Echo):
        def batch_sampler(self, batch_size, seed):
            return ShuffledSampler(2, batch_size, seed)

    assert {visit % 2 for step in range(4) for visit in batch_sampler_for(Own(), 2, 0).indices(step)} == {
        0,
        1,
    }
    assert batch_sampler_for(Echo(), 2, 0).length == 5


def test_oversampled_items_come_in_their_ratio_and_all_others_still_come():
    sampler = WeightedSampler(10, [2, 7], 0.5, batch_size=4, seed=3)
    seen = [visit % 10 for step in range(250) for visit in sampler.indices(step)]
    named = sum(item in (2, 7) for item in seen) / len(seen)
    assert 0.55 < named < 0.65  # half of the places, and a fifth of the others
    assert set(seen) == set(range(10))
    assert abs(seen.count(2) - seen.count(7)) < 50  # by turns


def test_oversampled_items_have_another_epoch_each_time_whatever_the_first_step():
    sampler, again = (WeightedSampler(10, [2, 7], 1.0, batch_size=2, seed=3) for _ in range(2))
    visits = [sampler.indices(step) for step in range(6)]
    assert [sorted(visit) for visit in visits] == [[10 * n + 2, 10 * n + 7] for n in range(6)]
    assert again.indices(4) == visits[4]
    with pytest.raises(ValueError, match="no item is to be oversampled"):
        WeightedSampler(10, [], 0.5, batch_size=2, seed=3)


def test_no_item_is_twice_in_a_batch_where_the_rest_of_an_epoch_is_dropped():
    sampler = ShuffledSampler(10, 4, 3, drop_last=True)
    batches = [sampler.indices(step) for step in range(6)]
    assert all(len({index % 10 for index in batch}) == 4 for batch in batches)
    assert [batch[0] // 10 for batch in batches] == [0, 0, 1, 1, 2, 2]
    over = ShuffledSampler(10, 4, 3)
    assert any(len({index % 10 for index in over.indices(step)}) < 4 for step in range(40))
