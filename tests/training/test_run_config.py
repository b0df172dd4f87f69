"""A run goes on only with the recipe it was begun with."""

import json
import shutil

import pytest

from latent_shift.training import checkpoint
from latent_shift.training.run_config import changes, is_finished, record_recipe
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


def test_places_may_be_named_otherwise_and_moved_ones_have_a_mend(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clips").mkdir()
    record = {"clips": {"source": {"format": "folder", "path": "clips"}}}
    for same in ("clips/", "./clips", str(tmp_path / "clips")):
        assert changes(record, {"clips": {"source": {"format": "folder", "path": same}}}) == []
    (tmp_path / "clips").rename(tmp_path / "moved")
    assert changes(record, {"clips": {"source": {"format": "folder", "path": "moved"}}}) == [
        "clips.source.path was 'clips', is 'moved'"
    ]


def test_a_moved_part_is_told_how_to_go_on(recipe, parts, tmp_path):
    shutil.copytree(parts / "vae", tmp_path / "own" / "vae")
    begun = recipe("image", steps=1, autoencoder=str(tmp_path / "own"))
    checkpoint.save(checkpoint.State.new(build_task(begun)), 1)
    record_recipe(begun)
    (tmp_path / "own").rename(tmp_path / "elsewhere")
    moved = recipe("image", steps=1, autoencoder=str(tmp_path / "elsewhere"))
    with pytest.raises(ValueError, match="autoencoder was .*in a new place, write it into .*recipe.json"):
        is_finished(moved)
    record = moved.output / "recipe.json"
    record.write_text(record.read_text().replace("/own", "/elsewhere"))
    assert not is_finished(moved)


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
