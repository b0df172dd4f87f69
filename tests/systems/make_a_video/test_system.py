"""The system: folders, facts, counts, requests, and its stages of training."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from latent_shift import generation, systems
from latent_shift.systems.base import GenerationRequest, Stage, TrainingPlan
from latent_shift.systems.make_a_video.stage import StageNetwork
from latent_shift.systems.make_a_video.system import MakeAVideo

RECIPES = Path(__file__).parents[3] / "recipes" / "compare"
SIX = ("image", "image_sr", "video", "video_sr")


@pytest.fixture(scope="module")
def system(assembled):
    return systems.load(assembled(*SIX), device="cpu")


def request(prompt="a red circle", seed=1, **values):
    return GenerationRequest(prompt=prompt, seed=seed, **values)


# ---- requests ---------------------------------------------------------------------------------------


def test_clips_of_requests(system):
    clips = system.generate([request(), request("a green square", 2)])
    assert (clips.dtype, clips.shape) == (np.uint8, (2, 6, 32, 32, 3))
    assert clips[0].std() > 0
    unseeded = [system.generate([GenerationRequest(prompt="a red circle")]) for _ in range(2)]
    assert (unseeded[0] != unseeded[1]).any()


def test_steps_of_all_stages_are_counted_and_an_exception_ends_the_call(system):
    steps = []
    system.generate([request(steps=3)], lambda done, of: steps.append((done, of)))
    assert steps == [(number, 5) for number in range(1, 6)]

    def stop(done, of):
        raise InterruptedError(done)

    with pytest.raises(InterruptedError, match="1"):
        system.generate([request()], stop)


@pytest.mark.parametrize(
    ("requests", "message"),
    [
        ([], "at least one request"),
        ([request(), request(frames=2)], "of one shape"),
        ([request(height=30)], "height 30: this model makes multiples of 16"),
        ([request("purple")], "the model knows no word of 'purple'"),
        ([request(loop=True)], "loop: this model makes no loops"),
    ],
)
def test_requests_that_cannot_be_met(system, requests, message):
    with pytest.raises(ValueError, match=message):
        system.generate(requests)


def test_a_negative_prompt_without_guidance_is_told(system):
    with pytest.warns(UserWarning, match="the negative prompt has no effect, for guidance is 1"):
        system.generate([request(guidance=1.0, negative="green")])


def test_a_batch_sees_key_frames_only(system, assembled):
    longer = systems.load(assembled("image", "video", "interpolation"), device="cpu")
    settled = longer.info().defaults.settle(request())
    assert (settled.frames, longer.info().fewest_frames) == (16, 6)
    assert generation.default_batch(settled, longer.info()) == 1  # 12 images are under 16
    assert generation.default_batch(settled, replace(longer.info(), fewest_frames=None)) > 1


def test_values_that_are_not_finite_are_an_error(assembled):
    broken = systems.load(assembled(*SIX), device="cpu")
    with torch.no_grad():
        broken.cascade.stages["video"].unet.conv_out.bias.fill_(float("nan"))
    with pytest.raises(ValueError, match="not finite"):
        broken.generate([request()])


def test_stills_before_and_after_clips_come_from_the_same_noise(assembled, system):
    stills = systems.load(assembled("image", "image_sr"), device="cpu")
    assert stills.info().defaults.frames == 1
    assert (
        stills.generate([request()]).shape == system.generate([request(frames=1)]).shape == (1, 1, 32, 32, 3)
    )
    with pytest.raises(ValueError, match="makes stills only, not 4 frames"):
        stills.generate([request(frames=4)])


def test_reconstruction_is_by_the_last_stage_and_of_each_clip_by_itself(assembled, system):
    clips = np.random.default_rng(0).integers(0, 256, (2, 3, 32, 32, 3), dtype=np.uint8)
    restored = system.reconstruct(clips)
    assert (restored.dtype, restored.shape) == (np.uint8, clips.shape)
    assert (system.reconstruct(clips[1:]) == restored[1:]).all()
    assert (restored[0] != restored[1]).any()
    assert systems.load(assembled("image"), device="cpu").reconstruct(clips) is None


# ---- files and facts --------------------------------------------------------------------------------


def test_stages_on_stills_are_replaced_by_those_that_began_with_them(assembled):
    folder = assembled(*SIX)
    assert sorted(path.name for path in folder.iterdir()) == [
        "system.json", "text_encoder", "tokenizer", "video", "video_sr"
    ]  # fmt: skip
    assert json.loads((folder / "system.json").read_text()) == {"system": "make_a_video"}
    assert systems.find(folder) is MakeAVideo
    assert {"image", "image_sr"} < {path.name for path in assembled("image", "image_sr").iterdir()}


def test_a_saved_model_makes_the_same_clips(assembled, tmp_path):
    names = ("prior-video", "prior", "interpolation", "video_sr", "high_sr")
    system = systems.load(assembled(*names), device="cpu")
    system.save(tmp_path / "saved")
    again = systems.load(tmp_path / "saved", device="cpu")
    assert (again.generate([request(frames=4)]) == system.generate([request(frames=4)])).all()
    assert again.info() == system.info()
    assert again.parameters() == system.parameters()


def test_facts(assembled, system):
    info = system.info()
    assert (info.system, info.dtype, info.device, info.licence) == ("make_a_video", "float32", "cpu", None)
    assert info.settings == {"scheduler": "DDIMScheduler", "later_steps": {"video_sr": 2}}
    defaults = info.defaults
    assert (defaults.frames, defaults.steps, defaults.guidance, defaults.height) == (6, 2, 2.0, 32)
    assert defaults.fps == pytest.approx(8 / 3)
    assert defaults.size_multiple == 16
    assert "circle" in defaults.vocabulary
    assert "slowly" in defaults.untrained_words  # a word of level 2
    sixteen = systems.load(assembled(*SIX, "interpolation"), device="cpu", dtype="bf16").info()
    assert (sixteen.defaults.frames, sixteen.defaults.fps, sixteen.dtype) == (16, 8.0, "bfloat16")
    assert sixteen.weights != info.weights
    assert systems.inspect(assembled(*SIX)) == defaults


def test_half_precision_makes_clips(assembled):
    clips = systems.load(assembled(*SIX), device="cpu", dtype="bf16").generate([request(frames=2)])
    assert clips.shape == (1, 2, 32, 32, 3)


def test_parameters_by_part(system):
    counted = system.parameters()
    stages = system.cascade.stages
    assert set(counted.parts) == {"video", "video_sr", "text_encoder"}
    assert counted.trained == counted.parts["video"] + counted.parts["video_sr"]
    names = [name for stage in stages.values() for name, _ in stage.unet.named_parameters()]
    temporal = sum(
        one.numel()
        for name, stage in stages.items()
        for key, one in stage.unet.named_parameters()
        if ".temporal." in key or (name == "video" and "class_embedding" in key)
    )
    assert any(".temporal." in name for name in names)
    assert counted.temporal == temporal
    assert counted.all == sum(counted.parts.values())


def test_what_cannot_be_loaded(assembled, models, tmp_path):
    with pytest.raises(ValueError, match="take no LoRA files"):
        systems.load(assembled(*SIX), loras=["style.safetensors"])
    with pytest.raises(ValueError, match="the model's tokenizer/ is missing"):
        systems.load(models / "video_sr")
    shutil.copytree(models / "video_sr", tmp_path / "only")
    for part in ("tokenizer", "text_encoder"):
        shutil.copytree(models / "image" / part, tmp_path / "only" / part)
    with pytest.raises(ValueError, match="begins with video/ or image/, and has only video_sr"):
        systems.inspect(tmp_path / "only")
    shutil.copytree(assembled(*SIX), tmp_path / "damaged")
    weights = tmp_path / "damaged" / "video" / "temporal.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"temporal\.safetensors: is no safetensors file, or is truncated"):
        systems.inspect(tmp_path / "damaged")
    shutil.copytree(assembled(*SIX), tmp_path / "holes")
    weights = tmp_path / "holes" / "video" / "unet" / "diffusion_pytorch_model.safetensors"
    save_file({k: v for k, v in load_file(weights).items() if k != "conv_in.weight"}, weights)
    with pytest.raises(ValueError, match=r"video/unet/.*: lacks 1 of the .* the first conv_in\.weight"):
        systems.load(tmp_path / "holes", device="cpu")
    scheduler = tmp_path / "holes" / "video" / "scheduler" / "scheduler_config.json"
    scheduler.unlink()
    with pytest.raises(ValueError, match=r"scheduler_config\.json: is missing"):
        StageNetwork.load(tmp_path / "holes" / "video")
    stage = tmp_path / "holes" / "video" / "stage.json"
    shutil.copy(tmp_path / "holes" / "video_sr" / "stage.json", stage)
    with pytest.raises(ValueError, match=r"video/stage\.json: stage is video_sr; expected video"):
        systems.inspect(tmp_path / "holes")
    shutil.copytree(assembled(*SIX), tmp_path / "unnamed")
    (tmp_path / "unnamed" / "video_sr" / "stage.json").unlink()
    with pytest.raises(ValueError, match=r"video_sr/stage\.json: is missing"):
        systems.inspect(tmp_path / "unnamed")
    with pytest.raises(ValueError, match="reads embeddings of stills, and there is no prior/"):
        systems.load(assembled("prior-video"), device="cpu")


# ---- training ---------------------------------------------------------------------------------------


def test_stages_are_the_numbered_recipes_and_interpolation_only_for_more_frames():
    stages = MakeAVideo.stages(TrainingPlan(RECIPES))
    assert [(stage.name, stage.task, stage.trained_on) for stage in stages] == [
        ("make_a_video-1-image", "make_a_video_image", "images"),
        ("make_a_video-2-image_sr", "make_a_video_image_sr", "images"),
        ("make_a_video-3-video", "make_a_video_video", "clips"),
        ("make_a_video-4-interpolation", "make_a_video_interpolation", "clips"),
        ("make_a_video-5-video_sr", "make_a_video_video_sr", "clips"),
    ]
    assert stages[2] == Stage(
        "make_a_video-3-video", RECIPES / "make_a_video-3-video.yaml", "make_a_video_video", "clips",
        "runs/compare/make_a_video-1-image/model",
    )  # fmt: skip
    assert MakeAVideo.stages(TrainingPlan(RECIPES, frames=16)) == stages
    six = MakeAVideo.stages(TrainingPlan(RECIPES, frames=6))
    assert six == [stage for stage in stages if stage.task != "make_a_video_interpolation"]
