"""Each frame told its place in the clip."""

import torch

from latent_shift.places import add_places


def told(frames, width=32, clips=1):
    """What is added to each frame, (clips, F, L, D)."""
    return add_places(torch.zeros(clips * frames, 3, width), frames).unflatten(0, (clips, frames))


def test_a_single_frame_is_told_nothing():
    text = torch.randn(5, 7, 32)
    assert torch.equal(add_places(text, 1), text)


def test_all_tokens_and_all_clips_hear_the_same():
    added = told(4, clips=2)
    assert torch.equal(added[0], added[1])
    assert torch.equal(added, added[:, :, :1].expand_as(added))


def test_every_place_sounds_different_and_near_ones_alike():
    waves = told(16)[0, :, 0]
    apart = torch.cdist(waves, waves)
    assert apart[~torch.eye(16, dtype=torch.bool)].min() > 0.5
    assert torch.equal(apart[0, 1:5].argsort(), torch.arange(4))


def test_what_is_said_is_scaled_by_place_as_well():
    """By one plus half of what is added: the same word sounds otherwise in each frame."""
    text = torch.randn(2 * 16, 3, 32)
    spoken = add_places(text, 16) - told(16, clips=2).flatten(0, 1)
    torch.testing.assert_close(spoken, text * (1 + told(16, clips=2).flatten(0, 1) / 2))


def test_the_fastest_wave_goes_round_five_times():
    """As often as a star that turns once looks the same."""
    sines = told(61)[0, :, 0, 0]
    torch.testing.assert_close(sines, torch.sin(torch.linspace(0, 10 * torch.pi, 61)), atol=1e-5, rtol=0)


def test_fewer_frames_hear_the_same_places_in_coarser_steps():
    torch.testing.assert_close(told(6), told(16)[:, ::3])


def test_the_text_s_number_format_stays():
    assert add_places(torch.zeros(8, 3, 32, dtype=torch.bfloat16), 4).dtype == torch.bfloat16


def test_what_it_adds_is_no_larger_than_a_normed_text_state():
    assert told(16).abs().max() <= 1
