"""The random numbers of a step: the same for an item, whoever takes it."""

import torch

from latent_shift.rng import StepRNG, clip_generator


def noise(rng):
    return {
        place: torch.randn(3, generator=one)
        for place, one in zip(rng.batch_indices, rng.item_generators(), strict=True)
    }


def test_an_item_draws_the_same_in_every_process_and_part():
    whole = noise(StepRNG.of(7, 12))
    for rank in range(3):
        own = StepRNG.of(7, 12, rank, 3)
        batch = {
            "latents": torch.arange(12)[list(own.batch_indices)],
            "key": [f"clip {n}" for n in own.batch_indices],
        }
        for part, drawn in own.microbatches(batch, 2):
            assert part["latents"].tolist() == list(drawn.batch_indices)
            assert part["key"] == [f"clip {n}" for n in drawn.batch_indices]
            for place, numbers in noise(drawn).items():
                assert torch.equal(numbers, whole.pop(place))
            assert torch.equal(drawn.uniforms(), StepRNG.of(7, 12).uniforms()[list(drawn.batch_indices)])
        assert torch.equal(
            torch.rand(2, generator=own.step_generator()),
            torch.rand(2, generator=StepRNG.of(7, 12).step_generator()),
        )
    assert not whole


def test_items_and_steps_differ():
    first, second = noise(StepRNG.of(7, 4)), noise(StepRNG.of(8, 4))
    seen = torch.stack([*first.values(), *second.values()])
    assert len(seen.unique(dim=0)) == 8
    assert not torch.equal(first[0], torch.randn(3, generator=StepRNG.of(7, 4).step_generator()))


def test_places_are_spread_evenly_over_the_whole_batch():
    start = 0.3
    parts = [StepRNG.of(0, 6, rank, 2).stratified_uniforms(start, frames=4) for rank in range(2)]
    assert parts[0].shape == (3, 4)
    every = torch.cat(parts).flatten().sort().values
    gaps = torch.diff(torch.cat([every, every[:1] + 1]))
    assert torch.allclose(gaps, torch.full_like(gaps, 1 / 24))
    clip = (
        StepRNG.of(0, 6).stratified_uniforms(start, frames=4)[2].sort().values
    )  # a clip's frames reach over it
    assert (torch.diff(clip) > 0.2).all()


def test_clips_of_all_seeds_differ():
    """torch's own CPU generator would repeat 0, 1 and 2**32 - 1 from 2**32 on."""
    seeds = (0, 1, 2**32 - 1, 2**32, 2**32 + 1, 2**63 - 1)
    drawn = [torch.randn(4, generator=clip_generator(seed)) for seed in seeds]
    assert len(torch.stack(drawn).unique(dim=0)) == len(seeds)
    for seed, numbers in zip(seeds[:3], drawn[:3], strict=True):
        assert torch.equal(numbers, torch.randn(4, generator=torch.Generator().manual_seed(seed)))
