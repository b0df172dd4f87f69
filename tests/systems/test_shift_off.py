"""Latent-Shift without the shift: trained by the task video, and refused where a model shifts."""

from pathlib import Path

import pytest
import torch

from latent_shift import systems
from latent_shift.systems.base import GenerationRequest, Stage, TrainingPlan
from latent_shift.systems.latent_shift import LatentShift
from latent_shift.systems.shift_off import ShiftOff
from latent_shift.training.task import build_task
from latent_shift.training.trainer import train
from tiny import tiny_pipeline_folder

RECIPES = Path(__file__).parents[2] / "recipes" / "compare"


def test_a_model_trained_without_the_shift(recipe, tmp_path):
    model = train(build_task(recipe("video", shift=None, steps=2)), lambda progress: None)
    system, plain = ShiftOff.load(model, device="cpu"), systems.load(model, device="cpu")
    assert type(plain) is LatentShift
    requests = [GenerationRequest(prompt="a red circle", seed=1, frames=4)]
    clip = system.generate(requests)
    assert (clip == plain.generate(requests)).all()
    noise = torch.randn(1, 4, 4, 16, 16)
    other = noise.clone()
    other[:, 2] += 1
    frames, changed = (
        system.pipeline("a red circle", latents=each, output_type="latent").frames[0]
        for each in (noise, other)
    )
    assert [not torch.equal(*pair) for pair in zip(frames, changed, strict=True)] == [
        False,
        False,
        True,
        False,
    ]
    system.save(tmp_path / "saved")
    assert type(systems.load(tmp_path / "saved", device="cpu")) is ShiftOff


def test_a_model_that_was_trained_with_the_shift_is_refused(image_model, tmp_path):
    folder = tiny_pipeline_folder(tmp_path / "video")
    with pytest.raises(ValueError, match="this model shifts; one of shift_off is trained with shift: null"):
        ShiftOff.load(folder, device="cpu")
    ShiftOff.assemble({"latent-1-image": image_model}, tmp_path / "before")
    requests = [GenerationRequest(prompt="a red circle", seed=1, frames=1, steps=2)]
    before = systems.load(tmp_path / "before", device="cpu")
    assert (before.generate(requests) == systems.load(image_model, device="cpu").generate(requests)).all()


@pytest.mark.parametrize("system", [ShiftOff, LatentShift])
def test_stages(system):
    own = RECIPES / f"{system.name}-2-clips.yaml"
    assert system.stages(TrainingPlan(RECIPES)) == [
        Stage("latent-1-image", RECIPES / "latent-1-image.yaml", "image", "images"),
        Stage(f"{system.name}-2-clips", own, "video", "clips", "runs/compare/latent-1-image/model"),
    ]
