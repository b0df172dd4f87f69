"""Keys and task names of older recipes are read for one release: files, presets, settings, recorded runs."""

import json
import warnings
from pathlib import Path

import pytest
import yaml

from latent_shift.training.old_recipes import KEYS, TASKS, upgrade
from latent_shift.training.recipe import load_recipe
from latent_shift.training.task import build_task
from latent_shift.training.trainer import train

RECIPES = sorted((Path(__file__).parents[1] / "proofs" / "recipes").glob("*.yaml"))
OLD = {
    "task": "video",
    "base": "base",
    "prediction": "epsilon",
    "latents": {
        "folder": "latents",
        "world": {
            "clips": 9, "favoured": ["bouncing"], "favoured_share": 0.5, "favoured_spread": 0.2
        },
        "every": 3,
        "often": ["gray"],
        "often_share": 0.1,
    },
    "shift": {"enabled": True, "padding": "replicate", "distances": [3, 1]},
    "diffusion": {
        "noise_correlation": 0.5, "noise_persistence": 0.6, "noise_choices": 4, "timesteps": [0.1, 0.5]
    },
    "scheduler": {"log_snr_centre": -3.0},
    "image_steps": 0.2,
    "tell_places": True,
    "toward": {"model": "other", "share": 0.4},
    "init": "first",
    "layers": ["resnets"],
    "accumulate": 2,
    "precision": "fp32",
    "workers": 1,
    "keep_checkpoints": 3,
    "optimizer": {"learning_rate": 0.1, "warmup_steps": 0, "clip_norm": 0.5, "most_skipped": 7},
    "output": "run",
    "steps": 6,
    "batch_size": 2,
}  # fmt: skip
NEW = {
    "task": "video",
    "pretrained_model": "base",
    "prediction_type": "epsilon",
    "latents": {
        "folder": "latents", "source": {"format": "moving-shapes", "clips": 9}, "frame_stride": 3
    },
    "shift": {"padding": "replicate"},
    "diffusion": {"shared_noise_ratio": 0.5},
    "scheduler": {"log_snr_shift": -3.0},
    "image_batch_ratio": 0.2,
    "experimental": {
        "progressive_noise_alpha": 0.6,
        "noise_candidates": 4,
        "timestep_range": [0.1, 0.5],
        "oversample_words": ["gray"],
        "oversample_ratio": 0.1,
        "oversample_motions": ["bouncing"],
        "oversample_motions_ratio": 0.5,
        "amplitude_range": 0.2,
        "frame_position_embedding": True,
        "shift_strides": [3, 1],
        "interpolate_with": {"model": "other", "alpha": 0.4},
    },
    "init_from": "first",
    "trainable_modules": ["resnets"],
    "gradient_accumulation_steps": 2,
    "mixed_precision": "fp32",
    "num_workers": 1,
    "checkpoints_total_limit": 3,
    "optimizer": {"learning_rate": 0.1, "warmup_steps": 0, "max_grad_norm": 0.5, "max_skipped_steps": 7},
    "output": "run",
    "steps": 6,
    "batch_size": 2,
}  # fmt: skip


def load(folder, content, *settings, preset=None):
    """The recipe, and the warnings that came."""
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(content))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        recipe = load_recipe(path, settings, preset)
    return recipe, [str(one.message) for one in caught if one.category is UserWarning]


def test_every_old_key_has_a_new_one_and_one_warning_names_all(tmp_path):
    new, silent = load(tmp_path, NEW)
    old, told = load(tmp_path, OLD)
    assert old == new
    assert silent == []
    (message,) = told
    assert message.startswith(f"recipe {tmp_path / 'recipe.yaml'}: old keys")
    for pair in (
        "latents.world.favoured -> experimental.oversample_motions",
        "latents.world -> latents.source",
        "toward -> experimental.interpolate_with",
        "workers -> num_workers",
    ):
        assert pair in message


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_the_recipes_of_the_proofs_are_read(path):
    with pytest.warns(UserWarning, match="old keys, which the next release will not read: ") as caught:
        recipe = load_recipe(path)
    assert len([one for one in caught if one.category is UserWarning]) == 1
    content = json.loads(recipe.model_dump_json())
    upgrade(content)
    assert content == json.loads(recipe.model_dump_json())
    assert type(recipe).model_validate(content) == recipe


def test_without_shift_and_by_other_layers(tmp_path):
    old, told = load(tmp_path, {**OLD, "shift": {"enabled": False, "distances": [3, 1]}})
    assert old.shift is None
    assert "shift.enabled: false -> shift: null" in told[0]
    preset = tmp_path / "preset.yaml"
    preset.write_text("recipe: {workers: 4, latents: {world: {clips: 5}}, optimizer: {clip_norm: 2}}")
    settings = ("precision=bf16", "latents.world.levels=[2]", "shift.distances=[2]")
    recipe, told = load(tmp_path, NEW, *settings, preset=preset)
    assert (recipe.num_workers, recipe.mixed_precision, recipe.optimizer.max_grad_norm) == (4, "bf16", 2.0)
    assert (recipe.latents.source.clips, recipe.latents.source.levels) == (5, (2,))
    assert recipe.experimental.shift_strides == (2,)
    assert [message.partition(":")[0] for message in told] == [
        f"preset {preset}", *(f"setting '{setting}'" for setting in settings)
    ]  # fmt: skip


def test_an_old_key_beside_its_new_one_is_refused(tmp_path):
    with pytest.raises(ValueError, match="recipe.yaml: workers is the old name of num_workers: give only"):
        load(tmp_path, {**NEW, "workers": 2})


def as_recorded_before(recipe):
    """The recipe's record in old keys, every default written out."""
    content = recipe.model_dump(mode="json")
    tasks = {new: old for old, new in TASKS.items()}
    content["task"] = tasks.get(content["task"], content["task"])
    for old, new in reversed(KEYS.items()):
        *sections, name = new.split(".")
        place = content
        for section in sections:
            place = place.get(section) or {}
        if name in place and not (old.startswith("latents.") and content.get("latents") is None):
            *sections, last = old.split(".")
            target = content
            for section in sections:
                target = target.setdefault(section, {})
            target[last] = place.pop(name)
    content.pop("experimental", None)
    return content


@pytest.mark.parametrize("task", ["text_contrastive", "autoencoder", "video"])
def test_an_older_run_goes_on(recipe, task):
    tiny = recipe(task, steps=2)
    train(build_task(tiny), lambda progress: None)
    path = tiny.output / "recipe.json"
    recorded = as_recorded_before(tiny)
    assert {"precision", "workers", "keep_checkpoints"} <= recorded.keys()
    path.write_text(json.dumps(recorded))
    steps = []
    train(build_task(recipe(task, steps=3)), lambda progress: steps.append(progress.step))
    assert steps[-1:] == [3]
    assert "num_workers" in json.loads(path.read_text())
