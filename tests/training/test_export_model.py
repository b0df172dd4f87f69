"""The script that puts a trained model into the package."""

import importlib.util
import shutil
from pathlib import Path

import pytest

import latent_shift

FILE = Path(__file__).parents[2] / "recipes" / "export_model.py"
MODEL = Path(latent_shift.__file__).parent / "assets" / "moving-shapes"


@pytest.fixture(scope="module")
def export():
    spec = importlib.util.spec_from_file_location("export_model", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.export


def contents(folder):
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_the_default_model_exported_again_is_the_same(export, tmp_path):
    target = tmp_path / "model"
    shutil.copytree(MODEL / "vae", target)  # an old one, which is replaced as a whole
    size = export(MODEL, MODEL / "vae", target, video_encoder=MODEL / "clip_tower")
    assert contents(target) == contents(MODEL)
    assert size == sum(map(len, contents(MODEL).values()))
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_missing_stage_is_named(export, tmp_path):
    with pytest.raises(ValueError, match="none is missing: run the stage"):
        export(MODEL, MODEL / "vae", tmp_path / "model", video_encoder=tmp_path / "none")


def test_a_card_takes_the_place_of_the_model_s_own(export, tmp_path):
    card = tmp_path / "card.md"
    card.write_text("# Credits\n")
    export(MODEL, MODEL / "vae", tmp_path / "model", card=card)
    assert (tmp_path / "model" / "README.md").read_text() == "# Credits\n"
    assert not (tmp_path / "model" / "clip_tower").exists()
