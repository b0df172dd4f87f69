"""Distillation: the student's steps are to end where the pretrained model's do, and its store is whole."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler

from latent_shift import systems
from latent_shift.checkpoints import load
from latent_shift.data import latent_dataset
from latent_shift.data.samplers import batch_sampler_for
from latent_shift.moving_shapes import WorldConfig
from latent_shift.pipeline import LatentShiftPipeline
from latent_shift.rng import StepRNG, step_seed
from latent_shift.systems.base import GenerationRequest
from latent_shift.training.prediction import prediction_target
from latent_shift.training.task import build_task
from latent_shift.training.tasks.distillation import implied_clean
from latent_shift.training.trainer import train
from latent_shift.training.trajectories import student_schedule
from tiny import tiny_scheduler


def quiet(progress):
    """A report that nobody reads."""


def batch_of(data, count=4):
    indices = batch_sampler_for(data, count, 0).indices(0)
    items = [data[index] for index in indices]
    return torch.utils.data.default_collate(items)


@pytest.mark.parametrize("kind", ["v_prediction", "epsilon", "sample"])
def test_a_student_that_meets_its_target_ends_where_the_teacher_does(kind):
    scheduler = DDIMScheduler.from_config(
        tiny_scheduler().config, prediction_type=kind, rescale_betas_zero_snr=kind != "epsilon",
        timestep_spacing="trailing",
    )  # fmt: skip
    timesteps, alphas = student_schedule(scheduler, 4, 20)
    before, after = torch.randn(2, 2, 3, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    for step, timestep in enumerate(timesteps):
        clean = implied_clean(before, after, alphas[step], alphas[step + 1])
        noise = (before - alphas[step].sqrt() * clean) / (1 - alphas[step]).sqrt()
        target = prediction_target(kind, clean, noise, alphas[step])
        ended = scheduler.step(target, timestep, before).prev_sample
        torch.testing.assert_close(ended, after, atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize(
    ("steps", "of", "message"), [(3, 4, "expected a multiple"), (3, 9, "have to divide")]
)
def test_steps_that_are_not_among_the_teachers_are_refused(steps, of, message):
    scheduler = DDIMScheduler.from_config(tiny_scheduler().config, timestep_spacing="trailing")
    with pytest.raises(ValueError, match=message):
        student_schedule(scheduler, steps, of)


def test_trajectories_are_those_of_the_pipeline(recipe, parts):
    data = build_task(recipe("distillation")).dataset(quiet)
    model = load(parts / "video-model", device="cpu", dtype="fp32")
    for number in (0, 3):
        item = data[number]
        assert item["caption"] == WorldConfig(seed=3, clips=4).captioned_clips().paraphrase(number)
        assert item["latents"].shape == (3, 16, 4, 8, 8)
        assert item["image_latents"].shape == (3, 1, 4, 8, 8)
        seed = torch.Generator().manual_seed(step_seed(3, number))
        for key, frames in (("latents", 16), ("image_latents", 1)):
            made = model(
                item["caption" if frames > 1 else "image_caption"], num_frames=frames, num_inference_steps=4,
                eta=0.0, latents=item[key][0].float(), generator=seed, output_type="latent",
            ).frames  # fmt: skip
            torch.testing.assert_close(
                made.view_as(item[key][-1]), item[key][-1].float(), atol=0.02, rtol=0.02
            )


def test_the_teacher_without_guidance_is_a_perfect_student_of_as_many_steps(recipe):
    """What is left is the rounding of the store, half precision."""
    tiny = recipe(
        "distillation", num_inference_steps=4, image_batch_ratio=0.0,
        trajectories={
            "folder": str(recipe("distillation").output / "own"), "num_inference_steps": 4,
            "guidance_scale": 1.0, "source": {"format": "moving-shapes", "seed": 3, "clips": 4},
        },
    )  # fmt: skip
    task = build_task(tiny)
    batch = batch_of(task.dataset(quiet))
    own = task(batch, StepRNG.of(0, 4))["loss"].item()
    with torch.no_grad():
        for parameter in task.unet.conv_out.parameters():
            parameter.mul_(0.9)
    assert own < 1e-4
    assert task(batch, StepRNG.of(0, 4))["loss"].item() > 10 * own


def test_a_store_goes_on_where_it_was_stopped_and_keeps_to_its_settings(recipe, monkeypatch):
    monkeypatch.setattr(latent_dataset, "SHARD_CLIPS", 2)
    tiny = recipe("distillation")
    done = []
    build_task(tiny).dataset(lambda progress: done.append(progress.step))
    assert done == [2, 4]
    folder = tiny.trajectories.folder
    first, second = sorted(folder.glob("latents-*.safetensors"))
    kept = (first.read_bytes(), second.read_bytes())
    second.unlink()
    build_task(tiny).dataset(lambda progress: done.append(progress.step))
    assert done == [2, 4, 4]
    assert (first.read_bytes(), second.read_bytes()) == kept
    other = recipe(
        "distillation", trajectories={**tiny.model_dump(mode="json")["trajectories"], "guidance_scale": 3.0}
    )
    with pytest.raises(ValueError, match="latents of other settings"):
        build_task(other).dataset(quiet)
    file = Path(tiny.pretrained_model) / "latent_shift.json"
    settings = json.loads(file.read_text())
    file.write_text(json.dumps({**settings, "guidance_scale": 1.0 + settings["guidance_scale"]}))
    with pytest.raises(
        ValueError, match="latents of other settings"
    ):  # of the model, by which clips are made
        build_task(tiny).dataset(quiet)


def test_only_clips_that_show_their_captions(recipe):
    """An untrained model makes none; the world's own clips are right."""
    source = WorldConfig(seed=3, clips=4)
    for number in range(4):
        frames = source.captioned_clips().frames([number])[0]
        assert source.shows(number, frames)
        assert not source.shows((number + 1) % 4, frames)
    tiny = recipe("distillation")
    wanted = {**tiny.model_dump(mode="json")["trajectories"], "only_right": True}
    with pytest.raises(ValueError, match="none of the 4 clips shows its caption"):
        build_task(recipe("distillation", trajectories=wanted)).dataset(quiet)


