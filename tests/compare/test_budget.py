"""Budgets: units, schedules, seconds of steps."""

from types import SimpleNamespace

import pytest
import yaml

from latent_shift.compare.budget import Budget, Meter, clock, parse_budget, read_spent, schedule, time_steps
from latent_shift.training.logging import Progress
from latent_shift.training.recipe import load_recipe

RECIPE = {
    "task": "autoencoder",
    "source": {"format": "moving-shapes"},
    "autoencoder": {
        "block_out_channels": [8, 8],
        "down_block_types": ["DownEncoderBlock2D"] * 2,
        "up_block_types": ["UpDecoderBlock2D"] * 2,
        "norm_num_groups": 4,
    },
    "crop": 16,
    "steps": 2,
    "batch_size": 2,
    "validation": {"items": 2, "every": 1},
    "mixed_precision": "fp32",
    "optimizer": {"learning_rate": 0.001, "warmup_steps": 1, "cooldown_steps": 1},
}


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({**RECIPE, "output": str(tmp_path / "runs" / "stage")}))
    return load_recipe(path)


def test_budgets_are_read_as_they_are_written():
    for text in ("core-seconds=2400", "clips=48000", "steps=10", "core-seconds=0.5"):
        assert str(parse_budget(text)) == text


@pytest.mark.parametrize("text", ["steps=0", "clips=-1", "steps=1.5", "core-seconds=nan", "core-seconds=inf",
                                  "minutes=3", "steps", "", "clips=many", "clips=1e99"])  # fmt: skip
def test_a_budget_of_nothing_or_of_another_unit_is_refused(text):
    with pytest.raises(
        ValueError, match=r"budget .*: expected core-seconds=N, clips=N, steps=N with N above 0"
    ):
        parse_budget(text)


def test_seconds_are_shared_among_stages_and_clips_and_steps_are_each_stages(recipe):
    assert parse_budget("core-seconds=2400").of_stage(0.25) == Budget("core-seconds", 600)
    assert parse_budget("clips=48000").of_stage(0.25) == Budget("clips", 48000)
    assert parse_budget("steps=10").of_stage(0.25).steps(recipe, 1.0) == 10


def test_the_steps_of_a_budget(recipe):
    assert Budget("core-seconds", 100).steps(recipe, 0.5) == 200
    assert Budget("core-seconds", 103).steps(recipe, 0.5) == 200  # whole eighths
    assert Budget("core-seconds", 3).steps(recipe, 0.5) == 6  # or as many as there are
    assert Budget("clips", 48000).steps(recipe, 7.0) == 24000
    with pytest.raises(ValueError, match="budget core-seconds=3: a step of stage takes 4; give more"):
        Budget("core-seconds", 3).steps(recipe, 4.0)
    with pytest.raises(ValueError, match="image_batch_size 8: a comparison counts image batches as large"):
        Budget("clips", 48000).steps(SimpleNamespace(image_batch_size=8), 1.0)


def test_the_schedule_follows_from_the_steps():
    assert schedule(1000) == {
        "steps": 1000, "ema_decay": 0.98, "optimizer": {"warmup_steps": 30, "cooldown_steps": 333},
    }  # fmt: skip
    for steps in (*range(1, 60), 10**9):
        made = schedule(steps)
        assert 0 <= made["ema_decay"] < 1
        assert made["optimizer"]["warmup_steps"] + made["optimizer"]["cooldown_steps"] <= steps


def test_seconds_add_up_over_sessions_and_those_of_data_stand_apart(tmp_path):
    file, passed = tmp_path / "run" / "spent.json", []
    for _ in range(2):
        meter = Meter(file, passed.append)
        burn(0.05)
        meter(Progress(1, 2, stage="encoding clips"))
        burn(0.1)
        meter(Progress(1, 2))
        meter(Progress(2, 2))
    spent = read_spent(file)
    assert 0.2 <= spent["seconds"] < 2
    assert 0.1 <= spent["preparation"] < spent["seconds"]
    assert spent["wall_seconds"] >= 0.3 * 0.9
    assert [progress.stage for progress in passed[:3]] == ["encoding clips", "training", "training"]
    assert read_spent(tmp_path / "none.json") == {"seconds": 0.0, "preparation": 0.0, "wall_seconds": 0.0}


def burn(seconds):
    end = clock() + seconds
    while clock() < end:
        sum(range(1000))


@pytest.mark.slow
def test_timed_steps_leave_nothing_behind(recipe):
    timing = time_steps(recipe, 2, 4)
    assert 0 < timing.step < 5
    assert 0 <= timing.preparation < 5
    assert [*recipe.output.parent.iterdir()] == []
