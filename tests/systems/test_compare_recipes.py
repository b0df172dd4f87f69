"""Recipes of the compared systems: valid as they stand, and the same in all that is not a system's own."""

from pathlib import Path

import pytest

from latent_shift.training.recipe import load_recipe

RECIPES = Path(__file__).parents[2] / "recipes" / "compare"
IMAGE = "latent-1-image"
CLIPS = tuple(f"{name}-2-clips" for name in ("latent_shift", "shift_off", "latent_vdm", "motion_module"))


def load(name, monkeypatch):
    monkeypatch.chdir(RECIPES.parents[1])
    return load_recipe(RECIPES / f"{name}.yaml")


@pytest.mark.parametrize("name", [IMAGE, *CLIPS])
def test_schedule_in_parts_of_the_steps(name, monkeypatch):
    recipe = load(name, monkeypatch)
    assert recipe.output == Path("runs/compare") / name
    assert recipe.optimizer.warmup_steps == round(0.03 * recipe.steps)
    assert recipe.optimizer.cooldown_steps == round(recipe.steps / 3)
    assert 1 / (1 - recipe.ema_decay) == pytest.approx(0.05 * recipe.steps, rel=0.03)


def test_what_is_the_same_for_all(monkeypatch):
    first, *others = (load(name, monkeypatch).model_dump(mode="json") for name in CLIPS)
    own = {"task", "output", "shift", "temporal", "trainable_modules", "image_batch_ratio"}
    told = [one["experimental"].pop("frame_position_embedding") for one in (first, *others)]
    assert told == [True, True, True, False]  # the frozen model of motion_module never read positions
    for other in others:
        assert {key: value for key, value in first.items() if key not in own} == {
            key: value for key, value in other.items() if key not in own
        }
    assert first["shift"] == {
        "place": "output", "padding": "zeros", "direction": "both", "fold": 3, "single_frame": "bypass",
        "strides": [1],
    }  # fmt: skip
    assert (first["batch_size"], first["optimizer"]["kind"], first["optimizer"]["learning_rate"]) == (
        64, "muon", 0.0012,
    )  # fmt: skip
    source = first["latents"]["source"]
    assert (source["seed"], source["clips"], first["latents"]["frame_stride"]) == (3, 16128, 3)
    ratios = [load(name, monkeypatch).image_batch_ratio for name in CLIPS]
    assert ratios == [0.1, 0.1, 0.1, 0.0]
    image = load(IMAGE, monkeypatch).latents.model_dump(mode="json")
    assert {**image, "frame_stride": 3} == first["latents"]
