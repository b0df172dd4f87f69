"""An earlier model makes room for the new one: neither they nor the user's notes are lost in between."""

import os

import pytest

from latent_shift.training.model_folder import SET_ASIDE
from latent_shift.training.task import build_task
from latent_shift.training.trainer import train


def ignore(progress):
    pass


def contents(folder):
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.fixture
def model(recipe):
    """The model of a run of one step, with notes in it; another step makes other weights."""
    folder = train(build_task(recipe("autoencoder", steps=1)), ignore)
    (folder / "notes.txt").write_text("three seeds")
    return folder


def take_another_step(recipe):
    return train(build_task(recipe("autoencoder", steps=2)), ignore)


def end_renames(monkeypatch, error, of, to):
    """Let the rename of a folder called `of` to `to` end by an error, as of a file system, or a kill."""
    rename = os.replace

    def ended(source, target, **options):
        if (os.path.basename(source), os.path.basename(target)) == (of, to):
            raise error
        rename(source, target, **options)

    monkeypatch.setattr(os, "replace", ended)


def is_exchanged(model, before):
    """Whether a model is another than before, with the same notes; and the names of models beside it."""
    now = contents(model)
    changed = {name for name in before if now[name] != before[name]}
    left = {path.name for path in model.parent.iterdir() if "model" in path.name}
    return "vae/diffusion_pytorch_model.safetensors" in changed and now["notes.txt"] == b"three seeds", left


@pytest.mark.parametrize(("of", "to"), [("model", SET_ASIDE), (".model.unfinished", "model")])
def test_where_a_rename_fails_the_earlier_model_is_there_with_its_notes(recipe, model, monkeypatch, of, to):
    before = contents(model)
    with monkeypatch.context() as patched:
        end_renames(patched, OSError(5, "Input/output error"), of, to)
        with pytest.raises(ValueError, match=r"model: cannot be written: .*Input/output error"):
            take_another_step(recipe)
    assert contents(model) == before
    assert is_exchanged(take_another_step(recipe), before) == (True, {"model"})


@pytest.mark.parametrize(("of", "to"), [("model", SET_ASIDE), (".model.unfinished", "model")])
def test_a_run_that_was_killed_at_any_rename_keeps_the_notes(recipe, model, monkeypatch, of, to):
    before = contents(model)
    with monkeypatch.context() as patched:
        end_renames(patched, KeyboardInterrupt(), of, to)
        with pytest.raises(KeyboardInterrupt):
            take_another_step(recipe)
    places = [place for place in (model, model.with_name(SET_ASIDE)) if place.exists()]
    assert [contents(place) for place in places] == [before]
    assert is_exchanged(take_another_step(recipe), before) == (True, {"model"})


def test_a_run_that_was_ended_before_its_export_is_not_finished(recipe, model, monkeypatch):
    """Also where a disk was full: the earlier model is none of the steps taken since."""
    before = contents(model)
    task = build_task(recipe("autoencoder", steps=2))
    with monkeypatch.context() as patched:
        patched.setattr(type(task.vae), "save_pretrained", full)
        with pytest.raises(ValueError, match="cannot be written: .*No space left"):
            train(task, ignore)
    assert contents(model) == before
    assert is_exchanged(take_another_step(recipe), before) == (True, {"model"})
    (model / "recipe.json").write_text("{")
    assert " for 2 steps " in (take_another_step(recipe) / "README.md").read_text()
    assert (model / "recipe.json").read_text().endswith("}\n")


def full(*arguments, **options):
    raise OSError(28, "No space left on device")


def test_what_was_set_aside_goes_where_the_new_model_has_its_place(recipe, model):
    before = contents(model)
    model.with_name(SET_ASIDE).mkdir()
    (model.with_name(SET_ASIDE) / "old.txt").write_text("of a run killed after the exchange")
    assert is_exchanged(take_another_step(recipe), before) == (True, {"model"})
    assert not (model / "old.txt").exists()


def test_a_model_that_was_set_aside_is_not_trained_over_without_its_checkpoints(recipe, model):
    model.rename(model.with_name(SET_ASIDE))
    (model.parent / "checkpoints").rename(model.parent / "moved")
    with pytest.raises(ValueError, match=r"\.model\.before: is there already, and no checkpoint to go on"):
        take_another_step(recipe)
    assert (model.with_name(SET_ASIDE) / "notes.txt").read_text() == "three seeds"


def test_folders_of_the_users_beside_the_model_stay(recipe, model):
    mine = [model.with_name(name) for name in ("model.old", "model.unfinished", "model.before")]
    for folder in mine:
        folder.mkdir()
        (folder / "mine.txt").write_text("x")
    take_another_step(recipe)
    assert [(folder / "mine.txt").read_text() for folder in mine] == ["x"] * 3


@pytest.mark.filterwarnings("ignore:.*was a link")
def test_a_link_stays_where_the_model_cannot_take_its_place(recipe, model, monkeypatch, tmp_path):
    model.rename(tmp_path / "elsewhere")
    model.symlink_to(tmp_path / "elsewhere")
    with monkeypatch.context() as patched:
        end_renames(patched, OSError(5, "Input/output error"), ".model.unfinished", "model")
        with pytest.raises(ValueError, match="cannot be written"):
            take_another_step(recipe)
    assert model.readlink() == tmp_path / "elsewhere"
    assert (model / "notes.txt").read_text() == "three seeds"
