"""Cross-frame attention on an image model: the first frame is its image, and alike frames stay alike."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from latent_shift import systems
from latent_shift.systems.base import GenerationRequest, Stage, TrainingPlan
from latent_shift.systems.first_frame import FirstFrame, FirstFrameOptions, warped_copies
from tiny import TEXT_WIDTH, tiny_pipeline_folder, tiny_unet

RECIPES = Path(__file__).parents[2] / "recipes" / "compare"
FRAMES = 4


def request(prompt="a red circle", seed=1, **values):
    return GenerationRequest(**{"prompt": prompt, "seed": seed, "frames": FRAMES, "steps": 10, **values})


@pytest.fixture(scope="module")
def image(image_model):
    return systems.load(image_model, device="cpu")


@pytest.fixture
def system(image_model):
    return FirstFrame.load(image_model, device="cpu")


def latents_of(system, requests, **call):
    """Latents (B, F, C, h, w) in place of the frames, without rounding to pixels."""
    kept, plain = [], system.pipeline._decode

    def decode(latents, *rest):
        kept.append(latents)
        return plain(latents, *rest)

    system.pipeline._decode = decode
    try:
        frames = system.generate(requests).shape[1]
    finally:
        del system.pipeline._decode
    return kept[-1].unflatten(0, (-1, frames))


@pytest.mark.parametrize("warp", [None, (4.0, 0.0)])
def test_the_first_frame_is_the_image_models_image_bit_for_bit(system, image, warp):
    system.options = FirstFrameOptions(warp=warp)
    clips = latents_of(system, [request(), request("a green square", 2)])
    # As many images in the network's batch, so that kernels round alike.
    alike = [request(frames=1)] * FRAMES + [request("a green square", 2, frames=1)] * FRAMES
    images = latents_of(image, alike)
    assert torch.equal(clips[:, 0], images[::FRAMES, 0])
    single = image.generate([request(frames=1)])
    assert np.abs(system.generate([request()])[:, 0].astype(int) - single[:, 0]).max() <= 1


def test_one_frame_is_the_image_models_image_bit_for_bit(system, image):
    requests = [request(frames=1), request("a green square", 2, frames=1)]
    assert (system.generate(requests) == image.generate(requests)).all()


def test_equal_frames_in_give_equal_frames_out(system):
    clip = latents_of(system, [request()])[0]
    assert torch.allclose(clip, clip[:1].expand_as(clip), atol=1e-5)
    frames = system.generate([request()])[0]
    assert (frames == frames[:1]).all()


@pytest.mark.parametrize("previous", [False, True])
def test_frames_read_the_first_one_and_the_previous_one(system, previous):
    system.options = FirstFrameOptions(previous_frame=previous)
    unet, generator = system.pipeline.unet, torch.Generator().manual_seed(0)
    text = torch.randn(1, 5, TEXT_WIDTH, generator=generator).expand(2 * FRAMES, -1, -1)
    sample = torch.randn(2 * FRAMES, 4, 8, 8, generator=generator)

    @torch.no_grad()
    def changed(frame):
        """Frames of both clips whose prediction a change of one frame of the first clip reaches."""
        other = sample.clone()
        other[frame] += 1
        with system._reading_first_frame(FRAMES):
            one, two = (unet(x, torch.tensor(300), text).sample for x in (sample, other))
        return [number for number in range(2 * FRAMES) if not torch.equal(one[number], two[number])]

    assert changed(0) == [0, 1, 2, 3]
    assert changed(1) == ([1, 2, 3] if previous else [1])  # 3 by a later layer
    assert changed(3) == [3]


def test_things_move_by_the_warp(system):
    system.options = FirstFrameOptions(warp=(4.0, 0.0))
    moving = system.generate([request(frames=FRAMES)])[0]
    assert all((frame != moving[0]).any() for frame in moving[1:])
    again = system.generate([request("a green square", 5), request()])
    assert (again[1] == moving).all() or np.abs(again[1].astype(int) - moving).max() <= 1
    told = []
    system.generate([request()], lambda done, of: told.append((done, of)))
    assert told == [(step, 10) for step in range(1, 11)]


def test_copies_move_right_and_down_and_are_reflected_at_the_edges():
    latents = torch.arange(16.0).view(1, 1, 4, 4)
    right = warped_copies(latents, 3, torch.tensor([1.0, 0.0]))
    assert right.shape == (1, 3, 1, 4, 4)
    assert torch.equal(right[0, 0], latents[0])
    assert right[0, 1, 0, 0].tolist() == [0.0, 0.0, 1.0, 2.0]
    assert right[0, 2, 0, 0].tolist() == [1.0, 0.0, 0.0, 1.0]
    down = warped_copies(latents, 2, torch.tensor([0.0, 1.0]))
    assert down[0, 1, 0, :, 0].tolist() == [0.0, 0.0, 4.0, 8.0]


def test_a_warp_that_cannot_be(image_model):
    system = FirstFrame.load(image_model, device="cpu")
    system.options = FirstFrameOptions(warp=(4.0, 0.0))
    with pytest.raises(ValueError, match="warp: takes more than 2 steps; use 3 or more"):
        system.generate([request(steps=2)])
    assert system.generate([request(steps=3)]).shape == (1, FRAMES, 32, 32, 3)
    system = FirstFrame.load(image_model, device="cpu", scheduler="euler")
    system.options = FirstFrameOptions(warp=(4.0, 0.0))
    with pytest.raises(ValueError, match="warp: not with the scheduler EulerDiscreteScheduler"):
        system.generate([request()])


@pytest.mark.parametrize("scheduler", ["ddpm", "euler-a"])
def test_schedulers_that_draw_noise_for_each_frame(image_model, scheduler):
    system = FirstFrame.load(image_model, device="cpu", scheduler=scheduler)
    with pytest.raises(ValueError, match="draws noise for each frame at each step"):
        system.generate([request()])
    assert system.generate([request(frames=1)]).shape == (1, 1, 32, 32, 3)


@pytest.mark.parametrize("scheduler", ["dpm++", "euler", "unipc"])
def test_a_clip_stands_still_by_any_other_scheduler(image_model, scheduler):
    clip = FirstFrame.load(image_model, device="cpu", scheduler=scheduler).generate([request()])[0]
    assert np.abs(clip.astype(int) - clip[:1]).max() <= 1


def test_attention_that_would_not_read_another_frame(tmp_path):
    folder = tiny_pipeline_folder(tmp_path / "image", shift=None)
    unet = tiny_unet(down_block_types=("AttnDownBlock2D", "CrossAttnDownBlock2D"), attention_head_dim=4)
    unet.save_pretrained(folder / "unet")
    with pytest.raises(ValueError, match="attention outside of transformer blocks, as down_blocks"):
        FirstFrame.load(folder, device="cpu")


def test_a_folder_keeps_the_options_and_the_image_model(system, image_model, tmp_path):
    system.options = FirstFrameOptions(previous_frame=True, warp=(4.0, 1.0))
    system.save(tmp_path / "saved")
    assert json.loads((tmp_path / "saved" / "system.json").read_text()) == {
        "system": "first_frame", "previous_frame": True, "warp": [4.0, 1.0],
    }  # fmt: skip
    again = systems.load(tmp_path / "saved", device="cpu")
    assert again.options == system.options
    assert (again.generate([request()]) == system.generate([request()])).all()
    assert again.info().config == system.info().config != FirstFrame.load(image_model).info().config
    assert systems.inspect(tmp_path / "saved").frames == again.info().defaults.frames == 16
    assert again.pipeline.video_config.num_frames == 16
    stored = json.loads((tmp_path / "saved" / "latent_shift.json").read_text())
    assert (stored["video_tuned"], stored["shift"] is None) == (False, False)
    (tmp_path / "saved" / "system.json").write_text('{"system": "first_frame", "warps": 3}')
    with pytest.raises(ValueError, match=r"system\.json: warps: unknown key"):
        systems.inspect(tmp_path / "saved")


def test_a_prefix_makes_clips_of_any_image_model(system, image_model):
    by_prefix = systems.load(f"first_frame:{image_model}", device="cpu")
    assert (by_prefix.generate([request()]) == system.generate([request()])).all()
    assert systems.inspect(f"first_frame:{image_model}", scheduler="euler").frames == 16


def test_facts(system):
    counted = system.parameters()
    assert (counted.trained, counted.temporal) == (0, 0)
    image = Stage("latent-1-image", RECIPES / "latent-1-image.yaml", "image", "images")
    assert FirstFrame.stages(TrainingPlan(RECIPES)) == [image]


def test_the_shared_image_stage_becomes_a_model_of_the_system(image_model, tmp_path):
    FirstFrame.assemble({"latent-1-image": image_model}, tmp_path / "model")
    system = systems.load(tmp_path / "model", device="cpu")
    assert type(system) is FirstFrame
    assert system.options == FirstFrameOptions()
