"""The noise that a clip starts from."""

import pytest
import torch

from latent_shift.noise import draw_noise, mix_noise


def seeded(seed):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("correlation", [0.0, 0.3, 1.0])
def test_frames_share_the_asked_part_of_their_variance(correlation):
    noise = (
        draw_noise((300, 3, 2, 8, 8), seeded(0), correlation)
        .unflatten(0, (300, 3))
        .transpose(0, 1)
        .flatten(1)
    )
    expected = torch.full((3, 3), correlation).fill_diagonal_(1.0)
    assert torch.allclose(torch.cov(noise), expected, atol=0.03)


def test_a_clip_depends_on_its_own_seed_alone():
    both = draw_noise((2, 4, 2, 8, 8), [seeded(1), seeded(2)], 0.5)
    assert torch.equal(both[4:], draw_noise((1, 4, 2, 8, 8), [seeded(2)], 0.5))


def test_persistent_noise_fades_from_frame_to_frame():
    noise = draw_noise((600, 4, 2, 8, 8), seeded(0), persistence=0.7).unflatten(0, (600, 4))
    expected = torch.tensor([[0.7 ** abs(one - other) for other in range(4)] for one in range(4)])
    assert torch.allclose(torch.cov(noise.transpose(0, 1).flatten(1)), expected, atol=0.03)


def test_both_kinds_of_likeness_add_up():
    noise = draw_noise((600, 4, 2, 8, 8), seeded(0), 0.25, 0.7).unflatten(0, (600, 4))
    expected = torch.tensor(
        [[0.25 + 0.75 * 0.7 ** abs(one - other) for other in range(4)] for one in range(4)]
    )
    assert torch.allclose(torch.cov(noise.transpose(0, 1).flatten(1)), expected, atol=0.03)


def test_mixing_keeps_one_part_or_the_other():
    own, shared = torch.randn(4, 2, 8, 8), torch.randn(1, 2, 8, 8)
    assert torch.equal(mix_noise(own, shared, 0.0), own)
    assert torch.equal(mix_noise(own, shared, 1.0), shared.expand(4, -1, -1, -1))
