"""Frame position embedding: sinusoidal and rotary halves, for clips of any length."""

import pytest
import torch

from latent_shift.conditioning import add_frame_positions

TOKENS = 3


def waves(frames, width=32, clips=1):
    """What is added to each frame, (clips, F, L, D)."""
    text = add_frame_positions(torch.zeros(clips * frames, TOKENS, width), frames)
    return text.unflatten(0, (clips, frames))[:, :, :TOKENS]


def rotated(text, frames):
    """The rotary half, (B, F, L, D)."""
    return add_frame_positions(text, frames)[:, text.shape[1] :].unflatten(0, (-1, frames))


def test_a_single_frame_has_no_position():
    text = torch.randn(5, 7, 32)
    assert torch.equal(add_frame_positions(text, 1), text)


def test_positions_are_the_same_for_all_tokens_and_clips():
    added = waves(4, clips=2)
    assert torch.equal(added[0], added[1])
    assert torch.equal(added, added[:, :, :1].expand_as(added))


def test_positions_differ_and_near_ones_less():
    added = waves(16)[0, :, 0]
    apart = torch.cdist(added, added)
    assert apart[~torch.eye(16, dtype=torch.bool)].min() > 0.5
    assert torch.equal(apart[0, 1:5].argsort(), torch.arange(4))


def test_text_is_scaled_by_the_position_as_well():
    """By one plus half of the sinusoids."""
    text, added = torch.randn(2 * 16, TOKENS, 32), waves(16, clips=2).flatten(0, 1)
    scaled = add_frame_positions(text, 16)[:, :TOKENS] - added
    torch.testing.assert_close(scaled, text * (1 + added / 2))


def test_the_fastest_sinusoid_turns_five_times():
    """As often as a star that turns once looks the same."""
    sines = waves(61)[0, :, 0, 0]
    torch.testing.assert_close(sines, torch.sin(torch.linspace(0, 10 * torch.pi, 61)), atol=1e-5, rtol=0)


@pytest.mark.parametrize("width", [32, 33])
def test_channels_rotate_in_pairs_one_to_five_turns(width):
    """As complex numbers are by a factor of length one; a channel without a partner stays."""
    text = torch.randn(2 * 16, TOKENS, width)
    clips, half = text.unflatten(0, (2, 16)), width // 2
    rounds = torch.tensor([1 + pair % 5 for pair in range(half)])
    factor = torch.exp(2j * torch.pi * torch.arange(16)[:, None, None] / 15 * rounds)
    expected = torch.complex(clips[..., :half], clips[..., half : 2 * half]) * factor
    found = rotated(text, 16)
    torch.testing.assert_close(found[..., :half], expected.real, atol=1e-4, rtol=0)
    torch.testing.assert_close(found[..., half : 2 * half], expected.imag, atol=1e-4, rtol=0)
    assert torch.equal(found[..., 2 * half :], clips[..., 2 * half :])


def test_rotation_keeps_the_norm():
    text = torch.randn(16, TOKENS, 32)
    torch.testing.assert_close(rotated(text, 16)[0].norm(dim=-1), text.norm(dim=-1))


def test_the_first_and_the_last_frame_are_rotated_by_whole_turns():
    text = torch.randn(1, TOKENS, 32).expand(16, -1, -1)
    clip = rotated(text, 16)[0]
    assert torch.equal(clip[0], text[0])
    torch.testing.assert_close(clip[-1], text[0], atol=1e-4, rtol=0)


def test_fewer_frames_have_the_same_positions_in_coarser_steps():
    torch.testing.assert_close(waves(6), waves(16)[:, ::3])
    text = torch.randn(1, TOKENS, 32).expand(16, -1, -1)
    torch.testing.assert_close(rotated(text[:6], 6), rotated(text, 16)[:, ::3])


def test_the_dtype_of_the_text_stays():
    assert add_frame_positions(torch.zeros(8, 3, 32, dtype=torch.bfloat16), 4).dtype == torch.bfloat16


def test_sinusoids_are_no_larger_than_a_normed_text_state():
    assert waves(16).abs().max() <= 1


@pytest.mark.parametrize("frames", [2, 9, 16, 40])
def test_a_loop_stands_where_clips_of_sixteen_frames_and_of_every_third_do(frames):
    """At a position that was trained; the middle of a clip lies between two frames."""
    text = torch.randn(1, TOKENS, 33)
    loop = add_frame_positions(text.expand(frames, -1, -1), frames, loop=True)
    for trained, number in ((16, 6), (6, 2)):
        clip = add_frame_positions(text.expand(trained, -1, -1), trained)
        torch.testing.assert_close(loop, clip[number].expand_as(loop), atol=1e-5, rtol=0)
    assert torch.equal(loop, loop[:1].expand_as(loop))
