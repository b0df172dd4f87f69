"""The noise that a clip starts from."""

import pytest
import torch

from latent_shift.noise import draw_noise, mixed_noise


def seeded(seed):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("ratio", [0.0, 0.3, 1.0])
def test_frames_share_the_given_part_of_their_variance(ratio):
    noise = draw_noise((300, 3, 2, 8, 8), seeded(0), ratio).unflatten(0, (300, 3)).transpose(0, 1).flatten(1)
    expected = torch.full((3, 3), ratio).fill_diagonal_(1.0)
    assert torch.allclose(torch.cov(noise), expected, atol=0.03)


def test_a_clip_depends_on_its_own_seed_only():
    both = draw_noise((2, 4, 2, 8, 8), [seeded(1), seeded(2)], 0.5)
    assert torch.equal(both[4:], draw_noise((1, 4, 2, 8, 8), [seeded(2)], 0.5))


def test_progressive_noise_fades_from_frame_to_frame():
    noise = draw_noise((600, 4, 2, 8, 8), seeded(0), progressive_alpha=0.7).unflatten(0, (600, 4))
    expected = torch.tensor([[0.7 ** abs(one - other) for other in range(4)] for one in range(4)])
    assert torch.allclose(torch.cov(noise.transpose(0, 1).flatten(1)), expected, atol=0.03)


def test_both_kinds_of_correlation_add_up():
    noise = draw_noise((600, 4, 2, 8, 8), seeded(0), 0.25, 0.7).unflatten(0, (600, 4))
    expected = torch.tensor(
        [[0.25 + 0.75 * 0.7 ** abs(one - other) for other in range(4)] for one in range(4)]
    )
    assert torch.allclose(torch.cov(noise.transpose(0, 1).flatten(1)), expected, atol=0.03)


def test_mixing_keeps_one_part_or_the_other():
    own, shared = torch.randn(4, 2, 8, 8), torch.randn(1, 2, 8, 8)
    assert torch.equal(mixed_noise(own, shared, 0.0), own)
    assert torch.equal(mixed_noise(own, shared, 1.0), shared.expand(4, -1, -1, -1))


def frame_with_a_dot(row, column):
    frame = torch.zeros(2, 8, 8)
    frame[:, row, column] = 9.0
    return frame + 5.0  # a background, which must not count


def test_chosen_noise_hints_at_the_frame_and_stays_gaussian():
    """The dot stands out by what the best of eight noises brings, 1.42; elsewhere nothing does."""
    clips, frames = 2000, [frame_with_a_dot(2, 3), frame_with_a_dot(6, 1)]
    reference = torch.stack(frames * (clips // 2))
    noise = draw_noise((clips, 1, 2, 8, 8), seeded(0), 1.0, reference=reference, num_candidates=8)
    places = noise.sum(1)  # (clips, 8, 8), of variance 2
    first, second = places[::2], places[1::2]
    assert first[:, 2, 3].mean() / 2**0.5 == pytest.approx(1.42, abs=0.08)
    assert second[:, 6, 1].mean() / 2**0.5 == pytest.approx(1.42, abs=0.08)
    assert abs(first[:, 6, 1].mean()) < 0.15
    assert abs(noise.mean()) < 0.05
    assert noise.var() == pytest.approx(1.0, abs=0.05)


def test_chosen_noise_is_one_of_those_drawn_and_the_frames_share_it():
    frame = frame_with_a_dot(4, 4)
    chosen = draw_noise((1, 3, 2, 8, 8), seeded(1), 1.0, reference=frame[None], num_candidates=5)
    generator = seeded(1)
    torch.randn(3, 2, 8, 8, generator=generator)  # the frames' own
    drawn = torch.randn(5, 2, 8, 8, generator=generator)
    best = max(drawn, key=lambda noise: noise[:, 4, 4].sum() - noise.mean(dim=(1, 2)).sum())
    assert torch.equal(chosen, best.expand(3, -1, -1, -1))


def test_one_candidate_changes_nothing():
    frame = frame_with_a_dot(1, 1)
    plain = draw_noise((2, 3, 2, 8, 8), [seeded(1), seeded(2)], 0.5, 0.3)
    chosen = draw_noise(
        (2, 3, 2, 8, 8),
        [seeded(1), seeded(2)],
        0.5,
        0.3,
        reference=torch.stack([frame] * 2),
        num_candidates=1,
    )
    assert torch.equal(plain, chosen)
