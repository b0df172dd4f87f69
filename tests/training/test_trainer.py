"""Steps in parts, steps that are left out, and the validation beside them."""

import json

import pytest
import torch
from safetensors.torch import load_file

from latent_shift.rng import StepRNG
from latent_shift.training.logging import SKIPPED, Diverged
from latent_shift.training.task import build_task
from latent_shift.training.tasks.denoising import DenoisingTask
from latent_shift.training.trainer import train


def ignore(progress):
    pass


def weights(model):
    return load_file(model / "unet" / "diffusion_pytorch_model.safetensors")


def log(output):
    return [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]


def test_a_batch_in_parts_gives_the_model_of_the_batch_as_a_whole(recipe, tmp_path):
    settings = {"batch_size": 4, "steps": 4}
    whole = weights(train(build_task(recipe("video", **settings)), ignore))
    output = tmp_path / "parts"
    parts = weights(
        train(
            build_task(recipe("video", **settings, gradient_accumulation_steps=4, output=str(output))), ignore
        )
    )
    for name, value in whole.items():
        assert torch.allclose(value, parts[name], atol=2e-4), name
    first, second = log(tmp_path / "video"), log(output)
    for one, other in zip(first, second, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=2e-3)


def test_parts_must_be_equal(recipe):
    with pytest.raises(ValueError, match="batch_size 2 is no multiple of gradient_accumulation_steps 3"):
        recipe("video", gradient_accumulation_steps=3)


def _infinite_at(monkeypatch, bad):
    """Let the loss of the steps `bad` be infinite, counted from 1 in this process."""
    plain, calls = DenoisingTask.forward, []

    def forward(self, batch, rng):
        figures = plain(self, batch, rng)
        calls.append(rng)
        return {**figures, "loss": figures["loss"] * float("inf")} if len(calls) in bad else figures

    monkeypatch.setattr(DenoisingTask, "forward", forward)


def test_a_step_without_a_finite_gradient_changes_nothing_and_is_named(recipe, monkeypatch):
    _infinite_at(monkeypatch, {1, 2, 4})
    tiny = recipe("video", steps=5, image_batch_ratio=0.0, checkpoint_every=1, checkpoints_total_limit=10)
    begun = {
        name: value.clone() for name, value in build_task(tiny).named_parameters() if value.requires_grad
    }
    train(build_task(tiny), ignore)
    saved = {
        step: load_file(tiny.output / "checkpoints" / f"step-{step:08d}" / "weights.safetensors")
        for step in (1, 2, 3, 4)
    }
    assert all(torch.equal(saved[2][name], value) for name, value in begun.items())
    assert any(not torch.equal(saved[3][name], value) for name, value in saved[2].items())
    assert all(torch.equal(saved[4][name], value) for name, value in saved[3].items())
    lines = [json.loads(line) for line in (tiny.output / SKIPPED).read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 4]
    assert all(len(line["keys"]) == 2 and line["keys"][0].startswith("clip ") for line in lines)
    assert [line.get("loss") is None for line in log(tiny.output)] == [True, True, False, True, False]


def test_a_run_whose_last_step_is_one_of_them_gives_no_model(recipe, monkeypatch):
    _infinite_at(monkeypatch, {4})
    tiny = recipe("video", steps=4)
    with pytest.raises(Diverged, match="not finite in 1 steps, the last is step 4"):
        train(build_task(tiny), ignore)
    assert not (tiny.output / "model").exists()
    assert train(build_task(recipe("video", steps=5)), ignore).is_dir()  # with another step it goes on


def test_too_many_of_them_end_the_run_and_name_the_clips(recipe, monkeypatch):
    _infinite_at(monkeypatch, set(range(1, 100)))
    tiny = recipe("video", optimizer={"learning_rate": 0.003, "warmup_steps": 0, "max_skipped_steps": 2})
    with pytest.raises(Diverged, match=r"not finite in 3 steps, the last is step 3 with clip \d, clip \d"):
        train(build_task(tiny), ignore)
    assert not (tiny.output / "model").exists()


def test_the_validation_is_on_other_clips_and_fixed_noise(recipe):
    tiny = recipe("video", validation={"items": 3, "every": 2})
    module = build_task(tiny)
    trained, kept = module.dataset(ignore), module.validation(ignore)
    assert len(trained) == 4
    assert len(kept) == 3
    assert {kept[n]["key"] for n in range(3)} == {"clip 4", "clip 5", "clip 6"}
    assert not any(torch.equal(kept[0]["latents"], trained[n]["latents"]) for n in range(4))
    assert kept[1]["caption"] == kept.captions.caption(5)
    frozen = build_task(tiny)
    train(frozen, ignore)
    assert frozen.unet.training  # after a validation, as before it
    parts = (frozen.vae, *frozen.text_encoders)
    assert not any(module.training for part in parts for module in part.modules())
    values = {line["step"]: line["validation_loss"] for line in log(tiny.output) if "validation_loss" in line}
    assert sorted(values) == [2, 4, 6]
    module.eval()
    batch = torch.utils.data.default_collate([kept[n] for n in range(3)])
    with torch.no_grad():
        one, again, other = (module(batch, StepRNG.of(seed, 3))["loss"].item() for seed in (1, 1, 2))
    assert one == again != other


def test_the_card_tells_what_the_model_is_and_the_recipe_goes_with_it(recipe, tmp_path):
    tiny = recipe("video", steps=2)
    model = train(build_task(tiny), ignore)
    page = (model / "README.md").read_text()
    assert page.startswith("---\nlicense: other")
    assert "Moving Shapes, levels [1], seed 3" in page
    assert f"| loss | {log(tiny.output)[-1]['loss']:.4g} |" in page
    assert json.loads((model / "recipe.json").read_text()) == tiny.model_dump(mode="json")
