"""A run goes on only with the recipe it was begun with."""

import json

import pytest

from latent_shift.training.task import build_task
from latent_shift.training.trainer import train


def ignore(progress):
    pass


@pytest.fixture
def begun(recipe):
    """A run of two steps."""
    train(build_task(recipe("autoencoder", steps=2)), ignore)
    return recipe


def test_changed_settings_are_named(begun):
    optimizer = {"learning_rate": 0.1, "warmup_steps": 0, "betas": [0.5, 0.9]}
    changed = begun("autoencoder", batch_size=4, optimizer=optimizer)
    with pytest.raises(ValueError, match="was begun with other settings") as error:
        train(build_task(changed), ignore)
    for part in (
        "batch_size was 2, is 4;",
        "optimizer.learning_rate was 0.003, is 0.1;",
        "optimizer.betas was [0.9, 0.99], is [0.5, 0.9].",
    ):
        assert part in str(error.value)
    assert "steps was" not in str(error.value)


def test_another_task_is_named(begun, tmp_path):
    with pytest.raises(ValueError, match="task was 'autoencoder', is 'video_text_contrastive'"):
        train(build_task(begun("video_text_contrastive", output=str(tmp_path / "autoencoder"))), ignore)


def test_what_does_not_change_the_numbers_may_change(begun):
    free = {"log_every": 2, "checkpoint_every": 1, "checkpoints_total_limit": 1, "num_workers": 1}
    optimizer = {"learning_rate": 0.003, "warmup_steps": 0, "cooldown_steps": 1}
    longer = begun("autoencoder", steps=3, optimizer=optimizer, **free)
    train(build_task(longer), ignore)
    assert json.loads((longer.output / "recipe.json").read_text()) == longer.model_dump(mode="json")
    assert [folder.name for folder in (longer.output / "checkpoints").iterdir()] == ["step-00000003"]


def test_a_record_older_than_a_key_counts_its_default(begun):
    path = begun("autoencoder").output / "recipe.json"
    recorded = json.loads(path.read_text())
    del recorded["kl_weight"]
    path.write_text(json.dumps(recorded))
    with pytest.raises(ValueError, match=r"settings: kl_weight was 0.003, is 0.5\. Set"):
        train(build_task(begun("autoencoder", kl_weight=0.5)), ignore)
    train(build_task(begun("autoencoder", steps=3)), ignore)


def test_before_the_first_checkpoint_everything_may_change(recipe):
    def fail(progress):
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError):
        train(build_task(recipe("autoencoder")), fail)
    train(build_task(recipe("autoencoder", steps=1, batch_size=1)), ignore)
