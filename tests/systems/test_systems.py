"""Which system a model belongs to, and what cannot be loaded."""

import json
import shutil

import pytest

from latent_shift import checkpoints, systems
from latent_shift.systems.latent_shift import LatentShift
from tiny import tiny_pipeline_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_pipeline_folder(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def stated(tmp_path):
    """A folder with a `system.json`; what it holds, its test writes."""
    return tmp_path / "system.json"


def test_a_folder_names_its_system(stated):
    stated.write_text('{"system": "latent_shift"}')
    assert systems.find(stated.parent) is LatentShift
    assert systems.find(str(stated.parent)) is LatentShift


def test_models_that_name_no_system_are_latent_shifts(folder, tmp_path):
    assert not (folder / "system.json").exists()
    for name in (folder, "moving-shapes", "org/name", tmp_path / "model.safetensors", "nosuch"):
        assert systems.find(name) is LatentShift


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"system": "imagen"}', r"system\.json: system 'imagen': expected one of latent_shift"),
        ("{}", r"system\.json: system 'None': expected one of"),
        ('["latent_shift"]', r"system\.json: expected a JSON object"),
        ("latent_shift", r"system\.json: is not valid JSON"),
    ],
)
def test_a_folder_of_no_known_system_is_one_clear_error(stated, content, message):
    stated.write_text(content)
    for call in (systems.find, systems.inspect, systems.load):
        with pytest.raises(ValueError, match=message):
            call(stated.parent)


def test_the_folder_of_a_run_stands_for_its_model(folder, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(folder, run / "model")
    (run / "checkpoints").mkdir()
    assert systems.inspect(run) == systems.inspect(folder)
    assert checkpoints.resolve(run) == run / "model"
    (run / "model" / "system.json").write_text('{"system": "shift_off"}')
    assert systems.find(str(run)) is systems.SYSTEMS["shift_off"]
    # A model that lies in a model's folder is not taken for it.
    shutil.copytree(folder, run, dirs_exist_ok=True)
    assert systems.find(run) is LatentShift
    assert checkpoints.resolve(run) == run


def test_a_run_that_has_not_ended_is_one_clear_error(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "recipe.json").write_text("{}")
    for call in (systems.find, systems.inspect, systems.load, checkpoints.resolve):
        with pytest.raises(ValueError, match="is a run that has made no model yet; resume its training"):
            call(tmp_path)


def test_an_option_that_the_system_does_not_have(folder):
    with pytest.raises(ValueError, match="temperature 0.9: models of the system latent_shift have no such"):
        systems.load(folder, temperature=0.9)
    with pytest.raises(ValueError, match="no such option"):
        systems.inspect(folder, sampler="euler")
    assert systems.inspect(folder, tokenizer=None).frames == 4


def test_a_model_is_checked_and_its_defaults_known_before_it_is_loaded(folder, tmp_path):
    defaults = systems.inspect(folder)
    assert (defaults.frames, defaults.fps, defaults.steps, defaults.guidance) == (4, 8.0, 3, 3.0)
    assert (defaults.height, defaults.width, defaults.size_multiple) == (32, 32, 4)
    assert systems.load(folder).info().defaults == defaults
    with pytest.raises(ValueError, match="unknown model"):
        systems.inspect("nosuch")
    with pytest.raises(ValueError, match="there is no such file"):
        systems.inspect(folder, loras=[str(tmp_path / "none.safetensors")])


def test_the_native_size_of_an_image_model_is_its_unets(tmp_path):
    plain = tiny_pipeline_folder(tmp_path / "plain", latent_shift=False)
    config = json.loads((plain / "unet" / "config.json").read_text())
    assert config["sample_size"] == 8
    defaults = systems.inspect(plain)
    assert (defaults.height, defaults.width, defaults.frames) == (32, 32, 16)
    config["sample_size"] = [8, 16]
    (plain / "unet" / "config.json").write_text(json.dumps(config))
    assert systems.inspect(plain).width == 64
