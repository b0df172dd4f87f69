"""Sampling: known frames, shared noise, and a cascade that its seed decides."""

import numpy as np
import pytest
import torch
from torch.utils.data import default_collate

from latent_shift import systems
from latent_shift.conditioning import Conditioning
from latent_shift.rng import StepRNG, step_seed
from latent_shift.systems.base import GenerationRequest
from latent_shift.systems.make_a_video.cascade import (
    Known,
    StagePlan,
    clip_noise,
    denoise,
    spread,
    stage_generators,
    upscale,
)
from latent_shift.systems.make_a_video.data import resize, to_pixels
from latent_shift.systems.make_a_video.stage import Context
from tiny import TEXT_WIDTH

PROMPTS = ("a red circle", "a green square moves left", "a black circle grows", "a square")


def text(frames, seed=1):
    draw = torch.Generator().manual_seed(seed)
    return Conditioning(torch.randn(frames, 5, TEXT_WIDTH, generator=draw).expand(frames, -1, -1))


def clip(frames, size=16, seed=0):
    return torch.rand(1, frames, 3, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def request(prompt="a red circle", seed=1, **values):
    return GenerationRequest(prompt=prompt, seed=seed, **values)


# ---- interpolation ----------------------------------------------------------------------------------


def interpolate(network, known, steps=3):
    frames = known.frames.shape[1]
    context = Context(text(frames), torch.tensor([8.0]), known.channels())
    shape = known.frames.shape[1:]
    return denoise(network, shape, stage_generators([3], "interpolation"), context, steps=steps, known=known)


@pytest.mark.parametrize("steps", [3, 7, 15])  # of some, the last step is as long as its timestep
def test_known_frames_come_out_as_they_went_in(stage, steps):
    known = spread(clip(2), 3)
    assert known.mask.tolist() == [[True, False, False, True]]
    made = interpolate(stage("interpolation"), known, steps)
    assert torch.equal(made[known.mask], clip(2)[0])
    assert made.isfinite().all()
    assert not torch.allclose(made[~known.mask], torch.zeros(()))


def test_unknown_frames_depend_on_the_known_ones_and_not_on_what_lies_under_the_mask(stage):
    network, mask = stage("interpolation"), torch.tensor([[True, False, False, True]])
    made = interpolate(network, Known(clip(4), mask))
    hidden = clip(4)
    hidden[0, 1:3] = 0.7
    assert torch.equal(interpolate(network, Known(hidden, mask)), made)
    shown = clip(4)
    shown[0, 3] = 0.7
    assert not torch.allclose(interpolate(network, Known(shown, mask))[0, 1], made[0, 1])


def test_in_between_known_frames_are_noised_to_the_level_of_the_step(stage):
    network, levels = stage("interpolation", fresh=True), []
    forward = network.forward
    network.forward = lambda noisy, timesteps, context: (
        levels.append((int(timesteps[0]), noisy[:, 0].clone())) or forward(noisy, timesteps, context)
    )
    known = spread(clip(2), 3)
    interpolate(network, known)
    first = clip_noise(known.frames.shape[1:], stage_generators([3], "interpolation"))[:, 0]
    assert [timestep for timestep, _ in levels] == [999, 666, 332]
    for timestep, seen in levels:
        signal = network.scheduler.alphas_cumprod[timestep]
        expected = signal.sqrt() * clip(2)[:, 0] + (1 - signal).sqrt() * first
        torch.testing.assert_close(seen, expected, atol=2e-3, rtol=0)  # 999 - 333, and 666 - 333 - 1


# ---- super-resolution -------------------------------------------------------------------------------


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_equal_small_frames_give_equal_frames_from_shared_noise_only(stage, eta):
    network = stage("high_sr", fresh=True)
    network.config = network.config.changed(eta=eta)
    still = clip(1, 32).expand(-1, 4, -1, -1, -1)
    made = upscale(network, still, stage_generators([5], "high_sr"), (64, 64))[0]
    assert made.shape == (4, 3, 64, 64)
    assert all(torch.equal(frame, made[0]) for frame in made)
    network.config = network.config.changed(stage="image_sr")  # the same network with independent noise
    independent = upscale(network, still, stage_generators([5], "high_sr"), (64, 64))[0]
    assert not any(torch.allclose(frame, independent[0]) for frame in independent[1:])


@pytest.mark.slow
def test_the_output_of_super_resolution_shrinks_to_its_input(task):
    level = {
        "block_out_channels": [16], "norm_num_groups": 1, "sample_size": 16,
        "down_block_types": ["DownBlock2D"], "up_block_types": ["UpBlock2D"],
    }  # fmt: skip
    toy = task(
        "image_sr", size=16, low_size=8, patch=1, max_noise_level=0.0,
        unet={**task("image_sr").recipe.unet, **level},
        scheduler={**task("image_sr").recipe.scheduler, "log_snr_shift": 0.0},
        sampling={"num_inference_steps": 10, "noise_level": 0.0},
        source={"format": "moving-shapes", "seed": 3, "clips": 64},
    )  # fmt: skip
    items = [toy.dataset(None)[index] for index in range(64)]
    optimizer = torch.optim.AdamW(toy.parameters(), 0.01)
    for step in range(180):
        batch = default_collate([items[(16 * step + offset) % 64] for offset in range(16)])
        optimizer.param_groups[0]["lr"] = 0.01 * min(1.0, (180 - step) / 90)
        optimizer.zero_grad()
        toy(batch, StepRNG.of(step_seed(0, step), 16))["loss"].backward()
        optimizer.step()
    toy.eval()
    low = resize(to_pixels(default_collate(items[:16])["frames"], 16), 8, "area")
    made = upscale(toy.stage, low, stage_generators(range(16), "image_sr"), (16, 16)).clamp(-1, 1)
    pairs = torch.stack([resize(made, 8, "area").flatten(), low.flatten()])
    assert torch.corrcoef(pairs)[0, 1] > 0.95


# ---- the whole cascade ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(assembled):
    names = ("image", "image_sr", "video", "interpolation", "video_sr", "high_sr")
    return systems.load(assembled(*names), device="cpu")


@pytest.mark.parametrize("frames", [16, 25])
def test_a_clip_is_repeatable_and_does_not_depend_on_its_batch(whole, frames):
    requests = [request(prompt, seed, frames=frames) for seed, prompt in enumerate(PROMPTS[: 64 // frames])]
    together = whole.generate(requests)
    assert together.shape == (len(requests), frames, 64, 64, 3)
    assert (whole.generate(requests) == together).all()
    for each, made in zip(requests, together, strict=True):
        # A convolution over frames is of one image a clip, and a CPU has other kernels for few.
        apart = np.abs(whole.generate([each])[0].astype(int) - made)
        assert apart.max() <= 1
        assert (apart > 0).mean() < 0.001


def test_another_seed_is_another_clip_and_so_is_another_prompt(whole):
    clips = whole.generate([request(), request(seed=2), request("a green square")])
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert (clips[one] != clips[other]).mean() > 0.1


def test_the_noise_of_each_stage_is_its_own_and_that_of_stills_stays_in_clips():
    names = ("prior", "image", "video", "interpolation", "image_sr", "video_sr", "high_sr")
    drawn = {name: clip_noise((1, 3, 4, 4), stage_generators([7], name)) for name in names}
    assert torch.equal(drawn["image"], drawn["video"])
    assert torch.equal(drawn["image_sr"], drawn["video_sr"])
    different = [drawn[name] for name in ("prior", "video", "interpolation", "video_sr", "high_sr")]
    for number, one in enumerate(different):
        assert not any(torch.equal(one, other) for other in different[number + 1 :])
    assert not torch.equal(drawn["video"], clip_noise((1, 3, 4, 4), stage_generators([8], "video")))


@pytest.mark.parametrize(("frames", "made"), [(1, 1), (2, 4), (4, 4), (6, 7), (16, 16)])
def test_any_number_of_frames(whole, frames, made):
    plan = StagePlan.of(whole.cascade.configs, frames)
    assert plan.stride == (1 if frames == 1 else 3)
    assert (plan.keyframes - 1) * plan.stride + 1 == made
    clips = whole.generate([request(frames=frames, steps=1)])
    assert clips.shape == (1, frames, 64, 64, 3)


def test_other_sizes_steps_guidance_frame_rates_and_negative_prompts(whole):
    plain = whole.generate([request(frames=4)])
    assert whole.generate([request(frames=4, height=96, width=64)]).shape == (1, 4, 96, 64, 3)
    for changes in ({"steps": 3}, {"guidance": 1.0}, {"fps": 3.0}, {"negative": "a green square"}):
        assert (whole.generate([request(frames=4, **changes)]) != plain).any(), changes
    assert (whole.generate([request(frames=4, fps=8.0, guidance=2.0, steps=2)]) == plain).all()


def test_stages_that_make_no_cascade(whole):
    configs = whole.cascade.configs
    with pytest.raises(ValueError, match=r"begins with video/ or image/, and has only video_sr"):
        StagePlan.of({"video_sr": configs["video_sr"]}, 1)
    with pytest.raises(ValueError, match="no stage video/, so it makes stills only, not 4 frames"):
        StagePlan.of({"image": configs["video"]}, 4)
    with pytest.raises(ValueError, match="high_sr/ takes 32 pixels, the stage before makes 16"):
        StagePlan.of({name: configs[name] for name in ("video", "high_sr")}, 4)
