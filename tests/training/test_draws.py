"""The random numbers of a step: the same for an item, whoever takes it."""

import torch

from latent_shift.training.draws import Draws


def noise(draws):
    return {
        place: torch.randn(3, generator=one) for place, one in zip(draws.places, draws.items(), strict=True)
    }


def test_an_item_draws_the_same_in_every_process_and_part():
    whole = noise(Draws.of(7, 12))
    for rank in range(3):
        own = Draws.of(7, 12, rank, 3)
        batch = {"latents": torch.arange(12)[list(own.places)], "key": [f"clip {n}" for n in own.places]}
        for part, drawn in own.parts(batch, 2):
            assert part["latents"].tolist() == list(drawn.places)
            assert part["key"] == [f"clip {n}" for n in drawn.places]
            for place, numbers in noise(drawn).items():
                assert torch.equal(numbers, whole.pop(place))
            assert torch.equal(drawn.chances(), Draws.of(7, 12).chances()[list(drawn.places)])
        assert torch.equal(
            torch.rand(2, generator=own.step()), torch.rand(2, generator=Draws.of(7, 12).step())
        )
    assert not whole


def test_items_and_steps_differ():
    first, second = noise(Draws.of(7, 4)), noise(Draws.of(8, 4))
    seen = torch.stack([*first.values(), *second.values()])
    assert len(seen.unique(dim=0)) == 8
    assert not torch.equal(first[0], torch.randn(3, generator=Draws.of(7, 4).step()))


def test_places_are_spread_evenly_over_the_whole_batch():
    start = 0.3
    parts = [Draws.of(0, 6, rank, 2).spread(start, frames=4) for rank in range(2)]
    assert parts[0].shape == (3, 4)
    every = torch.cat(parts).flatten().sort().values
    gaps = torch.diff(torch.cat([every, every[:1] + 1]))
    assert torch.allclose(gaps, torch.full_like(gaps, 1 / 24))
    clip = Draws.of(0, 6).spread(start, frames=4)[2].sort().values  # one clip's frames reach over all of it
    assert (torch.diff(clip) > 0.2).all()
