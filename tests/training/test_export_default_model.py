"""The script that puts the default model into the package."""

import importlib.util
import shutil
from pathlib import Path

import pytest

import latent_shift

FILE = Path(__file__).parents[2] / "recipes" / "moving-shapes" / "export_default_model.py"
MODEL = Path(latent_shift.__file__).parent / "assets" / "moving-shapes"


@pytest.fixture(scope="module")
def export():
    spec = importlib.util.spec_from_file_location("export_default_model", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.export


def contents(folder):
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_the_default_model_exported_again_is_the_same(export, tmp_path):
    target = tmp_path / "model"
    shutil.copytree(MODEL / "vae", target)  # an old one, which is replaced as a whole
    size = export(MODEL, MODEL / "vae", MODEL / "clip_tower", target)
    assert contents(target) == contents(MODEL)
    assert size == sum(map(len, contents(MODEL).values()))
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_missing_stage_is_named(export, tmp_path):
    with pytest.raises(ValueError, match="none is missing: train it first"):
        export(MODEL, MODEL / "vae", tmp_path / "none", tmp_path / "model")
