"""Items of the stages: the same scenes and words as those of stored latents, and drawn frame rates."""

import torch

from latent_shift.data.latent_dataset import LatentDataset
from latent_shift.data.samplers import ShuffledSampler, batch_sampler_for
from latent_shift.moving_shapes import WorldConfig
from latent_shift.systems.make_a_video.data import GeneratedClips, StrideCurriculum, resize, to_pixels

WORLD = WorldConfig(seed=3, clips=5, paraphrases=0.5)


def test_items_are_those_of_stored_latents_by_the_same_indices():
    clips = GeneratedClips(WORLD, 3)
    scenes = WORLD.captioned_clips()
    stored = LatentDataset(torch.zeros(5, 6, 4, 8, 8), scenes)
    assert len(clips) == len(stored) == 5
    for index in (0, 4, 7, 23):
        item, latents = clips[index], stored[index]
        assert {key: item[key] for key in ("caption", "image_caption", "key")} == {
            key: latents[key] for key in ("caption", "image_caption", "key")
        }
        assert torch.equal(item["frames"], torch.from_numpy(scenes.frames([index % 5])[0, ::3]))
        assert item["fps"] == 8 / 3
    ours, theirs = (batch_sampler_for(data, 4, 9) for data in (clips, stored))
    assert [ours.indices(step) for step in range(5)] == [theirs.indices(step) for step in range(5)]


def test_held_out_clips_come_after_the_others():
    held_out = GeneratedClips(WORLD.extended(3), 1, first=5)
    assert len(held_out) == 3
    assert held_out[1]["key"] == "clip 6"
    assert held_out[1]["frames"].shape == (16, 64, 64, 3)
    scenes = WORLD.extended(3).captioned_clips()
    assert held_out[1]["caption"] == scenes.caption(6)
    assert torch.equal(held_out[1]["frames"], torch.from_numpy(scenes.frames([6])[0]))


def test_a_window_of_close_frames_lies_in_the_clip():
    clips = GeneratedClips(WORLD, 3, curriculum_steps=10)
    whole = WORLD.captioned_clips().frames([2])[0]
    for stride in (1, 2, 3):
        item = clips[2, stride]
        assert item["fps"] == 8 / stride
        windows = [whole[start : start + 5 * stride + 1 : stride] for start in range(16 - 5 * stride)]
        assert any(torch.equal(item["frames"], torch.from_numpy(window.copy())) for window in windows)
        assert torch.equal(clips[2, stride]["frames"], item["frames"])


def test_the_curriculum_goes_from_high_frame_rates_to_low_ones():
    plain = ShuffledSampler(50, 64, 0)
    curriculum = StrideCurriculum(plain, 3, 100, 0)
    shares = []
    for first in (0, 45, 90):
        drawn = [stride for step in range(first, first + 10) for _, stride in curriculum.indices(step)]
        shares.append([drawn.count(stride) / len(drawn) for stride in (1, 2, 3)])
    assert shares[0][0] > 0.5 > shares[1][0] > shares[2][0]
    assert shares[0][2] < shares[1][2] < shares[2][2]
    assert shares[2][2] > 0.5
    assert [index for index, _ in curriculum.indices(7)] == list(plain.indices(7))
    assert curriculum.indices(7) == StrideCurriculum(plain, 3, 100, 0).indices(7)
    clips = GeneratedClips(WORLD, 3, curriculum_steps=10)
    assert all(len(pair) == 2 for pair in batch_sampler_for(clips, 4, 0).indices(3))


def test_pixels_and_sizes():
    frames = torch.randint(0, 256, (2, 3, 8, 8, 3), dtype=torch.uint8)
    pixels = to_pixels(frames, 8)
    assert torch.equal(((pixels + 1) * 127.5).round().byte(), frames.permute(0, 1, 4, 2, 3))
    halved = pixels.unflatten(-1, (4, 2)).unflatten(-3, (4, 2)).mean(dim=(-1, -3))
    torch.testing.assert_close(to_pixels(frames, 4), halved)
    assert resize(pixels, (16, 8), "bilinear").shape == (2, 3, 3, 16, 8)
    assert resize(pixels, 8, "area") is pixels