def test_the_finished_model_takes_few_steps_without_guidance(recipe, parts):
    task = build_task(recipe("distillation", num_inference_steps=4, validation={"items": 1, "every": 3}))
    model = train(task, quiet)
    defaults = systems.inspect(model)
    assert (defaults.steps, defaults.guidance) == (4, 1.0)
    own = json.loads((model / "latent_shift.json").read_text())
    teacher = json.loads((parts / "video-model" / "latent_shift.json").read_text())
    assert {key for key in own if own[key] != teacher[key]} == {"num_inference_steps", "guidance_scale"}
    clips = systems.load(model, device="cpu").generate([GenerationRequest(prompt="a red circle growing")])
    assert clips.shape == (1, 16, 64, 64, 3)
    assert isinstance(load(model, device="cpu"), LatentShiftPipeline)


def test_an_image_model_has_nothing_to_distil(recipe, parts):
    with pytest.raises(ValueError, match="was never tuned on clips"):
        build_task(recipe("distillation", pretrained_model=str(parts / "image-model")))
    with pytest.raises(ValueError, match="pretrained_model: 'nosuch': unknown model"):
        build_task(recipe("distillation", pretrained_model="nosuch"))


def test_a_model_with_layers_of_another_system_would_lose_them(recipe, parts, tmp_path):
    shutil.copytree(parts / "video-model", tmp_path / "model")
    (tmp_path / "model" / "system.json").write_text('{"system": "latent_vdm"}')
    with pytest.raises(ValueError, match=r"pretrained_model: .*system\.json: names another system"):
        build_task(recipe("distillation", pretrained_model=str(tmp_path / "model")))


def test_validation_leaves_clips_to_train_on(recipe):
    with pytest.raises(ValueError, match=r"validation\.items 4: there are 4 clips"):
        build_task(recipe("distillation", validation={"items": 4, "every": 3})).dataset(quiet)
